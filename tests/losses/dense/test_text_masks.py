"""Focal and dice of one mask a class (p077, arXiv 2406.00670), against torchvision and closed forms."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from binderclip.errors import UsageError
from binderclip.losses import FocalDice


def case(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 4, 5, 6, generator=generator), torch.randint(0, 3, (2, 5, 6), generator=generator)


def test_focal_is_torchvisions_over_the_masks_that_occur() -> None:
    logits, labels = case()
    labels[1] = labels[1].clamp(max=1)  # three masks in the first picture, two in the second; class 3 never
    loss = FocalDice(dice=0)
    wanted = torch.nn.functional.one_hot(labels, 4).permute(0, 3, 1, 2).float()
    each = sigmoid_focal_loss(logits, wanted, alpha=0.25, gamma=2.0).mean((2, 3))
    assert float(loss(logits, labels)) == pytest.approx(100 * float(each.sum()) / 5, rel=1e-5)
    assert float(loss.parts["dice"]) == 0


def test_dice_of_disjoint_and_of_perfect_masks() -> None:
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    labels[0, 0] = 1
    logits = torch.full((1, 3, 4, 4), -1e4)
    logits[0, 1, 2:] = 1e4  # eight wrong pixels for a class of four
    logits[0, 0, 1:] = 1e4  # perfect
    loss = FocalDice(focal=0)
    assert float(loss(logits, labels)) == pytest.approx((1 - 1 / (8 + 4 + 1)) / 2, rel=1e-5)


def test_ignored_pixels_are_in_nothing_and_get_no_gradient() -> None:
    logits, labels = case(1)
    labels[0, :2], labels[1, 3] = -1, 255
    leaf = logits.clone().requires_grad_()
    value = FocalDice()(leaf, labels)
    value.backward()
    ignored = ((labels == -1) | (labels == 255))[:, None].expand_as(logits)
    assert not leaf.grad[ignored].any()
    changed = torch.where(ignored, 50.0, logits)
    assert float(FocalDice()(changed, labels)) == pytest.approx(float(value.detach()), rel=1e-5)
    # The released code takes them for negatives of every class.
    released = FocalDice(released=True)
    none = torch.nn.functional.one_hot(labels.masked_fill(labels == 255, -1) + 1, 5)[..., 1:].permute(0, 3, 1, 2)
    focal = sigmoid_focal_loss(logits, none.float(), alpha=0.25, gamma=2.0).mean((2, 3)).sum() / none.amax((2, 3)).sum()
    released(logits, labels)
    assert float(released.parts["focal"]) == pytest.approx(100 * float(focal), rel=1e-5)
    assert float(released(changed, labels)) > float(value.detach())


def test_the_order_of_classes_does_not_count() -> None:
    logits, labels = case(2)
    order = torch.tensor([2, 0, 3, 1])
    moved = order.argsort()[labels]
    assert float(FocalDice()(logits[:, order], moved)) == pytest.approx(float(FocalDice()(logits, labels)), rel=1e-5)


def test_nothing_there_and_mistakes() -> None:
    logits, labels = case()
    loss = FocalDice()
    assert float(loss(logits, torch.full_like(labels, -1))) == 0
    with pytest.raises(UsageError, match="do not belong together"):
        loss(logits, labels[:, :4])
    with pytest.raises(UsageError, match="alpha must be in"):
        FocalDice(alpha=2)
    with pytest.raises(UsageError, match="labels run from 4 to 4"):
        loss(logits, torch.full_like(labels, 4))
