"""Attention in linear time, by a polynomial in the place of the exponential function."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.numeric import check_number, check_whole

__all__ = ["block_causal_attention", "monomial_features", "polynomial_attention", "polynomial_rank"]

MOST_FEATURES = 1_000_000


def polynomial_rank(dim: int, degree: int) -> int:
    """How many monomials of at most this degree there are in `dim` variables: C(dim + degree, degree)."""
    return math.comb(dim + degree, degree)


def monomial_features(
    x: Float[Tensor, "*batch n d"], degree: int = 4, scale: float | None = None
) -> Float[Tensor, "*batch n r"]:
    """Vectors whose products are the Taylor polynomial of exp(scale <q, k>) in the vectors' products.

    Every monomial x^a of at most the degree, times sqrt(scale^|a| / a!): sum_a q^a k^a scale^|a| / a! is the sum of
    (scale <q, k>)^j / j! over j up to the degree, by the multinomial theorem.

    Args:
        x: the queries, or the keys.
        degree: of the polynomial.
        scale: of the products; default 1 / d.

    Raises:
        UsageError: a degree below 0, a scale not above 0, or more than a million monomials.
    """
    dim = x.shape[-1]
    scale = 1 / dim if scale is None else scale
    check_whole("degree", degree, least=0)
    check_number("scale", scale, above=0)
    if (rank := polynomial_rank(dim, degree)) > MOST_FEATURES:
        raise UsageError(f"degree {degree} in {dim} dimensions has {rank:,} monomials: attention by them is no saving")
    parts = [torch.ones_like(x[..., :1])]
    monomials: list[tuple[int, ...]] = [()]
    for order in range(1, degree + 1):
        places = {monomial: place for place, monomial in enumerate(monomials)}
        monomials = list(itertools.combinations_with_replacement(range(dim), order))
        parents = torch.tensor([places[m[:-1]] for m in monomials], device=x.device)
        variables = torch.tensor([m[-1] for m in monomials], device=x.device)
        # a! grows by the power that the last variable now has
        powers = x.new_tensor([m.count(m[-1]) for m in monomials])
        parts.append(parts[-1][..., parents] * x[..., variables] * (scale / powers).sqrt())
    return torch.cat(parts, -1)


def polynomial_attention(
    queries: Float[Tensor, "*batch n d"],
    keys: Float[Tensor, "*batch m d"],
    values: Float[Tensor, "*batch m e"],
    degree: int = 4,
    *,
    scale: float | None = None,
    blocks: Sequence[int] | None = None,
) -> Float[Tensor, "*batch n e"]:
    """Attention with exp replaced by its Taylor polynomial, in time linear in the tokens.

    D^-1 U1 (U2^T V) with U1 and U2 the `monomial_features` of queries and keys, r = C(d + degree, degree) numbers each:
    (n + m) r e operations instead of n m (d + e). Near exact where products are small; in 64 dimensions r is 814,385 at
    degree 4 already, so that it saves nothing there: its regime is a width of about log n.

    Args:
        queries: q.
        keys: k.
        values: v.
        degree: an even number, as only those polynomials are positive everywhere.
        scale: of the products before exp; default 1 / d, as in the theory (in practice it is 1 / sqrt(d)).
        blocks: sizes of successive blocks of tokens, for attention to the own block and those before it; None: to all.

    Raises:
        UsageError: an odd degree, a scale not above 0, blocks that are not the tokens, more than a million monomials.

    Paper: On Computational Limits and Provably Efficient Criteria of Visual Autoregressive Models: A Fine-Grained
    Complexity Analysis (arXiv 2501.04377), theorem 1.4, after Alman and Song (arXiv 2302.13214).

    Examples:
        >>> q, k, v = (torch.full((1, 2), 0.5) for _ in range(3))
        >>> polynomial_attention(q, k, v)
        tensor([[0.5000, 0.5000]])
    """
    if degree % 2:
        raise UsageError(f"degree must be even, got {degree}: an odd Taylor polynomial of exp is negative somewhere")
    u1, u2 = monomial_features(queries, degree, scale), monomial_features(keys, degree, scale)
    ones = torch.cat([values, torch.ones_like(values[..., :1])], -1)  # (*batch, m, e + 1): the last one sums to D
    if blocks is None:
        weighted = u1 @ (u2.mT @ ones)
    else:
        sizes = _sizes(blocks, queries, keys)
        moments = torch.stack([u.mT @ o for u, o in zip(u2.split(sizes, -2), ones.split(sizes, -2), strict=True)])
        parts = zip(u1.split(sizes, -2), moments.cumsum(0), strict=True)
        weighted = torch.cat([u @ moment for u, moment in parts], -2)
    return weighted[..., :-1] / weighted[..., -1:]


def block_causal_attention(
    queries: Float[Tensor, "*batch n d"],
    keys: Float[Tensor, "*batch n d"],
    values: Float[Tensor, "*batch n e"],
    blocks: Sequence[int],
    *,
    scale: float | None = None,
) -> Float[Tensor, "*batch n e"]:
    """Exact attention of every token to its own block and those before it.

    Args:
        queries: q.
        keys: k.
        values: v.
        blocks: sizes of successive blocks of tokens.
        scale: of the products before exp; default 1 / d.

    Raises:
        UsageError: blocks that are not the tokens.
    """
    sizes = _sizes(blocks, queries, keys)
    scale = 1 / queries.shape[-1] if scale is None else scale
    attend = torch.nn.functional.scaled_dot_product_attention
    ends = itertools.accumulate(sizes)
    parts = zip(queries.split(sizes, -2), ends, strict=True)
    return torch.cat([attend(q, keys[..., :m, :], values[..., :m, :], scale=scale) for q, m in parts], -2)


def _sizes(blocks: Sequence[int], queries: Tensor, keys: Tensor) -> list[int]:
    sizes = list(blocks)
    if not sizes or min(sizes) < 1 or not sum(sizes) == queries.shape[-2] == keys.shape[-2]:
        raise UsageError(f"blocks {sizes} must be sizes of the {queries.shape[-2]} queries and {keys.shape[-2]} keys")
    return sizes
