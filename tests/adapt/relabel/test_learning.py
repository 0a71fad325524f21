"""Learning again from confirmed labels: against the head fitted by hand, scikit-learn, and the labels before."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special
from sklearn.linear_model import LogisticRegression

from binderclip.adapt import METHODS, learn_labels
from binderclip.errors import UsageError

NAMES = ["zebra", "apple", "cup"]
"""Not in alphabetical order: columns stay as they are named."""


def clusters(each: int = 30, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3), each)
    x = np.eye(3, 8)[labels] + 0.2 * rng.normal(size=(3 * each, 8))
    return x / np.linalg.norm(x, axis=1, keepdims=True), labels


def test_a_few_confirmed_labels_mend_a_classifier_that_was_wrong() -> None:
    x, labels = clusters()
    before = np.full((90, 3), 0.1)
    before[np.arange(90), (labels + 1) % 3] = 0.8  # all wrong
    confirmed = {row: int(labels[row]) for row in (0, 1, 2, 3, 30, 31, 32, 60, 61, 62)}
    learned = learn_labels(x, NAMES, confirmed, before)
    assert (learned.probabilities.argmax(axis=1) == labels).mean() > 0.95
    assert learned.probabilities.sum(axis=1) == pytest.approx(np.ones(90))
    assert learned.held == (10, 10, 0)
    assert np.isfinite(learned.held_out).all(axis=1).sum() == 10


def test_one_method_is_that_head_of_the_room() -> None:
    x, labels = clusters()
    rows = np.arange(0, 90, 6)
    confirmed = {int(row): int(labels[row]) for row in rows}
    learned = learn_labels(x, NAMES, confirmed, np.full((90, 3), 1 / 3), methods=["linear-probe"])
    own = METHODS["linear-probe"](C=learned.head.C_).fit(x[rows], np.array(NAMES)[labels[rows]])
    place = [own.classes_.tolist().index(name) for name in NAMES]
    # The temperature alone lies between them: differences of log-probabilities are proportional.
    log = np.log(learned.probabilities)
    other = special.log_softmax(own.predict_logits(x)[:, place], axis=1)
    ratio = (log[:, 0] - log[:, 1]) / (other[:, 0] - other[:, 1])
    assert ratio == pytest.approx(np.full(90, ratio[0]), rel=1e-6)
    # And it is scikit-learn's.
    reference = LogisticRegression(C=learned.head.C_, max_iter=1000).fit(x[rows], labels[rows])
    assert (learned.probabilities.argmax(axis=1) == reference.predict(x)).all()


def test_held_out_pictures_are_classified_without_themselves() -> None:
    x, labels = clusters()
    x[5], labels[5] = x[65], 0  # looks like a cup, and a person said zebra
    confirmed = {row: int(labels[row]) for row in (0, 1, 2, 5, 30, 31, 32, 60, 61, 62)}
    learned = learn_labels(x, NAMES, confirmed, np.full((90, 3), 1 / 3), methods=["nearest-example"])
    # Among the examples it is its own nearest one; held out it is not.
    assert learned.probabilities[5].argmax() == 0
    assert learned.held_out[5].argmax() == 2
    assert learned.held[:2] == (10, 9)


def test_a_label_without_a_confirmed_picture_keeps_its_probability() -> None:
    x, labels = clusters()
    before = np.random.default_rng(0).dirichlet(np.ones(3), 90)
    confirmed = {0: 0, 1: 0, 2: 0, 60: 2, 61: 2}
    learned = learn_labels(x, NAMES, confirmed, before)
    assert learned.known.tolist() == [0, 2]
    assert learned.probabilities[:, 1] == pytest.approx(before[:, 1])
    assert learned.probabilities.sum(axis=1) == pytest.approx(np.ones(90))
    among = learned.probabilities[:, [0, 2]].argmax(axis=1)
    assert (among[labels != 1] == labels[labels != 1] // 2).all()


def test_one_picture_a_label_is_learned_from_and_never_held_out() -> None:
    x, labels = clusters()
    learned = learn_labels(x, NAMES, {0: 0, 30: 1, 60: 2}, np.full((90, 3), 1 / 3))
    assert learned.held == (0, 0, 0)
    assert np.isnan(learned.held_out).all()
    assert (learned.probabilities.argmax(axis=1) == labels).mean() > 0.7


def test_equal_pictures_stay_on_one_side() -> None:
    x, _ = clusters()
    x[3] = x[0]
    groups = np.arange(90)
    groups[3] = 0
    # Two equal pictures are one: nothing is left to fit that label on.
    confirmed = {0: 0, 3: 0, 30: 1, 31: 1, 60: 2, 61: 2}
    learned = learn_labels(x, NAMES, confirmed, np.full((90, 3), 1 / 3), groups=groups)
    assert learned.held[0] == 4


def test_what_cannot_be_learned_is_refused() -> None:
    x, _ = clusters()
    before = np.full((90, 3), 1 / 3)
    with pytest.raises(UsageError, match="so far there is none"):
        learn_labels(x, NAMES, {}, before)
    with pytest.raises(UsageError, match="so far there is only apple"):
        learn_labels(x, NAMES, {0: 1, 1: 1}, before)
    with pytest.raises(UsageError, match="none of 90 and 3"):
        learn_labels(x, NAMES, {0: 1, 90: 2}, before)
    with pytest.raises(UsageError, match="unknown"):
        learn_labels(x, NAMES, {0: 1, 1: 2}, before, methods=["magic"])
