"""p038, p130: penalties on a critic's input gradient against closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.losses import gradient_penalty, matching_aware_gradient_penalty, r1_penalty


def points(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_linear_critic_has_the_closed_form_and_its_derivative() -> None:
    a = points(2, 3, seed=1).requires_grad_()
    value = gradient_penalty(lambda x: (x * a).flatten(1).sum(1), points(5, 2, 3), points(5, 2, 3, seed=2), 7.0, 0.5)
    norm = a.detach().norm()  # over all dimensions of a sample
    torch.testing.assert_close(value.detach(), 7 * (norm - 0.5) ** 2)
    value.backward()
    torch.testing.assert_close(a.grad, 14 * (norm - 0.5) * a.detach() / norm)


def test_a_tanh_critic_has_its_analytic_gradient_at_the_mixed_points() -> None:
    """D(x) = u tanh(W x): the gradient is W^T (u (1 - tanh^2)); one mix for each sample, not for each number."""
    w, u = points(4, 3, seed=1).requires_grad_(), points(4, seed=2)
    real, fake = points(6, 3), points(6, 3, seed=3)
    mix = torch.linspace(0, 1, 6, dtype=torch.float64)
    value = gradient_penalty(lambda x: torch.tanh(x @ w.T) @ u, real, fake, mix=mix)
    x = mix[:, None] * real + (1 - mix)[:, None] * fake

    def closed(weights: Tensor) -> Tensor:
        slopes = (u * (1 - torch.tanh(x @ weights.T) ** 2)) @ weights
        return 10 * ((slopes.square().sum(1).sqrt() - 1) ** 2).mean()

    torch.testing.assert_close(value.detach(), closed(w.detach()))
    value.backward()
    step = torch.zeros_like(w)
    step[1, 2] = 1e-6
    differences = (closed(w.detach() + step) - closed(w.detach() - step)) / 2e-6
    assert float(w.grad[1, 2]) == pytest.approx(float(differences), rel=1e-6)  # type: ignore[index]


def test_a_constant_changes_nothing_and_the_ends_change_places_with_their_mixes() -> None:
    real, fake, mix = points(6, 3), points(6, 3, seed=3), points(6, seed=4).sigmoid()
    cubic = gradient_penalty(lambda x: x.pow(3).sum(1), real, fake, mix=mix)
    torch.testing.assert_close(gradient_penalty(lambda x: x.pow(3).sum(1) + 5, real, fake, mix=mix), cubic)
    torch.testing.assert_close(gradient_penalty(lambda x: x.pow(3).sum(1), fake, real, mix=1 - mix), cubic)


def test_one_sided_leaves_small_norms_alone_and_a_dead_critic_has_finite_derivatives() -> None:
    a = torch.tensor([0.3, 0.4], requires_grad=True)
    x = torch.ones(2, 2)
    assert float(gradient_penalty(lambda p: p @ a, x, x, one_sided=True)) == 0
    assert float(gradient_penalty(lambda p: p @ (4 * a), x, x, one_sided=True)) == pytest.approx(10)
    zero = torch.zeros(2, requires_grad=True)
    value = gradient_penalty(lambda p: p @ zero, x, x)
    value.backward()
    assert float(value.detach()) == 10
    assert zero.grad is not None
    assert bool(zero.grad.isfinite().all())


def test_a_seed_repeats_the_mixes_and_no_gradient_reaches_the_samples() -> None:
    real, fake = points(6, 3), points(6, 3, seed=3).requires_grad_()
    first, second = (
        gradient_penalty(lambda x: x.pow(3).sum(1), real, fake, generator=torch.Generator().manual_seed(7))
        for _ in range(2)
    )
    assert torch.equal(first, second)
    first.backward()
    assert fake.grad is None


def test_r1_and_the_matching_aware_penalty_of_linear_discriminators() -> None:
    w, v = points(2, 3, seed=1).requires_grad_(), points(4, seed=2).requires_grad_()
    features, sentence = points(5, 2, 3).requires_grad_(), points(5, 4).requires_grad_()
    logits = (features * w).flatten(1).sum(1) + sentence @ v
    square = (w.square().sum() + v.square().sum()).detach()
    torch.testing.assert_close(r1_penalty(logits, features, 3.0).detach(), 1.5 * w.detach().square().sum())
    value = matching_aware_gradient_penalty(logits[:, None], features, sentence)
    torch.testing.assert_close(value.detach(), 2 * square**3)  # ||.||^6
    value.backward()
    torch.testing.assert_close(v.grad, 12 * square**2 * v.detach())


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: gradient_penalty(torch.sum, x, x[:1]),
        lambda x: gradient_penalty(torch.sum, x, x, weight=float("nan")),
        lambda x: gradient_penalty(torch.sum, x, x, target=-1.0),
        lambda x: gradient_penalty(lambda p: torch.ones(2), x, x),
        lambda x: r1_penalty(x.sum(1), x),
        lambda x: r1_penalty(x.sum(1), x, -1.0),
        lambda x: matching_aware_gradient_penalty(x.sum(1), x, x, power=1.0),
        lambda x: matching_aware_gradient_penalty(x.requires_grad_().sum(1), x, x.detach().clone().requires_grad_()),
    ],
)
def test_what_has_no_meaning_is_refused(wrong) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError):
        wrong(torch.ones(2, 2))
