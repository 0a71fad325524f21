"""Edge maps against labels as the Berkeley benchmark does it: one-to-one matching, ODS, OIS and average precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.numeric import check_number, check_whole
from binderclip.settings import check_choice

__all__ = ["EdgeScores", "edge_f_measure", "match_edges"]

ROUNDING = 1e-9
"""Added to a radius, so that pixels at that distance count whatever its last bit is."""


@dataclass(frozen=True)
class EdgeScores:
    """How well edge maps agree with labels at T thresholds.

    Attributes:
        ods: F at the one threshold that is best for all pictures together.
        ods_threshold: that threshold.
        ois: F with the best threshold of each picture.
        average_precision: mean of the precision at recalls 0, 0.01, ..., 1, linear between thresholds; below the lowest
            recall above 0 the precision there, beyond the highest 0. (The benchmark counts 0 below it as well, which
            gives a map of zeros and ones no average precision.)
        thresholds: 1 / (T + 1), ..., T / (T + 1).
        precision, recall: at each.
    """

    ods: float
    ods_threshold: float
    ois: float
    average_precision: float
    thresholds: Float[np.ndarray, "T"]
    precision: Float[np.ndarray, "T"]
    recall: Float[np.ndarray, "T"]


def match_edges(
    prediction: Bool[Tensor, "H W"], target: Bool[Tensor, "H W"], radius: float
) -> tuple[Bool[Tensor, "H W"], Bool[Tensor, "H W"]]:
    """Match as many edge pixels as possible, each with one at most, within a distance (Hopcroft and Karp).

    Args:
        prediction, target: edges.
        radius: largest distance of a pair in pixels; 0: the same pixel.

    Returns:
        The pixels of `prediction` that have a partner, and those of `target`.

    Raises:
        UsageError: maps that are no booleans or of unlike shapes, or a radius that is negative or not finite.

    Examples:
        >>> import torch
        >>> line, thick = torch.zeros(2, 3, 4, dtype=torch.bool)
        >>> line[1] = True
        >>> thick[:2] = True
        >>> [int(part.sum()) for part in match_edges(thick, line, 1.5)]  # a line twice as thick is half wrong
        [4, 4]
    """
    check_number("radius", radius, least=0)
    if prediction.dtype != torch.bool or target.dtype != torch.bool or prediction.shape != target.shape:
        raise UsageError(
            f"prediction and target must be boolean (H, W), not {prediction.dtype} {tuple(prediction.shape)} and "
            f"{target.dtype} {tuple(target.shape)}"
        )
    maps = [part.cpu().numpy() for part in (prediction, target)]
    points = [_edge_points(part) for part in maps]
    partner = _PixelPairs.within(points[0], points[1], radius).largest_matching(np.ones(len(points[0]), dtype=bool))
    matched = [np.zeros_like(part) for part in maps]
    pairs = partner >= 0
    matched[0][tuple(points[0][pairs].T)] = True
    matched[1][tuple(points[1][partner[pairs]].T)] = True
    return torch.from_numpy(matched[0]).to(prediction.device), torch.from_numpy(matched[1]).to(target.device)


def edge_f_measure(
    probabilities: Sequence[Float[Tensor, "_ _"]] | Float[Tensor, "N H W"],
    targets: Sequence[Bool[Tensor, "*annotators _ _"]] | Bool[Tensor, "N *annotators H W"],
    *,
    tolerance: float = 0.0075,
    unit: Literal["diagonal", "pixels"] = "diagonal",
    thresholds: int = 99,
) -> EdgeScores:
    """Score edge maps against labels: ODS, OIS and average precision.

    At each threshold edge pixels are matched one to one within the tolerance, so an edge that is two pixels thick has
    half of them wrong: thin the maps first (`vision.thin_edges`). With several annotators a predicted pixel is right
    where any of them has it, and recall is over the edges of all.

    Args:
        probabilities: an edge map of each picture, in [0, 1].
        targets: its edges, (H, W), or those of several annotators, (A, H, W).
        tolerance: largest distance of a pair: a part of the diagonal (0.0075 on BSDS500 and BIPED), or pixels.
        unit: of the tolerance.
        thresholds: how many there are, evenly within (0, 1).

    Raises:
        UsageError: no pictures, another number of targets, maps that are not finite in [0, 1], shapes that do not
            belong together, no edge in any target, or a setting out of range.

    Paper: Dense Extreme Inception Network for Edge Detection (arXiv 2112.02250).

    Examples:
        >>> import torch
        >>> edges = torch.eye(8, dtype=torch.bool)[None]
        >>> edge_f_measure(edges * 0.7, edges).ods
        1.0
    """
    check_number("tolerance", tolerance, least=0)
    check_choice("unit", unit, ("diagonal", "pixels"))
    check_whole("thresholds", thresholds, least=1)
    if not len(probabilities) or len(probabilities) != len(targets):
        raise UsageError(f"{len(probabilities)} maps and {len(targets)} targets: as many of each, one at least")
    levels = np.arange(1, thresholds + 1) / (thresholds + 1)
    counts = np.stack(
        [
            _counts(*_checked(number, probability, target), levels, tolerance, unit)
            for number, (probability, target) in enumerate(zip(probabilities, targets, strict=True))
        ]
    )  # (N, T, 4): predicted, of these right, labelled, of these found
    if not counts[:, 0, 2].sum():
        raise UsageError("targets have no edge in any picture, so there is no recall")
    precision, recall, f = _curves(counts.sum(0))
    best = _curves(counts)[2].argmax(1)  # (N,)
    return EdgeScores(
        ods=float(f.max()),
        ods_threshold=float(levels[f.argmax()]),
        ois=float(_curves(counts[np.arange(len(counts)), best].sum(0, keepdims=True))[2][0]),
        average_precision=_average_precision(precision, recall),
        thresholds=levels,
        precision=precision,
        recall=recall,
    )


def _average_precision(precision: Float[np.ndarray, "T"], recall: Float[np.ndarray, "T"]) -> float:
    """Mean of the interpolated precision; a threshold above which nothing is right has none."""
    order = np.lexsort((precision, recall))
    recall, precision = recall[order], precision[order]
    kept = np.append(np.diff(recall) > 0, True) & (recall > 0)  # of equal recalls the best precision
    if not kept.any():
        return 0.0
    grid = np.linspace(0, 1, 101)
    reached = np.interp(grid, recall[kept], precision[kept])
    return float(np.where(grid <= recall.max() + ROUNDING, reached, 0).mean())


def _checked(number: int, probability: Tensor, target: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Map (H, W) and labels (A, H, W) of one picture."""
    size = tuple(probability.shape)
    if len(size) != 2 or target.ndim not in (2, 3) or target.shape[-2:] != probability.shape or 0 in target.shape:
        raise UsageError(
            f"picture {number}: a map (H, W) and edges (H, W) or (A, H, W), not {size} and {tuple(target.shape)}"
        )
    if target.dtype != torch.bool or not probability.is_floating_point():
        raise UsageError(f"picture {number}: a float map and boolean edges, not {probability.dtype}, {target.dtype}")
    if not bool(((probability >= 0) & (probability <= 1)).all()):
        raise UsageError(f"picture {number}: the map must be in [0, 1]")
    labels = target if target.ndim == 3 else target[None]
    return probability.detach().double().cpu().numpy(), labels.cpu().numpy()


