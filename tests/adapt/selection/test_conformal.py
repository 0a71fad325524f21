"""Conformal sets against the coverage they promise."""

from __future__ import annotations

import numpy as np
import pytest

from binderclip.adapt import conformal_sets, conformal_thresholds
from binderclip.errors import UsageError


@pytest.mark.parametrize("per_class", [False, True])
def test_conformal_sets_cover_as_promised_over_many_splits(per_class: bool) -> None:
    rng = np.random.default_rng(0)
    alpha, n, covered = 0.2, 40, []
    for _ in range(400):
        targets = rng.choice(3, size=2 * n, p=[0.6, 0.3, 0.1])
        proba = rng.dirichlet(np.ones(3), size=2 * n)
        # Class 2 is recognised badly: only a threshold of its own covers it.
        proba[targets == 2, 2] *= 0.3
        proba[np.arange(2 * n), targets] += np.where(targets == 2, 0.0, 0.5)
        proba /= proba.sum(axis=1, keepdims=True)
        thresholds = conformal_thresholds(proba[:n], targets[:n], alpha=alpha, per_class=per_class)
        sets = conformal_sets(proba[n:], thresholds, allow_empty=True)
        covered.append([sets[np.arange(n), targets[n:]].mean(), *(sets[targets[n:] == 2, 2].tolist() or [])][:2])
    mean = np.mean([row[0] for row in covered])
    rare = np.mean([row[1] for row in covered if len(row) > 1])
    if per_class:
        assert rare >= 1 - alpha - 0.03
    else:
        assert 1 - alpha - 0.01 <= mean <= 1 - alpha + 1 / (n + 1) + 0.01
        assert rare < 0.7


def test_small_or_empty_calibration_and_empty_sets() -> None:
    proba = np.array([[0.5, 0.3, 0.2], [0.2, 0.5, 0.3]])
    assert np.isinf(conformal_thresholds(proba, np.array([0, 1]), alpha=0.1)).all()
    assert np.isinf(conformal_thresholds(proba, np.array([0, 0]), alpha=0.5, per_class=True)[1:]).all()
    thresholds = np.full(3, 0.4)
    assert not conformal_sets(proba, thresholds, allow_empty=True).any()
    assert conformal_sets(proba, thresholds).tolist() == [[True, False, False], [False, True, False]]


def test_bad_input_is_named() -> None:
    with pytest.raises(UsageError, match="alpha must be in"):
        conformal_thresholds(np.ones((2, 2)), np.array([0, 1]), alpha=0.0)
    with pytest.raises(UsageError, match="columns 0 to 1"):
        conformal_thresholds(np.ones((2, 2)), np.array([0, 2]))
    with pytest.raises(UsageError, match=r"\(N, C\) and \(N,\)"):
        conformal_thresholds(np.ones((2, 2)), np.array([0]))
