"""Edge maps against labels, and patches of boundary attention: against the benchmark's own way, and against a copy."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from scipy.spatial import cKDTree
from torch import Tensor

from benchmarks.harness import Row, compare
from binderclip.data import kaleidoshapes
from binderclip.evaluate import edge_f_measure
from binderclip.vision import fold_patches, sobel, thin_edges, unfold_patches

SIZE, LEVELS, RADIUS = (160, 200), 33, 2.0
OUTLIER = 100.0
"""Cost of an edge pixel without a partner, in units of the radius, as in the benchmark's `correspondPixels`."""
PATCH, SIDE = 17, 96


def maps(n: int) -> tuple[Tensor, Tensor]:
    """Thinned slopes of noisy shapes, in [0, 1], and their edges."""
    shapes = kaleidoshapes(0, n, size=SIZE, shapes=(6, 9))
    noisy = shapes.noisy((0.05, 0.1), generator=torch.Generator().manual_seed(0))
    return thin_edges(sobel(noisy).amax(1)).clamp(0, 1), shapes.edges


def published(probability: np.ndarray, target: np.ndarray) -> list[tuple[int, int]]:
    """Matched and predicted pixels at each threshold as the benchmark counts them.

    At every threshold pairs are sought anew, and the matching of least distance is found, in which each pixel may stay
    without a partner at a cost.
    """
    counts = []
    for level in np.arange(1, LEVELS + 1) / (LEVELS + 1):
        first, second = np.argwhere(probability >= level), np.argwhere(target)
        if not len(first):
            counts.append((0, 0))
            continue
        near = cKDTree(first).sparse_distance_matrix(cKDTree(second), RADIUS + 1e-9, output_type="ndarray")
        n, m = len(first), len(second)
        # Each pixel has a stand-in of its own on the other side; two stand-ins may meet wherever their pixels may.
        rows = np.concatenate([near["i"], np.arange(n), n + np.arange(m), n + near["j"]])
        columns = np.concatenate([near["j"], m + np.arange(n), np.arange(m), m + near["i"]])
        alone = OUTLIER * RADIUS
        costs = np.concatenate(
            [near["v"] + 1e-6, np.full(n, alone), np.full(m, alone), np.full(len(near), 1e-6)]
        )  # fmt: skip
        graph = csr_array((costs, (rows, columns)), shape=(n + m, n + m))
        matched_rows, matched_columns = min_weight_full_bipartite_matching(graph)
        counts.append((int(((matched_rows < n) & (matched_columns < m)).sum()), n))
    return counts


def run(*, pictures: int = 2, repeats: int = 7) -> list[Row]:
    """All rows.

    Args:
        pictures: to be scored. repeats: pairs of runs.
    """
    probability, target = maps(pictures)

    def ours() -> float:
        return edge_f_measure(list(probability), list(target), tolerance=RADIUS, unit="pixels", thresholds=LEVELS).ods

    def peer() -> float:
        counts = np.sum([published(a.double().numpy(), b.numpy()) for a, b in zip(probability, target, strict=True)], 0)
        matched, predicted = counts.T.astype(float)
        precision, recall = matched / np.maximum(predicted, 1), matched / int(target.sum())
        return float((2 * precision * recall / np.maximum(precision + recall, 1e-12)).max())

    if not math.isclose(ours(), peer(), abs_tol=1e-9):
        raise AssertionError(f"ODS {ours()} is not the peer's {peer()}")
    return [
        compare(
            f"ODS, OIS and AP of {pictures} edge maps of {SIZE[1]} x {SIZE[0]} px at {LEVELS} thresholds", ours, peer,
            repeats=repeats, warmup=0, unit="s", fastest=True, goal="at least 5x", target=5,
            peer_name="(matching of least cost at each threshold, pairs sought anew)",
            note="the peer is the benchmark's way in SciPy; its own program is C++ behind MATLAB",
        ),
        _patches(),
    ]  # fmt: skip


def _patches() -> Row:
    picture = torch.rand(1, 4, SIDE, SIDE)
    patches = unfold_patches(picture, PATCH).contiguous()  # (1, 4, 17, 17, 80, 80)

    def ours() -> Tensor:
        return fold_patches(unfold_patches(picture, PATCH))

    if not torch.allclose(ours(), picture, atol=1e-5):
        raise AssertionError("folding what was unfolded is not the picture")
    return compare(
        f"patches of {PATCH} px unfolded and folded, 4 channels, {SIDE} px", ours, patches.clone, speedup=False,
        fastest=True, repeats=15,
        goal="at most 1.3x", target=1.3, peer_name="(a copy of the patches)",
        note=f"{patches.numel() * 4 / 1e6:.0f} MB of patches; unfolding alone is a view",
    )  # fmt: skip
