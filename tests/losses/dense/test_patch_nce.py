"""p124 (arXiv 2007.15651): PatchNCE against its formula written out, closed forms and limits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.losses import PatchNCELoss


def unit(*shape: int, seed: int) -> Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(drawn, dim=-1)


def written_out(q: Tensor, k: Tensor, tau: float, images: int) -> Tensor:
    """The released code's steps: a positive column, then a block of products whose diagonal is filled by -10."""
    count = len(q) // images
    losses = []
    for queries, keys in zip(q.split(count), k.split(count), strict=True):
        negatives = queries @ keys.T
        negatives.fill_diagonal_(-10.0)
        logits = torch.cat([(queries * keys).sum(1, keepdim=True), negatives], 1) / tau  # [S, S + 1]
        losses.append(F.cross_entropy(logits, torch.zeros(count, dtype=torch.long), reduction="none"))
    return torch.cat(losses)


@pytest.mark.parametrize("batch_negatives", [False, True])
@pytest.mark.parametrize("tau", [0.07, 1.0, 20.0])
def test_it_is_the_formula_with_its_gradient(tau: float, batch_negatives: bool) -> None:
    q, k = unit(3, 5, 8, seed=0).requires_grad_(), unit(3, 5, 8, seed=1).requires_grad_()
    loss = PatchNCELoss(tau, batch_negatives)(q, k)
    expected = written_out(q.flatten(0, 1), k.flatten(0, 1).detach(), tau, 1 if batch_negatives else 3)
    torch.testing.assert_close(loss.flatten(), expected)
    (gradient,) = torch.autograd.grad(expected.mean(), q)
    loss.mean().backward()
    torch.testing.assert_close(q.grad, gradient)
    assert k.grad is None


def test_equal_orthonormal_patches_have_the_closed_form() -> None:
    patches, tau = torch.eye(6, dtype=torch.float64)[None], 2.0
    expected = math.log(1 + 5 * math.exp(-1 / tau) + math.exp(-11 / tau))
    torch.testing.assert_close(PatchNCELoss(tau)(patches, patches), torch.full((1, 6), expected, dtype=torch.float64))


def test_patches_in_another_order_have_their_losses_in_that_order() -> None:
    q, k, order = unit(1, 7, 4, seed=2), unit(1, 7, 4, seed=3), torch.tensor([3, 1, 6, 0, 2, 5, 4])
    loss = PatchNCELoss()
    torch.testing.assert_close(loss(q[:, order], k[:, order]), loss(q, k)[:, order])


def test_a_hot_temperature_leaves_chance_and_a_single_patch_only_the_fill() -> None:
    q, k = unit(1, 7, 4, seed=2), unit(1, 7, 4, seed=3)
    torch.testing.assert_close(
        PatchNCELoss(1e4)(q, k), torch.full((1, 7), math.log(8), dtype=torch.float64), rtol=1e-3, atol=0
    )
    assert float(PatchNCELoss()(q[:, :1], q[:, :1])) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("tau", [float("nan"), 0.0, 1e6])
def test_what_has_no_meaning_is_refused(tau: float) -> None:
    with pytest.raises(UsageError, match="temperature"):
        PatchNCELoss(tau)
    with pytest.raises(UsageError, match="alike"):
        PatchNCELoss()(torch.ones(1, 2, 3), torch.ones(1, 3, 3))
