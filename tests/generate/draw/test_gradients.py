"""Replaced gradients: the straight-through estimator by hand, and a clamp that lets descent come back."""

from __future__ import annotations

import pytest
import torch

from binderclip.errors import UsageError
from binderclip.generate import clamp_with_grad, replace_grad


def test_the_value_is_the_first_and_the_gradient_the_seconds_summed_where_it_was_broadcast() -> None:
    value = torch.randn(4, 3, requires_grad=True)
    source = torch.randn(3, requires_grad=True)
    weight = torch.randn(4, 3)
    result = replace_grad(value, source)
    (result * weight).sum().backward()
    assert torch.equal(result, value)
    assert value.grad is None
    torch.testing.assert_close(source.grad, weight.sum(0))


def test_descent_through_the_clamp_reaches_a_target_inside_from_both_sides() -> None:
    x = torch.tensor([-3.0, 4.0, 0.5], requires_grad=True)
    for _ in range(300):
        (gradient,) = torch.autograd.grad((clamp_with_grad(x, 0.0, 1.0) - 0.25).square().sum(), x)
        with torch.no_grad():
            x -= 0.05 * gradient
    torch.testing.assert_close(x.detach(), torch.full((3,), 0.25), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("x", "gradient", "passes"), [(2.0, 1.0, 1.0), (2.0, -1.0, 0.0), (-1.0, 1.0, 0.0), (-1.0, -1.0, -1.0)]
)
def test_outside_only_a_gradient_that_leads_back_passes(x: float, gradient: float, passes: float) -> None:
    point = torch.tensor(x, requires_grad=True)
    (clamp_with_grad(point, 0.0, 1.0) * gradient).backward()
    assert point.grad is not None
    assert abs(float(point.grad)) == abs(passes)


def test_ends_that_do_not_rise_are_refused() -> None:
    with pytest.raises(UsageError, match="must be below high"):
        clamp_with_grad(torch.zeros(1), 1.0, 1.0)
