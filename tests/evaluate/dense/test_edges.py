"""ODS, OIS and average precision of edge maps (p110): SciPy's assignment, exact cases and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.evaluate import edge_f_measure, match_edges


def assigned(prediction: Tensor, target: Tensor, radius: float) -> int:
    """Size of the largest matching by the Hungarian method on a dense table of pairs."""
    a, b = (np.argwhere(part.numpy()) for part in (prediction, target))
    near = np.linalg.norm(a[:, None] - b[None], axis=-1) <= radius + 1e-9
    rows, columns = linear_sum_assignment(near, maximize=True)
    return int(near[rows, columns].sum())


@pytest.mark.parametrize("radius", [0.0, 1.0, math.sqrt(2), 2.5])
def test_matching_equals_the_assignment(radius: float) -> None:
    g = torch.Generator().manual_seed(0)
    for density in (0.1, 0.3, 0.6):
        prediction, target = torch.rand(2, 16, 16, generator=g) < density
        matched, hit = match_edges(prediction, target, radius)
        assert int(matched.sum()) == int(hit.sum()) == assigned(prediction, target, radius)
        assert not bool((matched & ~prediction).any())
        assert not bool((hit & ~target).any())


def test_matching_is_one_to_one_where_distance_alone_is_not() -> None:
    """Three pixels around one edge pixel: each is near it, one can have it; nearest first would lose one elsewhere."""
    target = torch.zeros(3, 6, dtype=torch.bool)
    target[1, 1] = True
    prediction = torch.zeros(3, 6, dtype=torch.bool)
    prediction[:, 1] = True
    assert int(match_edges(prediction, target, 1.0)[0].sum()) == 1
    chain, other = torch.zeros(2, 1, 5, dtype=torch.bool)
    chain[0, [1, 2]], other[0, [0, 1]] = True, True  # 1 is on 1, but 2 needs it
    assert int(match_edges(chain, other, 1.0)[0].sum()) == 2


def brute(maps: Tensor, edges: Tensor, radius: float, levels: np.ndarray) -> tuple[float, float, np.ndarray]:
    """ODS, OIS and the curve (precision, recall), picture by picture and threshold by threshold."""
    counts = np.zeros((len(maps), len(levels), 3))
    for i, (one, labels) in enumerate(zip(maps, edges, strict=True)):
        for k, level in enumerate(levels):
            prediction = one >= level
            counts[i, k] = int(prediction.sum()), int(labels.sum()), assigned(prediction, labels, radius)

    def f(c: np.ndarray) -> float:
        return 2 * c[2] / (c[0] + c[1])  # of one annotator: 2 TP / (predicted + labelled)

    ods = max(f(counts[:, k].sum(0)) for k in range(len(levels)))
    ois = f(sum(max(picture, key=f) for picture in counts))  # type: ignore[arg-type]
    total = counts.sum(0)
    return ods, ois, np.stack([total[:, 2] / np.maximum(total[:, 0], 1), total[:, 2] / total[:, 1]])


def test_scores_equal_brute_force() -> None:
    g = torch.Generator().manual_seed(1)
    edges = torch.rand(3, 12, 12, generator=g) < 0.2
    maps = (0.5 * edges + 0.8 * torch.rand(3, 12, 12, generator=g, dtype=torch.float64)).clamp(0, 1)
    maps = maps * torch.tensor([1, 0.6, 0.9], dtype=torch.float64)[:, None, None]  # unlike best thresholds
    scores = edge_f_measure(maps, edges, tolerance=1.0, unit="pixels", thresholds=9)
    ods, ois, curve = brute(maps, edges, 1.0, np.arange(1, 10) / 10)
    assert scores.ods == pytest.approx(ods)
    assert scores.ois == pytest.approx(ois)
    assert scores.ois > scores.ods
    np.testing.assert_allclose([scores.precision, scores.recall], curve)
    diagonal = edge_f_measure(maps, edges, tolerance=1.0 / math.hypot(12, 12), thresholds=9)
    assert diagonal.ods == scores.ods


def test_tolerance_nothing_is_pixel_f1_and_exact_maps_score_one() -> None:
    g = torch.Generator().manual_seed(2)
    edges, maps = torch.rand(2, 2, 20, 20, generator=g) < 0.3
    scores = edge_f_measure(maps.float(), edges, tolerance=0, thresholds=3)
    hits, total = int((maps & edges).sum()), int(maps.sum() + edges.sum())
    assert scores.ods == pytest.approx(2 * hits / total)
    exact = edge_f_measure(edges.float(), edges, thresholds=5)
    assert (exact.ods, exact.ois, exact.average_precision) == pytest.approx((1, 1, 1))


def test_average_precision_of_a_known_curve() -> None:
    """One of two edges at 0.9, both and two false pixels at 0.5: precision 1 at recall 1/2, 1/2 at recall 1."""
    edges = torch.zeros(1, 9, 9, dtype=torch.bool)
    edges[0, 0, 0] = edges[0, 8, 8] = True
    maps = torch.zeros(1, 9, 9)
    maps[0, 0, 0], maps[0, 8, 8], maps[0, 4, 0], maps[0, 0, 4] = 0.9, 0.5, 0.5, 0.5
    scores = edge_f_measure(maps, edges, tolerance=0, thresholds=9)
    grid = np.linspace(0, 1, 101)
    expected = np.where(grid <= 0.5, 1, 1 - (grid - 0.5)).mean()
    assert scores.average_precision == pytest.approx(expected)
    assert scores.ods_threshold == pytest.approx(0.1)  # F is 2/3 with the one edge and with all: the lowest


def test_several_annotators() -> None:
    """A pixel that any has is right; recall is over the edges of all."""
    first, second = torch.zeros(2, 6, 6, dtype=torch.bool)
    first[1], second[4] = True, True
    scores = edge_f_measure([first.float()], [torch.stack([first, second])], tolerance=0)
    assert scores.precision[0] == 1
    assert scores.recall[0] == 0.5
    union = edge_f_measure([(first | second).float()], [torch.stack([first, second])], tolerance=0)
    assert union.ods == 1


def test_empty_maps_and_what_is_refused() -> None:
    edges = torch.eye(8, dtype=torch.bool)[None]
    nothing = edge_f_measure(torch.zeros(1, 8, 8), edges)
    assert (nothing.ods, nothing.ois, nothing.average_precision) == (0, 0, 0)
    sizes = edge_f_measure([torch.eye(8), torch.eye(5)], [edges[0], torch.zeros(5, 5, dtype=torch.bool)])
    assert 0 < sizes.precision[0] < 1  # a picture without edges still counts what is found in it
    for maps, targets, message in (
        (torch.zeros(0, 8, 8), edges[:0], "0 maps and 0 targets"),
        (torch.rand(1, 8, 8), ~edges & edges, "no edge in any picture"),
        (torch.full((1, 8, 8), math.nan), edges, r"picture 0: the map must be in \[0, 1\]"),
        (torch.rand(1, 8, 9), edges, r"picture 0: a map \(H, W\)"),
        (torch.rand(1, 8, 8), edges.float(), "boolean edges"),
    ):
        with pytest.raises(UsageError, match=message):
            edge_f_measure(maps, targets)  # type: ignore[arg-type]
    for settings in ({"tolerance": -1.0}, {"tolerance": math.nan}, {"unit": "metres"}, {"thresholds": 0}):
        with pytest.raises(UsageError, match=next(iter(settings))):
            edge_f_measure(torch.rand(1, 8, 8), edges, **settings)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="radius"):
        match_edges(edges[0], edges[0], -1.0)
    with pytest.raises(UsageError, match="must be boolean"):
        match_edges(torch.rand(3, 3), edges[0], 1.0)  # type: ignore[arg-type]
