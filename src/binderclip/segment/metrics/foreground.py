"""How good a map of one foreground is: the measures of camouflaged and salient objects."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from binderclip.errors import UsageError

__all__ = ["e_measure", "foreground_scores", "mean_absolute_error", "s_measure", "weighted_f"]

TINY = float(np.spacing(1.0))
LEVELS = 256


def foreground_scores(probs: Any, truth: Any) -> dict[str, float]:
    """All four: `S`, `E` (mean over thresholds), `Fw` and `MAE`.

    Args:
        probs: (H, W) in [0, 1], or a mask. truth: (H, W) mask.

    Raises:
        UsageError: shapes that differ, or probabilities outside [0, 1].
    """
    return {
        "S": s_measure(probs, truth),
        "E": e_measure(probs, truth),
        "Fw": weighted_f(probs, truth),
        "MAE": mean_absolute_error(probs, truth),
    }


def mean_absolute_error(probs: Any, truth: Any) -> float:
    """Mean of the absolute differences."""
    predicted, mask = _checked(probs, truth)
    return float(np.abs(predicted - mask).mean())


def s_measure(probs: Any, truth: Any, *, alpha: float = 0.5) -> float:
    """Structure measure: how alike object and background are as wholes, and in four parts around the object's centre.

    Args:
        probs, truth: see `foreground_scores`.
        alpha: share of the first.

    Paper: Structure-measure: A new way to evaluate foreground maps (ICCV 2017).
    """
    predicted, mask = _checked(probs, truth)
    prevalence = float(mask.mean())
    if prevalence in (0.0, 1.0):
        return float(predicted.mean() if prevalence else 1 - predicted.mean())
    whole = prevalence * _uniform(predicted[mask]) + (1 - prevalence) * _uniform(1 - predicted[~mask])
    rows, columns = (int(np.round(each.mean())) + 1 for each in np.nonzero(mask))
    parts = 0.0
    for ys in (np.s_[:rows], np.s_[rows:]):
        for xs in (np.s_[:columns], np.s_[columns:]):
            part = mask[ys, xs]
            if part.size:
                parts += part.size / mask.size * _structure(predicted[ys, xs], part.astype(float))
    return max(0.0, alpha * whole + (1 - alpha) * parts)


def _uniform(values: Float[np.ndarray, "N"]) -> float:
    """Near 1 where all values are 1, less where they are smaller or differ."""
    mean, spread = values.mean(), values.std(ddof=1) if len(values) > 1 else 0.0
    return float(2 * mean / (mean**2 + 1 + spread + TINY))


def _structure(a: Float[np.ndarray, "h w"], b: Float[np.ndarray, "h w"]) -> float:
    """Structural similarity of two parts without constants."""
    n = a.size
    x, y = a.mean(), b.mean()
    along, across, covariance = (
        float((p * q).sum() / (n - 1 + TINY)) for p, q in ((a - x, a - x), (b - y, b - y), (a - x, b - y))
    )
    above, below = 4 * x * y * covariance, (x**2 + y**2) * (along + across)
    if above != 0:
        return float(above / (below + TINY))
    return 1.0 if below == 0 else 0.0


def e_measure(probs: Any, truth: Any) -> float:
    """Enhanced alignment of mask and truth about their means, averaged over 256 thresholds.

    Paper: Enhanced-alignment Measure for Binary Foreground Map Evaluation (IJCAI 2018).
    """
    predicted, mask = _checked(probs, truth)
    level = (predicted * (LEVELS - 1)).astype(np.uint8)
    inside, outside = (np.bincount(level[part], minlength=LEVELS)[::-1].cumsum() for part in (mask, ~mask))
    size, held = mask.size, int(mask.sum())
    if held in (0, size):
        agreeing = inside if held else size - outside
        return float((agreeing / (size - 1 + TINY)).mean())
    fraction, mean = (inside + outside) / size, held / size
    total = np.zeros(LEVELS)
    # Pixels that are in both, in the map alone, in the truth alone, and in none are alike each.
    for count, a, b in (
        (inside, 1, 1), (outside, 1, 0), (held - inside, 0, 1), (size - held - outside, 0, 0),
    ):  # fmt: skip
        x, y = a - fraction, b - mean
        total += count * (2 * x * y / (x**2 + y**2 + TINY) + 1) ** 2 / 4
    return float((total / (size - 1 + TINY)).mean())


def weighted_f(probs: Any, truth: Any, *, beta2: float = 1.0) -> float:
    """F-measure whose errors weigh less beside other errors of the object and more far away from it; 0 without one.

    Args:
        probs, truth: see `foreground_scores`.
        beta2: weight of recall against precision; 1 as its authors publish it.

    Paper: How to Evaluate Foreground Maps? (CVPR 2014).
    """
    predicted, mask = _checked(probs, truth)
    if not mask.any():
        return 0.0
    away, (rows, columns) = ndimage.distance_transform_edt(~mask, return_indices=True)
    error = np.abs(predicted - mask)
    # Outside the object the error of its nearest pixel stands in, so that smoothing sees the object alone.
    near = np.where(mask, error, error[rows, columns])
    axis = np.arange(7) - 3
    kernel = np.exp(-(axis[:, None] ** 2 + axis**2) / (2 * 5.0**2))
    smooth = ndimage.convolve(near, kernel / kernel.sum(), mode="constant")
    least = np.where(mask & (smooth < error), smooth, error)
    weighted = least * np.where(mask, 1.0, 2 - np.exp(np.log(0.5) / 5 * away))
    hit = mask.sum() - weighted[mask].sum()
    recall, precision = 1 - weighted[mask].mean(), hit / (TINY + hit + weighted[~mask].sum())
    return float((1 + beta2) * recall * precision / (TINY + recall + beta2 * precision))


def _checked(probs: Any, truth: Any) -> tuple[Float[np.ndarray, "H W"], Bool[np.ndarray, "H W"]]:
    predicted, mask = np.asarray(probs, dtype=np.float64), np.asarray(truth)
    if predicted.ndim != 2 or predicted.shape != mask.shape or not predicted.size:
        raise UsageError(f"a map and its truth are (H, W) alike, got {predicted.shape} and {mask.shape}")
    if not (np.isfinite(predicted).all() and predicted.min() >= 0 and predicted.max() <= 1):
        raise UsageError("probabilities must be in [0, 1]")
    return predicted, mask > 0
