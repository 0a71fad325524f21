"""The index of papers: what each one is called here, whether it is done, and where its proof stands.

`papers.toml` beside this file is the data; everything that lists papers (`binderclip papers`, `docs/PAPERS.md`, the
tests) reads it through this module. It imports nothing heavy.
"""

from __future__ import annotations

import difflib
import re
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from binderclip.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Status = Literal["planned", "done"]
CHECKS = {
    "released code": "the authors' program, written anew in the test, or their file applied by hand",
    "peer library": "another library that computes the same",
    "closed form": "the formula in loops, all cases, or an answer known beforehand",
    "property": "what must hold whatever the numbers are",
}
"""What an implementation can be held against, the strongest first."""


JOBS = {
    "adapt": "Adapt to your classes",
    "segment": "Segment",
    "anomaly": "Find anomalies",
    "explain": "Explain",
    "optim": "Clip gradients, optimise",
    "privacy": "Train privately",
    "train": "Train a model",
    "compress": "Make a model smaller",
    "curate": "Curate and augment data",
    "robust": "Attack and defend",
    "quality": "Judge quality",
    "enhance": "Enhance pictures",
    "detect": "Detect generated pictures",
    "evaluate": "Evaluate",
    "generate": "Make pictures",
}
"""What a user wants to do, in the order of the table of papers."""
_JOB_OF_ROOM = {
    "losses": "train", "models": "train", "landscape": "train", "data": "curate",
    "vision": "generate",
}  # fmt: skip


@dataclass(frozen=True)
class ReleasedWeights:
    """Weights that others released, and whether they can be opened here.

    Attributes:
        whose: the file or models, and who released them.
        loader: public object that opens them, `room.Name` or `room.Name.method`; empty where none does.
        how: with what.
        why_not: why they cannot be opened; empty where they can.
    """

    whose: str
    loader: str = ""
    how: str = ""
    why_not: str = ""


@dataclass(frozen=True)
class Paper:
    """One paper and what binderclip makes of it.

    Attributes:
        id: `p001` to `p182`.
        title, first_author, year, arxiv, venue: the citation; `arxiv` is the identifier alone, either may be empty.
        packages: rooms its code stands in.
        names: public objects, `room.Name`; intentions while `status` is `planned`.
        kind: `method`, `study`, `metric`, `loss`, `model`, `optimizer`, `attack`, `data tool` or `survey`.
        status: `planned` or `done`.
        tests: test files that hold it to something independent.
        checked: what it is held against, of `CHECKS`, each with the test file that does it; the strongest first.
        study: id of its study in `binderclip.studies`, empty while there is none.
        stand_in: what in the study is not the real thing of the paper.
        condition: what was done to the stand-in before its effect was there, such as teaching it, said before the
            effect wherever that stands; empty where nothing was.
        use: command lines and imports by which a user reaches it.
        at_paper_scale: the one command that repeats the paper's own protocol, for who has the data and a GPU; empty
            where no verb can.
        weights: that its authors, or those of what it is built on, released.
        job: of `JOBS`; default that of its first room.
        cost: where its cost beside a baseline was measured: section and row of `docs/BENCHMARKS.json`, or metric,
            method and baseline of the study; empty where it was not.
    """

    id: str
    title: str
    first_author: str
    year: int
    arxiv: str
    venue: str
    packages: tuple[str, ...]
    names: tuple[str, ...]
    kind: str
    status: Status = "planned"
    tests: tuple[str, ...] = ()
    checked: tuple[tuple[str, str], ...] = ()
    study: str = ""
    stand_in: tuple[str, ...] = ()
    condition: str = ""
    use: tuple[str, ...] = ()
    at_paper_scale: str = ""
    weights: tuple[ReleasedWeights, ...] = ()
    job: str = ""
    cost: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        """Address of the paper on arXiv, or an empty string."""
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else ""

    @property
    def citation(self) -> str:
        """First author, year and venue in one line."""
        source = self.venue or (f"arXiv {self.arxiv}" if self.arxiv else "")
        return f"{self.first_author} {self.year}" + (f", {source}" if source else "")

    def matches(self, words: str) -> bool:
        """Whether every word occurs in the id, title, author, venue, rooms, kind or public names (any case)."""
        facts = (self.id, self.title, self.first_author, str(self.year), self.arxiv, self.venue, self.kind, self.status)
        text = " ".join([*facts, *self.packages, *self.names]).casefold()
        return all(word in text for word in words.casefold().split())

    def is_named(self, name: str) -> bool:
        """Whether `name` is exactly its id, arXiv id, one of its public names, or the title before the colon."""
        name = name.casefold().strip()
        full = [public.casefold() for public in self.names]
        own = {self.id, self.arxiv, self.title.casefold(), *full, *(public.rsplit(".", 1)[-1] for public in full)}
        if ":" in self.title:
            own.add(self.title.casefold().split(":")[0].strip())
        return bool(name) and name in own


