"""What is said of a paper wherever papers are listed: how its code is checked, what of its claim was seen, the cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from binderclip.documents import parse_json
from binderclip.papers import CHECKS, Paper
from binderclip.studies.harness.check import VERDICTS, Check
from binderclip.studies.harness.scale import plain
from binderclip.studies.harness.study import Result

Benchmarks = Mapping[str, Any]
HEADS = (
    "implementation",
    "claim here",
    "effect (95 % interval)",
    "cheap rival",
    "cost beside a baseline",
    "why not testable",
)
_RIVALS = ("beaten", "", "tied", "lost")
"""From the best to tell a user to the least; empty where no rival was measured."""


@dataclass(frozen=True)
class Columns:
    """One paper as a row.

    Attributes:
        paper: of the index.
        result: stored; None where the paper is planned, not measured, or nothing is stored here.
        benchmarks: sections of `docs/BENCHMARKS.json` by name; empty: no cost from there.
    """

    paper: Paper
    result: Result | None = None
    benchmarks: Benchmarks | None = None

    @property
    def name(self) -> str:
        """What the method is called here: its first public name in the paper's first room."""
        own = [name for name in self.paper.names if name.startswith(self.paper.packages[0] + ".")]
        return (own or list(self.paper.names) or [self.paper.title])[0].rsplit(".", 1)[-1]

    @property
    def implementation(self) -> str:
        """What the code is held against, the strongest first."""
        return ", ".join(kind for kind, _ in self.paper.checked)

    @property
    def claim(self) -> str:
        """The verdict, and how many essential parts of the claim are seen where that says more."""
        if self.result is None or self.result.verdict == "failed":
            return "" if self.paper.status != "done" else "not measured"
        if self.result.verdict == "not testable here":
            return self.result.said
        seen, parts = self.seen
        lesser = ", a lesser one not" if self.result.verdict == "in part" and seen == parts else ""
        return f"{self.result.said}; {seen} of {parts} part{'s' * (parts > 1)} seen{lesser}"

    @property
    def seen(self) -> tuple[int, int]:
        """Essential parts that are seen, and how many there are; of a claim that is not testable none count."""
        if self.result is None or self.result.verdict in ("failed", "not testable here"):
            return 0, 0
        return sum(check.seen for check in self.result.parts), len(self.result.parts)

    @property
    def effect(self) -> str:
        """The part that stands for the verdict, with its effect; of a claim that is not testable nothing."""
        head = None if self.result is None else self.result.headline
        if head is None or self.result is None or self.result.verdict in ("not testable here", "failed"):
            return ""
        condition = f"{self.paper.condition}: " if self.paper.condition else ""
        return f"{condition}{head.shown or head.measured}; asked: {plain(head.text)}"

    @property
    def against(self) -> str:
        """Whether the strongest cheap rival is beaten, tied or lost to, and by how much; empty where there is none."""
        rival = self.rival
        return "" if rival is None else f"{rival.word}: {rival.shown}; asked: {plain(rival.text)}"

    @property
    def rival(self) -> Check | None:
        """The method against the strongest cheap rival; of a claim that is not testable none."""
        if self.result is None or self.result.verdict in ("not testable here", "failed"):
            return None
        return self.result.rival

    @property
    def rival_word(self) -> str:
        """`beaten`, `tied` or `lost`; empty where there is none."""
        return "" if self.rival is None else self.rival.word

    @property
    def why_not(self) -> str:
        """What is missing where a claim is not testable, or what error leaves it undecided."""
        result = self.result
        if result is None or not (result.verdict == "not testable here" or "NaN" in result.reason):
            return ""
        text = "; ".join(f"{c.text}: {c.measured}" for c in result.checks if c.outcome == "missing") or result.reason
        return plain(text)

    @cached_property
    def cost(self) -> str:
        """Cost beside a baseline, as a factor; empty where it was not measured."""
        where = self.paper.cost
        if len(where) == 2:
            rows = (self.benchmarks or {}).get(where[0], {"rows": []})["rows"]
            row = next((row for row in rows if row["name"] == where[1]), None)
            return "" if row is None else f"×{row['ours'] / row['peer']:.2g} of {row['peer_name']} ({where[1]})"
        if len(where) == 3 and self.result is not None:
            metric, method, baseline = where
            ours, theirs = (_mean(self.result, metric, name) for name in (method, baseline))
            return f"×{ours / theirs:.2g} of {baseline} ({metric.partition(' (')[0]})"
        return ""

    @property
    def means(self) -> str:
        """What the measurement means for who has to choose, in a sentence."""
        if self.result is None:
            return ""
        verdict = _MEANS.get(self.result.verdict, "")
        rival = self.rival
        return verdict if rival is None else f"{verdict} {_RIVAL_MEANS[rival.word]}".strip()

    def document(self) -> dict[str, str]:
        """The columns as plain data."""
        names = ("implementation", "claim", "effect", "against", "cost", "why_not", "means")
        return {name: getattr(self, name) for name in names}

    @property
    def order(self) -> tuple[int, int, int, str]:
        """Rank by what a user would choose: the verdict, the rival, what the code is held against, the id."""
        verdict = VERDICTS.index(self.result.verdict) if self.result and self.result.verdict in VERDICTS else 9
        strongest = list(CHECKS).index(self.paper.checked[0][0]) if self.paper.checked else 9
        return verdict, _RIVALS.index(self.rival_word), strongest, self.paper.id


_MEANS = {
    "reproduced": "It did here what the paper says: a candidate for your own data.",
    "in part": "Part of what the paper says was seen here: look which part you need.",
    "no effect of X or more": "An effect as large as the study looked for is not there at this scale: do not expect it "
    "on small data; at the paper's scale nothing is said.",
    "opposite here": "At this scale it did the opposite of what is claimed: do not choose it for small data without "
    "trying it; at the paper's scale nothing is said.",
    "not testable here": "The stand-in lacks what the claim needs: nothing is said about the method.",
    "undecided": "The study cannot tell: nothing is said about the method.",
}
_RIVAL_MEANS = {
    "beaten": "It beat the strongest cheap rival.",
    "tied": "It was not told from the strongest cheap rival: try that first.",
    "lost": "The strongest cheap rival did better: try that first.",
    "error": "",
}


def _mean(result: Result, metric: str, method: str) -> float:
    """Mean of a cost over seeds and settings."""
    values = [row.value for row in result.rows if (row.metric, row.method) == (metric, method)]
    return sum(values) / len(values)


def read_benchmarks(text: str) -> Benchmarks:
    """The sections of `docs/BENCHMARKS.json`."""
    return {name: section for name, section in parse_json(text).items() if isinstance(section, dict)}
