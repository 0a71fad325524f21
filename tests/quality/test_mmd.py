"""MMD of p092 (Rethinking FID, arXiv 2401.09603) against loops, scikit-learn and closed forms."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import rbf_kernel

from binderclip.errors import UsageError
from binderclip.quality import mmd_bootstrap, mmd_permutation_test, mmd_rbf


def samples(n: int, m: int, d: int = 5, shift: float = 0.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return x, torch.randn(m, d, generator=generator, dtype=torch.float64) + shift


def by_loops(x: torch.Tensor, y: torch.Tensor, sigma: float, unbiased: bool) -> float:
    def k(a: torch.Tensor, b: torch.Tensor) -> float:
        return math.exp(-float(((a - b) ** 2).sum()) / (2 * sigma**2))

    def within(s: torch.Tensor) -> float:
        n = len(s)
        total = sum(k(s[i], s[j]) for i in range(n) for j in range(n) if not (unbiased and i == j))
        return total / (n * (n - 1) if unbiased else n * n)

    between = sum(k(a, b) for a in x for b in y) / (len(x) * len(y))
    return within(x) + within(y) - 2 * between


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("block", [4, 1024])
def test_equals_the_triple_loop(unbiased: bool, block: int) -> None:
    x, y = samples(9, 13, shift=0.5)
    for sigma in (0.7, 10.0):
        assert float(mmd_rbf(x, y, sigma=sigma, unbiased=unbiased, block=block)) == pytest.approx(
            by_loops(x, y, sigma, unbiased), abs=1e-12
        )


def test_equals_scikit_learn() -> None:
    x, y = samples(40, 30, shift=0.3)
    sigma = 2.0
    gamma = 1 / (2 * sigma**2)
    want = rbf_kernel(x, x, gamma).mean() + rbf_kernel(y, y, gamma).mean() - 2 * rbf_kernel(x, y, gamma).mean()
    assert float(mmd_rbf(x, y, sigma=sigma)) == pytest.approx(want, abs=1e-12)


def test_two_points_at_distance_r() -> None:
    x, y = torch.zeros(1, 3), torch.tensor([[0.6, 0.0, 0.8]])
    assert float(1000 * mmd_rbf(x, y)) == pytest.approx(1000 * 2 * (1 - math.exp(-1 / 200)), rel=1e-7)


def test_zero_symmetric_and_blind_to_order() -> None:
    x, y = samples(20, 25, shift=0.4)
    assert float(mmd_rbf(x, x)) == pytest.approx(0, abs=1e-15)
    assert float(mmd_rbf(x, y)) == pytest.approx(float(mmd_rbf(y, x)), abs=1e-15)
    assert float(mmd_rbf(x.flip(0), y)) == pytest.approx(float(mmd_rbf(x, y)), abs=1e-14)


def test_wide_kernel_tends_to_the_distance_of_means() -> None:
    x, y = samples(50, 60, shift=1.0)
    sigma = 1e4
    want = 2 * float(((x.mean(0) - y.mean(0)) ** 2).sum())
    # The limit is exact only where 1 - exp(.) keeps its digits: the plain form loses ten of them here.
    assert float(2 * sigma**2 * mmd_rbf(x, y, sigma=sigma)) == pytest.approx(want, rel=1e-5)


def test_v_and_u_statistics_differ_by_the_diagonal() -> None:
    x, y = samples(12, 15, shift=0.2)
    sigma, n, m = 1.5, 12, 15
    gamma = 1 / (2 * sigma**2)
    kxx, kyy = rbf_kernel(x, x, gamma), rbf_kernel(y, y, gamma)
    u_xx = (kxx.sum() - n) / (n * (n - 1))
    u_yy = (kyy.sum() - m) / (m * (m - 1))
    difference = (u_xx * (n - 1) + 1) / n - u_xx + (u_yy * (m - 1) + 1) / m - u_yy
    got = float(mmd_rbf(x, y, sigma=sigma) - mmd_rbf(x, y, sigma=sigma, unbiased=True))
    assert got == pytest.approx(difference, abs=1e-12)


def test_unbiased_form_averages_to_zero_over_all_splits_and_the_v_form_does_not() -> None:
    # Over every division of one pool into halves the U-statistic has mean exactly zero.
    pool, _ = samples(8, 1, d=3)
    splits = [list(c) for c in itertools.combinations(range(8), 4)]
    halves = [(pool[c], pool[[i for i in range(8) if i not in c]]) for c in splits]
    assert np.mean([float(mmd_rbf(a, b, sigma=1.5, unbiased=True)) for a, b in halves]) == pytest.approx(0, abs=1e-14)
    assert np.mean([float(mmd_rbf(a, b, sigma=1.5)) for a, b in halves]) > 0.1


def test_permutation_values_equal_direct_evaluation_and_p_is_calibrated() -> None:
    x, y = samples(15, 20, shift=1.0)
    test = mmd_permutation_test(x, y, sigma=2.0, permutations=50, block=7)
    assert float(test.value) == pytest.approx(float(mmd_rbf(x, y, sigma=2.0)), abs=1e-12)
    assert test.p_value == pytest.approx(1 / 51)
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(35, generator=generator)
    pooled = torch.cat([x, y])
    first = mmd_rbf(pooled[order[:15]], pooled[order[15:]], sigma=2.0)
    assert float(test.null[0]) == pytest.approx(float(first), abs=1e-12)
    # Under equality p-values are uniform: their mean over 60 data sets is 1/2 with standard error 0.037.
    equal = [mmd_permutation_test(*samples(12, 12, seed=s), sigma=2.0, permutations=39).p_value for s in range(60)]
    assert 0.38 < np.mean(equal) < 0.62


def test_bootstrap_interval_covers_the_population_value() -> None:
    # Normal samples with variance 1 a dimension and means apart by `shift`: the squared MMD has a closed form.
    sigma, d, shift = 1.5, 4, 0.5
    spread = sigma**2 + 2
    truth = 2 * (sigma**2 / spread) ** (d / 2) * (1 - math.exp(-d * shift**2 / (2 * spread)))
    covered = 0
    for seed in range(40):
        x, y = samples(80, 80, d=d, shift=shift, seed=seed)
        low, high = mmd_bootstrap(x, y, sigma=sigma, unbiased=True, level=0.9, resamples=150, seed=seed)
        covered += low <= truth <= high
    assert covered >= 30  # 36 expected; 30 or fewer has probability below 0.01 at exact coverage


def test_bootstrap_of_the_v_form_is_the_u_interval_shifted() -> None:
    x, y = samples(30, 40, shift=0.3)
    low_u, high_u = mmd_bootstrap(x, y, sigma=2.0, unbiased=True)
    low_v, high_v = mmd_bootstrap(x, y, sigma=2.0)
    gap = float(mmd_rbf(x, y, sigma=2.0) - mmd_rbf(x, y, sigma=2.0, unbiased=True))
    assert (low_v - low_u, high_v - high_u) == pytest.approx((gap, gap), abs=1e-12)


def test_resamples_without_a_pair_have_no_say() -> None:
    # Half of the resamples of two rows are one of them twice; the other half are the sample itself.
    x, y = samples(2, 2, shift=0.3)
    low, high = mmd_bootstrap(x, y, sigma=2.0, unbiased=True)
    exact = float(mmd_rbf(x, y, sigma=2.0, unbiased=True))
    assert (low, high) == (pytest.approx(exact), pytest.approx(exact))


@pytest.mark.parametrize(
    ("x", "y", "options", "words"),
    [
        (torch.zeros(3), torch.zeros(2, 3), {}, "x must have shape"),
        (torch.zeros(0, 3), torch.zeros(2, 3), {}, "x needs at least 1 row"),
        (torch.zeros(1, 3), torch.zeros(2, 3), {"unbiased": True}, "x needs at least 2 rows"),
        (torch.zeros(2, 3), torch.zeros(2, 4), {}, "3 features and y 4"),
        (torch.zeros(2, 3), torch.full((2, 3), float("nan")), {}, "y has a value that is not finite"),
        (torch.zeros(2, 3), torch.zeros(2, 3), {"sigma": 0.0}, "sigma must be above 0"),
    ],
)
def test_bad_input_is_named(x: torch.Tensor, y: torch.Tensor, options: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        mmd_rbf(x, y, **options)
