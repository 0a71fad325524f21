"""The Hoyer-square measure (p006, arXiv 2212.10170): its range, its invariance, and where its derivative is zero."""

from __future__ import annotations

import pytest
import torch

from binderclip.errors import UsageError
from binderclip.losses import hoyer_square


def test_it_counts_equal_magnitudes_and_has_no_scale():
    x = torch.randn(50, generator=torch.Generator().manual_seed(0))
    assert 1 <= float(hoyer_square(x)) <= 50
    torch.testing.assert_close(hoyer_square(7 * x), hoyer_square(x))
    bits = (x > 0.5).float()
    assert float(hoyer_square(bits)) == pytest.approx(float(bits.sum()))
    assert float(hoyer_square(bits, normalize=True)) == pytest.approx(float(bits.mean()))
    assert float(hoyer_square(torch.tensor([[0.0, -3.0]]))) == 1


def test_its_derivative_vanishes_at_the_extremum_alone():
    x = torch.tensor([0.2, 0.7, 0.5, 0.0], dtype=torch.float64)
    total, squares = float(x.sum()), float(x.square().sum())
    # one value set to E = sum x^2 / sum |x| of all four: E = (r2 + E^2) / (r1 + E) where r are the sums of the others
    x[3] = (0.2**2 + 0.7**2 + 0.5**2) / (0.2 + 0.7 + 0.5)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(hoyer_square(x), x)
    total, squares = float(x.detach().sum()), float(x.detach().square().sum())
    expected = 2 * total / squares * (1 - x.detach() * total / squares)
    torch.testing.assert_close(gradient, expected)
    assert abs(float(gradient[3])) < 1e-12
    assert torch.autograd.gradcheck(hoyer_square, x)


def test_silence_is_zero_with_a_zero_gradient_and_nan_shows():
    x = torch.zeros(3, requires_grad=True)
    value = hoyer_square(x)
    assert float(value.detach()) == 0
    assert torch.autograd.grad(value, x)[0].tolist() == [0, 0, 0]
    assert hoyer_square(torch.tensor([1.0, float("nan")])).isnan()
    with pytest.raises(UsageError, match="no values"):
        hoyer_square(torch.zeros(0))
