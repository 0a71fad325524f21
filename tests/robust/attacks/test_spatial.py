"""Spatial attacks (p154, arXiv 2305.08840; arXiv 1801.02612): whole shifts, written-out sums, finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from binderclip.errors import UsageError
from binderclip.robust import Margin, SpatialAttack, flow_roughness, warp


def pictures(count: int = 2, height: int = 6, width: int = 8) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_no_flow_is_the_image_and_a_whole_one_a_shift() -> None:
    images = pictures()
    flow = torch.zeros(2, 2, 6, 8, dtype=torch.float64)
    torch.testing.assert_close(warp(images, flow), images)
    flow[:, 0], flow[:, 1] = 2.0, -1.0  # two rows down, one column to the left
    moved = warp(images, flow)
    torch.testing.assert_close(moved[:, :, :4, 1:], images[:, :, 2:, :7])
    # Outside, the border goes on.
    torch.testing.assert_close(moved[:, :, 5, 1:], images[:, :, 5, :7])
    torch.testing.assert_close(moved[:, :, :4, 0], images[:, :, 2:, 0])


def test_a_fraction_is_bilinear() -> None:
    images = pictures(1)
    flow = torch.zeros(1, 2, 6, 8, dtype=torch.float64)
    flow[0, 0, 2, 3], flow[0, 1, 2, 3] = 0.25, 0.5
    at = lambda r, c: images[0, :, r, c]  # noqa: E731
    wanted = 0.75 * (at(2, 3) + at(2, 4)) / 2 + 0.25 * (at(3, 3) + at(3, 4)) / 2
    torch.testing.assert_close(warp(images, flow)[0, :, 2, 3], wanted)


def test_roughness_is_the_sum_over_diagonal_neighbours() -> None:
    flow = torch.randn(2, 2, 4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = flow_roughness(flow, epsilon=0.5)
    for number in range(2):
        total = 0.0
        for row in range(4):
            for column in range(5):
                for down in (-1, 1):
                    for right in (-1, 1):
                        r, c = row + down, column + right
                        inside = 0 <= r < 4 and 0 <= c < 5
                        other = flow[number, :, r, c] if inside else torch.zeros(2, dtype=torch.float64)
                        total += float((flow[number, :, row, column] - other).square().sum()) + 0.5
        assert float(found[number]) == pytest.approx(total)


def test_gradients_through_the_warp_are_those_of_finite_differences() -> None:
    images = pictures(1, 4, 4)
    flow = 0.3 * torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + 0.13
    torch.autograd.gradcheck(lambda f: warp(images, f), flow.requires_grad_(), eps=1e-6, atol=1e-4)
    torch.autograd.gradcheck(flow_roughness, flow.detach().requires_grad_())


class LeftOrRight(nn.Module):
    """Two classes: where the light is, left or right of the middle."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        places = torch.arange(x.shape[-1], dtype=x.dtype) - (x.shape[-1] - 1) / 2
        score = (x.mean(1).sum(1) * places).sum(1)
        return torch.stack([-score, score], 1)


def test_light_is_moved_to_the_other_side_and_not_changed_in_colour() -> None:
    images = torch.zeros(2, 3, 9, 9)
    images[0, :, 3:6, 4:7] = torch.tensor([1.0, 0.5, 0.25])[:, None, None]
    images[1, :, 3:6, 2:5] = torch.tensor([0.2, 0.5, 1.0])[:, None, None]
    labels = torch.tensor([1, 0])
    net = LeftOrRight()
    assert net(images).argmax(1).tolist() == [1, 0]
    found = SpatialAttack(weight=5.0, smooth=0.001)(images, lambda rows: Margin(net, labels[rows]))
    assert found.success.all()
    assert net(found.images).argmax(1).tolist() == [0, 1]
    # Colours are those of the image: everywhere a multiple of the one that there is.
    for image, ratio in zip(found.images, (0.5, 2.5), strict=True):
        lit = image[0] > 0.05
        torch.testing.assert_close((image[1] / image[0])[lit], torch.full((int(lit.sum()),), ratio))
    # A smooth flow that is dear stays where it is.
    held = SpatialAttack(weight=0.0)(images, lambda rows: Margin(net, labels[rows]))
    torch.testing.assert_close(held.images, images)
    assert not held.success.any()
    with pytest.raises(UsageError, match="iterations"):
        SpatialAttack(iterations=0)


def test_a_rough_flow_is_as_dear_as_its_weight_says() -> None:
    """The end is where the weighted sum has no slope left, whatever the weights."""
    images, labels = torch.zeros(1, 3, 9, 9), torch.tensor([1])
    images[0, :, 3:6, 4:7] = 1.0
    net = LeftOrRight()

    def gain(smooth: float) -> float:
        found = SpatialAttack(weight=0.02, smooth=smooth)(images, lambda rows: Margin(net, labels[rows]))
        assert not found.success.any()
        return float(found.objective) - float(found.history[0, 0])

    gains = [gain(smooth) for smooth in (0.5, 1.0, 4.0)]
    assert gains[0] > gains[1] > gains[2] > 0
    assert gains[0] == pytest.approx(2 * gains[1], rel=0.3)
