"""What one pass of a rule and one column of a signal cost, from measured rates; unknown for rules that are not here."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from binderclip.curate.engine.kmeans import ROWS
from binderclip.curate.engine.rule import HashDraws, KeepRule, SampleSignal
from binderclip.curate.rules.balance import MetadataBalancer
from binderclip.curate.rules.clusters import POINTS, ClusterRule
from binderclip.curate.rules.combine import AnyOf, NoneOf
from binderclip.curate.rules.density import ClusterPruner
from binderclip.curate.rules.duplicates import BLOCK, SemanticDuplicates, TargetClusters, compared
from binderclip.curate.rules.groups import CapPerGroup, Membership, OnePerGroup, TailTrimming
from binderclip.curate.rules.ranks import MeanRankTopFraction
from binderclip.curate.rules.scores import ScoreThreshold, ScoreTopFraction
from binderclip.curate.signals.cleaning import strip_numbers
from binderclip.curate.signals.embedded_text import EMBEDDED_TEXT_SIGNALS
from binderclip.curate.signals.plain import TEXT_SIGNALS, PictureGroup, SideSignal, SizeSignal
from binderclip.curate.signals.scores import CaptionEmbedding, ClipScore, ImageEmbedding, MaskedTextScore
from binderclip.curate.signals.substrings import SubstringMatcher
from binderclip.data.parallel.rates import MeasuredRates

__all__ = ["RulePass", "rule_passes", "signal_seconds", "stored_numbers"]


_OF_A_PAIR = 7.0
"""Bytes of a pair of rows while `has_twin_before` compares them: a cosine and three flags."""


@dataclass(frozen=True)
class RulePass:
    """One pass of a rule in the deciding process.

    Attributes:
        name: of the statistic, or `keep`.
        seconds: beside loading the samples; None where no rate is known.
        most: bytes of memory while it runs; None where they are not known.
        held: bytes that stay until the stage ends.
        rows: whether one process looks at the rows of all embeddings, which workers do not.
    """

    name: str
    seconds: float | None
    most: float | None
    held: float = 0.0
    rows: bool = False


@dataclass(frozen=True)
class _Asked:
    """What a rule is costed for."""

    n: float
    width: int
    matches: float
    rates: MeasuredRates

    def measured(self, name: str, rate: str, *, times: float = 1.0, held: bool = True, **more: float) -> RulePass:
        """A pass that was measured as a whole; `more` seconds come on top."""
        units = {"row": self.n, "sorted row": self.n * math.log2(max(self.n, 2.0)), "match": self.n * self.matches}
        units |= {"match step": units["match"] * math.log2(max(self.n, 2.0)), "pass": 1.0}
        seconds = self.rates.seconds[rate]
        most, stays = (self.rates.bytes[f"{rate}, {kind}"] for kind in ("most", "held"))
        each = [rate.of(**{term: units[term] for term in rate.terms}) for rate in (seconds, most, stays)]
        return RulePass(name, times * each[0] + sum(more.values()), each[1], each[2] if held else 0.0)

    def assigned(self, k: int, times: int) -> float:
        """Seconds to find the nearest centroid of all samples so many times."""
        numbers = self.n * self.width
        return times * self.rates.seconds["assign"].of(number=numbers, distance=self.n * k, product=numbers * k)

    def block(self, k: int) -> float:
        """Bytes of the distances that `nearest_centroids` holds at once."""
        return 8.0 * min(self.n, ROWS) * k

    def clustered(self, name: str, rate: str, k: int, times: int, *, held: bool = True) -> RulePass:
        """A pass that was measured without what it takes to find the nearest centroids so many times."""
        one = self.measured(name, rate, held=held, assigned=self.assigned(k, times))
        return RulePass(name, one.seconds, (one.most or 0.0) + self.block(k), one.held)

    def centroids(self, rule: ClusterRule) -> RulePass:
        """Fitting k-means to a sample, with as many steps as it may take."""
        rows = min(self.n, POINTS * rule.k)
        numbers, steps = rows * self.width, rule.iterations + 2 + math.log(rule.k)
        seconds = self.rates.seconds["k-means"].of(product=numbers * rule.k * steps, number=numbers * rule.iterations)
        drawn = self.rates.seconds["threshold: keep"].of(row=self.n)  # who is in the sample is a hash of every key
        most = self.rates.bytes["k-means, most"].of(number=numbers, row=rows) + self.block(rule.k)
        return RulePass("centroids", seconds + drawn, most, 8.0 * rule.k * self.width, rows=True)


def _threshold(rule: KeepRule, asked: _Asked) -> list[RulePass]:
    return [asked.measured("keep", "threshold: keep")]


def _membership(rule: KeepRule, asked: _Asked) -> list[RulePass]:
    return [asked.measured("keep", "membership: keep")]


def _top_fraction(rule: KeepRule, asked: _Asked) -> list[RulePass]:
    return [asked.measured(name, f"top-fraction: {name}") for name in ("ranking", "keep")]


def _mean_rank(rule: MeanRankTopFraction, asked: _Asked) -> list[RulePass]:
    ranks = [asked.measured(f"rank {column}", "mean-rank: rank score") for column in rule.columns]
    more = len(rule.columns) / 2  # they were measured with two columns
    return [*ranks, *(asked.measured(name, f"mean-rank: {name}", times=more) for name in ("ranking", "keep"))]


def _cap(rule: KeepRule, asked: _Asked) -> list[RulePass]:
    return [asked.measured(name, f"cap-per-group: {name}") for name in ("groups", "keep")]


def _balance(rule: MetadataBalancer, asked: _Asked) -> list[RulePass]:
    kind = "metaclip" if rule.target is None else "metaclip target"
    return [asked.measured(name, f"{kind}: {name}") for name in ("counts", "balance", "keep")]


def _duplicates(rule: SemanticDuplicates, asked: _Asked) -> list[RulePass]:
    n, d, rates = asked.n, asked.width, asked.rates
    pairs = rule.k * compared(n / rule.k)  # within clusters of equal size, which is the least there are
    seconds = rates.seconds["twins"].of(pair=pairs, product=pairs * d)
    seconds += rates.seconds["twins, sorted"].of(number=n * d, row=n) + asked.assigned(rule.k, 1)
    most = rates.bytes["twins, most"].of(number=n * d, row=n) + asked.block(rule.k)
    most += _OF_A_PAIR * min(n / rule.k, BLOCK) * n / rule.k
    keep = asked.clustered("keep", "threshold: keep", rule.k, 1)
    return [asked.centroids(rule), RulePass("twins", seconds, most, 16.0 * n, rows=True), keep]


def _pruner(rule: ClusterPruner, asked: _Asked) -> list[RulePass]:
    spread = asked.clustered("spread", "threshold: keep", rule.k, 1, held=False)
    ranking = asked.clustered("ranking", "cap-per-group: groups", rule.k, 2)
    return [asked.centroids(rule), spread, ranking, asked.clustered("keep", "cap-per-group: keep", rule.k, 2)]


def _targets(rule: TargetClusters, asked: _Asked) -> list[RulePass]:
    return [asked.centroids(rule), asked.clustered("keep", "threshold: keep", rule.k, 1)]


def _any(rule: AnyOf, asked: _Asked) -> list[RulePass]:
    """The statistics of all rules; their last passes are one."""
    parts = [_passes_of(one, asked) for one in rule.rules]
    before = [replace(p, name=f"{i}/{p.name}") for i, own in enumerate(parts) for p in own[:-1]]
    last = [own[-1] for own in parts]
    return [*before, RulePass("keep", _sum([p.seconds for p in last]), _sum([p.most for p in last]))]


def _sum(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


COSTS: dict[type[KeepRule], Callable[[Any, _Asked], list[RulePass]]] = {
    ScoreThreshold: _threshold,
    Membership: _membership,
    ScoreTopFraction: _top_fraction,
    MeanRankTopFraction: _mean_rank,
    CapPerGroup: _cap,
    OnePerGroup: _cap,
    TailTrimming: _cap,
    MetadataBalancer: _balance,
    SemanticDuplicates: _duplicates,
    ClusterPruner: _pruner,
    TargetClusters: _targets,
    AnyOf: _any,
    NoneOf: _any,
}
"""Rule -> its passes; a subclass that is not here is unknown, since nothing says that it costs the same."""


def rule_passes(rule: KeepRule, n: float, width: int, matches: float, rates: MeasuredRates) -> list[RulePass]:
    """The passes of a rule over n samples, in order: its statistics, then `keep`.

    Args:
        rule: any; of one without an entry in `COSTS` the passes are named and their cost is unknown.
        n: samples that reach it.
        width: numbers of an embedding.
        matches: concepts that a caption names.
        rates: measured ones.
    """
    return _passes_of(rule, _Asked(n, width, matches, rates))


def _passes_of(rule: KeepRule, asked: _Asked) -> list[RulePass]:
    cost = COSTS.get(type(rule))
    if cost is None:
        return [RulePass(name, None, None) for name in (*rule.statistics(HashDraws(0)), "keep")]
    return cost(rule, asked)


def signal_seconds(
    signal: SampleSignal, n: float, pool: tuple[float, int, tuple[float, float] | None, str], rates: MeasuredRates
) -> float | None:
    """Seconds to compute a column of n samples, without the columns that it needs; None where no rate is known.

    Args:
        signal: of the column.
        n: samples.
        pool: (bytes of a picture, numbers of an embedding, pictures and captions that a worker encodes a second,
            name of the model, which has rates where it was measured).
        rates: measured ones.
    """
    picture, width, encode, model = pool
    seconds = rates.seconds
    pictures, captions = seconds.get(f"encode picture, {model}"), seconds.get(f"encode caption, {model}")
    bytes_of = {"row": n, "byte": n * picture}
    if isinstance(signal, (SizeSignal, PictureGroup)):
        return seconds[signal.name].of(**bytes_of)
    if isinstance(signal, SideSignal) or signal in TEXT_SIGNALS or signal in EMBEDDED_TEXT_SIGNALS[1:]:
        return seconds[signal.name].of(row=n)
    if isinstance(signal, SubstringMatcher):
        return seconds["substrings"].of(row=n)
    if isinstance(signal, ClipScore):
        return seconds["clip_score"].of(row=n, number=n * width)
    if isinstance(signal, ImageEmbedding):
        if encode is not None:
            return n / encode[0]
        return None if pictures is None else pictures.of(picture=n, byte=n * picture)
    texts = n / encode[1] if encode is not None else None if captions is None else captions.of(caption=n)
    if isinstance(signal, CaptionEmbedding) and signal.cleaner is None:
        return texts
    if isinstance(signal, MaskedTextScore) and signal.cleaner is strip_numbers and texts is not None:
        return texts + seconds["cleaner"].of(row=n) + seconds["clip_score"].of(row=n, number=n * width)
    return None


def stored_numbers(signal: SampleSignal, width: int, matches: float) -> float:
    """Numbers of 4 bytes that a stored column has of a sample."""
    if isinstance(signal, (ImageEmbedding, CaptionEmbedding)):
        return float(width)
    return 2 * matches + 2 if isinstance(signal, SubstringMatcher) else 2.0
