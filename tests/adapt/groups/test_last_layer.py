"""`LastLayerRetraining` of p158 (arXiv 2307.13136): the last layer fitted on a set in which groups count alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression

from binderclip.adapt import LastLayerRetraining, LinearProbe
from binderclip.errors import UsageError
from binderclip.evaluate import group_disparity


def spurious(n: int, agree: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit features of two classes; the second coordinate says the group, which agrees with the class so often."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    group = np.where(rng.random(n) < agree, y, 1 - y)
    x = np.stack([2 * y - 1, 3.0 * (2 * group - 1), np.full(n, 4)], axis=1) + rng.normal(
        scale=(0.9, 0.3, 0.1), size=(n, 3)
    )
    return x / np.linalg.norm(x, axis=1, keepdims=True), y, group


def unit_probe(x: np.ndarray, y: np.ndarray, weight: np.ndarray | None = None, C: float = 1.0) -> Any:
    return LogisticRegression(max_iter=1000, C=C, tol=1e-8).fit(x, y, sample_weight=weight)


def gap(head: Any, seed: int = 9) -> float:
    """Disparity of accuracy over the four combinations of class and group, where they are equally frequent."""
    x, y, group = spurious(4000, 0.5, seed)
    right = head.predict(x) == y
    rates = [[right[(y == c) & (group == g)].mean() for c in (0, 1) for g in (0, 1)]]
    return float(group_disparity(np.array(rates))[0])


def test_without_groups_it_is_logistic_regression_of_scikit_learn() -> None:
    x, y, _ = spurious(300, 0.9, 0)
    head = LastLayerRetraining(C=3.0).fit(x, y)
    np.testing.assert_allclose(head.predict_proba(x), unit_probe(x, y, C=3.0).predict_proba(x), atol=2e-3)


def test_weights_give_every_combination_the_same_total() -> None:
    x, y, group = spurious(400, 0.9, 1)
    head = LastLayerRetraining(C=3.0).fit(x, y, sensitive_features=group)
    # by hand: N / 4 over the number of its own combination
    weight = np.array([100 / ((y == a) & (group == b)).sum() for a, b in zip(y, group, strict=True)])
    assert weight.sum() == pytest.approx(400)
    np.testing.assert_allclose(head.predict_proba(x), unit_probe(x, y, weight, 3.0).predict_proba(x), atol=2e-3)
    plain = unit_probe(x, y, C=3.0).predict_proba(x)
    assert np.abs(head.predict_proba(x) - plain).max() > 0.05, "weights must matter"


def test_subsets_hold_as_many_of_each_combination_as_the_rarest_has() -> None:
    x, y, group = spurious(200, 0.9, 2)
    named = np.where(group == 1, "in", "out")
    seen: list[np.ndarray] = []

    class Watched(LastLayerRetraining):
        def _drawn(self, cells: np.ndarray) -> Any:
            for rows in super()._drawn(cells):
                seen.append(rows)
                yield rows

    head = Watched(balance="subsets", subsets=3, seed=5).fit(x, y, sensitive_features=named)
    least = min(((y == a) & (group == b)).sum() for a in (0, 1) for b in (0, 1))
    for rows in seen:
        assert [((y == a) & (group == b))[rows].sum() for a in (0, 1) for b in (0, 1)] == [least] * 4
        assert len(set(rows.tolist())) == 4 * least
    assert len(seen) == 3
    assert not np.array_equal(seen[0], seen[1])
    own = [unit_probe(x[rows], y[rows]) for rows in seen]
    np.testing.assert_allclose(head.coef_[1], np.mean([each.coef_[0] for each in own], axis=0), atol=2e-3)
    np.testing.assert_allclose(head.intercept_[1], np.mean([each.intercept_[0] for each in own]), atol=2e-3)


@pytest.mark.parametrize("balance", ["weights", "subsets"])
def test_the_disparity_of_a_shortcut_falls_by_two_thirds_and_plain_retraining_keeps_it(balance: str) -> None:
    x, y, group = spurious(2000, 0.95, 3)
    plain = gap(LinearProbe(10.0).fit(x, y))
    assert plain > 0.3
    assert gap(LastLayerRetraining(C=10.0).fit(x, y)) == pytest.approx(plain, abs=0.02)
    balanced = LastLayerRetraining(C=10.0, balance=balance).fit(x, y, sensitive_features=group)  # type: ignore[arg-type]
    assert gap(balanced) < plain / 3
    representative = LastLayerRetraining(C=10.0).fit(*spurious(2000, 0.5, 4)[:2])
    assert gap(representative) < plain / 3, "a representative set needs no groups"


def test_the_strength_is_chosen_on_the_validation_split_and_views_go_together() -> None:
    x, y, group = spurious(400, 0.9, 6)
    held = spurious(400, 0.5, 7)[:2]
    each = {C: LastLayerRetraining(C=C).fit(x, y).predict(held[0]) == held[1] for C in (1e-6, 1e-1, 1e3)}
    best = max(each, key=lambda C: each[C].mean())
    assert best != 1e-6
    assert best == LastLayerRetraining(Cs=tuple(each)).fit(x, y, *held).C_
    views = np.stack([x, x], axis=1)
    twice = LastLayerRetraining(balance="subsets").fit(views, y, sensitive_features=group)
    once = LastLayerRetraining(balance="subsets").fit(x, y, sensitive_features=group)
    assert (twice.predict(views) == once.predict(x)).mean() > 0.98, "another strength of the penalty, the same pictures"
    assert clone(LastLayerRetraining(balance="subsets", seed=3)).get_params()["seed"] == 3


def test_what_is_wrong_is_said() -> None:
    x, y, group = spurious(40, 0.8, 8)
    with pytest.raises(UsageError, match="balance must be one of weights, subsets, got 'even'"):
        LastLayerRetraining(balance="even").fit(x, y)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="at least 1"):
        LastLayerRetraining(balance="subsets", subsets=0).fit(x, y, sensitive_features=group)
    with pytest.raises(UsageError, match=r"39 for 40"):
        LastLayerRetraining().fit(x, y, sensitive_features=group[:-1])
    for missing in (None, float("nan")):
        words = ["a", "b", missing] * 4  # NumPy would make the word "nan" of it
        with pytest.raises(UsageError, match="a group is None or NaN"):
            LastLayerRetraining().fit(np.eye(12), ["x", "y"] * 6, sensitive_features=words)
        with pytest.raises(UsageError, match="a label is None or NaN"):
            LastLayerRetraining().fit(np.eye(12), words, sensitive_features=["x", "y"] * 6)
        with pytest.raises(UsageError, match="a label is None or NaN"):
            LinearProbe().fit(np.eye(12), words)
    with pytest.raises(UsageError, match="None or NaN"):
        LastLayerRetraining().fit(x, y, sensitive_features=[None, *group[1:].tolist()])
    with pytest.raises(UsageError, match="exclude"):
        LastLayerRetraining().fit(x, y, sample_weight=np.ones(40), sensitive_features=group)
