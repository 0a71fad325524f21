"""Which labels are worth a look (arXiv 1911.00068): closed forms, scikit-learn's neighbours, planted wrong labels."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from binderclip.adapt import review_order
from binderclip.adapt.relabel.label_quality import neighbour_agreement, normalized_margin, self_confidence
from binderclip.errors import UsageError

NAMES = ["cat", "dog", "cup"]


def clusters(each: int = 20, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features around three directions in eight dimensions, and which of them each row belongs to."""
    rng = np.random.default_rng(seed)
    centres = np.eye(3, 8)
    labels = np.repeat(np.arange(3), each)
    return centres[labels] + 0.15 * rng.normal(size=(3 * each, 8)), labels


def test_confidence_and_margin_are_those_of_the_definition() -> None:
    rows = np.array([[0.7, 0.2, 0.1], [0.4, 0.4, 0.2], [0.1, 0.1, 0.8], [0.0, 1.0, 0.0]])
    labels = np.array([0, 1, 0, 0])
    assert self_confidence(rows, labels).tolist() == [0.7, 0.4, 0.1, 0.0]
    assert normalized_margin(rows, labels) == pytest.approx([0.75, 0.5, 0.15, 0.0])
    # One label alone is certain.
    assert normalized_margin(np.ones((2, 1)), np.zeros(2, int)).tolist() == [1.0, 1.0]


def test_neighbours_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    features, labels = rng.normal(size=(1500, 6)), rng.integers(0, 4, 1500)
    agreement, common = neighbour_agreement(features, labels, neighbours=7)
    nearest = NearestNeighbors(n_neighbors=7, metric="cosine").fit(features).kneighbors(return_distance=False)
    assert agreement == pytest.approx((labels[nearest] == labels[:, None]).mean(axis=1))
    for row in range(0, 1500, 50):
        counts = np.bincount(labels[nearest[row]], minlength=4)
        assert counts[common[row]] == counts.max()
        assert common[row] == labels[row] or counts[labels[row]] < counts.max()


def test_few_pictures_have_the_neighbours_that_there_are() -> None:
    agreement, common = neighbour_agreement(np.eye(2), np.array([1, 0]))
    assert (agreement.tolist(), common.tolist()) == ([0.0, 0.0], [0, 1])
    agreement, common = neighbour_agreement(np.ones((1, 3)), np.array([2]))
    assert (agreement.tolist(), common.tolist()) == ([1.0], [2])


def test_planted_wrong_labels_come_first_though_the_classifier_is_sure_of_them() -> None:
    features, labels = clusters()
    wrong = [3, 25, 47]
    labels[wrong] = (labels[wrong] + 1) % 3
    rows = np.full((60, 3), 0.02)
    rows[np.arange(60), labels] = 0.96
    # By confidence alone nothing tells them apart.
    assert [entry.row for entry in review_order(rows, labels, NAMES)[:3]] == [0, 1, 2]
    listed = review_order(rows, labels, NAMES, features=features)
    assert sorted(entry.row for entry in listed[:3]) == wrong
    assert all("10 of the 10 pictures most like it have another label" in entry.reason for entry in listed[:3])
    assert listed[0].reason.endswith(f"most of them {NAMES[(labels[listed[0].row] - 1) % 3]}")
    assert listed[-1].reason.startswith("nothing speaks against")


def test_a_picture_is_not_suspicious_because_few_have_its_label() -> None:
    """One cup and two dogs among cats: their neighbours are cats for want of others."""
    features = np.concatenate([np.eye(3, 8)[[0] * 12], np.eye(3, 8)[[1, 1, 2]]])
    features = features + 0.02 * np.random.default_rng(0).normal(size=features.shape)
    labels = np.array([0] * 12 + [1, 1, 2])
    rows = np.full((15, 3), 0.02)
    rows[np.arange(15), labels] = 0.96
    listed = review_order(rows, labels, NAMES, features=features)
    assert all(entry.reason.startswith("nothing speaks against") for entry in listed)
    # A dog that lies among the cats, far from the other one, is told by its neighbours still.
    labels[3] = 1
    rows[3] = rows[12]
    assert (
        "10 of the 10 pictures most like it have another label, most of them cat"
        in {entry.row: entry.reason for entry in review_order(rows, labels, NAMES, features=features)}[3]
    )


def test_an_unsure_picture_says_what_it_may_be() -> None:
    features, labels = clusters()
    rows = np.full((60, 3), 0.02)
    rows[np.arange(60), labels] = 0.96
    rows[30] = [0.31, 0.36, 0.33]
    entry = review_order(rows, labels, NAMES, features=features)[0]
    assert (entry.row, entry.reason) == (30, "unsure: dog 0.36, cup 0.33")


def test_confirmed_pictures_are_listed_only_where_what_was_learned_without_them_contradicts() -> None:
    features, labels = clusters()
    rows = np.full((60, 3), 1 / 3)
    held_out = np.full((60, 3), np.nan)
    held_out[5], held_out[6], held_out[7] = [0.9, 0.05, 0.05], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]
    listed = review_order(rows, labels, NAMES, features=features, confirmed=[5, 6, 7, 8], held_out=held_out)
    assert [entry.row for entry in listed[:2]] == [6, 7]
    assert listed[0].reason == "you said cat; learned without it, it looks like dog (0.80)"
    assert len(listed) == 60 - 2
    assert {5, 8}.isdisjoint(entry.row for entry in listed)


def test_what_does_not_fit_is_refused() -> None:
    rows, labels = np.full((4, 2), 0.5), np.zeros(4, int)
    for bad in (rows[:3], np.full((4, 2), np.nan)):
        with pytest.raises(UsageError):
            self_confidence(bad, labels)
    with pytest.raises(UsageError, match="from 0 to 1"):
        self_confidence(rows, labels + 2)
    with pytest.raises(UsageError, match="neighbours"):
        neighbour_agreement(np.eye(4), labels, neighbours=0)
    with pytest.raises(UsageError, match="zero or not finite"):
        neighbour_agreement(np.zeros((4, 2)), labels)
    with pytest.raises(UsageError, match="do not fit"):
        neighbour_agreement(np.eye(3), labels)
    with pytest.raises(UsageError, match="3 names"):
        review_order(rows, labels, NAMES)
    assert review_order(np.empty((0, 2)), np.empty(0, int), ["a", "b"]) == []
