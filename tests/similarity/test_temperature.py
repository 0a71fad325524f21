"""The temperature that makes a classifier's probabilities likeliest, against known ones and a grid."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import log_loss

from binderclip.similarity.temperature import fit_temperature


def drawn(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and classes drawn with their probabilities."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(n, 4))
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return logits, (probs.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)


def test_the_temperature_undoes_a_known_one() -> None:
    logits, y = drawn(20000)
    assert fit_temperature(7.0 * logits, y) == pytest.approx(7.0, rel=0.03)
    # Every held-out picture right: the answer stays short of certainty.
    right = fit_temperature(np.eye(2)[[0, 1] * 10], np.array([0, 1] * 10))
    assert 1 / (1 + np.exp(-1 / right)) == pytest.approx(1 - 0.5 / 22, abs=1e-3)


def test_without_smoothing_it_is_the_best_of_a_fine_grid() -> None:
    logits, y = drawn(60, seed=3)
    grid = np.exp(np.linspace(-1, 1.5, 400))

    def loss(t: float) -> float:
        scaled = np.exp(2 * logits / t)
        return float(log_loss(y, scaled / scaled.sum(axis=1, keepdims=True)))

    best = min(grid, key=loss)
    assert fit_temperature(2 * logits, y, smooth=False) == pytest.approx(best, rel=0.01)
    assert fit_temperature(2 * logits, y) > 1.005 * best, "a share of every target for all classes makes it warmer"
