"""Boundary attention (p063): attention against a loop, where information may come from, and what it learns."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import binderclip.vision.edges.boundary_attention as module
from binderclip.errors import UsageError
from binderclip.vision import BoundaryAttention, BoundaryLoss
from binderclip.vision.edges.boundary_attention import _CrossLayer, _MixerLayer

SMALL = {"width": 8, "patch": 5, "sides": (3, 5), "blocks": 1, "iterations": 2, "attention": 3, "mixer": 6,
         "feed_forward": 8, "layers": 1, "eta": 0.05, "delta": 0.05}  # fmt: skip


def test_attention_equals_a_loop_over_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and values of a neighbour are of what it shows plus its position; outside the map there is none."""
    torch.manual_seed(0)
    layer = _CrossLayer(6, 5, heads=2, feed_forward=4, dropout=0.0).double()
    query, shown = torch.randn(1, 4, 5, 6).double(), torch.randn(1, 4, 5, 5).double()
    positions = torch.randn(3, 3, 5).double()
    expected = torch.zeros(1, 4, 5, 6).double()
    for y in range(4):
        for x in range(5):
            near = [
                shown[0, y + i - 1, x + j - 1] + positions[i, j]
                for i in range(3)
                for j in range(3)
                if 0 <= y + i - 1 < 4 and 0 <= x + j - 1 < 5
            ]
            tokens = torch.stack(near)
            q, k, v = layer.query(query[0, y, x]), layer.key(tokens), layer.value(tokens)
            for head in range(2):
                part = slice(3 * head, 3 * head + 3)
                weight = (k[:, part] @ q[part] / math.sqrt(3)).softmax(0)
                expected[0, y, x, part] = weight @ v[:, part]
    torch.testing.assert_close(layer._attend(query, shown, positions), expected)
    monkeypatch.setattr(module, "MOST_NEIGHBOURS", 1)  # a row at a time
    torch.testing.assert_close(layer._attend(query, shown, positions), expected)


def test_tied_convolutions_have_one_kernel_for_all_inputs() -> None:
    torch.manual_seed(1)
    layer = _MixerLayer(4, 6)
    x = torch.randn(1, 7, 9, 4)
    first, second = layer.over_pixels
    planes = layer.norm1(x).permute(0, 3, 1, 2)
    middle = F.gelu(F.conv2d(planes, first.weight.repeat(1, 4, 1, 1), first.bias, padding=1), approximate="tanh")
    tied = F.conv2d(middle, second.weight.repeat(1, 6, 1, 1), second.bias, padding=1).permute(0, 2, 3, 1)
    torch.testing.assert_close(layer(x), x + tied + layer.over_channels(layer.norm2(x + tied)))


def test_the_papers_size() -> None:
    """Counted from the layers of the released program: stem 4 x 64, mixer, and twice a block of two layers."""
    d, t, e = 64, 8, 64 + 3 + 1 + 3
    mixer = (9 + 1) * 96 + (9 + 1) * d + 2 * (d * d + d) + 2 * 2 * d
    attention = 2 * ((d + t) ** 2 + d + t) + 2 * (e * (d + t) + d + t)
    layer = attention + 2 * 2 * (d + t) + (d + t) * 128 + 128 + 128 * (d + t) + d + t
    block = d * d + d + 2 * d + t + 121 * e + 2 * layer + (d + 1) * 7 + (t + 1) * 3
    total = 4 * d + 2 * mixer + 2 * d + (d + 1) * 7 + 2 * block
    assert sum(p.numel() for p in BoundaryAttention().parameters()) == total


@torch.no_grad()
@pytest.mark.parametrize("size", [(5, 5), (9, 17)])
def test_any_size_that_holds_a_patch(size: tuple[int, int]) -> None:
    network = BoundaryAttention(**SMALL).eval()  # type: ignore[arg-type]
    outputs = network(torch.rand(2, 3, *size), outputs=3)
    assert len(outputs) == 3
    for maps in outputs:
        assert maps.features.shape == (2, 3, *size)
        assert bool(maps.distance.isfinite().all())
    assert float(outputs[0].mask.min()) == 1  # the proposal has whole patches
    torch.testing.assert_close(outputs[-1].mask.amax((1, 2)), torch.ones(2, size[0] - 4, size[1] - 4))
    flat = network(torch.full((1, 3, *size), 0.5))[-1]
    # Where every patch is of one colour, its mean is that colour; the corner of a 5 x 5 picture may lie in small masks.
    assert float((flat.features - 0.5).abs().max()) < 1e-3


@torch.no_grad()
def test_brightness_of_the_picture_does_not_move_the_proposal() -> None:
    """The proposal sees each channel from 0 to 1."""
    network = BoundaryAttention(**SMALL).eval()  # type: ignore[arg-type]
    images = torch.rand(1, 3, 12, 12)
    first, scaled = network(images, outputs=3)[0], network(images * 0.25 + 0.5, outputs=3)[0]
    torch.testing.assert_close(first.distance, scaled.distance, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(scaled.features, first.features * 0.25 + 0.5, atol=1e-4, rtol=1e-4)


def test_a_pixel_is_reached_by_its_neighbourhood_alone() -> None:
    torch.manual_seed(2)
    network = BoundaryAttention(**SMALL).double().eval()  # type: ignore[arg-type]
    images = torch.rand(1, 3, 41, 9).double()
    images[:, :, -1], images[:, :, -2] = 0.0, 1.0  # fixes the range that the proposal is brought to
    images.requires_grad_()
    network(images)[-1].distance[0, 2].sum().backward()
    assert images.grad is not None
    reach = images.grad.abs().amax((0, 1, 3)) > 0
    # Two mixers of two 3 x 3 convolutions 4, two attentions 1 each, and each iteration's smoothing and reading 2 + 2.
    last = int(reach[:-2].nonzero().max())
    assert 2 < last <= 2 + 2 + 4 + 2 * (1 + 4) + 4


def train(steps: int) -> tuple[float, float]:
    """Loss before and after training on one noisy picture of two halves."""
    torch.manual_seed(3)
    network = BoundaryAttention(**SMALL)  # type: ignore[arg-type]
    clean = torch.zeros(1, 3, 14, 14)
    clean[..., 7:] = 1.0
    distances = (torch.arange(14) - 6.5).abs().expand(1, 14, 14)
    noisy: Tensor = clean + 0.2 * torch.randn(1, 3, 14, 14)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(steps):
        loss = BoundaryLoss()(network(noisy), clean, distances)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in network.parameters())
    return losses[0], losses[-1]


def test_every_weight_has_a_gradient_and_the_loss_falls() -> None:
    before, after = train(25)
    assert after < 0.7 * before


def test_settings_out_of_range_are_refused() -> None:
    for name, value in (
        ("width", 0), ("patch", 4), ("attention", 2), ("sides", (4,)), ("heads", 5), ("dropout", 1.0), ("eta", 0.0),
        ("delta", math.inf), ("blocks", 1.5),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=name):
            BoundaryAttention(**(SMALL | {name: value}))  # type: ignore[arg-type]
    network = BoundaryAttention(**SMALL)  # type: ignore[arg-type]
    for images, message in (
        (torch.rand(1, 1, 9, 9), r"images must be float \(B, 3, H, W\)"),
        (torch.rand(1, 3, 4, 9), "must hold a patch of 5 pixels"),
        (torch.zeros(1, 3, 9, 9, dtype=torch.uint8), "images must be float"),
    ):
        with pytest.raises(UsageError, match=message):
            network(images)
    with pytest.raises(UsageError, match="outputs"):
        network(torch.rand(1, 3, 9, 9), outputs=4)
