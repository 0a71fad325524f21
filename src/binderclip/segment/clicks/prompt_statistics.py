"""What a set of point prompts is like, and its object: the numbers that may say how good its mask will be."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Num
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import cdist, pdist

from binderclip.errors import UsageError, require
from binderclip.segment.clicks.sampling import grey_picture

__all__ = ["hull_mask", "object_features", "prompt_features"]

Places = Num[np.ndarray, "_ 2"]


def prompt_features(inclusion: Places, exclusion: Places, mask: Bool[np.ndarray, "H W"]) -> dict[str, float]:
    """Geometry of inclusion and exclusion points.

    `coverage` (share of the mask within the hull of the inclusion points), `efficiency` (that a point), `max spread`
    and `mean spread` (largest, and root mean square nearest, distance of inclusion points over the diameter of the
    mask's hull), `distance` (symmetric Chamfer distance of the two sets over the diagonal), `exclusion spread`,
    `encasing exclusion` (mean distance of exclusion points from the mask over the diagonal) and `encasing inclusion`
    (mean distance of inclusion points to the outline over the diameter). What takes more points than there are is 0.

    Places are measured as everywhere in this library: pixel (0, 0) has its centre at (0.5, 0.5), a pixel belongs to a
    hull that holds its centre, and a mask's diameter reaches from corner to corner of its pixels. The published figures
    stand on whole pixel numbers: add 0.5 to such points, or their hull and distances to the outline lie half a pixel
    off; the diameter then still is about a pixel larger, which makes the shares of it that much smaller.

    Args:
        inclusion, exclusion: (x, y) in pixels.
        mask: the object.

    Raises:
        UsageError: no inclusion point, or an empty mask.

    Paper: Benchmarking Human and Automated Prompting in the Segment Anything Model (arXiv 2410.22048).
    """
    mask = np.asarray(mask, dtype=bool)
    inside, outside = (np.asarray(points, dtype=float).reshape(-1, 2) for points in (inclusion, exclusion))
    if not len(inside) or not mask.any():
        raise UsageError("prompt features need an inclusion point and a mask with pixels")
    diagonal, diameter = float(np.hypot(*mask.shape)), _diameter(mask)
    coverage = float((hull_mask(inside, mask.shape) & mask).sum() / mask.sum())
    spread = 0.0
    if len(inside) > 1:
        near = cdist(inside, inside)
        np.fill_diagonal(near, np.inf)
        spread = float(np.sqrt((near.min(1) ** 2).mean()))
    between = cdist(inside, outside) if len(outside) else np.zeros((1, 1))
    depth, away = (ndimage.distance_transform_edt(np.pad(part, 1, constant_values=edge))[1:-1, 1:-1]
                   for part, edge in ((mask, False), (~mask, True)))  # fmt: skip
    return {
        "coverage": coverage,
        "efficiency": coverage / len(inside),
        "max spread": _widest(inside) / diameter,
        "mean spread": spread / diameter,
        "distance": float(between.min(1).mean() + between.min(0).mean()) / 2 / diagonal,
        "exclusion spread": _widest(outside) / diagonal,
        "encasing exclusion": _mean_at(away, outside) / diagonal,
        "encasing inclusion": _mean_at(depth, inside) / diameter,
    }


def hull_mask(points: Places, size: tuple[int, ...]) -> Bool[np.ndarray, "H W"]:
    """Pixels whose centre lies in the convex hull of points; none for fewer than three or points on a line."""
    height, width = size
    if len(points) < 3:
        return np.zeros(size, dtype=bool)
    try:
        equations = ConvexHull(points).equations
    except QhullError:
        return np.zeros(size, dtype=bool)
    y, x = np.mgrid[:height, :width] + 0.5
    inside = np.ones(size, dtype=bool)
    for a, b, c in equations:
        inside &= a * x + b * y + c <= 1e-9
    return inside


def _diameter(mask: Any) -> float:
    """Largest distance between corners of the mask's pixels."""
    rows, columns = np.nonzero(mask)
    corners = np.concatenate([np.stack([columns + dx, rows + dy], 1) for dx in (0, 1) for dy in (0, 1)])
    return float(pdist(corners[ConvexHull(corners).vertices]).max())


def _widest(points: Places) -> float:
    return float(pdist(points).max()) if len(points) > 1 else 0.0


def _mean_at(distance: Any, points: Places) -> float:
    if not len(points):
        return 0.0
    columns, rows = (np.clip(points[:, i].astype(int), 0, distance.shape[1 - i] - 1) for i in (0, 1))
    return float(distance[rows, columns].mean())


def object_features(image: Any, mask: Bool[np.ndarray, "H W"]) -> dict[str, float]:
    """Size and texture of an object: `fraction`, `components`, `edges`, and six measures of grey-level co-occurrence.

    Co-occurrences are of the box around the object with all else black, over 64 grey levels, at 1 % of the object's
    diameter (at least a pixel) along rows and columns, summed.

    Args:
        image: grey or RGB (H, W[, 3]).
        mask: the object.

    Raises:
        UsageError: an empty mask, or a picture of another size.
        MissingDependency: without scikit-image.
    """
    feature: Any = require("skimage.feature", "photographs")
    grey, mask = grey_picture(image), np.asarray(mask, dtype=bool)
    if grey.shape != mask.shape or not mask.any():
        raise UsageError(
            f"object features need a mask with pixels of the picture's size {grey.shape}, got {mask.shape}"
        )
    rows, columns = np.nonzero(mask)
    box = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    levels = np.where(mask, (grey * 63).round().clip(0, 63), 0)[box].astype(np.uint8)
    step = max(1, round(0.01 * _diameter(mask)))
    counts = feature.graycomatrix(levels, [step], [0, np.pi / 2], levels=64, symmetric=True, normed=True)
    names = ("contrast", "dissimilarity", "homogeneity", "energy", "correlation", "ASM")
    texture = {name: float(feature.graycoprops(counts, name).sum()) for name in names}
    edges = feature.canny(grey, low_threshold=100 / 255, high_threshold=200 / 255)
    return {
        "fraction": float(mask.mean()),
        "components": float(ndimage.label(mask)[1]),
        "edges": float(edges[mask].mean()),
        **texture,
    }
