"""`plan_curation`: what a curation recipe will cost on a cluster, pass by pass, before there is any data.

It follows what `CurationPipeline` does with a `RayRunner`: workers read shards, compute the columns that are stored and
look at samples; one process puts together what was seen, and looks itself at rows of embeddings that a rule keeps. The
seconds of a rule, measured as a whole, are counted there, which is more than its share. Hours and memory come from
rates that were measured on one core (`data.parallel.rates`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from binderclip.curate.engine.rule import KeepRule, SampleSignal
from binderclip.curate.plan_costs import rule_passes, signal_seconds, stored_numbers
from binderclip.curate.recipe import CurationRecipe
from binderclip.curate.rules.density import ClusterPruner
from binderclip.curate.rules.ranks import MeanRankTopFraction
from binderclip.curate.rules.scores import ScoreTopFraction
from binderclip.curate.signals.cleaning import CLEANERS
from binderclip.curate.signals.plain import PictureGroup, SizeSignal
from binderclip.curate.signals.scores import CHUNK, ImageEmbedding, LateModel, model_signals
from binderclip.curate.signals.substrings import SubstringMatcher
from binderclip.curate.signals.table import standard_signals
from binderclip.data.parallel.plan import ClusterPlan, Machines, Phase, PlannedPass, checked_samples, first_limit
from binderclip.data.parallel.rates import MeasuredRates, measured_rates
from binderclip.display import number_of
from binderclip.errors import UsageError
from binderclip.models.files import registry

if TYPE_CHECKING:
    from binderclip.models import ImageTextModel

__all__ = ["AssumedPool", "plan_curation"]

CAPTION = 60
"""Bytes of a caption, as those that the rates were measured with."""
_NEVER_COMPUTED = ("language", "ocr")
_EMBEDDINGS = {"image_embedding", "caption_embedding"}
"""Columns of parts."""
_OF_PICTURES = (ImageEmbedding, SizeSignal, PictureGroup)


@dataclass(frozen=True, kw_only=True)
class AssumedPool:
    """What is assumed of a pool that is not there yet.

    Args:
        kind: `shards` of pictures, or `parts` that `embed_shards` left.
        picture_bytes: of an encoded picture.
        shard_rows: samples of a shard.
        width: numbers of an embedding.
        has: columns that the data bring, which are not computed.
        encode: (pictures, captions) that a worker encodes a second; None: as the model was measured (`everyday`
            and `small`), unknown of others.
        matches: entries of a concept list that a caption names, of rules that balance concepts.

    Raises:
        UsageError: a number that is not finite and above 0.
    """

    kind: Literal["shards", "parts"] = "shards"
    picture_bytes: float = 30_000
    shard_rows: int = 10_000
    width: int = 512
    has: tuple[str, ...] = ()
    encode: tuple[float, float] | None = None
    matches: float = 5.0

    def __post_init__(self) -> None:
        if self.kind not in ("shards", "parts"):
            raise UsageError(f"kind of a pool is shards or parts, got {self.kind!r}")
        numbers = {"picture_bytes": self.picture_bytes, "shard_rows": self.shard_rows, "width": self.width}
        numbers |= {"matches": self.matches}
        numbers |= dict(zip(("pictures a second", "captions a second"), self.encode or (), strict=False))
        for name, value in numbers.items():
            if not (math.isfinite(value) and value > 0):
                raise UsageError(f"{name} of a pool is {value}; it is a finite number above 0")


def plan_curation(
    recipe: CurationRecipe,
    samples: float,
    machines: Machines,
    *,
    pool: AssumedPool | None = None,
    kept: Sequence[float] = (),
    shards: bool = False,
    model: str = "",
    rates: MeasuredRates | None = None,
) -> ClusterPlan:
    """Plan a recipe for a pool of so many samples.

    Args:
        recipe: as `read_recipe` gives it.
        samples: of the pool.
        machines: that it is to run on, a worker on each core.
        pool: what is assumed of it.
        kept: share that each stage keeps, as an earlier run on a part of the pool found it; without, all that reach a
            stage whose share is not one of its settings, so that the plan is an upper bound.
        shards: also write the kept samples as shards.
        model: of the signals; default the recipe's, or `everyday`.
        rates: default those that come with the package.

    Raises:
        UsageError: a number out of range, or columns that the pool cannot give.

    Examples:
        >>> from binderclip.curate import parse_recipe, plan_curation
        >>> from binderclip.data import Machines
        >>> recipe = parse_recipe({"stage": [{"name": "datacomp-clip-score", "column": "score"}]})
        >>> plan = plan_curation(recipe, 1e9, Machines(count=4, cores=32))
        >>> [one.name for one in plan.passes][0], plan.unknown
        ('reading', [])
    """
    samples, pool = checked_samples(samples), pool or AssumedPool()
    if len(kept) > len(recipe.stages) or not all(0 <= fraction <= 1 for fraction in kept):
        stages = len(recipe.stages)
        raise UsageError(f"kept is a share from 0 to 1 for each of at most {stages} stages, got {list(kept)}")
    known = rates or measured_rates()
    name = model or recipe.model or registry.DEFAULT

    def planner(count: float) -> _Planner:
        planned = _Planner(recipe, count, machines, pool, list(kept), shards, name, known)
        planned.everything()
        return planned

    whole = planner(samples)
    stop = first_limit(lambda count: planner(count).passes, machines.memory)
    return ClusterPlan(samples, machines, tuple(whole.passes), tuple(whole.notes), _said(stop, machines))


def _said(stop: tuple[PlannedPass, float] | None, machines: Machines) -> str:
    """Which step stops scaling first."""
    if stop is None:
        return "No pass needs more memory than a machine has, whatever the number of samples."
    one, samples = stop
    single = one.single or 0.0
    room = f"{machines.memory / 1e9:,.3g} GB"
    if not samples:
        needs = f"{one.memory / 1e9:.3g} GB of a machine of {room}"
        return f"{one.name!r} stops first: it needs {needs}, whatever the number of samples."
    return (
        f"{one.name!r} stops first: one process holds {single / samples:,.0f} bytes a sample for it, so that machines "
        f"of {room} decide on at most {samples:.2g} samples, however many machines there are."
    )


@dataclass
class _Planner:
    """Goes through the passes of a run as `CurationPipeline` does, and adds up what they cost."""

    recipe: CurationRecipe
    samples: float
    machines: Machines
    pool: AssumedPool
    kept: list[float]
    shards: bool
    model: str
    rates: MeasuredRates
    passes: list[PlannedPass] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def everything(self) -> None:
        """All passes, in order."""
        signals = model_signals(LateModel(_refuse), cleaner=CLEANERS[self.recipe.cleaner], version="plan")
        self.signals: dict[str, SampleSignal] = {**standard_signals(), **signals}
        self.given = {"uid", "name", "text", "texts", "label", "source", *_NEVER_COMPUTED, *self.pool.has}
        if self.pool.kind == "parts":
            self.given |= _EMBEDDINGS
        self.stored: dict[str, float] = {}  # column -> rows that it was stored of
        self.scores: set[str] = set()
        self._assumptions()
        self._reading()
        entering = self.samples
        shares = dict(enumerate(self.kept))
        for number, (name, rule) in enumerate(self.recipe.stages):
            title = f"{number + 1} {name}"
            self._stage(title, rule, entering)
            entering *= shares.get(number, _own_share(rule))
        self._writing(entering)

    def _assumptions(self) -> None:
        rates, pool = self.rates, self.pool
        assumed = {
            column for _, rule in self.recipe.stages for column in rule.needs
            if column not in self.given and column not in self.signals and column not in _own(rule)
        }  # fmt: skip
        self.given |= assumed
        missing = sorted(assumed | ({c for _, r in self.recipe.stages for c in r.needs} & set(_NEVER_COMPUTED)))
        what = "shards of pictures" if pool.kind == "shards" else "parts of `embed`"
        self.notes += [
            f"Assumed: {what}, pictures of {pool.picture_bytes:,.0f} bytes, captions of {CAPTION}, "
            f"{number_of(pool.shard_rows, 'sample')} a shard, embeddings of "
            f"{number_of(pool.width, 'number')}; `--ray` with a worker on each core.",
            f"Rates of one core, measured {rates.date} ({rates.load}; {rates.machine}) at three sizes; the two smaller "
            f"ones predict the third to within {rates.worst.error:.0%} ({rates.worst.name}). Everything linear is "
            "extrapolated from there.",
        ]
        if missing:
            self.notes.append(f"The data are taken to have the columns {', '.join(missing)}.")
        open_ends = [
            name for number, (name, rule) in enumerate(self.recipe.stages)
            if number >= len(self.kept) and _own_share(rule) == 1.0
        ]  # fmt: skip
        if open_ends:
            self.notes.append(
                f"Shares that only the data know, of {len(open_ends)} of {len(self.recipe.stages)} stages, are taken "
                "as 1, so that later passes are upper bounds; `kept` says otherwise."
            )

    # What it takes to have a shard.

    def _load(self, embeddings: int = 0) -> tuple[float, float]:
        """(seconds, bytes read) to have the texts of all shards, or keys and some embeddings of parts, once more."""
        if self.pool.kind == "shards":
            return self._seconds("load texts", row=self.samples), self._bytes("texts file", row=self.samples)
        amounts = {"row": self.samples, "number": embeddings * self.pool.width * self.samples}
        return self._seconds("load part", **amounts), self._bytes("part file", **amounts)

    def _shard_bytes(self, embeddings: int = 0) -> float:
        """Memory of one shard as it is loaded."""
        rows = float(self.pool.shard_rows)
        if self.pool.kind == "shards":
            return self._bytes("texts", row=rows)
        return self._bytes("part", row=rows, number=embeddings * self.pool.width * rows)

    def _embeddings(self, rule: KeepRule, signals: dict[str, SampleSignal], stop: Collection[str] = ()) -> int:
        """Of the embeddings that parts have, how many a rule or what computes its columns reads."""
        names = [name for name in self._computed(rule.needs, signals, stop=stop, into=True) if name not in stop]
        read = {*rule.needs, *(need for name in names for need in signals[name].needs)}
        return len(read & _EMBEDDINGS) if self.pool.kind == "parts" else 0

    def _seconds(self, name: str, **amounts: float) -> float:
        return self.rates.seconds[name].of(**amounts)

    def _bytes(self, name: str, **amounts: float) -> float:
        return self.rates.bytes[name].of(**amounts)

    @property
    def _process(self) -> float:
        return self._bytes("process", process=1.0)

    @property
    def _base(self) -> float:
        """What the deciding process holds between passes."""
        return (
            self._process
            + self._bytes("pool, held", **{"pass": 1.0, "row": self.samples})
            + 8 * self.samples * len(self.scores)
        )

    def _reading(self) -> None:
        n, picture = self.samples, self.pool.picture_bytes + CAPTION
        seconds, texts = self._load()
        if self.pool.kind == "shards":
            first = Phase(seconds=self._seconds("read shard", row=n, byte=n * picture), read=n * picture, written=texts)
        else:
            first = Phase(seconds=seconds, read=texts)
        pool = self._seconds("pool", **{"row": n, "sorted row": n * math.log2(max(n, 2.0))})
        self._add(
            "reading", [first, Phase(seconds=seconds + pool, read=texts, alone=True)], passes=2,
            worker=self._process + self._shard_bytes(),
            single=self._process + self._bytes("pool, most", **{"pass": 1.0, "row": n}) + self._shard_bytes(),
        )  # fmt: skip

    def _stage(self, title: str, rule: KeepRule, entering: float) -> None:
        signals = {**self.signals, **{signal.name: signal for signal in rule.signals}}
        self._compute(title, rule, signals, entering)
        held = 0.0
        again, read = self._columns(rule, signals, entering)
        embeddings = self._embeddings(rule, signals, self.stored)
        (seconds, size), shard = self._load(embeddings), self._shard_bytes(embeddings)
        extra = sum(self._automaton(signal) for signal in rule.signals)
        loading = None if again is None else seconds + again
        for one in rule_passes(rule, entering, self.pool.width, self.pool.matches, self.rates):
            most = None if one.most is None else self._base + held + one.most + shard + extra
            if one.rows:
                known = None if one.seconds is None or loading is None else loading + one.seconds
                phases = [Phase(seconds=known, read=size + read, alone=True)]
                self._add(f"{title}: {one.name}", phases, single=most)
                self._note(
                    f"{title}: {one.name} takes rows of all embeddings, which one process looks at even with `--ray`."
                )
            else:
                phases = [Phase(seconds=loading, read=size + read), Phase(seconds=one.seconds, alone=True)]
                worker = self._process + shard + extra
                self._add(f"{title}: {one.name}", phases, worker=worker, single=most)
            held += one.held
        if rule.column:
            self.scores.add(rule.column)

    def _compute(self, title: str, rule: KeepRule, signals: dict[str, SampleSignal], entering: float) -> None:
        """The columns of a stage that workers compute and store."""
        names = self._computed(rule.needs, signals)
        if not any(signals[name].version for name in names):
            return
        needed = self._computed(rule.needs, signals, stop=self.stored)
        fresh = [name for name in needed if signals[name].version]
        pictures = [name for name in needed if isinstance(signals[name], _OF_PICTURES)]
        if pictures and self.pool.kind == "parts":
            raise UsageError(f"{pictures[0]} is computed from pictures, which parts of `embed` have none of")
        own, stored = self._columns(rule, signals, entering)
        embeddings = self._embeddings(rule, signals, self.stored)
        seconds, size = self._load(embeddings)
        known = None if own is None else seconds + own
        read = size + stored + len(pictures) * self.samples * self.pool.picture_bytes
        numbers = sum(stored_numbers(signals[name], self.pool.width, self.pool.matches) for name in fresh)
        modelled = any(hasattr(signals[name], "model") for name in needed)
        worker = self._process + self._shard_bytes(embeddings) + 4.0 * self.pool.shard_rows * numbers
        worker += CHUNK * self.pool.picture_bytes if pictures else 0.0
        worker += sum(self._automaton(signals[name]) for name in needed)
        if modelled and f"weights, {self.model}" in self.rates.bytes:
            worker += self._bytes(f"weights, {self.model}", model=1.0)
        elif modelled:
            self._note(f"A worker's memory is without the weights of {self.model}.")
        written = 4.0 * entering * numbers
        phase = Phase(seconds=known, read=read, written=written)
        self._add(
            f"{title}: computing {', '.join(fresh) or 'nothing new'}", [phase], passes=max(len(pictures), 1),
            worker=worker, single=self._base,
        )  # fmt: skip
        self.stored |= dict.fromkeys(fresh, entering)

    def _columns(self, rule: KeepRule, signals: dict[str, SampleSignal], n: float) -> tuple[float | None, float]:
        """(seconds, bytes read) to have the columns of a rule in the deciding process, in every pass."""
        seconds: list[float | None] = []
        read = 0.0
        for name in self._computed(rule.needs, signals, stop=self.stored, into=True):
            if name in self.stored:
                each = stored_numbers(signals[name], self.pool.width, self.pool.matches)
                numbers = self.stored[name] * each  # it is read whole, whatever is left of its rows
                many = self.samples / self.pool.shard_rows
                seconds.append(self._seconds("read column", shard=many, number=numbers))
                read += 4.0 * numbers
            else:
                seconds.append(signal_seconds(signals[name], n, self._pool_of_model(), self.rates))
        known = None if None in seconds else sum(value for value in seconds if value is not None)
        return known, read

    def _computed(
        self,
        names: Sequence[str],
        signals: dict[str, SampleSignal],
        *,
        stop: Collection[str] = (),
        into: bool = False,
    ) -> list[str]:
        """Columns that signals give, those they need included, each once.

        Args:
            wanted: columns.
            signals: by name.
            stop: columns that are there, whose own needs are not asked for.
            into: whether those stand in the list.
        """
        columns: list[str] = []
        left = list(names)
        while left:
            name = left.pop(0)
            if name in self.given or name in columns or name not in signals:
                continue
            if name in stop and not into:
                continue
            columns.append(name)
            left += [] if name in stop else signals[name].needs
        return columns

    def _writing(self, kept: float) -> None:
        n = self.samples
        seconds, size = self._load()
        seconds += self._seconds("decisions", row=n)
        seconds += self._seconds("selection", **{"sorted row": kept * math.log2(max(kept, 2.0))})
        written = 16 * kept + self._bytes("decisions file", row=n) + 8 * n * max(len(self.scores) - 1, 0)
        single = self._base + self._bytes("selection, most", **{"pass": 1.0, "row": kept}) + self._shard_bytes()
        self._add(
            "writing the selection and the table", [Phase(seconds=seconds, read=size, written=written, alone=True)],
            single=single,
        )  # fmt: skip
        if self.shards:
            if self.pool.kind == "parts":
                raise UsageError("shards of kept samples are copied from shards of pictures, and parts have none")
            size = self.pool.picture_bytes + CAPTION
            copied = Phase(seconds=None, read=n * size, written=kept * size, alone=True)
            self._add("writing the kept shards", [copied], single=self._base)

    def _automaton(self, signal: SampleSignal) -> float:
        return self._bytes("substrings", entry=float(len(signal))) if isinstance(signal, SubstringMatcher) else 0.0

    def _pool_of_model(self) -> tuple[float, int, tuple[float, float] | None, str]:
        return self.pool.picture_bytes, self.pool.width, self.pool.encode, self.model

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _add(
        self, name: str, phases: Sequence[Phase], *, passes: float = 1, worker: float = 0.0, single: float | None = 0.0
    ) -> None:
        processes = self.machines.cores if worker else 1
        self.passes.append(
            PlannedPass(name=name, passes=passes, phases=phases, worker=worker, processes=processes, single=single)
        )


def _own(rule: KeepRule) -> set[str]:
    return {signal.name for signal in rule.signals}


def _own_share(rule: KeepRule) -> float:
    """The share that a rule keeps by its settings; 1 where only the data know."""
    if isinstance(rule, (ScoreTopFraction, MeanRankTopFraction)):
        return rule.fraction
    return rule.keep_share if isinstance(rule, ClusterPruner) else 1.0


def _refuse() -> ImageTextModel:
    raise AssertionError("a plan opens no model")
