"""Intervals, calibration and paired tests against other formulas and libraries."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score
from torchmetrics.functional.classification import multiclass_calibration_error

from binderclip.adapt.selection import (
    adaptive_calibration_error,
    mcnemar,
    mean_interval,
    proportion_interval,
    selection_optimism,
)
from binderclip.adapt.selection.measures import macro_f1
from binderclip.errors import UsageError


def test_the_interval_over_seeds_is_students() -> None:
    values = np.array([0.5, 0.6, 0.55])
    low, high = stats.t.interval(0.95, 2, loc=values.mean(), scale=stats.sem(values))
    found = mean_interval(values)
    np.testing.assert_allclose([found.low, found.high], [low, high])
    assert np.isnan(mean_interval(np.array([0.5])).low)
    assert mean_interval(np.array([0.2, 1.0])).high == 1.0


def test_wilsons_interval_by_its_own_formula_and_no_trial_is_refused() -> None:
    z, n, p = stats.norm.ppf(0.975), 20, 0.8
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    found = proportion_interval(16, 20)
    np.testing.assert_allclose([found.low, found.high], [centre - half, centre + half])
    with pytest.raises(UsageError, match="at least one trial"):
        proportion_interval(0, 0)


def test_macro_f1_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    y, said = rng.integers(0, 4, 60), rng.integers(0, 4, 60)
    assert macro_f1(said, y) == pytest.approx(f1_score(y, said, average="macro"))


def test_calibration_error_by_hand_and_beside_torchmetrics_on_one_bin() -> None:
    import torch

    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(3), size=200)
    y = rng.integers(0, 3, 200)
    one, rows = adaptive_calibration_error(probs, y, bins=1)
    other = multiclass_calibration_error(torch.from_numpy(probs), torch.from_numpy(y), 3, n_bins=1)
    assert one == pytest.approx(float(other), abs=1e-6)
    assert rows[0][2] == 200
    sure = np.eye(2)[np.zeros(10, int)]
    assert adaptive_calibration_error(sure, np.array([0] * 9 + [1]))[0] == pytest.approx(0.1)


def test_mcnemar_is_the_binomial_test_of_the_disagreements() -> None:
    first = np.array([True] * 9 + [False] * 2 + [True] * 30 + [False] * 5)
    second = np.array([False] * 9 + [True] * 2 + [True] * 30 + [False] * 5)
    by_hand = 2 * sum(stats.binom.pmf(k, 11, 0.5) for k in range(3))
    assert mcnemar(first, second) == (9, 2, pytest.approx(by_hand))
    assert mcnemar(first, first) == (0, 0, 1.0)


def test_optimism_is_nothing_for_one_method_and_real_for_many_equal_ones() -> None:
    rng = np.random.default_rng(0)
    assert selection_optimism(rng.random((1, 8))) == 0.0
    # 30 coins: the best looks better than 0.5 by about as much as the correction says.
    errors = rng.binomial(20, 0.5, size=(200, 30, 8)) / 20
    flattered = np.mean([0.5 - e.mean(axis=1).min() for e in errors])
    corrected = np.mean([selection_optimism(e) for e in errors])
    assert flattered > 0.05
    assert corrected > flattered
