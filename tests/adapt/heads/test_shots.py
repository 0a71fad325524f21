"""Comparing heads: disjoint draws, the same for every head, and scores that a plain loop gives too."""

from __future__ import annotations

from functools import wraps

import numpy as np
import pytest

from binderclip.adapt import GaussianHead, LinearProbe, ZeroShotClassifier, compare_heads, draw_shots
from binderclip.errors import UsageError


def toy(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.repeat(["a", "b"], n)
    return np.where((y == "a")[:, None], [1.0, 0.4, 0], [0.4, 1.0, 0]) + 0.5 * rng.normal(size=(2 * n, 3)), y


def test_shots_and_validation_are_disjoint_and_balanced() -> None:
    y = np.repeat(["a", "b"], 6)
    train, held = draw_shots(y, 2, seed=0)
    assert not set(train) & set(held)
    assert sorted(y[train]) == ["a", "a", "b", "b"] == sorted(y[held])
    assert np.array_equal(train, draw_shots(y, 2, seed=0)[0])
    assert any(not np.array_equal(train, draw_shots(y, 2, seed=s)[0]) for s in range(1, 5))
    with pytest.raises(UsageError, match="has 2 items, fewer than 4 shots"):
        draw_shots(y, 4, seed=0)


def test_the_comparison_equals_a_loop_with_the_same_draws() -> None:
    (x, y), (x_test, y_test) = toy(12, 0), toy(40, 1)
    prior = {"a": np.array([1.0, 0, 0]), "b": np.array([0, 1.0, 0.5])}
    heads = {"gda": GaussianHead(prior), "zero-shot": ZeroShotClassifier(prior), "probe": LinearProbe()}
    found = compare_heads(heads, x, y, x_test, y_test, shots=(1, 4), seeds=(0, 1))
    assert [(r.seed, r.shots, r.head) for r in found] == [
        (seed, shots, name) for seed in (0, 1) for shots in (1, 4) for name in heads
    ]
    for row in found:
        train, held = draw_shots(y, row.shots, row.seed)
        extra = () if row.head == "zero-shot" else (x[held], y[held])
        want = heads[row.head].fit(x[train], y[train], *extra).score(x_test, y_test)
        assert row.accuracy == pytest.approx(want)
        assert row.fit_seconds > 0


def test_a_fit_inside_a_decorator_is_given_the_validation_examples() -> None:
    given = []

    class Watched(LinearProbe):
        @wraps(LinearProbe.fit)
        def fit(self, *arguments, **options):
            given.append(len(arguments))
            return super().fit(*arguments, **options)

    (x, y), (x_test, y_test) = toy(12, 0), toy(40, 1)
    compare_heads({"watched": Watched()}, x, y, x_test, y_test, shots=(2,), seeds=(0,))
    assert given == [4]


def test_the_tuned_probe_is_the_first_best_of_separate_fits() -> None:
    (x, y), (x_val, y_val) = toy(12, 3), toy(15, 4)
    tuned = LinearProbe().fit(x, y, x_val, y_val)
    separate = {strength: LinearProbe(C=strength).fit(x, y) for strength in tuned.Cs}
    scores = [probe.score(x_val, y_val) for probe in separate.values()]
    assert tuned.Cs[int(np.argmax(scores))] == tuned.C_
    np.testing.assert_allclose(tuned.decision_function(x), separate[tuned.C_].decision_function(x), atol=2e-2)
