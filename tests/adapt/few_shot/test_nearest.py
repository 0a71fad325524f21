"""Nearest examples of p139 (arXiv 2501.12596) against scikit-learn's neighbours and loops by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

from binderclip.adapt import NearestExampleClassifier
from binderclip.errors import UsageError


def toy(seed: int = 0, n: int = 20) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.repeat(["bad", "good"], n)
    x = np.where(y[:, None] == "good", 1.0, 0.0) * [1, 0, 0, 0, 0] + 0.8 * rng.normal(size=(2 * n, 5))
    return x / np.linalg.norm(x, axis=1, keepdims=True), y


def test_the_largest_cosine_is_one_nearest_neighbour() -> None:
    (x, y), (queries, _) = toy(), toy(seed=1, n=100)
    head = NearestExampleClassifier().fit(x, y)
    peer = KNeighborsClassifier(n_neighbors=1, metric="cosine").fit(x, y)
    assert head.predict(queries).tolist() == peer.predict(queries).tolist()
    places, cosines = head.nearest(queries)
    _, neighbours = peer.kneighbors(queries)
    chosen = cosines.argmax(axis=1)
    assert places[np.arange(200), chosen].tolist() == neighbours[:, 0].tolist()
    # The nearest of each class is of that class, and its cosine is what is said.
    assert (y[places] == np.array(["bad", "good"])).all()
    np.testing.assert_allclose(np.einsum("ncd,nd->nc", x[places], queries), cosines, atol=1e-12)


def test_aggregates_by_loops() -> None:
    (x, y), (queries, _) = toy(), toy(seed=1)
    for aggregate, k in (("mean", 3), ("top-k", 4), ("top-k", 99)):
        head = NearestExampleClassifier(aggregate=aggregate, k=k, tau=1.0).fit(x, y)
        rows = []
        for query in queries:
            by_class = [np.sort(x[y == c] @ query)[::-1] for c in ("bad", "good")]
            rows.append([(own if aggregate == "mean" else own[:k]).mean() for own in by_class])
        np.testing.assert_allclose(head.predict_logits(queries), rows, atol=1e-12)
    one = NearestExampleClassifier(aggregate="top-k", k=1).fit(x, y).predict_logits(queries)
    np.testing.assert_allclose(one, NearestExampleClassifier().fit(x, y).predict_logits(queries))


def test_stored_pictures_are_their_own_nearest_and_tau_only_sharpens() -> None:
    x, y = toy()
    head = NearestExampleClassifier().fit(x, y)
    assert head.score(x, y) == 1.0
    places, cosines = head.nearest(x)
    own = (y == "good").astype(int)
    np.testing.assert_allclose(cosines[np.arange(40), own], 1.0)
    assert places[np.arange(40), own].tolist() == list(range(40))
    queries, asked = toy(seed=2)
    curves = {}
    for tau in (1e-6, 0.2, 1.0, 1e6):
        proba = NearestExampleClassifier(tau=tau).fit(x, y).predict_proba(queries)
        curves[tau] = proba
    assert ((curves[1e-6] < 1e-9) | (curves[1e-6] > 1 - 1e-9)).all()
    np.testing.assert_allclose(curves[1e6], 0.5, atol=1e-5)
    assert roc_auc_score(asked == "good", curves[0.2][:, 1]) == pytest.approx(
        roc_auc_score(asked == "good", curves[1.0][:, 1])
    )


def test_one_class_mode_calls_as_many_good_parts_bad_as_it_says() -> None:
    rng = np.random.default_rng(0)
    centre = np.ones(6)
    good = centre + 0.3 * rng.normal(size=(200, 6))
    fresh = centre + 0.3 * rng.normal(size=(2000, 6))
    head = NearestExampleClassifier(alpha=0.1).fit(good, np.repeat("good", 200))
    assert head.is_anomaly(fresh).mean() == pytest.approx(0.1, abs=0.04)
    assert head.is_anomaly(-fresh).all()
    np.testing.assert_allclose(head.anomaly_score(good), 0.0, atol=1e-12)
    # Leaving one out by hand.
    unit = good / np.linalg.norm(good, axis=1, keepdims=True)
    cosines = unit @ unit.T - 3 * np.eye(200)
    assert head.threshold_ == pytest.approx(np.quantile(1 - cosines.max(axis=1), 0.9, method="higher"))
    with pytest.raises(UsageError, match="at least two examples"):
        NearestExampleClassifier().fit(good[:1], ["good"]).is_anomaly(fresh)


def test_views_of_one_picture_do_not_vouch_for_each_other() -> None:
    x, _ = toy()
    views = np.stack([x, x], axis=1)
    twice = NearestExampleClassifier().fit(views, np.repeat("good", 40))
    assert twice.threshold_ == pytest.approx(NearestExampleClassifier().fit(x, np.repeat("good", 40)).threshold_)
    assert twice.nearest(x[:5])[0][:, 0].tolist() == [0, 1, 2, 3, 4]


def test_bad_settings_are_named() -> None:
    x, y = toy()
    for settings, words in [
        ({"aggregate": "median"}, "one of max, mean, top-k"),
        ({"k": 0}, "k must be at least 1"),
        ({"tau": 0.0}, "tau must be above 0"),
        ({"alpha": 1.0}, r"alpha must be in \(0, 1\)"),
    ]:
        with pytest.raises(UsageError, match=words):
            NearestExampleClassifier(**settings).fit(x, y)
