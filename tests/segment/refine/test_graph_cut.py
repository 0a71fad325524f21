"""Graph-cut masks of p147 (Deep Inside Convolutional Networks, arXiv 1312.6034): the cut against all labellings."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from binderclip.errors import UsageError
from binderclip.segment import mask_iou, minimum_cut, saliency_graph_cut


def energy(labels: np.ndarray, object_cost: np.ndarray, rest_cost: np.ndarray, edges) -> float:
    total = np.where(labels, object_cost, rest_cost).sum()
    for down, right, weights in edges:
        for i, j in itertools.product(range(labels.shape[0]), range(labels.shape[1])):
            a, b = i + down, j + right
            if 0 <= a < labels.shape[0] and 0 <= b < labels.shape[1] and labels[i, j] != labels[a, b]:
                total += weights[i, j]
    return total


@pytest.mark.parametrize("neighbours", [4, 8])
@pytest.mark.parametrize("seed", range(6))
def test_the_cut_is_the_best_of_all_512_labellings(neighbours: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    object_cost, rest_cost = rng.normal(size=(2, 3, 3)) * 2
    steps = [(0, 1), (1, 0), (1, 1), (1, -1)][: 2 if neighbours == 4 else 4]
    edges = [(down, right, rng.uniform(0, 1.5, size=(3, 3))) for down, right in steps]
    every = [np.array(bits).reshape(3, 3) for bits in itertools.product([False, True], repeat=9)]
    best = min(energy(labels, object_cost, rest_cost, edges) for labels in every)
    found = minimum_cut(object_cost, rest_cost, edges)
    # Costs are rounded to thousandths for the integer flow.
    assert energy(found, object_cost, rest_cost, edges) == pytest.approx(best, abs=0.02)


def scene(size: int = 60) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A red disc on a bluish ground, both noisy, and a map that only touches the disc's middle."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    disc = (rows - 25) ** 2 + (columns - 33) ** 2 < 15**2
    red, blue = (torch.tensor(c)[:, None, None] for c in ([0.8, 0.2, 0.2], [0.2, 0.4, 0.7]))
    colour = torch.where(disc[None], red, blue)
    image = (colour + 0.06 * torch.randn(3, size, size, generator=generator)).clamp(0, 1)
    middle = torch.exp(-((rows - 25) ** 2 + (columns - 33) ** 2) / 40.0)
    return image, disc, middle + 0.02 * torch.rand(size, size, generator=generator)


def test_colour_and_smoothness_complete_what_the_map_only_touches() -> None:
    image, disc, saliency = scene()
    found = saliency_graph_cut(image, saliency)
    threshold = saliency >= torch.quantile(saliency, 0.95)
    cut, plain = (float(mask_iou(m[None], disc[None])) for m in (found.mask, threshold))
    assert cut > 0.9
    assert plain < 0.35
    x0, y0, x1, y1 = found.box
    assert max(abs(x0 - 19), abs(y0 - 11), abs(x1 - 48), abs(y1 - 40)) <= 1
    assert bool((found.mask <= found.foreground).all())


def test_the_weight_of_smoothness_goes_from_each_pixel_alone_to_one_side_for_all() -> None:
    image, _, saliency = scene()
    alone = [saliency_graph_cut(image, saliency, gamma=0.0, neighbours=count).foreground for count in (4, 8)]
    assert torch.equal(*alone)
    smooth, one = (saliency_graph_cut(image, saliency, gamma=gamma).foreground for gamma in (50.0, 1e6))
    edges = [int((m[1:] != m[:-1]).sum() + (m[:, 1:] != m[:, :-1]).sum()) for m in (alone[0], smooth, one)]
    assert edges[0] >= edges[1] > edges[2] == 0


def test_the_grid_may_be_coarser_than_the_image() -> None:
    image, disc, saliency = scene(120)
    found = saliency_graph_cut(image, saliency, side=40, neighbours=4)
    assert found.mask.shape == (120, 120)
    assert float(mask_iou(found.mask[None], disc[None])) > 0.8


def test_a_constant_image_does_not_fail_and_bad_input_is_named() -> None:
    flat = saliency_graph_cut(torch.full((3, 20, 20), 0.5), torch.rand(20, 20))
    assert flat.mask.shape == (20, 20)
    image, _, saliency = scene()
    with pytest.raises(UsageError, match=r"saliency \(59, 60\) \(H, W\)"):
        saliency_graph_cut(image, saliency[1:])
    with pytest.raises(UsageError, match="background <= foreground"):
        saliency_graph_cut(image, saliency, foreground=0.2)
    with pytest.raises(UsageError, match="neighbours must be one of 4, 8"):
        saliency_graph_cut(image, saliency, neighbours=6)
