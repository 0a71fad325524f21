"""Adversarial losses against their closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.generate import GANLoss

LOGITS = torch.tensor([[-2.0, 0.0], [0.5, 3.0]])


def test_the_hinge_is_zero_beyond_the_margin() -> None:
    loss = GANLoss("hinge")
    assert float(loss.real(torch.tensor([1.0, 5.0]))) == float(loss.fake(torch.tensor([-1.0, -5.0]))) == 0
    assert float(loss.real(LOGITS)) == pytest.approx((3 + 1 + 0.5 + 0) / 4)
    assert float(loss.generator(LOGITS)) == pytest.approx(-1.5 / 4)


def test_least_squares_and_the_sigmoids_cross_entropy() -> None:
    squares, sigmoid = GANLoss("lsgan"), GANLoss("nonsaturating")
    ones, zeros = torch.ones_like(LOGITS), torch.zeros_like(LOGITS)
    for target, name in ((ones, "real"), (zeros, "fake"), (ones, "generator")):
        torch.testing.assert_close(getattr(squares, name)(LOGITS), F.mse_loss(LOGITS, target))
        entropy = F.binary_cross_entropy_with_logits(LOGITS, target)
        torch.testing.assert_close(getattr(sigmoid, name)(LOGITS), entropy)


@pytest.mark.parametrize(("mode", "best"), [("lsgan", 0.5), ("nonsaturating", 0.0)])
def test_where_real_and_generated_are_equal_the_best_constant_is_between(mode: str, best: float) -> None:
    loss = GANLoss(mode)  # type: ignore[arg-type]
    logit = torch.tensor([best], requires_grad=True)
    (loss.real(logit) + loss.fake(logit)).backward()
    assert float(logit.grad) == pytest.approx(0, abs=1e-6)  # type: ignore[arg-type]


def test_scales_are_averaged_whatever_their_size_and_another_mode_is_refused() -> None:
    pyramid = [torch.full((2, 1, 8, 8), 1.0), torch.full((2, 1, 2, 2), 3.0)]
    assert float(GANLoss("wgan").real(pyramid)) == -2
    assert float(GANLoss("nonsaturating").fake([torch.zeros(1)])) == pytest.approx(math.log(2))
    with pytest.raises(UsageError, match="mode"):
        GANLoss("vanilla")  # type: ignore[arg-type]