def _counts(
    probability: np.ndarray, labels: np.ndarray, levels: np.ndarray, tolerance: float, unit: str
) -> Float[np.ndarray, "T 4"]:
    """At each level: predicted pixels, of these right, labelled pixels, of these found."""
    radius = tolerance * float(np.hypot(*probability.shape)) if unit == "diagonal" else tolerance
    points = _edge_points(probability >= levels[0])
    values = probability[tuple(points.T)]
    annotators = [_edge_points(one) for one in labels]
    graphs = [_PixelPairs.within(points, edges, radius) for edges in annotators]
    labelled = sum(map(len, annotators))
    rows = []
    for level in levels:
        kept = values >= level
        count = int(kept.sum())
        right, hits = np.zeros(count, dtype=bool), 0
        for graph in graphs if count else ():
            partner = graph.largest_matching(kept)
            right |= partner >= 0
            hits += int((partner >= 0).sum())
        rows.append((count, right.sum(), labelled, hits))
    return np.array(rows, dtype=float)


def _edge_points(edges: Bool[np.ndarray, "H W"]) -> Int[np.ndarray, "N 2"]:
    """Rows and columns of the true pixels, row by row."""
    return np.stack(np.divmod(np.flatnonzero(edges), edges.shape[1]), 1)


@dataclass(frozen=True)
class _PixelPairs:
    """Which pixels of one set may be matched with which of another, as the rows of a sparse matrix.

    Attributes:
        columns: numbers of the second set, row after row.
        lengths: how many each row has.
        width: size of the second set.
    """

    columns: Int[np.ndarray, "E"]
    lengths: Int[np.ndarray, "N"]
    width: int

    @classmethod
    def within(cls, first: Int[np.ndarray, "N 2"], second: Int[np.ndarray, "M 2"], radius: float) -> _PixelPairs:
        """The pixels that lie within the radius of each other."""
        from scipy.spatial import cKDTree

        if not len(first) or not len(second):
            return cls(np.zeros(0, dtype=np.int32), np.zeros(len(first), dtype=np.int32), len(second))
        near = cKDTree(first).sparse_distance_matrix(cKDTree(second), radius + ROUNDING, output_type="ndarray")
        order = np.lexsort((near["j"], near["i"]))
        lengths = np.bincount(near["i"], minlength=len(first))
        return cls(near["j"][order].astype(np.int32), lengths.astype(np.int32), len(second))

    def largest_matching(self, kept: Bool[np.ndarray, "N"]) -> Int[np.ndarray, "K"]:
        """Partner of each row that is kept in a largest one-to-one matching, -1 for none."""
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import maximum_bipartite_matching

        lengths, columns = self.lengths[kept], self.columns[np.repeat(kept, self.lengths)]
        if not len(columns):
            return np.full(len(lengths), -1)
        starts = np.concatenate([np.zeros(1, dtype=np.int32), np.cumsum(lengths, dtype=np.int32)])
        graph = csr_array((np.ones(len(columns), dtype=np.int8), columns, starts), shape=(len(lengths), self.width))
        return maximum_bipartite_matching(graph, perm_type="column")


def _curves(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F of counts (..., 4); 0 where nothing is predicted or labelled."""
    predicted, right, labelled, hits = np.moveaxis(counts, -1, 0)
    precision, recall = right / np.maximum(predicted, 1), hits / np.maximum(labelled, 1)
    return precision, recall, 2 * precision * recall / np.maximum(precision + recall, 1e-12)