def _paper(identifier: str, entry: dict[str, Any]) -> Paper:
    known = Paper.__dataclass_fields__.keys() - {"id"}
    if unknown := sorted(entry.keys() - known):
        raise UsageError(f"papers.toml: [{identifier}] has unknown entries {', '.join(unknown)}")
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
    room = values["packages"][0]
    values.setdefault("job", _JOB_OF_ROOM.get(room, room))
    values["checked"] = tuple(values.get("checked", {}).items())
    values["weights"] = tuple(ReleasedWeights(**row) for row in values.get("weights", ()))
    return Paper(id=identifier, **values)


@lru_cache(maxsize=1)
def _index() -> tuple[Paper, ...]:
    text = Path(__file__).with_name("papers.toml").read_text(encoding="utf-8")
    return tuple(_paper(identifier, entry) for identifier, entry in sorted(tomllib.loads(text).items()))


def papers(words: str | None = None, *, status: Status | None = None, package: str | None = None) -> list[Paper]:
    """All papers in the order of their ids, or those that match.

    Args:
        words: every word has to occur somewhere in the entry (id, title, author, venue, rooms, names); None: all.
        status: only `planned` or only `done` ones.
        package: only papers with code in this room, such as `optim`.
    """
    return [
        paper
        for paper in _index()
        if (words is None or paper.matches(words))
        and (status is None or paper.status == status)
        and (package is None or package in paper.packages)
    ]


_FORMS = "give an id (p001 to p182), a name (zclip) or words of the title"


def _nearest(query: str) -> str:
    """A question after the public name that is spelled most alike; empty where none is."""
    names = {name.rsplit(".", 1)[-1].casefold(): name for entry in _index() for name in entry.names}
    close = difflib.get_close_matches(query.strip().casefold(), names, n=1, cutoff=0.75)
    return f", did you mean {names[close[0]]}?" if close else ""


def paper(query: str) -> Paper:
    """The one paper that `query` means: an id, an arXiv id, a public name (`zclip`, `optim.ZClip`) or title words.

    The number of an id is enough: 2, 002 and p2 mean p002.

    Raises:
        UsageError: none or several match; the message lists the nearest.
    """
    if not query.strip():
        raise UsageError(f"the paper's name is empty: {_FORMS}")
    number = re.fullmatch(r"p?(\d{1,3})", query.strip().casefold())
    name = f"p{int(number[1]):03d}" if number else query
    entries = [entry for entry in _index() if entry.is_named(name)] or ([] if number else papers(query))
    if len(entries) == 1:
        return entries[0]
    if not entries:
        near = "" if number else _nearest(query)
        raise UsageError(f"no paper matches {query!r}{near}: {_FORMS}")
    nearest = "; ".join(f"{entry.id} {entry.title}" for entry in entries[:6])
    more = f"; and {len(entries) - 6} more" if len(entries) > 6 else ""
    raise UsageError(f"{query!r} matches {len(entries)} papers: {nearest}{more}")
