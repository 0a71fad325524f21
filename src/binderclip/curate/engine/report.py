"""What a pipeline did: how many samples each stage dropped and why, where its threshold lay, who stood beside it."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from binderclip.curate.engine.keys import Keys, hash_uniform, key_order, smallest, uids_of

SHOWN = 7
"""Samples on either side of a threshold that are named."""
SAMPLED = 20_000
"""Values of a column that a histogram is drawn from: those whose keys have the smallest hashes."""


@dataclass(frozen=True, order=True)
class BoundarySample:
    """A sample beside a threshold.

    Attributes:
        distance: of its value from the nearest threshold.
        uid: 32 hexadecimal digits.
        value: of the deciding column.
        kept: whether it stayed.
        name, text: as the data say.
        shard, row: where it is; the row counts all samples of the shard.
    """

    distance: float
    uid: str
    value: float = field(compare=False)
    kept: bool = field(compare=False)
    name: str = field(compare=False)
    text: str = field(compare=False)
    shard: str = field(compare=False)
    row: int = field(compare=False)


@dataclass
class StageReport:
    """One stage.

    Attributes:
        name, reason: of the stage, and what dropped samples do not meet.
        entered, kept: number of samples.
        column: that decided; "" for none. cuts: values of it at which the decision changes.
        figures: further figures of the rule.
    """

    name: str
    reason: str
    entered: int = 0
    kept: int = 0
    column: str = ""
    cuts: tuple[float, ...] = ()
    figures: dict[str, Any] = field(default_factory=dict)
    _values: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list, repr=False)
    _beside: dict[bool, list[BoundarySample]] = field(default_factory=lambda: {True: [], False: []}, repr=False)

    @property
    def dropped(self) -> int:
        """Samples that the stage dropped."""
        return self.entered - self.kept

    @property
    def boundary(self) -> list[BoundarySample]:
        """Samples nearest to a threshold, the nearest first, at most `SHOWN` of the kept and of the dropped."""
        return sorted([*self._beside[True], *self._beside[False]])

    @property
    def values(self) -> np.ndarray:
        """Values of the deciding column, of all that entered or of `SAMPLED` that were drawn by their keys' hash."""
        return np.concatenate([values for _, values in self._values]) if self._values else np.empty(0)

    def look(self, keys: Keys, values: np.ndarray) -> None:
        """Take values into the histogram."""
        draws = hash_uniform(0, keys)
        draws, values = draws[there := np.isfinite(values)], values[there]
        self._values.append((draws, values))
        if sum(len(part) for part, _ in self._values) > 2 * SAMPLED:
            self.thin()

    def thin(self) -> None:
        """Keep `SAMPLED` values, in an order that does not depend on how they came."""
        if self._values:
            draws, values = (np.concatenate(parts) for parts in zip(*self._values, strict=True))
            near = smallest(draws, SAMPLED)
            draws, values = draws[near], values[near]
            order = np.lexsort((values, draws))[:SAMPLED]
            self._values = [(draws[order], values[order])]

    def stand_beside(self, samples: Sequence[BoundarySample]) -> None:
        """Take samples in whose values are near a threshold."""
        for kept in (True, False):
            own = [sample for sample in samples if sample.kept == kept]
            self._beside[kept] = heapq.nsmallest(SHOWN, [*self._beside[kept], *own])

    def plot(self) -> Any:
        """A matplotlib figure: histogram of the deciding column, and lines at the thresholds."""
        from binderclip.display import new_figure

        figure = new_figure(7.0, 2.4)
        axes = figure.subplots()
        axes.hist(self.values, bins=60, color="#4c72b0")
        for cut in self.cuts:
            axes.axvline(cut, color="C3", linestyle="--", label=f"{cut:.4g}")
        if self.cuts:
            axes.legend(frameon=False, fontsize=8)
        axes.set(xlabel=self.column, ylabel="samples")
        axes.spines[["top", "right"]].set_visible(False)
        return figure

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "name": self.name, "reason": self.reason, "entered": self.entered, "kept": self.kept,
            "dropped": self.dropped, "column": self.column, "cuts": list(self.cuts), "figures": self.figures,
            "boundary": [vars(sample) for sample in self.boundary],
        }  # fmt: skip


@dataclass
class CurationReport:
    """All stages, in order.

    Attributes:
        entered, kept: samples of the pool, and of the selection.
        stages: one report a stage.
        skipped: (key, reason) of what could not be read and was never a sample.
    """

    entered: int
    kept: int
    stages: list[StageReport]
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def rows(self) -> list[tuple[str, str, int, int, str]]:
        """(stage, condition, in, out, share) for a table."""
        return [
            (stage.name, stage.reason, stage.entered, stage.kept, f"{stage.kept / max(stage.entered, 1):.1%}")
            for stage in self.stages
        ]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "entered": self.entered, "kept": self.kept, "stages": [stage.as_dict() for stage in self.stages],
            "skipped": [{"key": key, "reason": reason} for key, reason in self.skipped],
        }  # fmt: skip


def beside_cuts(
    keys: Keys, values: np.ndarray, kept: np.ndarray, cuts: Sequence[float], place: tuple[str, np.ndarray],
    named: tuple[Sequence[Any], Sequence[Any]],
) -> list[BoundarySample]:  # fmt: skip
    """The samples of a shard that are nearest to a threshold, `SHOWN` of the kept and of the dropped.

    Args:
        keys, values, kept: of the samples that entered the stage.
        cuts: thresholds.
        place: id of the shard, and the row of each sample in it.
        named: names and texts.
    """
    if not cuts or not len(keys):
        return []
    distance = np.abs(values[:, None] - np.asarray(cuts)[None]).min(1)
    samples = []
    for side in (True, False):
        rows = np.flatnonzero((kept == side) & np.isfinite(distance))
        rows = rows[smallest(distance[rows], SHOWN)]
        rows = rows[key_order(keys[rows], distance[rows])[:SHOWN]]
        samples += [
            BoundarySample(
                float(distance[r]),
                uid,
                float(values[r]),
                side,
                str(named[0][r]),
                str(named[1][r]),
                place[0],
                int(place[1][r]),
            )
            for r, uid in zip(rows.tolist(), uids_of(keys[rows]), strict=True)
        ]
    return samples
