"""Colour models of GrabCut (Rother, Kolmogorov, Blake, SIGGRAPH 2004) against SciPy's densities."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from binderclip.segment.cut.colours import ColourMixture, split_by_principal_axes

CENTRES = np.array([[0.1, 0.1, 0.1], [0.9, 0.2, 0.1], [0.2, 0.8, 0.9]])


def three_colours(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    owner = rng.integers(0, 3, 600)
    return CENTRES[owner] + 0.02 * rng.normal(size=(600, 3)), owner


def test_groups_of_unlike_colours_are_split_off() -> None:
    rows, owner = three_colours()
    found = split_by_principal_axes(rows, 3)
    for label in range(3):
        assert len(set(owner[found == label])) == 1
    assert len(set(found)) == 3


def test_the_density_is_that_of_the_groups_as_normal_distributions() -> None:
    rows, owner = three_colours()
    probe = np.random.default_rng(1).random((50, 3))
    expected = np.zeros(50)
    for label in range(3):
        own = rows[owner == label]
        covariance = np.cov(own.T, bias=True) + 1e-4 * np.eye(3)
        expected += len(own) / len(rows) * multivariate_normal(own.mean(axis=0), covariance).pdf(probe)
    found = ColourMixture(rows, 3).log_density(probe)
    high = expected > 1e-200
    np.testing.assert_allclose(found[high], np.log(expected[high]), rtol=1e-6)


def test_a_region_of_one_colour_has_one_component_and_a_finite_density() -> None:
    mixture = ColourMixture(np.full((9, 3), 0.4), 5)
    assert len(mixture.means) == 1
    assert np.isfinite(mixture.log_density(np.array([[0.4, 0.4, 0.4], [0.9, 0.9, 0.9]]))).all()


def test_refitting_takes_in_other_rows_and_ignores_none() -> None:
    rows, owner = three_colours()
    mixture = ColourMixture(rows, 3)
    mixture.refit(rows[owner == 1])
    assert mixture.log_density(CENTRES)[1] > mixture.log_density(CENTRES)[[0, 2]].max() + 100
    before = mixture.means.copy()
    mixture.refit(np.zeros((0, 3)))
    np.testing.assert_array_equal(mixture.means, before)
    assert pytest.approx(CENTRES[1], abs=0.01) == mixture.means.mean(axis=0)
