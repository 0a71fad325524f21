"""What the runs of a grid came to: cells with their cost and error, a frontier, power laws and where they cross."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from binderclip.errors import UsageError
from binderclip.evaluate import PowerLaw, compute_frontier, crossing, fit_power_law
from binderclip.files import write_whole

__all__ = ["StudyCell", "StudyRun", "StudyTable"]

Cost = Literal["flops", "samples", "tokens"]
RESAMPLES = 500
"""Behind the intervals that are written and printed."""


@dataclass(frozen=True)
class StudyRun:
    """One finished training run of a grid.

    Attributes:
        levels: of each factor.
        seed: of the recipe.
        cost: `flops` (operations of forward and backward passes), `samples` (pairs) and `tokens`, as the recipe counts
            them before it runs; None where it cannot.
        figures: on held-out data, as the run's `summary.json` has them.
        folder: of the run, within the grid's.
    """

    levels: dict[str, str]
    seed: int
    cost: dict[str, int | None]
    figures: dict[str, float]
    folder: str


@dataclass(frozen=True)
class StudyCell:
    """All seeds of one combination of levels.

    Attributes:
        levels: of each factor.
        cost: of one run.
        error: mean over seeds. low, high: the least and the largest.
        seeds: how many.
    """

    levels: dict[str, str]
    cost: float
    error: float
    low: float
    high: float
    seeds: int

    @property
    def name(self) -> str:
        """The levels, for people."""
        return ", ".join(self.levels.values())


@dataclass(frozen=True)
class StudyTable:
    """The runs of a grid, as errors against their cost.

    Args:
        runs: finished ones.
        metric: a share that is better the higher it is, such as `text_to_image/R@10`, averaged over held-out sets; or
            the full name of a figure of one set. The error is 1 less the share.
        x: cost that errors are held against.
        curves: factor whose levels each have a power law; None: one law, of the frontier.

    Raises:
        UsageError: no run, a cost that is not counted or a metric that was not measured (its message lists those that
            were), or an unknown factor.
    """

    runs: Sequence[StudyRun]
    metric: str = "text_to_image/R@10"
    x: Cost = "flops"
    curves: str | None = None

    def __post_init__(self) -> None:
        if not self.runs or self.x not in get_args(Cost):
            raise UsageError(f"a table needs a finished run and x of {', '.join(get_args(Cost))}; got x={self.x!r}")
        for run in self.runs:
            self.error(run)
            if run.cost.get(self.x) is None:
                raise UsageError(f"x = {self.x!r} of {run.folder} is not known; take another, such as x = 'samples'")
        self._known(self.curves)

    def _known(self, factor: str | None) -> None:
        factors = list(self.runs[0].levels)
        if factor is not None and factor not in factors:
            raise UsageError(f"there is no factor {factor!r}: one of {', '.join(factors)}")

    def error(self, run: StudyRun) -> float:
        """1 less the metric of a run."""
        exact = [value for name, value in run.figures.items() if name == self.metric]
        values = exact or [value for name, value in run.figures.items() if name.endswith(f"/{self.metric}")]
        if not values:
            shares = sorted(name for name, value in run.figures.items() if 0 <= value <= 1)
            raise UsageError(
                f"metric {self.metric!r} was not measured by {run.folder}: {', '.join(shares) or 'nothing'}"
            )
        if not all(0 <= value <= 1 for value in values):
            raise UsageError(f"metric {self.metric!r} is no share: {', '.join(f'{value:g}' for value in values)}")
        return 1 - sum(values) / len(values)

    def cells(self) -> list[StudyCell]:
        """Means over seeds, in the order of the runs."""
        order = {tuple(run.levels.items()): place for place, run in reversed(list(enumerate(self.runs)))}
        runs = sorted(self.runs, key=lambda run: order[tuple(run.levels.items())])
        cells = []
        for _, group in groupby(runs, key=lambda run: tuple(run.levels.items())):
            same = list(group)
            errors = [self.error(run) for run in same]
            cost = float(np.mean([float(run.cost[self.x] or 0) for run in same]))
            cells.append(
                StudyCell(same[0].levels, cost, float(np.mean(errors)), min(errors), max(errors), len(same))
            )  # fmt: skip
        return cells

    def frontier(self) -> list[StudyCell]:
        """The cells whose mean error no cheaper one reaches, the cheapest first."""
        cells = self.cells()
        return [cells[row] for row in compute_frontier([c.cost for c in cells], [c.error for c in cells])]

    def laws(self, factor: str | None = None, *, resamples: int = 0) -> dict[str, PowerLaw]:
        """A power law of the mean errors for each level of a factor; without a factor one of the frontier.

        With four different costs or more the law has a floor, with three none; with fewer there is no law. Levels
        without one are those of `without_law`.

        Args:
            factor: default the table's `curves`.
            resamples: for the intervals; see `evaluate.fit_power_law`.

        Raises:
            UsageError: an unknown factor.
        """
        fits = self._fits(factor, resamples)
        return {name: law for name, law in fits.items() if isinstance(law, PowerLaw)}

    def without_law(self, factor: str | None = None) -> dict[str, str]:
        """Why a level of a factor, or the frontier, has no power law; nothing where all have one.

        Args:
            factor: default the table's `curves`.

        Raises:
            UsageError: an unknown factor.
        """
        return {name: why for name, why in self._fits(factor, 0).items() if isinstance(why, str)}

    def _fits(self, factor: str | None, resamples: int) -> dict[str, PowerLaw | str]:
        """The law of each level, or why it has none."""
        factor = self.curves if factor is None else factor
        self._known(factor)
        cells = self.frontier() if factor is None else self.cells()
        names = ["frontier"] if factor is None else list(dict.fromkeys(cell.levels[factor] for cell in cells))
        fits: dict[str, PowerLaw | str] = {}
        for name in names:
            own = [cell for cell in cells if factor is None or cell.levels[factor] == name]
            x, y = [cell.cost for cell in own], [cell.error for cell in own]
            if len(set(x)) < 3:
                fits[name] = f"a power law needs 3 different costs, and there are {len(set(x))}"
            elif min(y) <= 0:
                fits[name] = "a power law has errors above 0, and one is 0"
            else:
                try:
                    fits[name] = fit_power_law(x, y, floor=len(set(x)) >= 4, resamples=resamples)
                except UsageError as error:  # runs that are trained are not lost for a curve that has no law
                    fits[name] = str(error)
        return fits

    def crossing(
        self, factor: str, first: str, second: str, *, which: Literal["first", "last"] = "last"
    ) -> float | None:
        """Cost, within what was measured of both, from which one level's law lies below another's.

        Args:
            factor: whose levels are compared.
            first, second: levels. which: see `evaluate.crossing`.

        Raises:
            UsageError: an unknown factor, or a level without a law.
        """
        laws, cells = self.laws(factor), self.cells()
        missing = [level for level in (first, second) if level not in laws]
        if missing:
            why = self.without_law(factor).get(missing[0], f"there is no such level of {factor}")
            raise UsageError(f"{missing[0]!r} has no law: {why}; those with one: {', '.join(laws) or 'none'}")
        ranges = [[c.cost for c in cells if c.levels[factor] == level] for level in (first, second)]
        low, high = max(map(min, ranges)), min(map(max, ranges))
        return crossing(laws[first], laws[second], between=(low, high), which=which) if low < high else None

    def document(self) -> dict[str, Any]:
        """Runs, cells, frontier and laws, or why there is none, as plain tables, for JSON."""
        best = self.frontier()
        return {
            "metric": self.metric,
            "x": self.x,
            "cells": [{**vars(cell), "frontier": cell in best} for cell in self.cells()],
            "laws": {name: vars(law) for name, law in self.laws(resamples=RESAMPLES).items()},
            "without_law": self.without_law(),
            "runs": [vars(run) for run in self.runs],
        }

    def rows(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows of the table that people read, the cheapest cell first."""
        best = self.frontier()
        cells = sorted(self.cells(), key=lambda cell: cell.cost)
        header = [*self.runs[0].levels, self.x, f"1 - {self.metric}", "range", "seeds", "frontier"]
        return header, [
            [*cell.levels.values(), f"{cell.cost:.3g}", f"{cell.error:.4f}", f"{cell.low:.4f} to {cell.high:.4f}",
             str(cell.seeds), "yes" if cell in best else ""]
            for cell in cells
        ]  # fmt: skip

    def plot(self, path: str | Path) -> Path:
        """Draw errors against cost, with the frontier and the laws, as a picture."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 4.5), dpi=120, layout="constrained")
        ax = figure.add_subplot()
        cells, best, laws = self.cells(), self.frontier(), self.laws()
        level = [cell.levels[self.curves] if self.curves else "runs" for cell in cells]
        for number, name in enumerate(dict.fromkeys(level)):
            own = [cell for cell, its in zip(cells, level, strict=True) if its == name]
            away = [[c.error - c.low for c in own], [c.high - c.error for c in own]]
            ax.errorbar([c.cost for c in own], [c.error for c in own], yerr=away, fmt="o", markersize=5, capsize=2,
                        color=f"C{number}", label=name)  # fmt: skip
            _draw_law(ax, laws.get(name), own, f"C{number}")
        ax.plot([c.cost for c in best], [c.error for c in best], color="0.3", linewidth=1, label="frontier")
        _draw_law(ax, laws.get("frontier"), best, "0.3")
        ax.set(xscale="log", yscale="log", xlabel=self.x, ylabel=f"1 - {self.metric}")
        ax.grid(alpha=0.25, which="both")
        ax.legend(fontsize=8)
        format = Path(path).suffix.lstrip(".") or "png"
        return write_whole(path, lambda draft: figure.savefig(draft, format=format))


def _draw_law(ax: Any, law: PowerLaw | None, cells: Iterable[StudyCell], colour: str) -> None:
    if law is not None:
        costs = [cell.cost for cell in cells]
        x = np.geomspace(min(costs), max(costs), 100)
        ax.plot(x, law(x), linestyle="--", linewidth=1, color=colour)
