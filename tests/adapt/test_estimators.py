"""The contract all heads share: scikit-learn's checks, priors matched by name, named terms, views, determinism."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator

from binderclip.adapt import METHODS, GaussianHead, LinearProbe, TipAdapter, ZeroShotClassifier, blend_search
from binderclip.errors import UsageError

WITH_PRIOR = [GaussianHead, TipAdapter]
HEADS = [GaussianHead, TipAdapter, LinearProbe]

# Ours differ from scikit-learn on purpose: logits keep two columns for two classes, and rows become unit vectors, so
# blobs that differ in length alone cannot be told apart.
DIFFERENT = ("check_classifiers_train", "check_classifiers_classes", "check_decision_proba_consistency")


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def toy(seed: int = 0, n: int = 6, d: int = 10, noise: float = 0.3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features (3 n, d), names (3 n,), text rows (3, d) of the classes ant, bee, cat."""
    rng = np.random.default_rng(seed)
    centres = unit(rng.normal(size=(3, d)))
    x = unit(np.repeat(centres, n, axis=0) + noise * rng.normal(size=(3 * n, d)))
    text = unit(centres + 0.2 * rng.normal(size=(3, d)))
    return x, np.repeat(["ant", "bee", "cat"], n), text


def as_prior(text: np.ndarray) -> dict[str, np.ndarray]:
    return dict(zip(["ant", "bee", "cat"], text, strict=True))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.filterwarnings("ignore")
def test_scikit_learn_accepts_it(head: type) -> None:
    results = check_estimator(head(), on_fail=None, on_skip=None)
    failed = {r["check_name"]: str(r["exception"]) for r in results if r["status"] == "failed"}
    assert {name: text for name, text in failed.items() if name not in DIFFERENT} == {}
    assert sum(r["status"] == "passed" for r in results) >= 45


@pytest.mark.parametrize("head", HEADS)
def test_terms_sum_to_the_logits_and_refits_are_bit_equal(head: type) -> None:
    x, y, text = toy()
    options = {} if head is LinearProbe else {"text_prior": as_prior(text)}
    first = head(**options).fit(x, y)
    logits = first.decision_function(x)
    assert np.array_equal(sum(t.numpy() for t in first.terms(x).values()), logits)
    assert np.array_equal(clone(first).fit(x, y).decision_function(x), logits)
    np.testing.assert_allclose(first.predict_proba(x).sum(axis=1), 1, atol=1e-12)
    # Rows are brought to unit length inside: lengths carry no information.
    np.testing.assert_allclose(first.decision_function(7 * x), logits, atol=1e-9)
    other = toy(seed=1, n=4)
    assert len(first.fit(other[0], other[1]).decision_function(other[0])) == 12


@pytest.mark.parametrize("head", HEADS)
def test_renaming_classes_permutes_the_columns(head: type) -> None:
    x, y, text = toy()
    rename = {"ant": "zebra", "bee": "bee", "cat": "ape"}
    prior = as_prior(text)
    renamed = {rename[name]: row for name, row in prior.items()}
    a = head() if head is LinearProbe else head(prior)
    b = head() if head is LinearProbe else head(renamed)
    left = a.fit(x, y).decision_function(x)
    right = b.fit(x, np.array([rename[name] for name in y])).decision_function(x)
    assert list(b.classes_) == ["ape", "bee", "zebra"]
    np.testing.assert_allclose(left, right[:, [2, 1, 0]], atol=1e-4 if head is LinearProbe else 1e-9)


@pytest.mark.parametrize("head", WITH_PRIOR)
def test_alpha_zero_is_the_zero_shot_classifier(head: type) -> None:
    x, y, text = toy()
    zero_shot = ZeroShotClassifier(as_prior(text), scale=37.0).fit()
    fitted = head(zero_shot, alpha=0.0).fit(x, y)
    np.testing.assert_allclose(fitted.decision_function(x), 37 * x @ text.T, atol=1e-9)
    assert np.array_equal(fitted.predict(x), zero_shot.predict(x))
    # Cloned, as a grid search does, the prior arrives unfitted.
    again = clone(fitted).fit(x, y)
    np.testing.assert_array_equal(again.decision_function(x), fitted.decision_function(x))


@pytest.mark.parametrize("head", WITH_PRIOR)
def test_prior_is_matched_by_name_and_a_mismatch_is_explained(head: type) -> None:
    x, y, text = toy()
    swapped = {name: as_prior(text)[name] for name in ("cat", "ant", "bee")}
    np.testing.assert_array_equal(
        head(swapped).fit(x, y).decision_function(x), head(as_prior(text)).fit(x, y).decision_function(x)
    )
    by_array = head(text[[2, 0, 1]], classes=["cat", "ant", "bee"]).fit(x, y)
    np.testing.assert_allclose(by_array.decision_function(x), head(swapped).fit(x, y).decision_function(x), atol=1e-9)
    with pytest.raises(UsageError, match=r"bare array \(3, 10\): name its rows"):
        head(text).fit(x, y)
    with pytest.raises(UsageError, match="labels without a row in text_prior: 'cat'"):
        head({"ant": text[0], "bee": text[1]}).fit(x, y)
    with pytest.raises(UsageError, match="classes of text_prior without an example: 'cow'"):
        head({**as_prior(text), "cow": text[0]}).fit(x, y)
    with pytest.raises(UsageError, match=r"np.array\(names\)\[y\]"):
        head(as_prior(text)).fit(x, np.repeat([0, 1, 2], 6))
    with pytest.raises(UsageError, match="10 features and text_prior 4"):
        head({name: row[:4] for name, row in as_prior(text).items()}).fit(x, y)
    with pytest.raises(UsageError, match="go together"):
        head(as_prior(text)).fit(x, y, X_val=x)


