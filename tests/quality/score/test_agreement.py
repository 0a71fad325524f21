"""Agreement with opinions: SciPy's correlations, and a curve that the fit has to find."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr

from binderclip.errors import UsageError
from binderclip.quality import agreement


def test_a_logistic_relation_is_found_whole() -> None:
    x = np.linspace(-3, 5, 60)
    opinions = 20 + 60 / (1 + np.exp(-(x - 1) / 0.7))
    found = agreement(x, opinions)
    assert found.plcc == pytest.approx(1, abs=1e-6)
    assert found.rmse == pytest.approx(0, abs=1e-3)
    assert (found.srcc, found.krcc) == (pytest.approx(1), pytest.approx(1))
    assert pearsonr(x, opinions).statistic < 0.98
    falling = agreement(-x, opinions)
    assert (falling.srcc, falling.plcc) == (pytest.approx(-1), pytest.approx(1, abs=1e-6))


@settings(max_examples=25)
@given(st.integers(0, 10_000))
def test_the_curve_fits_no_worse_than_the_mean_and_ranks_ignore_monotone_maps(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=30)
    y = x + rng.normal(size=30)
    found = agreement(x, y)
    assert found.rmse <= y.std() + 1e-6
    assert found.srcc == pytest.approx(spearmanr(x, y).statistic)
    assert agreement(np.exp(x), y).srcc == pytest.approx(found.srcc)


@pytest.mark.parametrize(
    ("scores", "opinions"), [([1, 2, 3], [1, 2, 3]), ([1, 2, 3, 4], [1, 2, 3]), ([1] * 4, range(4))]
)
def test_what_has_no_correlation_is_refused(scores: list[float], opinions: list[float]) -> None:
    with pytest.raises(UsageError):
        agreement(list(scores), list(opinions))
