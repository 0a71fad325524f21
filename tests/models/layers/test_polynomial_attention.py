"""Polynomial attention (p081, arXiv 2501.04377) against the polynomial, torch's attention and Taylor's remainder."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.models import block_causal_attention, monomial_features, polynomial_attention, polynomial_rank


def inputs(bound: float, dim: int = 3, tokens: int = 20, batch: tuple[int, ...] = (2,)) -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    return [bound * (2 * torch.rand(*batch, tokens, dim, generator=g, dtype=torch.float64) - 1) for _ in range(3)]


def taylor(x: Tensor, degree: int) -> Tensor:
    return torch.stack([x**j / math.factorial(j) for j in range(degree + 1)]).sum(0)


@pytest.mark.parametrize("dim", [1, 3, 5])
@pytest.mark.parametrize("degree", [0, 1, 4])
@pytest.mark.parametrize("scale", [None, 0.7])
def test_products_of_features_are_the_polynomial_of_products(dim: int, degree: int, scale: float | None) -> None:
    q, k, _ = inputs(2.0, dim)
    u1, u2 = (monomial_features(x, degree, scale) for x in (q, k))
    assert u1.shape[-1] == polynomial_rank(dim, degree) == math.comb(dim + degree, degree)
    torch.testing.assert_close(u1 @ u2.mT, taylor((scale or 1 / dim) * q @ k.mT, degree), rtol=1e-10, atol=1e-10)


def test_attention_by_the_polynomial_and_its_error() -> None:
    q, k, v = inputs(1.0)
    weights = taylor(q @ k.mT / 3, 4)
    found = polynomial_attention(q, k, v)
    torch.testing.assert_close(found, weights @ v / weights.sum(-1, keepdim=True))
    exact = F.scaled_dot_product_attention(q, k, v, scale=1 / 3)
    largest = float((q @ k.mT / 3).abs().max())
    epsilon = largest**5 / math.factorial(5) * math.exp(largest)  # relative, by Lagrange's remainder
    error = float((found - exact).abs().max())
    assert 0 < error <= 2 * epsilon / (1 - epsilon) * float(v.abs().max())
    high = polynomial_attention(q, k, v, degree=16)
    torch.testing.assert_close(high, exact, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("blocks", [[20], [1, 4, 15], [1] * 20])
def test_blocks_attend_to_themselves_and_those_before(blocks: list[int]) -> None:
    q, k, v = inputs(0.5, batch=(2, 3))
    which = torch.repeat_interleave(torch.arange(len(blocks)), torch.tensor(blocks))
    mask = which[:, None] >= which
    exact = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1 / 3)
    torch.testing.assert_close(block_causal_attention(q, k, v, blocks), exact)
    torch.testing.assert_close(polynomial_attention(q, k, v, 12, blocks=blocks), exact, rtol=1e-9, atol=1e-9)
    weights = taylor(0.4 * q @ k.mT, 2) * mask
    expected = weights @ v / weights.sum(-1, keepdim=True)
    torch.testing.assert_close(polynomial_attention(q, k, v, 2, scale=0.4, blocks=blocks), expected)


def test_what_makes_no_attention_is_refused() -> None:
    q, k, v = inputs(1.0)
    with pytest.raises(UsageError, match="degree must be even"):
        polynomial_attention(q, k, v, degree=3)
    for degree in (-2, 2.0):
        with pytest.raises(UsageError, match="degree must be a whole number"):
            polynomial_attention(q, k, v, degree=degree)  # type: ignore[arg-type]
    for scale in (0.0, -1.0, math.nan):
        with pytest.raises(UsageError, match="scale must be"):
            polynomial_attention(q, k, v, scale=scale)
    for blocks in ([], [19], [0, 20], [21]):
        with pytest.raises(UsageError, match="must be sizes of"):
            polynomial_attention(q, k, v, blocks=blocks)
        with pytest.raises(UsageError, match="must be sizes of"):
            block_causal_attention(q, k, v, blocks)
    with pytest.raises(UsageError, match="no saving"):
        monomial_features(torch.zeros(1, 64), 6)
