"""Power laws (p039, arXiv 2404.08197): planted laws, SciPy's curve_fit, a grid of floors, crossings by a fine grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import curve_fit
from scipy.stats import linregress, norm

from binderclip.errors import UsageError
from binderclip.evaluate import PowerLaw, crossing, fit_power_law, probit_line, saturation

X = np.geomspace(1e6, 3e9, 8)


def law(a: float, b: float, c: float) -> PowerLaw:
    return PowerLaw(a, b, c, 0.0, {})


@settings(max_examples=15)
@given(a=st.floats(0.1, 50), b=st.floats(0.05, 0.8), share=st.floats(0.0, 0.8))
def test_a_planted_law_is_found(a: float, b: float, share: float) -> None:
    c = share * a * X[0] ** -b
    found = fit_power_law(X, a * X**-b + c, resamples=0)
    np.testing.assert_allclose(found(X), a * X**-b + c, rtol=1e-6)
    assert (found.a, found.b) == pytest.approx((a, b), rel=1e-6)
    assert found.c == pytest.approx(c, abs=1e-6 * a * X[0] ** -b)


def test_without_floor_it_is_the_regression_of_the_logarithms() -> None:
    y = 3 * X**-0.2 * np.exp(0.1 * np.random.default_rng(0).standard_normal(8))
    found, line = fit_power_law(X, y, floor=False, resamples=0), linregress(np.log(X), np.log(y))
    assert (found.a, found.b, found.c) == pytest.approx((np.exp(line.intercept), -line.slope, 0))


@pytest.mark.parametrize("seed", range(6))
def test_it_is_scipys_curve_fit_of_noisy_points(seed: int) -> None:
    draws = np.random.default_rng(seed)
    y = (20 * X**-0.25 + 0.15) * np.exp(0.03 * draws.standard_normal(8))

    def log_law(x: np.ndarray, log_a: float, b: float, c: float) -> np.ndarray:
        return np.log(np.exp(log_a) * x**-b + c)

    bounds = ([-50, 0, 0], [50, 5, y.min() * 0.999999])
    best, _ = curve_fit(
        log_law, X, np.log(y), p0=(3.0, 0.25, 0.15), bounds=bounds, xtol=1e-14, ftol=1e-14, max_nfev=20_000
    )
    found = fit_power_law(X, y, resamples=0)
    ours = np.sum((np.log(found(X)) - np.log(y)) ** 2)
    theirs = np.sum((log_law(X, *best) - np.log(y)) ** 2)
    assert ours <= theirs * (1 + 1e-6)
    assert found.b == pytest.approx(best[1], rel=0.02)
    assert found.deviation == pytest.approx(np.sqrt(ours / 8))


def test_no_floor_of_a_fine_grid_fits_better() -> None:
    y = np.array([0.9, 0.8, 0.78, 0.6, 0.55, 0.56, 0.5, 0.49])
    found = fit_power_law(X, y, resamples=0)
    ours = np.sum((np.log(found(X)) - np.log(y)) ** 2)
    for c in np.linspace(0, 0.489, 60):
        for b in np.linspace(0.01, 1.5, 120):
            shape = np.log((X / X[0]) ** -b)
            log_a = np.linspace(-4, 0, 40)[:, None]
            away = np.logaddexp(log_a + shape, np.log(c) if c else -np.inf) - np.log(y)
            assert ours <= (away**2).sum(1).min() + 1e-12


def test_the_interval_covers_the_exponent_about_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(40):
        noise = np.exp(0.05 * np.random.default_rng(seed).standard_normal(8))
        low, high = fit_power_law(X, 5 * X**-0.2 * noise, floor=False, resamples=200, seed=seed).interval["b"]
        covered += low < 0.2 < high
    assert 32 <= covered <= 40  # 38 are expected


def test_the_interval_is_the_same_for_a_seed_and_empty_without_resamples() -> None:
    y = 20 * X**-0.25 * (1 + 0.02 * np.cos(np.arange(8))) + 0.1
    one, other = (fit_power_law(X, y, resamples=40, seed=3) for _ in range(2))
    assert one.interval == other.interval
    assert one.interval["b"][0] < one.b < one.interval["b"][1]
    assert "exponent" in str(one)
    assert fit_power_law(X, y, resamples=0).interval == {}


@pytest.mark.parametrize("scale", [1.0, 1e12, 1e20])
@pytest.mark.parametrize("floor", [True, False])
def test_errors_that_fall_once_and_then_stay_have_no_exponent(scale: float, floor: bool) -> None:
    x = scale * np.geomspace(1, 1.02, 5) if not floor else scale * np.geomspace(1, 1e4, 5)
    errors = [0.9, 0.8, 0.6, 0.4, 0.2] if not floor else [0.9, 0.5, 0.5, 0.5, 0.5]
    with pytest.raises(UsageError, match="no power law fits: the errors fall all at the least x"):
        fit_power_law(x, errors, floor=floor)


def test_the_bootstrap_of_errors_that_nearly_do_is_finite() -> None:
    """Draws of the bootstrap may fall once: their exponents are bounded, not refused."""
    found = fit_power_law(np.geomspace(1e20, 1e24, 5), [0.9, 0.5, 0.51, 0.5, 0.49], resamples=60)
    assert np.isfinite([found.a, found.b, found.c, *found.interval["a"], *found.interval["b"]]).all()
    assert found.b < found.interval["b"][1] <= 10


POSITIVE = st.floats(0.05, 3)


@settings(max_examples=300)
@given(a=st.tuples(POSITIVE, POSITIVE), b=st.tuples(POSITIVE, POSITIVE), c=st.tuples(st.floats(0, 2), st.floats(0, 2)))
def test_crossings_are_those_of_a_fine_grid(
    a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]
) -> None:
    first, second = law(a[0], b[0], c[0]), law(a[1], b[1], c[1])
    grid = np.geomspace(0.05, 50, 4001)
    gap = second(grid) - first(grid)
    if (np.abs(gap) < 1e-4).any():  # a touch or a crossing so flat that the grid cannot tell
        return
    below = gap > 0
    early, late = (crossing(first, second, between=(0.05, 50), which=way) for way in ("first", "last"))
    if not below.any():
        assert early is None
        assert late is None
        return
    assert early == pytest.approx(grid[below.argmax()], rel=4e-3)
    if not below[-1]:
        assert late is None
    else:
        above = np.flatnonzero(~below)
        assert late == pytest.approx(grid[above[-1] + 1] if len(above) else grid[0], rel=4e-3)


def test_two_crossings_need_the_choice() -> None:
    first, second = law(1.0, 0.2, 0.0), law(3.0, 1.0, 0.12)
    above = crossing(second, first, between=(1, 1e6))
    assert above is not None
    assert crossing(second, first, between=(1, 1e6), which="last") is None  # it does not stay below
    assert crossing(first, second, between=(1, 1e6), which="first") == pytest.approx(1.0)
    again = crossing(first, second, between=(1, 1e6), which="last")
    assert again is not None
    assert again > above > 1
    assert float(first(again)) == pytest.approx(float(second(again)))


def test_saturation_is_the_first_small_gain() -> None:
    assert saturation([2, 4, 8], [0.5, 0.4, 0.3]) is None
    assert saturation([2, 4, 8, 16], [0.5, 0.495, 0.3, 0.299]) == 2
    assert saturation([2, 4, 8], [0.5, 0.4, 0.41]) == 4
    assert saturation([2, 4], [0.5, 0.4], gain=0.3) == 2


def test_the_probit_line_is_the_regression_of_normal_quantiles() -> None:
    draws = np.random.default_rng(0)
    x = draws.uniform(0.2, 0.9, 12)
    y = np.clip(x - 0.15 + 0.03 * draws.standard_normal(12), 0.02, 0.98)
    line, peer = probit_line(x, y), linregress(norm.ppf(x), norm.ppf(y))
    assert (line.slope, line.intercept, line.r2) == pytest.approx((peer.slope, peer.intercept, peer.rvalue**2))
    np.testing.assert_allclose(line(x), norm.cdf(peer.slope * norm.ppf(x) + peer.intercept))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit_power_law([1, 2, 3], [0.1, 0.2]), "of one length"),
        (lambda: fit_power_law([], []), "of one length"),
        (lambda: fit_power_law([1, 2, 3], [0.1, 0.0, 0.2]), "above 0"),
        (lambda: fit_power_law([1, 2, np.nan], [0.1, 0.1, 0.2]), "finite"),
        (lambda: fit_power_law([1, 1, 2, 2], [0.3, 0.3, 0.2, 0.2]), "needs 3 different x, got 2"),
        (lambda: fit_power_law([1, 1], [0.3, 0.3], floor=False), "needs 2 different x, got 1"),
        (lambda: fit_power_law([1, 2, 3], [0.3, 0.2, 0.1], resamples=-1), "resamples"),
        (lambda: fit_power_law([1e40, 2e40, 3e40], [0.3, 0.2, 0.1]), "give them in another unit"),
        (lambda: crossing(law(1, 1, 0), law(1, 2, 0), between=(0, 1)), "0 < low < high"),
        (lambda: crossing(law(1, 1, 0), law(1, 2, 0), between=(1, 2), which="any"), "'any'"),  # type: ignore[arg-type]
        (lambda: saturation([2, 1], [0.2, 0.1]), "rising"),
        (lambda: saturation([2], [0.2]), "two amounts"),
        (lambda: probit_line([0.5, 0.6, 1.0], [0.4, 0.5, 0.6]), r"in \(0, 1\)"),
        (lambda: probit_line([0.5, 0.5, 0.5], [0.4, 0.5, 0.6]), "different accuracy"),
    ],
)
def test_mistakes_are_named(call: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()


def test_errors_that_rise_are_no_power_law() -> None:
    x = [1e3, 1e4, 1e5, 1e6]
    for floor in (True, False):
        with pytest.raises(UsageError, match="the errors rise with x"):
            fit_power_law(x, [0.1, 0.2, 0.3, 0.4], floor=floor)
    assert fit_power_law(x, [0.4, 0.31, 0.32, 0.2], resamples=0).b > 0, "not every step has to fall"
