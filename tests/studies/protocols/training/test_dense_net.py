"""What the studies of dense losses share: moved boundaries, the U-Net's hooks, scores."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from binderclip.losses import DenseLoss
from binderclip.studies.protocols.training.dense_net import (
    CLASSES,
    LOSSES,
    SIZE,
    UNet,
    dense_part,
    jittered,
    predicted,
    scored,
    trained,
)


def test_boundaries_move_by_a_pixel_or_two_and_regions_stay() -> None:
    part = dense_part(3, 8)
    changed = part.labels != part.exact
    assert 0 < float(changed.float().mean()) < 0.1
    assert torch.equal(part.labels, dense_part(3, 8).labels)
    half = torch.zeros(50, 48, 48, dtype=torch.long)
    half[..., 24:] = 1
    edge = (jittered(half, 0, 1.2) == 0).sum(2).float() - 24
    assert float(edge.std()) == pytest.approx(1.2, rel=0.15)
    assert abs(float(edge.mean())) < 0.3
    assert float(edge.abs().max()) < 8
    assert torch.equal(jittered(half, 0, 0.0), half)


def test_colours_go_with_the_class_but_not_always_unless_asked() -> None:
    for usual in (0.8, 1.0):
        part = dense_part(4, 16, usual=usual)
        red = (part.images.argmax(1) == 0) & (part.images.amax(1) - part.images.amin(1) > 0.3)
        share = [float(red[part.exact == k].float().mean()) for k in range(1, len(CLASSES) + 1)]
        assert share[1] > 2 * max(share[0], share[2])
        assert (share[0] + share[2] > 0.1) == (usual < 1)


class _Seen(nn.Module):
    def __init__(self, shapes: list[tuple[int, ...]]) -> None:
        super().__init__()
        self.shapes = shapes

    def forward(self, x: Tensor) -> Tensor:
        self.shapes.append(tuple(x.shape[1:]))
        return x


@pytest.mark.parametrize("attention", [False, True])
def test_the_net_gives_logits_and_calls_what_stands_before_strides_and_in_blocks(attention: bool) -> None:
    before: list[tuple[int, ...]] = []
    inside: list[tuple[int, ...]] = []
    net = UNet(4, 8, attention=attention, before_stride=lambda: _Seen(before), in_block=lambda c: _Seen(inside))
    assert net(torch.rand(2, 3, SIZE, SIZE)).shape == (2, 4, SIZE, SIZE)
    half = SIZE // 2
    assert before == [(8, half, half), (16, half // 2, half // 2)]
    assert inside == [(16, half // 2, half // 2), (32, half // 4, half // 4)]


def test_a_gate_can_shut_a_skip_connection() -> None:
    net = UNet(4, 8, attention=True).eval()
    images = torch.rand(1, 3, SIZE, SIZE)
    for gate in net.gates:
        nn.init.zeros_(gate.share.weight)  # type: ignore[union-attr]
        nn.init.constant_(gate.share.bias, -100.0)  # type: ignore[union-attr]
    shut = net(images)
    plain = UNet(4, 8).eval()
    plain.load_state_dict({k: v for k, v in net.state_dict().items() if not k.startswith("gates")})
    assert not torch.allclose(shut, plain(images))
    for block, width in zip(plain.up, (16, 8), strict=True):
        block[0].weight.data[:, :width] = 0  # type: ignore[index]
    assert torch.allclose(shut, plain(images), atol=1e-5)


def test_training_lowers_the_loss_with_every_named_loss() -> None:
    part = dense_part(4, 16)
    for name in ("CE", "image, l1"):
        torch.manual_seed(0)
        net = UNet(4, 4)
        before = float(DenseLoss()(predicted(net.eval(), part.images), part.labels))
        after = trained(net.train(), part, 0, loss=LOSSES[name](), steps=12)
        assert float(DenseLoss()(predicted(after, part.images), part.labels)) < before
    assert all(isinstance(make(), DenseLoss) for make in LOSSES.values())


def test_scores_of_certain_and_of_hedged_logits() -> None:
    labels = dense_part(4, 16).labels
    sure = 50.0 * nn.functional.one_hot(labels, 4).movedim(-1, 1).float()
    found = scored(sure, labels).values
    assert found["Dice"] == 1
    assert found["ECE, foreground"] == pytest.approx(0, abs=1e-6)
    flat = scored(torch.zeros_like(sure), labels).values
    background = float((labels == 0).float().mean())
    # Everything is called background with a quarter's confidence.
    assert flat["Dice"] == 0
    assert flat["ECE, foreground"] == pytest.approx(0.25)
    assert flat["ECE, all pixels"] == pytest.approx(abs(background - 0.25), abs=1e-6)
