"""Does a sharpness measure rank models as their errors do? Kendall's tau with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.numeric import check_whole

__all__ = ["SharpnessReport", "sharpness_report"]

Series: TypeAlias = Sequence[float] | Tensor | np.ndarray


@dataclass(frozen=True)
class SharpnessReport:
    """Rank correlations over models.

    Attributes:
        measures: names of the rows.
        targets: names of the columns.
        tau: Kendall's tau-b in [-1, 1]; ties, such as models of one learning rate, count for neither side.
        low, high: 95 % percentile interval over resampled models.
    """

    measures: tuple[str, ...]
    targets: tuple[str, ...]
    tau: Float[Tensor, "measures targets"]
    low: Float[Tensor, "measures targets"]
    high: Float[Tensor, "measures targets"]

    def of(self, measure: str, target: str) -> float:
        """Tau of a measure and a target, by name.

        Raises:
            UsageError: an unknown name.
        """
        if measure not in self.measures or target not in self.targets:
            raise UsageError(f"no row {measure!r} or no column {target!r} in {self.measures} x {self.targets}")
        return float(self.tau[self.measures.index(measure), self.targets.index(target)])

    def __str__(self) -> str:
        width = max(map(len, self.measures))
        lines = [" " * width + "".join(f"  {target:>20}" for target in self.targets)]
        for name, *rows in zip(self.measures, self.tau, self.low, self.high, strict=True):
            cells = "".join(
                f"  {t:+.2f} [{a:+.2f}, {b:+.2f}]" for t, a, b in zip(*(r.tolist() for r in rows), strict=True)
            )
            lines.append(f"{name:<{width}}{cells}")
        return "\n".join(lines)


def sharpness_report(
    measures: Mapping[str, Series],
    against: Mapping[str, Series],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> SharpnessReport:
    """Kendall's tau of each measure with each target over a set of models.

    Put the learning rate beside the errors: in the paper sharpness follows the training's settings, and with the error
    on shifted data it often correlates negatively. Measure all models with one norm, scale and radius.

    Args:
        measures: sharpness of each model, by the measure's name.
        against: a number for each model, such as test error, error on shifted data or learning rate, by name.
        resamples: bootstrap draws of models.
        seed: of the draws.

    Raises:
        UsageError: fewer than three models, unequal numbers of them, values that are not finite, or a series that
            is the same for all models.

    Examples:
        >>> report = sharpness_report({"worst": [1.0, 2.0, 3.0, 4.0]}, {"test error": [0.4, 0.3, 0.2, 0.1]})
        >>> report.of("worst", "test error")
        -1.0

    Paper: A Modern Look at the Relationship between Sharpness and Generalization (arXiv 2302.07011).
    """
    check_whole("resamples", resamples, least=1)
    rows, columns = _series(measures, "measure"), _series(against, "target")
    count = len(next(iter(rows.values())))
    if count < 3:
        raise UsageError(f"a rank correlation needs at least three models, got {count}")
    for name, values in {**rows, **columns}.items():
        if len(values) != count:
            raise UsageError(f"{name!r} has {len(values)} models, {next(iter(rows))!r} has {count}")
    everyone = torch.arange(count)[None]
    chosen = torch.randint(count, (resamples, count), generator=torch.Generator().manual_seed(seed))
    tau, draws = (
        torch.stack([torch.stack([kendall(x, y, index) for y in columns.values()], -1) for x in rows.values()], 1)
        for index in (everyone, chosen)
    )  # (draws, measures, targets)
    return SharpnessReport(
        tuple(rows), tuple(columns), tau[0], draws.nanquantile(0.025, dim=0), draws.nanquantile(0.975, dim=0)
    )


def kendall(x: Float[Tensor, "n"], y: Float[Tensor, "n"], index: Int[Tensor, "draws n"]) -> Float[Tensor, "draws"]:
    """Tau-b of the chosen entries of two series; NaN where one of them is constant."""
    concordant, pairs = [], []
    for part in index.split(max(1, 4_000_000 // index.shape[1] ** 2)):
        a, b = x[part], y[part]  # (draws, n)
        a, b = (a[:, :, None] - a[:, None]).sign(), (b[:, :, None] - b[:, None]).sign()  # (draws, n, n)
        concordant.append((a * b).sum((1, 2)))
        pairs.append((a.abs().sum((1, 2)) * b.abs().sum((1, 2))).sqrt())
    return torch.cat(concordant) / torch.cat(pairs)


def _series(given: Mapping[str, Series], what: str) -> dict[str, Tensor]:
    if not given:
        raise UsageError(f"sharpness_report needs at least one {what}")
    series = {name: torch.as_tensor(values, dtype=torch.float64).flatten() for name, values in given.items()}
    for name, values in series.items():
        if not bool(values.isfinite().all()):
            raise UsageError(f"{what} {name!r} holds values that are not finite")
        if len(values) and bool((values == values[0]).all()):
            raise UsageError(f"{what} {name!r} is the same for all models: it has no order")
    return series
