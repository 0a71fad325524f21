"""Squared maximum mean discrepancy with a Gaussian kernel, its significance and its uncertainty."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.numeric import check_number


def mmd_rbf(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    *,
    sigma: float = 10.0,
    unbiased: bool = False,
    block: int = 1024,
) -> Float[Tensor, ""]:
    """Squared maximum mean discrepancy (MMD) between two samples.

    MMD is the distance between the mean embeddings of two distributions in the space of the kernel
    `exp(-|a - b|^2 / (2 sigma^2))`; it is zero only for equal distributions, without assuming them normal. For unit
    vectors and sigma 10 all kernel values are near 1 and their differences near 1e-3, so the sums run over
    `exp(.) - 1` (the ones cancel exactly) in float64.

    Args:
        x, y: samples, one row each; any float type.
        sigma: width of the kernel in units of the features, above 0.
        unbiased: leave out the pairs i = j and divide by n (n - 1): the U-statistic, unbiased and possibly negative.
            Default: the V-statistic over all pairs, as published.
        block: rows of the kernel matrix held at once; memory grows with `block * (n + m)`.

    Returns:
        A float64 scalar; `CMMD` multiplies it by 1,000.

    Raises:
        UsageError: shapes that do not fit, empty samples, a non-finite value, sigma not above 0.

    Paper: Rethinking FID: Towards a Better Evaluation Metric for Image Generation (arXiv 2401.09603).
    """
    x, y = _checked(x, y, sigma, at_least=2 if unbiased else 1)
    within_x = _kernel_sum(x, x, sigma, block)
    within_y = _kernel_sum(y, y, sigma, block)
    between = _kernel_sum(x, y, sigma, block)
    return _combine(within_x, within_y, between, len(x), len(y), unbiased)


@dataclass(frozen=True)
class PermutationTest:
    """How often a random division of the pooled samples gives a statistic as large as the observed one.

    Attributes:
        value: the observed squared MMD.
        p_value: (1 + number of permutations at least as large) / (1 + permutations).
        null: (permutations,) values under random division.
    """

    value: Tensor
    p_value: float
    null: Tensor


def mmd_permutation_test(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    *,
    sigma: float = 10.0,
    permutations: int = 200,
    seed: int = 0,
    block: int = 1024,
) -> PermutationTest:
    """Test of equal distributions by permuting the pooled samples.

    All permutations share one pass over the pooled kernel: with a 0/1 column per permutation every sum is a quadratic
    form, so the cost is that of one evaluation plus a matrix product.

    Args:
        x, y: samples, one row each.
        sigma: width of the kernel.
        permutations: number of random divisions, at least 1.
        seed: of the permutations.
        block: rows of the kernel matrix held at once.

    Raises:
        UsageError: as `mmd_rbf`, or permutations below 1.

    Paper: Rethinking FID (arXiv 2401.09603); the test is Gretton et al., A Kernel Two-Sample Test (JMLR 2012).
    """
    check_number("permutations", permutations, least=1)
    x, y = _checked(x, y, sigma, at_least=2)
    pooled = torch.cat([x, y])
    total, n = len(pooled), len(x)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.zeros(total, permutations + 1, dtype=torch.float64)
    chosen[:n, 0] = 1
    for column in range(1, permutations + 1):
        chosen[torch.randperm(total, generator=generator)[:n], column] = 1
    chosen = chosen.to(pooled.device)
    product = torch.empty_like(chosen)
    rows = torch.empty(total, dtype=torch.float64, device=pooled.device)
    for start, stop, kernel in _kernel_blocks(pooled, pooled, sigma, block):
        product[start:stop] = kernel @ chosen
        rows[start:stop] = kernel.sum(dim=1)
    inside = (chosen * product).sum(dim=0)
    between = (chosen * rows[:, None]).sum(dim=0) - inside
    outside = rows.sum() - inside - 2 * between
    values = _combine(inside, outside, between, n, total - n, unbiased=False)
    observed, null = values[0], values[1:]
    # Equal divisions differ in rounding only, and have to count as ties.
    larger = int((null >= observed - 1e-12).sum())
    return PermutationTest(observed, (1 + larger) / (1 + permutations), null)


def mmd_bootstrap(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    *,
    sigma: float = 10.0,
    unbiased: bool = False,
    level: float = 0.95,
    resamples: int = 200,
    seed: int = 0,
    block: int = 1024,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the squared MMD.

    Pairs of a row with its own copy are left out of the resampled sums: counted, they would add the bias of the
    V-statistic a second time and push the interval off the estimate.

    Args:
        x, y: samples, one row each.
        sigma: width of the kernel.
        unbiased: interval of the U-statistic; else of the V-statistic, which lies a known constant above it.
        level: coverage, between 0 and 1.
        resamples: number of bootstrap resamples, at least 2.
        seed: of the resampling.
        block: rows of the kernel matrix held at once.

    Raises:
        UsageError: as `mmd_rbf`, or a level or number of resamples out of range.
    """
    if not 0 < level < 1:
        raise UsageError(f"level must be between 0 and 1, not {level}")
    check_number("resamples", resamples, least=2)
    x, y = _checked(x, y, sigma, at_least=2)
    generator = torch.Generator().manual_seed(seed)
    weights_x = _resample_counts(len(x), resamples, generator).to(x.device)
    weights_y = _resample_counts(len(y), resamples, generator).to(x.device)

    def form(a: Tensor, b: Tensor, left: Tensor, right: Tensor) -> Tensor:
        parts = [(left[s:e] * (k @ right)).sum(dim=0) for s, e, k in _kernel_blocks(a, b, sigma, block)]
        return torch.stack(parts).sum(dim=0)

    def pairs(weights: Tensor) -> Tensor:
        return weights.sum(dim=0) ** 2 - (weights**2).sum(dim=0)

    values = (
        form(x, x, weights_x, weights_x) / pairs(weights_x)
        + form(y, y, weights_y, weights_y) / pairs(weights_y)
        - 2 * form(x, y, weights_x, weights_y) / (len(x) * len(y))
    )
    if not unbiased:
        values = values + _v_minus_u(x, y, sigma, block)
    tail = (1 - level) / 2
    # A resample that is one row many times has no pairs, hence no value: the others are left.
    low, high = torch.nanquantile(values, torch.tensor([tail, 1 - tail], dtype=torch.float64, device=values.device))
    return float(low), float(high)


