"""Worst groups of p121 (arXiv 2308.01313), and transfer and yes-or-no scores of p107 (arXiv 2308.00541)."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import mannwhitneyu
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, f1_score, recall_score

from binderclip.adapt import PolarClassifier
from binderclip.errors import UsageError
from binderclip.evaluate import binary_scores, transfer_matrix, worst_group_accuracy


def test_worst_group_by_hand_and_empty_groups_are_skipped() -> None:
    truth = np.array(["cat", "cat", "cat", "dog", "dog", "dog"])
    answer = np.array(["cat", "cat", "dog", "dog", "cat", "dog"])
    place = np.array(["land", "land", "water", "land", "land", "land"])
    found = worst_group_accuracy(truth, answer, place)
    assert found.by_group == {("land", "cat"): 1.0, ("land", "dog"): pytest.approx(2 / 3), ("water", "cat"): 0.0}
    assert (found.worst, found.worst_group, found.average) == (0.0, ("water", "cat"), pytest.approx(4 / 6))
    assert found.counts == {("land", "cat"): 2, ("land", "dog"): 3, ("water", "cat"): 1}
    alone = worst_group_accuracy(truth, answer, {"place": place}, with_class=False)
    assert alone.by_group == {("land",): pytest.approx(4 / 5), ("water",): 0.0}
    with pytest.raises(UsageError, match=r"one value a sample, at least one; got \[6, 6, 2\]"):
        worst_group_accuracy(truth, answer, place[:2])


def test_yes_or_no_scores_agree_with_other_libraries() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 80)
    value = 0.3 * truth + rng.uniform(size=80)
    found = binary_scores(truth, value, 0.6)
    said = value >= 0.6
    assert found.true_positive_rate == pytest.approx(recall_score(truth, said))
    assert found.true_negative_rate == pytest.approx(recall_score(truth, said, pos_label=0))
    assert found.f1 == pytest.approx(f1_score(truth, said))
    assert found.accuracy == pytest.approx((truth == said).mean())
    statistic = mannwhitneyu(value[truth == 1], value[truth == 0]).statistic
    assert found.auc == pytest.approx(statistic / ((truth == 1).sum() * (truth == 0).sum()))
    assert found.bias == pytest.approx(found.true_positive_rate - found.true_negative_rate)
    alone = binary_scores([1, 1], [0.9, 0.1])
    assert np.isnan(alone.auc)
    assert np.isnan(alone.true_negative_rate)
    with pytest.raises(UsageError, match="0 or 1"):
        binary_scores([1, 2], [0.1, 0.2])
    with pytest.raises(UsageError, match=r"must both be \(N,\)"):
        binary_scores([1], [0.1, 0.2])


def sets(seed: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    found = {}
    for shift, name in enumerate(["here", "there"]):
        y = rng.integers(0, 2, 60)
        found[name] = (rng.normal(size=(60, 3)) + np.outer(2 * y, [1 - shift, shift, 0.3]), y)
    return found


def test_the_transfer_matrix_is_what_fitting_by_hand_gives() -> None:
    train, test = sets(), sets(1)
    rows, columns, found = transfer_matrix(LogisticRegression(), train, test)
    assert rows == columns == ["here", "there"]
    for i, (x, y) in enumerate(train.values()):
        model = LogisticRegression().fit(x, y)
        np.testing.assert_allclose(found[i], [model.score(*pair) for pair in test.values()])
    assert found[0, 0] > found[0, 1]
    both = transfer_matrix(LogisticRegression(), train, test, score=lambda m, x, y: recall_score(y, m.predict(x)))[2]
    assert not np.allclose(both, found)
    with pytest.raises(UsageError, match=r"here must be a pair"):
        transfer_matrix(LogisticRegression(), {"here": 3})  # type: ignore[dict-item]
    with pytest.raises(UsageError, match="at least one data set"):
        transfer_matrix(LogisticRegression(), {})


# -- PolarClassifier -----------------------------------------------------------------------------------------------


def poles(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    there, away = rng.normal(size=(2, 6))
    y = rng.integers(0, 2, 50)
    x = np.where(y[:, None] == 1, there, away) + 0.9 * rng.normal(size=(50, 6)) + 0.8 * there
    return there, away, x, y


def test_the_probability_is_a_sigmoid_of_the_difference() -> None:
    there, away, x, _ = poles()
    unit = [v / np.linalg.norm(v, axis=-1, keepdims=True) for v in (x, there, away)]
    margin = 30 * (unit[0] @ unit[1] - unit[0] @ unit[2])
    found = PolarClassifier(there, away, scale=30.0).predict_proba(x)
    np.testing.assert_allclose(found[:, 1], 1 / (1 + np.exp(-margin)), atol=1e-12)
    swapped = PolarClassifier(away, there, scale=30.0).predict_proba(x)
    np.testing.assert_allclose(swapped, found[:, ::-1], atol=1e-12)
    # Several texts a pole: the mean of unit vectors.
    two = PolarClassifier(np.stack([5 * there, away]), away, scale=30.0).fit()
    mean = unit[1] + unit[2]
    np.testing.assert_allclose(two.coef_[1], mean / np.linalg.norm(mean), atol=1e-12)


def test_calibration_finds_the_threshold_of_best_balanced_accuracy() -> None:
    there, away, x, y = poles()
    plain = PolarClassifier(there, away).fit(x, y)
    fitted = PolarClassifier(there, away, calibrate=True).fit(x, y)
    margin = plain.decision_function(x)
    best = max(balanced_accuracy_score(y, margin >= cut - 1e-9) for cut in np.append(margin, np.inf))
    assert balanced_accuracy_score(y, fitted.predict(x)) == pytest.approx(best)
    assert best > balanced_accuracy_score(y, plain.predict(x))
    named = PolarClassifier(there, away, classes=("clear", "cloudy"))
    assert set(named.predict(x)) <= {"clear", "cloudy"}
    with pytest.raises(UsageError, match="presence has width 6 and absence 3"):
        PolarClassifier(there, away[:3]).fit()
    with pytest.raises(UsageError, match="the two answers"):
        PolarClassifier(there, away, classes=(1,)).fit()
    with pytest.raises(UsageError, match=r"both of \[0, 1\]"):
        fitted.fit(x, np.ones(50))
