"""The criterion of attention norms (p081, arXiv 2501.04377) against exp itself, and attention that it promises."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from binderclip.errors import DataError, UsageError
from binderclip.evaluate import attention_norm_criterion, taylor_degree
from binderclip.models import NextScaleGenerator, polynomial_attention


@pytest.mark.parametrize("product", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("tolerance", [1e-2, 1e-6])
def test_the_degree_keeps_exp_to_the_tolerance(product: float, tolerance: float) -> None:
    x = torch.linspace(-product, product, 201, dtype=torch.float64)

    def error(degree: int) -> float:
        terms = torch.stack([x**j / float(math.factorial(j)) for j in range(degree + 1)]).sum(0)
        return float(((terms - x.exp()) / x.exp()).abs().max())

    degree = taylor_degree(product, tolerance)
    assert degree % 2 == 0
    assert error(degree) <= tolerance
    assert degree == 0 or error(max(0, degree - 4)) > tolerance  # the bound is not far from what is needed


def test_attention_is_as_near_as_promised() -> None:
    g = torch.Generator().manual_seed(0)
    q, k, v = (2 * torch.rand(2, 100, 3, generator=g, dtype=torch.float64) - 1 for _ in range(3))
    found = attention_norm_criterion({"a": (q, k, v)}, tolerance=1e-4)["a"]
    scale = 3**-0.5
    exact = F.scaled_dot_product_attention(q, k, v, scale=scale)
    near = polynomial_attention(q, k, v, found.degree, scale=scale)
    assert float((near - exact).abs().max()) <= 2e-4 / (1 - 1e-4)
    assert found.product == pytest.approx(float((scale * q @ k.mT).abs().max()))
    assert found.product <= found.bound**2


def test_scales_are_converted_to_that_of_the_theory() -> None:
    q = torch.full((50, 4), 2.0)
    found = attention_norm_criterion({"theory": (q, q)}, scale=1 / 4)["theory"]
    assert found.bound == pytest.approx(2.0)
    practice = attention_norm_criterion({"practice": (q, q)})["practice"]
    assert practice.bound == pytest.approx(2.0 * 2**0.5)  # sqrt(d / sqrt(d))
    assert found.threshold == pytest.approx(math.log(50) ** 0.5)
    assert not found.bounded
    assert not practice.cheaper
    assert attention_norm_criterion({"small": (0.1 * q, 0.1 * q)})["small"].bounded


def test_the_layers_of_a_generator() -> None:
    torch.manual_seed(0)
    model = NextScaleGenerator((1, 2, 4), codes=8, channels=3, width=12, heads=4)
    maps = model.quantise(torch.randn(2, 3, 4, 4))
    inputs = model.attention_inputs(maps[:2])
    assert [q.shape for q, _, _ in inputs.values()] == [(2, 4, 21, 3)] * 2
    found = attention_norm_criterion(inputs)
    assert [*found] == ["layers.0", "layers.1"]
    assert all(layer.tokens == 21 for layer in found.values())


def test_what_cannot_be_judged_is_refused() -> None:
    q = torch.ones(4, 2)
    with pytest.raises(UsageError, match="no layer"):
        attention_norm_criterion({})
    for tolerance in (0.0, 1.0, math.nan):
        with pytest.raises(UsageError, match="tolerance must be"):
            attention_norm_criterion({"a": (q, q)}, tolerance=tolerance)
    with pytest.raises(UsageError, match="scale must be"):
        attention_norm_criterion({"a": (q, q)}, scale=0.0)
    with pytest.raises(UsageError, match="no polynomial"):
        attention_norm_criterion({"a": (1e3 * q, q)})
    with pytest.raises(UsageError, match="product must be"):
        taylor_degree(-1.0)
    for wrong in (torch.ones(4, 3), torch.ones(2), torch.ones(0, 2)):
        with pytest.raises(DataError, match="a: queries and keys are rows of one width"):
            attention_norm_criterion({"a": (q, wrong)})
    with pytest.raises(DataError, match="not finite"):
        attention_norm_criterion({"a": (q, q * torch.nan)})