def _checked(x: Tensor, y: Tensor, sigma: float, at_least: int) -> tuple[Tensor, Tensor]:
    for name, sample in (("x", x), ("y", y)):
        if sample.ndim != 2:
            raise UsageError(f"{name} must have shape (n, d), not {tuple(sample.shape)}")
        if len(sample) < at_least:
            raise UsageError(f"{name} needs at least {at_least} row{'s' if at_least > 1 else ''}, it has {len(sample)}")
        if not torch.isfinite(sample).all():
            raise UsageError(f"{name} has a value that is not finite")
    if x.shape[1] != y.shape[1]:
        raise UsageError(f"x has {x.shape[1]} features and y {y.shape[1]}: both must come from one embedding")
    check_number("sigma", sigma, above=0)
    return x.detach().double(), y.detach().to(x.device).double()


def _kernel_blocks(a: Tensor, b: Tensor, sigma: float, block: int) -> Iterator[tuple[int, int, Tensor]]:
    """Rows of `exp(-|a_i - b_j|^2 / (2 sigma^2)) - 1`, `block` at a time; exactly 0 where i = j of one sample."""
    norms_b = (b**2).sum(dim=1)
    for start in range(0, len(a), block):
        rows = a[start : start + block]
        squared = ((rows**2).sum(dim=1, keepdim=True) + norms_b - 2 * rows @ b.T).clamp_(min=0)
        kernel = torch.expm1(squared / (-2 * sigma**2))
        if a is b:
            index = torch.arange(len(rows), device=a.device)
            kernel[index, index + start] = 0
        yield start, start + len(rows), kernel


def _kernel_sum(a: Tensor, b: Tensor, sigma: float, block: int) -> Tensor:
    return torch.stack([kernel.sum() for _, _, kernel in _kernel_blocks(a, b, sigma, block)]).sum()


def _combine(within_x: Tensor, within_y: Tensor, between: Tensor, n: int, m: int, unbiased: bool) -> Tensor:
    if unbiased:
        return within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2 * between / (n * m)
    return within_x / n**2 + within_y / m**2 - 2 * between / (n * m)


def _v_minus_u(x: Tensor, y: Tensor, sigma: float, block: int) -> Tensor:
    """V-statistic minus U-statistic: both share the sums, only the divisors differ."""
    gaps = [_kernel_sum(s, s, sigma, block) * (1 / len(s) ** 2 - 1 / (len(s) * (len(s) - 1))) for s in (x, y)]
    return gaps[0] + gaps[1]


def _resample_counts(n: int, resamples: int, generator: torch.Generator) -> Tensor:
    picks = torch.randint(n, (n, resamples), generator=generator)
    return torch.zeros(n, resamples, dtype=torch.float64).scatter_add_(
        0, picks, torch.ones(n, resamples, dtype=torch.float64)
    )
