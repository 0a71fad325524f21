"""Flows (p157, arXiv 2312.15861): identity, whole pixels, two in a row, other sizes, areas of affine maps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.vision import area_change, compose_flows, resize_flow, warp


def affine(matrix: list[list[float]], shift: tuple[float, float], size: tuple[int, int] = (9, 12)) -> Tensor:
    """The flow p -> matrix p + shift - p, [1, 2, H, W]."""
    places = torch.stack(torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in size), indexing="ij"))
    moved = torch.einsum("ij,jhw->ihw", torch.tensor(matrix, dtype=torch.float64), places)
    return (moved + torch.tensor(shift, dtype=torch.float64)[:, None, None] - places)[None]


def test_no_flow_is_the_identity_and_whole_pixels_are_a_roll_inside() -> None:
    images = torch.rand(2, 3, 9, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(warp(images, torch.zeros(2, 2, 9, 12).double()), images)
    flow = torch.tensor([2.0, -3.0]).double()[None, :, None, None].expand(2, 2, 9, 12)
    rolled = torch.roll(images, (-2, 3), (2, 3))
    torch.testing.assert_close(warp(images, flow)[..., :-2, 3:], rolled[..., :-2, 3:])


def test_two_affine_flows_in_a_row_are_their_product_and_not_their_sum() -> None:
    a, b = affine([[0.9, 0.1], [0.0, 0.8]], (0.5, 1.0)), affine([[0.7, 0.0], [0.2, 0.9]], (1.0, 0.0))
    # q = B p + b first, then A q + a.
    product = affine([[0.9 * 0.7 + 0.1 * 0.2, 0.1 * 0.9], [0.8 * 0.2, 0.8 * 0.9]], (0.5 + 0.9, 1.0))
    composed = compose_flows(a, b)
    inside = (torch.stack(torch.meshgrid(torch.arange(9.0), torch.arange(12.0), indexing="ij")) + b[0]).double()
    known = (inside[0] <= 8) & (inside[1] <= 11)  # where the second flow stays in the picture
    torch.testing.assert_close(composed[..., known], product[..., known])
    assert not torch.allclose(composed, a + b, atol=0.1)


def test_another_size_is_the_same_map_of_its_corners() -> None:
    flow = affine([[0.9, 0.1], [0.0, 0.8]], (0.0, 0.0), (5, 7))
    resized = resize_flow(flow, (9, 13))
    torch.testing.assert_close(resized[..., ::2, ::2], 2 * flow)
    torch.testing.assert_close(resized[..., -1, -1], 2 * flow[..., -1, -1])
    with pytest.raises(UsageError, match="2 x 2 is the least"):
        resize_flow(flow[..., :1], (9, 13))


def test_areas_change_by_the_determinant() -> None:
    flow = affine([[2.0, 0.3], [0.1, 0.5]], (1.0, 0.0))
    torch.testing.assert_close(area_change(flow), torch.full((1, 8, 11), 2.0 * 0.5 - 0.3 * 0.1).double())
    assert float(area_change(affine([[-1.0, 0.0], [0.0, 1.0]], (8.0, 0.0))).mean()) == pytest.approx(1.0)  # mirrored
    with pytest.raises(UsageError, match="no slope"):
        area_change(flow[..., :1])
