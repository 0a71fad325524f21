"""Rank correlations of sharpness (p084; arXiv 2302.07011) against SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kendalltau

from binderclip.errors import UsageError
from binderclip.landscape import sharpness_report


def test_tau_is_scipys_also_with_ties():
    rng = np.random.default_rng(0)
    measures = {"worst": rng.normal(size=24), "average": rng.integers(0, 5, 24).astype(float)}
    against = {"rate": np.repeat([0.1, 0.2, 0.4], 8), "error": rng.normal(size=24)}
    report = sharpness_report(measures, against, resamples=200)
    for name, x in measures.items():
        for target, y in against.items():
            assert report.of(name, target) == pytest.approx(kendalltau(x, y).statistic)
    assert bool((report.low < report.tau).all())
    assert bool((report.tau < report.high).all())
    assert "worst" in str(report)
    assert "rate" in str(report)


def test_the_interval_narrows_with_the_number_of_models():
    rng = np.random.default_rng(1)
    widths = []
    for count in (20, 120):
        x = rng.normal(size=count)
        report = sharpness_report({"x": x}, {"y": x + 0.3 * rng.normal(size=count)}, resamples=300)
        widths.append(float(report.high - report.low))
        assert float(report.low) > 0
    assert widths[1] < 0.6 * widths[0]


@pytest.mark.parametrize(
    ("measures", "against", "word"),
    [
        ({}, {"e": [1, 2, 3]}, "measure"),
        ({"m": [1, 2, 3]}, {}, "target"),
        ({"m": [1, 2]}, {"e": [1, 2]}, "three"),
        ({"m": [1, 2, 3]}, {"e": [1, 2, 3, 4]}, "'e' has 4"),
        ({"m": [1, float("nan"), 3]}, {"e": [1, 2, 3]}, "finite"),
        ({"m": [1, 2, 3]}, {"e": [2, 2, 2]}, "same for all"),
    ],
)
def test_mistakes_are_named(measures, against, word):
    with pytest.raises(UsageError, match=word):
        sharpness_report(measures, against)
