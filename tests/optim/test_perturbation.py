"""`sharpness_gradient` (p076; arXiv 2010.01412) against closed forms and a Hessian-vector product."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.optim import hvp, sharpness_gradient

A = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
B = torch.tensor([0.5, -1.0], dtype=torch.float64)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_on_a_quadratic_it_is_the_closed_form(norm):
    w = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    loss = lambda: 0.5 * w @ A @ w + B @ w  # noqa: E731
    found = sharpness_gradient(loss, [w], 0.3, norm=norm, scale="weight", eta=0.1)
    g, c = (A @ w + B).detach(), w.detach().abs() + 0.1
    e = 0.3 * (c * c * g / (c * g).norm() if norm == "l2" else c * g.sign())
    torch.testing.assert_close(found.gradient[0], g)
    torch.testing.assert_close(found.near_gradient[0], g + A @ e)
    torch.testing.assert_close(found.near_loss - found.loss, g @ e + 0.5 * e @ A @ e)
    assert w.grad is None
    assert w.tolist() == [1.0, -2.0]


def test_its_slope_at_a_radius_of_zero_is_a_hessian_vector_product():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    x, y = torch.randn(20, 3, dtype=torch.float64), torch.randint(0, 2, (20,))
    params = list(net.parameters())
    loss = lambda: F.cross_entropy(net(x), y)  # noqa: E731
    found = sharpness_gradient(loss, params, 1e-6)
    length = torch.cat([g.flatten() for g in found.gradient]).norm()
    curved = hvp(loss, params, [g / length for g in found.gradient])
    for near, here, product in zip(found.near_gradient, found.gradient, curved, strict=True):
        torch.testing.assert_close((near - here) / 1e-6, product, rtol=1e-4, atol=1e-7)
    zero = sharpness_gradient(loss, params, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(zero.gradient, zero.near_gradient, strict=True))


def test_unused_parameters_stay_and_mistakes_are_named():
    w, unused = (nn.Parameter(torch.ones(2)) for _ in range(2))
    found = sharpness_gradient(lambda: w.square().sum(), [w, unused], 1.0)
    assert found.gradient[1].tolist() == [0.0, 0.0]
    for rho in (-1.0, float("nan")):
        with pytest.raises(UsageError, match="rho"):
            sharpness_gradient(lambda: w.sum(), [w], rho)
    with pytest.raises(UsageError, match="at least one"):
        sharpness_gradient(lambda: w.sum(), [])
    with pytest.raises(UsageError, match="scalar"):
        sharpness_gradient(lambda: w * 1, [w])
    with pytest.raises(UsageError, match="does not require a gradient"):
        sharpness_gradient(lambda: w.sum(), [torch.ones(2)])

    def breaks() -> torch.Tensor:
        if float(w.detach()[0]) != 1.0:
            raise ZeroDivisionError
        return w.sum()

    with pytest.raises(ZeroDivisionError):
        sharpness_gradient(breaks, [w], 1.0)
    assert w.tolist() == [1.0, 1.0]
