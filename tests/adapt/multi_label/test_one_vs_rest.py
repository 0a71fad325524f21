"""Several labels a picture: against scikit-learn's one-versus-rest, brute force, and its own thresholds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.multiclass import OneVsRestClassifier

from binderclip.adapt import GaussianHead, load_head, multilabel_average_precision, save_head
from binderclip.adapt.multi_label.one_vs_rest import BASES, OneVsRest
from binderclip.errors import UsageError

LABELS = ["ant", "bee", "cat"]


def toy(seed: int = 0, n: int = 60) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Features that are the sum of the directions of their labels, an indicator, and the directions as texts."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, (n, 3))
    x = y @ np.eye(3, 8) + 0.4 * rng.normal(size=(n, 8)) + 0.1
    return x / np.linalg.norm(x, axis=1, keepdims=True), y, dict(zip(LABELS, np.eye(3, 8), strict=True))


def test_the_linear_probe_is_scikit_learns_one_versus_rest() -> None:
    x, y, _ = toy()
    reference = OneVsRestClassifier(LogisticRegression(C=10.0, max_iter=1000)).fit(x, y)
    ours = OneVsRest("linear-probe").fit(x, y)
    np.testing.assert_allclose(ours.decision_function(x), reference.decision_function(x), atol=1e-3)
    np.testing.assert_allclose(ours.predict_proba(x), reference.predict_proba(x), atol=1e-3)


def test_the_other_bases_by_hand() -> None:
    x, y, text = toy()
    gda = GaussianHead().fit(x, y[:, 1]).predict_logits(x)
    np.testing.assert_allclose(OneVsRest("gda").fit(x, y).decision_function(x)[:, 1], gda[:, 1] - gda[:, 0], atol=1e-8)
    query = toy(seed=1, n=4)[0]
    similar = query @ x.T
    by_hand = [[row[y[:, c] == 1].max() - row[y[:, c] == 0].max() for c in range(3)] for row in similar]
    np.testing.assert_allclose(OneVsRest("nearest-example").fit(x, y).decision_function(query), 100 * np.array(by_hand))
    zero = OneVsRest("zero-shot", text_prior=text, classes=LABELS).fit(x, y).decision_function(x)
    cosines = x[:, :3]
    np.testing.assert_allclose(zero, 100 * (cosines - cosines.mean(axis=1, keepdims=True)), atol=1e-9)


def test_texts_beside_a_base_add_their_weight() -> None:
    x, y, text = toy()
    plain = OneVsRest("gda", classes=LABELS).fit(x, y).decision_function(x)
    both = OneVsRest("gda", classes=LABELS, text_prior=text, text_weight=0.5).fit(x, y).decision_function(x)
    zero = OneVsRest("zero-shot", classes=LABELS, text_prior=text).fit(x, y).decision_function(x)
    np.testing.assert_allclose(both, plain + 0.5 * zero, atol=1e-9)


def test_thresholds_give_the_best_f1_of_any_cut() -> None:
    x, y, text = toy(n=80)
    head = OneVsRest("zero-shot", text_prior=text, classes=LABELS).fit(x, y)
    logits = head.decision_function(x)
    head.calibrate(logits, y)
    probs = head.predict_proba(x)
    for c in range(3):
        best = max(f1_score(y[:, c], logits[:, c] >= cut) for cut in logits[:, c])
        assert f1_score(y[:, c], head.predict(x)[:, c]) == pytest.approx(best)
        # Platt's scaling is calibrated in the large: the mean probability is the share.
        assert probs[:, c].mean() == pytest.approx(y[:, c].mean(), abs=0.02)
        assert (np.argsort(probs[:, c]) == np.argsort(logits[:, c])).all()


@pytest.mark.parametrize("base", BASES)
def test_it_learns_keeps_its_bits_on_disk_and_survives_a_label_without_pictures(base: str, tmp_path: Path) -> None:
    x, y, text = toy()
    y[:, 2] = 0
    head = OneVsRest(base, text_prior=text, classes=LABELS).fit(x, y)
    head.calibrate(head.decision_function(x), y)
    new, truth, _ = toy(seed=2, n=100)
    assert multilabel_average_precision(truth[:, :2], head.decision_function(new)[:, :2]) > 0.75
    again = load_head(save_head(head, tmp_path / "h"))
    np.testing.assert_array_equal(again.predict_proba(new), head.predict_proba(new))
    np.testing.assert_array_equal(again.predict(new), head.predict(new))


def test_bad_input_is_named() -> None:
    x, y, _ = toy()
    for head, given, words in [
        (OneVsRest("svm"), y, "base must be one of linear-probe"),
        (OneVsRest(), y[:, 0], "Y must be an indicator"),
        (OneVsRest(), y + 1, "zeros and ones"),
        (OneVsRest(), y[:-1], "X has 60 rows and Y 59"),
        (OneVsRest(classes=["a"]), y, "classes names 1 columns; Y has 3"),
        (OneVsRest("zero-shot"), y, "needs text_prior"),
    ]:
        with pytest.raises(UsageError, match=words):
            head.fit(x, given)
