"""Segments of the error of a picture: regions that one shape with a smooth fill could mend."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import ndimage
from torch import Tensor

from binderclip.errors import UsageError

__all__ = ["ErrorSegments", "gradient_aware_segments"]

_THRESHOLDS = (0.04, 0.1)
"""Least and most of the threshold of the squared error, in the released code."""
_BINS = 256
_CROSS = ndimage.generate_binary_structure(2, 1)
_SQUARE = ndimage.generate_binary_structure(2, 2)


@dataclass(frozen=True)
class ErrorSegments:
    """Segments of an error.

    Args:
        labels: of each pixel, from 0; 0, the segment of the upper left corner, counts as background.
        weights: of each label: its squared error above the threshold; 0 where that is small on average, so that no
            shape is needed, and for the background, unless the corner counts.
        threshold: of the squared error, summed over channels.
        error: squared, summed over channels.
    """

    labels: Int[Tensor, "H W"]
    weights: Float[Tensor, " S"]
    threshold: float
    error: Float[Tensor, "H W"]


def gradient_aware_segments(error: Float[Tensor, "C H W"], *, corner: bool = False) -> ErrorSegments:
    """Cut the difference of two pictures at its edges, but not along smooth ramps of colour.

    The error below a threshold (Otsu's, bounded) is set to 0; the absolute Laplacian, summed over channels and cut at
    the first of two multi-Otsu thresholds, is closed; the regions between these edges grow over them by the nearest.
    A Laplacian is small on ramps, so a smooth gradient stays one segment where clustering colours would give several.

    Args:
        error: what is drawn less what should be, of pictures in [0, 1].
        corner: whether the segment of the upper left corner is one to mend, and no background: in photographs it is
            the sky.

    Raises:
        UsageError: an empty picture, or an error that is not finite.

    Paper: Segmentation-guided Layer-wise Image Vectorization with Gradient Fills (arXiv 2408.15741), as released.

    Examples:
        >>> error = torch.zeros(3, 16, 16)
        >>> error[:, 4:12, 4:12] = 0.5
        >>> segments = gradient_aware_segments(error)
        >>> segments.labels[8, 8].item(), segments.labels[0, 0].item(), len(segments.weights)
        (1, 0, 2)
    """
    if error.ndim != 3 or not error.numel() or not bool(error.isfinite().all()):
        raise UsageError(f"error must be finite and (C, H, W), got shape {tuple(error.shape)}")
    difference = error.detach().double().cpu().numpy()
    square = (difference**2).sum(0)
    threshold = float(np.clip(_otsu(square), *_THRESHOLDS))
    strong = square >= threshold
    edges = _edges(np.where(strong, difference, 0))
    labels = _regions(edges)
    areas = np.bincount(labels.ravel())
    weights = np.bincount(labels.ravel(), weights=np.where(strong, square, 0).ravel())
    weights[weights < threshold * areas] = 0
    if not corner:
        weights[0] = 0
    return ErrorSegments(
        torch.from_numpy(labels).long(), torch.from_numpy(weights).float(), threshold, torch.from_numpy(square).float()
    )


def _edges(difference: np.ndarray) -> np.ndarray:
    """Where the error's Laplacian is large, closed: booleans [H, W]."""
    kernel = np.ones((3, 3))
    kernel[1, 1] = -8
    laplacian = sum(np.abs(ndimage.correlate(channel, kernel, mode="reflect")) for channel in difference)
    laplacian = laplacian / max(laplacian.max(), 1.0)
    edges = laplacian >= _first_of_two(laplacian) if laplacian.any() else np.zeros(laplacian.shape, bool)
    widened = ndimage.binary_dilation(edges, _CROSS)
    return ndimage.binary_erosion(widened, _CROSS, border_value=1)


def _regions(edges: np.ndarray) -> np.ndarray:
    """Regions between edges, from 0, and each pixel of an edge with the nearest one: a watershed of zeros and ones."""
    labels, count = ndimage.label(~edges, _SQUARE)
    if count == 0:
        return np.zeros(edges.shape, np.int64)
    if edges.any():
        nearest = ndimage.distance_transform_cdt(edges, "chessboard", return_distances=False, return_indices=True)
        labels = labels[tuple(nearest)]
    return labels.astype(np.int64) - 1


def _otsu(values: np.ndarray) -> float:
    """Otsu's threshold of 256 bins; of equal values their own."""
    if values.min() == values.max():
        return float(values.min())
    counts, centres = _histogram(values)
    below, above = counts.cumsum(), counts[::-1].cumsum()[::-1]
    mean_below = (counts * centres).cumsum() / below
    mean_above = ((counts * centres)[::-1].cumsum() / above[::-1])[::-1]
    variance = below[:-1] * above[1:] * (mean_below[:-1] - mean_above[1:]) ** 2
    return float(centres[variance.argmax()])


def _first_of_two(values: np.ndarray) -> float:
    """The lower of the two thresholds that part values into three classes of most variance between them."""
    counts, centres = _histogram(values)
    taken = counts.nonzero()[0]
    if len(taken) <= 3:
        return float(centres[taken[0]])  # so few levels are classes already; the lowest is no edge, nor above its bin
    mass = np.concatenate([[0.0], (counts / counts.sum()).cumsum()])
    moment = np.concatenate([[0.0], (counts / counts.sum() * np.arange(_BINS)).cumsum()])
    parts, moments = mass[None] - mass[:, None], moment[None] - moment[:, None]  # of bins i ... j - 1
    between = np.where(parts > 0, moments**2 / np.maximum(parts, 1e-300), 0)
    # classes [0, i), [i, j), [j, end)
    total = between[0, :, None] + between + between[:, -1][None]
    total[np.tril_indices(_BINS + 1)] = -1
    first, _ = np.unravel_index(total[1:-1, 1:-1].argmax(), (_BINS - 1, _BINS - 1))
    return float(centres[first])  # bins up to the threshold's own are the lowest class


def _histogram(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    counts, ends = np.histogram(values, _BINS)
    return counts.astype(float), (ends[:-1] + ends[1:]) / 2