def test_a_text_bank_brings_its_scale() -> None:
    x, y, text = toy()
    rows = torch.from_numpy(text)
    bank = SimpleNamespace(names=["ant", "bee", "cat"], scale=torch.tensor(20.0), prototypes=lambda rule: rows)
    assert GaussianHead(bank).fit(x, y).scale_ == pytest.approx(20.0)
    assert GaussianHead(bank, scale=50.0).fit(x, y).scale_ == 50.0
    classifier = ZeroShotClassifier(bank)
    np.testing.assert_allclose(classifier.decision_function(x), 20 * x @ text.T, atol=1e-9)
    np.testing.assert_allclose(classifier.to_open_clip().numpy(), text.T, atol=1e-6)
    pipeline = make_pipeline(FunctionTransformer(unit), ZeroShotClassifier(bank)).fit(x)
    assert pipeline.predict(x).shape == (18,)


@pytest.mark.parametrize("head", HEADS)
def test_views_are_axis_one_and_one_view_changes_nothing(head: type) -> None:
    x, y, _ = toy()
    plain = head().fit(x, y).decision_function(x)
    np.testing.assert_allclose(head().fit(x[:, None], y).decision_function(x[:, None]), plain, atol=1e-9)
    both = np.stack([x, toy(seed=3)[0]], axis=1)
    fitted = head().fit(both, y)
    by_view = [fitted.decision_function(both[:, v]) for v in range(2)]
    np.testing.assert_allclose(fitted.decision_function(both), np.mean(by_view, axis=0), atol=1e-9)


@pytest.mark.parametrize("head", HEADS)
def test_one_class_with_one_shot_does_not_crash(head: type) -> None:
    x, _, _ = toy()
    fitted = head().fit(x[:1], ["ant"])
    assert np.isfinite(fitted.decision_function(x)).all()
    assert set(fitted.predict(x)) == {"ant"}


@pytest.mark.parametrize("head", WITH_PRIOR)
def test_the_pixel_predictor_is_the_head_and_has_gradients(head: type) -> None:
    x, y, text = toy(d=12)
    fitted = head(as_prior(text)).fit(x, y)

    class Model(torch.nn.Module):
        def encode_image(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1)

    predictor = fitted.predictor(Model())
    images = torch.rand(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    logits = predictor(images)
    np.testing.assert_allclose(logits.detach().numpy(), fitted.decision_function(images.detach().flatten(1)))
    assert predictor.classes == ["ant", "bee", "cat"]
    assert torch.autograd.gradcheck(predictor, (images,), eps=1e-6, atol=1e-4)


def test_blend_search_scans_the_whole_grid_and_the_first_best_wins() -> None:
    targets = torch.tensor([0, 1])
    terms = {"text": torch.tensor([[1.0, 0.0], [1.0, 0.0]]), "cache": torch.tensor([[0.0, 0.0], [0.0, 1.0]])}
    found = blend_search(terms, targets, {"cache": [0.5, 2.0, 3.0]})
    assert (found.best, found.accuracy) == ({"cache": 2.0}, 1.0)
    assert [accuracy for _, accuracy in found.table] == [0.5, 1.0, 1.0]
    called = blend_search(lambda a, b: a * terms["cache"] + b * terms["text"], targets, {"a": [1.0], "b": [2.0, 0.1]})
    assert called.best == {"a": 1.0, "b": 0.1}
    with pytest.raises(UsageError, match="the terms are text, cache"):
        blend_search(terms, targets, {"gda": [1.0]})
    with pytest.raises(UsageError, match="at least one value"):
        blend_search(terms, targets, {"cache": []})


def test_bad_settings_are_named() -> None:
    x, y, text = toy()
    assert set(METHODS) >= {"gda", "tip-adapter", "linear-probe", "zero-shot"}
    for head, words in [
        (TipAdapter(beta=-1.0), "beta must be at least 0"),
        (LinearProbe(C=0.0), "C must be above 0"),
        (GaussianHead(alpha=-1.0), "alpha must be at least 0"),
        (GaussianHead(precision="full"), "precision must be one of shrunk"),
        (GaussianHead(priors="flat"), "priors must be 'equal' or 'empirical'"),
    ]:
        with pytest.raises(UsageError, match=words):
            head.fit(x, y)
    with pytest.raises(UsageError, match="scale must be above 0"):
        ZeroShotClassifier(as_prior(text), scale=0.0).fit()
    with pytest.raises(UsageError, match="names a class twice"):
        ZeroShotClassifier(text, classes=["a", "a", "b"]).fit()
    with pytest.raises(UsageError, match="classes that y has not, such as 'dog'"):
        GaussianHead(as_prior(text)).fit(x, y, x[:1], ["dog"])
