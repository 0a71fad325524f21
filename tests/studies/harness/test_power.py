"""Intervals and power, against closed forms, simulation and tabulated values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate, stats

from binderclip.errors import UsageError
from binderclip.studies import smallest_detectable
from binderclip.studies.harness.power import bootstrap_interval, t_interval


def test_the_t_interval_is_that_of_scipys_one_sample_test() -> None:
    values = np.array([0.3, -0.1, 0.4, 0.2, 0.05])
    found = t_interval(values)
    low, high = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (found.effect, found.low, found.high, found.n) == (
        pytest.approx(values.mean()),
        *map(pytest.approx, (low, high)),
        5,
    )
    assert t_interval(values[:1]).low == -math.inf
    # three seeds: the factor of the standard error is 4.303 in every table
    three = np.array([0.0, 1.0, 2.0])
    assert t_interval(three).high - 1.0 == pytest.approx(4.303 / math.sqrt(3), rel=1e-3)


def test_the_bootstrap_interval_is_near_the_normal_one_for_many_items_and_repeats_itself() -> None:
    values = np.random.default_rng(0).normal(0.2, 1.0, 2000)
    found = bootstrap_interval(values)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert found.low == pytest.approx(values.mean() - half, abs=0.004)
    assert found.high == pytest.approx(values.mean() + half, abs=0.004)
    assert bootstrap_interval(values) == found


def test_the_smallest_detectable_effect_has_the_power_it_promises() -> None:
    """Power by integrating over the chi distribution of the sample deviation, without the noncentral t."""
    n, spread, power = 8, 0.03, 0.8
    effect = smallest_detectable(spread, n, power)
    critical, shift = stats.t.ppf(0.975, n - 1), effect * math.sqrt(n) / spread

    def given(deviation: float) -> float:
        chance = stats.norm.sf(critical * deviation / math.sqrt(n - 1) - shift)
        return float(chance * stats.chi.pdf(deviation, n - 1))

    assert integrate.quad(given, 0, 20)[0] == pytest.approx(power, abs=1e-6)


def test_the_smallest_detectable_effect_is_that_of_published_tables() -> None:
    # pairs for Cohen's d of a paired t test, two-sided .05, power .8 (Cohen 1988; G*Power)
    for n, d in ((34, 0.5), (199, 0.2), (15, 0.8)):
        assert smallest_detectable(1.0, n) <= d < smallest_detectable(1.0, n - 1)
    assert smallest_detectable(2.0, 8) == pytest.approx(2 * smallest_detectable(1.0, 8))
    assert smallest_detectable(0.0, 8) == 0.0


def test_a_simulated_study_meets_its_criterion_as_often_as_promised() -> None:
    generator = np.random.default_rng(1)
    drawn = generator.normal(smallest_detectable(1.0, 8), 1.0, (4000, 8))
    met = np.mean([t_interval(row).low > 0 for row in drawn])
    assert met == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize("wrong", [{"n": 1}, {"spread": -1.0}, {"power": 1.0}, {"power": 0.0}])
def test_misuse_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="smallest_detectable"):
        smallest_detectable(**({"spread": 1.0, "n": 8} | wrong))  # type: ignore[arg-type]
