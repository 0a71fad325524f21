"""Learning-set curves: honest splits, figures by hand, and scikit-learn's own classifiers."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.naive_bayes import GaussianNB

from binderclip.errors import UsageError
from binderclip.evaluate import learning_set_curve


class Witness(ClassifierMixin, BaseEstimator):
    """Knows the rows by heart and writes down what it was shown; X is the row's number and its label's code."""

    seen: list[tuple[list[int], list[int]]] = []

    def fit(self, X: np.ndarray, y: np.ndarray) -> Witness:
        self.classes_ = np.unique(y)
        self.rows_ = X[:, 0].astype(int).tolist()
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        Witness.seen.append((self.rows_, X[:, 0].astype(int).tolist()))
        return np.where(X[:, 1] > 0, "bad", "good")

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        share = np.clip(X[:, 1], 0.1, 0.9)
        return np.stack([share, 1 - share], axis=1)


def test_learning_sets_are_balanced_nested_and_never_tested_on() -> None:
    Witness.seen = []
    y = np.array(["bad"] * 12 + ["good"] * 30)
    X = np.stack([np.arange(42.0), np.zeros(42)], axis=1)
    curve = learning_set_curve(Witness(), X, y, sizes=(3, 7), repeats=4, seed=5)
    assert [(p.size, p.repeat) for p in curve.points] == [(s, r) for s in (3, 7) for r in range(4)]
    for shown, asked in Witness.seen:
        assert sorted(shown + asked) == list(range(42))
        assert (np.array(shown) < 12).sum() == len(shown) // 2
    for small, large in zip(Witness.seen[:4], Witness.seen[4:], strict=True):
        assert set(small[0]) < set(large[0])
    assert len({tuple(shown) for shown, _ in Witness.seen[:4]}) == 4
    again = learning_set_curve(Witness(), X, y, sizes=(3, 7), repeats=4, seed=5)
    assert again == curve


def test_figures_are_counted_with_the_defects_as_positive() -> None:
    rng = np.random.default_rng(0)
    y = np.array(["bad", "good"] * 30)
    code = np.where(rng.random(60) < 0.7, y == "bad", y != "bad") * 0.6 + 0.3 * rng.random(60) - 0.3
    X = np.stack([np.arange(60.0), code], axis=1)
    curve = learning_set_curve(Witness(), X[:4], y[:4], sizes=(2,), repeats=1, positive="bad", X_test=X, y_test=y)
    figures = curve.points[0].figures
    said, true = code > 0, y == "bad"
    hits, alarms = (said & true).sum(), (said & ~true).sum()
    assert figures["accuracy"] == (said == true).mean()
    assert figures["sensitivity"] == hits / true.sum()
    assert figures["specificity"] == 1 - alarms / (~true).sum()
    assert figures["precision"] == pytest.approx(hits / (hits + alarms))
    assert figures["f1"] == pytest.approx(2 * hits / (said.sum() + true.sum()))
    assert figures["auroc"] == pytest.approx(roc_auc_score(true, np.clip(code, 0.1, 0.9)))


@pytest.mark.parametrize("positive", ["bad", "good"])
def test_any_classifier_learns_more_from_more(positive: str) -> None:
    rng = np.random.default_rng(0)
    y = np.repeat(["bad", "good"], 150)
    X = rng.normal(size=(300, 12)) + np.where(y == "bad", 0.45, -0.45)[:, None]
    for model in (LogisticRegression(), GaussianNB()):
        curve = learning_set_curve(model, X, y, sizes=(3, 60), repeats=5, positive=positive)
        for figure in ("accuracy", "auroc", "sensitivity"):
            (_, few, _), (_, many, spread) = curve.summary(figure)
            assert many > few
            assert many > 0.8
        assert spread > 0
    three = np.repeat(["a", "b", "c"], 20)
    rows = np.eye(3)[np.repeat([0, 1, 2], 20)] + 0.1 * rng.normal(size=(60, 3))
    curve = learning_set_curve(LogisticRegression(), rows, three, sizes=(5,), repeats=1, positive="b")
    assert curve.summary("auroc") == [(5, 1.0, 0.0)]


def test_bad_input_is_named() -> None:
    X, y = np.zeros((6, 2)), np.array(["bad"] * 2 + ["good"] * 4)
    for settings, words in [
        ({"sizes": (2,)}, "class 'bad' has 2 examples; 3 are needed"),
        ({"sizes": ()}, "at least one size"),
        ({"sizes": (1,), "repeats": 0}, "one repeat"),
        ({"sizes": (1,), "positive": "ugly"}, "is not a class of y: one of 'bad', 'good'"),
        ({"sizes": (1,), "X_test": X}, "go together"),
    ]:
        with pytest.raises(UsageError, match=words):
            learning_set_curve(Witness(), X, y, **settings)
    with pytest.raises(UsageError, match="'auroc' was not measured: one of accuracy"):
        learning_set_curve(Witness(), X, y, sizes=(1,), repeats=1).summary("auroc")
