"""Losses with a known gradient bound (p011, arXiv 2305.16202): torch's own, closed forms, bounds that are met."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.privacy import LIPSCHITZ_LOSSES, loss_constant, tau_cross_entropy
from binderclip.privacy.lipschitz.losses import cosine_loss, hinge_loss, hkr_loss, kr_loss, mae_loss

Z = torch.tensor([[-2.0], [-0.3], [0.0], [0.4], [3.0], [0.9]], dtype=torch.float64)
SIGNS = torch.tensor([1.0, 1.0, -1.0, 1.0, 1.0, -1.0], dtype=torch.float64)


@pytest.mark.parametrize("margin", [1.0, 0.25])
def test_hinge_is_torchs_two_class_margin_loss(margin: float) -> None:
    # MultiMarginLoss of the outputs (0, z) for label 1, (z, 0) for label 0, halved for two classes
    pairs = torch.cat([torch.zeros_like(Z), SIGNS[:, None] * Z], dim=1)
    expected = 2 * nn.MultiMarginLoss(margin=margin, reduction="none")(pairs, torch.ones(len(Z), dtype=torch.long))
    torch.testing.assert_close(hinge_loss(Z, SIGNS, margin), expected)


def test_hkr_adds_the_weighted_hinge_to_the_dual_of_the_distance() -> None:
    # y z = -2: KR 2, hinge .5 + 2; y z = 3: KR -3, no hinge
    found = hkr_loss(torch.tensor([[-2.0], [3.0]]), torch.ones(2), alpha=4.0, margin=0.5)
    assert found.tolist() == [2 + 4 * 2.5, -3.0]
    assert kr_loss(torch.tensor([[-2.0], [3.0]]), torch.tensor([1.0, -1.0])).tolist() == [2.0, 3.0]
    assert mae_loss(torch.tensor([[-2.0], [3.0]]), torch.tensor([1.0, 5.0])).tolist() == [3.0, 2.0]


@pytest.mark.parametrize("floor", [1.0, 0.5])
def test_cosine_is_torchs_with_the_floor_under_the_norm(floor: float) -> None:
    logits = torch.tensor([[0.1, 0.2, -0.1], [3.0, -1.0, 0.5]], dtype=torch.float64)
    labels = torch.tensor([1, 0])
    hot = F.one_hot(labels, 3).double()
    expected = 1 - (F.normalize(logits, dim=1, eps=floor) * hot).sum(1)
    torch.testing.assert_close(cosine_loss(logits, labels, floor), expected)
    assert float(cosine_loss(logits, labels, floor)[0]) == pytest.approx(1 - 0.2 / floor)


def test_the_temperature_leaves_the_constant_and_sharpens_the_softmax() -> None:
    logits, labels = torch.tensor([[1.0, 0.0]], dtype=torch.float64), torch.tensor([0])
    assert float(tau_cross_entropy(logits, labels, 5.0)) == pytest.approx(math.log1p(math.exp(-5)) / 5)


@pytest.mark.parametrize(
    ("name", "settings", "logits", "target"),
    [
        ("tau-ce", {}, [[-30.0, 30.0]], 0),
        ("cosine", {"floor": 0.25}, [[0.1, 0.05]], 0),
        ("mae", {}, [[0.3]], 1.0),
        ("hinge", {}, [[0.3]], 1.0),
        ("kr", {}, [[0.3]], -1.0),
        ("hkr", {"alpha": 3.0}, [[0.3]], 1.0),
    ],
)
def test_the_constant_is_met_by_some_sample(name: str, settings: dict, logits: list, target: float) -> None:
    z = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    aim: Tensor = torch.tensor([target])
    (grad,) = torch.autograd.grad(LIPSCHITZ_LOSSES[name](z, aim, **settings).sum(), z)
    assert float(grad.norm()) == pytest.approx(loss_constant(name, **settings), rel=1e-9)


def test_wrong_values_are_refused() -> None:
    with pytest.raises(UsageError, match="floor must be positive"):
        loss_constant("cosine", floor=0.0)
    with pytest.raises(UsageError, match="loss must be one of"):
        loss_constant("focal")
    with pytest.raises(UsageError, match=r"one output a sample, \(B, 1\)"):
        hinge_loss(torch.zeros(2, 3), torch.ones(2))
