"""What windows of labels say (p112, arXiv 2303.06268; p172, arXiv 2401.14487): SciPy filters, slow loops, limits."""

from __future__ import annotations

from collections import Counter
from math import exp

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve, maximum_filter, median_filter, minimum_filter, uniform_filter
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.losses import neighbor_prior
from binderclip.losses.dense.neighbor_prior import smoothing_kernel

K, SHAPE = 4, (2, 9, 11)
SUMMING = ("mean", "gaussian", "image_proportions_l1", "image_proportions_l2")


def drawn(seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, K, SHAPE, generator=g), torch.rand(SHAPE[0], 1, *SHAPE[1:], generator=g)


def one_hot(labels: Tensor) -> np.ndarray:
    return np.stack([(labels.numpy() == k).astype(float) for k in range(K)], axis=1)


def slow(labels: Tensor, images: Tensor, kind: str, at: tuple[int, int, int], size: int, ignore: int) -> list[float]:
    """The prior of one pixel from lists, its windows copying the border."""
    b, y, x = at
    reach, kernel = size // 2, smoothing_kernel(size, own=False).tolist()
    found = []
    for i in range(-reach, reach + 1):
        for j in range(-reach, reach + 1):
            row, column = min(max(y + i, 0), SHAPE[1] - 1), min(max(x + j, 0), SHAPE[2] - 1)
            if labels[b, row, column] != ignore:
                gap = float(images[b, 0, row, column] - images[b, 0, y, x])
                found.append((int(labels[b, row, column]), gap, kernel[i + reach][j + reach], i == j == 0))
    if kind == "mode":
        counts = Counter(label for label, *_ in found)
        best = min(k for k in counts if counts[k] == max(counts.values()))
        return [float(k == best) for k in range(K)]
    if kind == "median":
        middle = sorted(label for label, *_ in found)[(len(found) - 1) // 2]
        return [float(k == middle) for k in range(K)]
    rule = {
        "mean": lambda gap, g, own: 1.0,
        "gaussian": lambda gap, g, own: sum(map(sum, kernel)) - kernel[reach][reach] if own else g,
        "image_proportions_l1": lambda gap, g, own: exp(-abs(gap)),
        "image_proportions_l2": lambda gap, g, own: exp(-gap * gap),
        "bilateral": lambda gap, g, own: abs(gap) * g,
        "gradient": lambda gap, g, own: abs(gap),
    }[kind]
    weights = [(label, rule(*rest)) for label, *rest in found]
    total = len(found) if kind in ("bilateral", "gradient") else sum(w for _, w in weights)
    return [sum(w for label, w in weights if label == k) / total for k in range(K)]


@pytest.mark.parametrize("size", [3, 5])
def test_the_mean_is_scipys_uniform_filter_at_either_border(size: int) -> None:
    labels, _ = drawn()
    maps = one_hot(labels)
    copied = neighbor_prior(labels, K, size=size)
    for b in range(SHAPE[0]):
        for k in range(K):
            expected = uniform_filter(maps[b, k], size, mode="nearest")
            assert np.allclose(copied[b, k], expected, atol=1e-6)
            # Positions beyond the image count as class 0, as in the authors' program.
            expected = uniform_filter(maps[b, k], size, mode="constant", cval=float(k == 0))
            assert np.allclose(neighbor_prior(labels, K, size=size, border="zeros")[b, k], expected, atol=1e-6)
    corner = neighbor_prior(torch.ones(1, 4, 4, dtype=torch.long), 2, border="zeros")[0, :, 0, 0]
    assert corner.tolist() == pytest.approx([5 / 9, 4 / 9])


def test_the_gaussian_is_half_the_pixel_and_half_scipys_average_of_its_neighbours() -> None:
    labels, _ = drawn()
    maps = one_hot(labels)
    kernel = np.exp(-np.array([[2, 1, 2], [1, 0, 1], [2, 1, 2]]) / 2)
    kernel[1, 1] = 0
    kernel /= kernel.sum()
    found = neighbor_prior(labels, K, prior="gaussian")
    for b, k in np.ndindex(SHAPE[0], K):
        expected = maps[b, k] / 2 + convolve(maps[b, k], kernel, mode="nearest") / 2
        assert np.allclose(found[b, k], expected, atol=1e-6)
    flat = smoothing_kernel(3, sigma=1e6)
    assert flat[1, 1] == 0.5
    assert torch.allclose(flat[0], torch.full((3,), 1 / 16))


@pytest.mark.parametrize(
    ("kind", "filter_"), [("max", maximum_filter), ("min", minimum_filter), ("median", median_filter)]
)
def test_order_statistics_are_scipys(kind: str, filter_: object) -> None:
    labels, _ = drawn()
    found = neighbor_prior(labels, K, prior=kind)  # type: ignore[arg-type]
    assert bool((found.sum(1) == 1).all())
    expected = np.stack([filter_(each.numpy(), size=3, mode="nearest") for each in labels])  # type: ignore[operator]
    assert np.array_equal(found.argmax(1).numpy(), expected)


@pytest.mark.parametrize("kind", [*SUMMING, "median", "mode", "bilateral", "gradient"])
@pytest.mark.parametrize("size", [3, 5])
def test_slow_loops_agree_with_ignored_pixels_left_out(kind: str, size: int) -> None:
    labels, images = drawn(1)
    labels[0, 2:6, 3:5] = -1
    labels[1, 0, 0] = -1
    found = neighbor_prior(labels, K, prior=kind, size=size, images=images)  # type: ignore[arg-type]
    for at in [(0, 0, 0), (0, 1, 3), (0, 3, 2), (0, 6, 5), (1, 1, 1), (1, 8, 10), (1, 4, 10)]:
        expected = slow(labels, images, kind, at, size, -1)
        assert found[at[0], :, at[1], at[2]].tolist() == pytest.approx(expected, abs=1e-6), (kind, at)
    other = labels.masked_fill(labels == -1, 255)
    assert torch.equal(found, neighbor_prior(other, K, prior=kind, size=size, images=images))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", SUMMING)
def test_shares_sum_to_one_and_regions_stay_one_hot(kind: str) -> None:
    labels, images = drawn()
    found = neighbor_prior(labels, K, prior=kind, images=images)  # type: ignore[arg-type]
    assert torch.allclose(found.sum(1), torch.ones(SHAPE), atol=1e-6)
    constant = neighbor_prior(torch.full((1, 5, 5), 2), K, prior=kind, images=images[:1, :, :5, :5])  # type: ignore[arg-type]
    assert torch.allclose(constant, torch.eye(K)[2][None, :, None, None].expand(1, K, 5, 5), atol=1e-6)


def test_image_proportions_of_a_constant_picture_are_the_mean_and_of_a_strong_edge_keep_to_their_side() -> None:
    labels, _ = drawn()
    grey = torch.full((SHAPE[0], 3, *SHAPE[1:]), 0.3)
    for kind in ("image_proportions_l1", "image_proportions_l2"):
        assert torch.allclose(
            neighbor_prior(labels, K, prior=kind, images=grey),
            neighbor_prior(labels, K),
            atol=1e-6,  # type: ignore[arg-type]
        )
    halves = torch.zeros(1, 6, 6, dtype=torch.long)
    halves[..., 3:] = 1
    by_image = neighbor_prior(halves, 2, prior="image_proportions_l1", images=halves[:, None].float())
    # Three of nine neighbours lie beyond the edge; they weigh e^-1 each.
    assert float(by_image[0, 1, 3, 2]) == pytest.approx(3 * exp(-1) / (6 + 3 * exp(-1)))
    assert float(neighbor_prior(halves, 2)[0, 1, 3, 2]) == pytest.approx(1 / 3)


def test_a_window_of_ignored_pixels_says_nothing_and_255_is_a_class_where_there_are_so_many() -> None:
    nothing = torch.full((1, 4, 4), -1)
    for kind in ("mean", "mode", "max"):
        assert not neighbor_prior(nothing, 3, prior=kind).any()  # type: ignore[arg-type]
    for dtype in (torch.long, torch.uint8):
        many = neighbor_prior(torch.full((1, 3, 3), 255, dtype=dtype), 300)
        assert float(many[0, 255].min()) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prior": "softest"}, "no prior 'softest'"),
        ({"size": 4}, "odd"),
        ({"size": 1, "prior": "gaussian"}, "at least 3"),
        ({"sigma": 0.0}, "sigma"),
        ({"border": "reflect"}, "border"),
        ({"prior": "gradient"}, "images="),
        ({"prior": "gradient", "images": torch.zeros(1, 1, 5, 4)}, "do not belong"),
        ({"prior": "gradient", "images": torch.full((1, 1, 4, 4), 200.0)}, r"\[0, 1\]"),
    ],
)
def test_wrong_settings_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        neighbor_prior(torch.zeros(1, 4, 4, dtype=torch.long), 2, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "labels", [torch.full((1, 4, 4), 2), torch.zeros(4, 4, dtype=torch.long), torch.zeros(1, 4, 4)]
)
def test_wrong_labels_are_refused(labels: Tensor) -> None:
    with pytest.raises(UsageError, match="labels"):
        neighbor_prior(labels, 2)
