"""The contract all heads share: scikit-learn's checks and tools, priors matched by name, named terms, views, files."""

from __future__ import annotations

import inspect
import io
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator

from binderclip.adapt import (
    METHODS,
    GaussianHead,
    LinearProbe,
    TipAdapter,
    ZeroShotClassifier,
    blend_search,
    load_head,
    save_head,
)
from binderclip.errors import UsageError


@dataclass(frozen=True)
class Case:
    """How the contract treats one head.

    Attributes:
        off: settings with which it is its text prior; None where it has no text.
        fast: settings that make a fit quick.
        grid: settings that a grid search tries.
    """

    off: dict[str, Any] | None = field(default_factory=lambda: {"alpha": 0.0})
    fast: dict[str, Any] = field(default_factory=dict)
    grid: dict[str, Any] = field(default_factory=lambda: {"alpha": [0.1, 1.0]})


# A head that is not listed is held to the contract as `Case()`; one that differs needs one line here.
CASES = {
    "ape": Case(fast={"alphas": (0.1, 3.0), "betas": (1.0, 5.0)}),
    "ape-t": Case(off={"alpha": 0.0, "epochs": 0}, fast={"epochs": 2, "betas": (1.0, 5.0)}),
    "clip-adapter": Case(off={"ratio": 0.0}, fast={"epochs": 2}, grid={"ratio": [0.2, 0.5]}),
    "linear-probe": Case(off=None, grid={"C": [0.1, 1.0]}),
    "nearest-example": Case(off=None, grid={"aggregate": ["max", "mean"]}),
    "prolip": Case(off={"steps": 0}, fast={"steps": 2, "lr": 1e-3}, grid={"penalty": [0.0, 1.0]}),
    "task-residual": Case(off={"epochs": 0}, fast={"epochs": 2}),
    "tip-adapter-f": Case(fast={"epochs": 2}),
}


def covered(kind: Any) -> bool:
    """Heads on arrays; those that look through a model or at pixels have tests of their own."""
    parameters = inspect.signature(kind).parameters
    return "model" not in parameters and "bank" not in parameters and kind.input_level != "images"


HEADS = [name for name in METHODS if covered(METHODS[name])]
WITH_PRIOR = [name for name in HEADS if CASES.get(name, Case()).off is not None]


def make(name: str, prior: Any = None, **settings: Any) -> Any:
    """A head with quick settings, on this prior where it takes one."""
    case = CASES.get(name, Case())
    given = {} if prior is None or case.off is None else {"text_prior": prior}
    return METHODS[name](**{**case.fast, **given, **settings})


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


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.filterwarnings("ignore")
def test_scikit_learn_accepts_it(name: str) -> None:
    results = check_estimator(make(name), on_fail=None, on_skip=None)
    failed = {r["check_name"]: str(r["exception"]) for r in results if r["status"] == "failed"}
    assert {check: text for check, text in failed.items() if check not in DIFFERENT} == {}
    assert sum(r["status"] == "passed" for r in results) >= 45


@pytest.mark.parametrize("name", HEADS)
def test_terms_sum_to_the_logits_and_refits_are_bit_equal(name: str) -> None:
    x, y, text = toy()
    first = make(name, as_prior(text)).fit(x, y)
    logits = first.decision_function(x)
    assert np.array_equal(sum(t.numpy() for t in first.terms(x).values()), logits)
    assert np.array_equal(clone(first).fit(x, y).decision_function(x), logits)
    np.testing.assert_allclose(first.predict_proba(x).sum(axis=1), 1, atol=1e-12)
    # Rows are brought to unit length inside: lengths carry no information.
    np.testing.assert_allclose(first.decision_function(7 * x), logits, atol=1e-5)
    other = toy(seed=1, n=4)
    assert len(first.fit(other[0], other[1]).decision_function(other[0])) == 12


@pytest.mark.parametrize("name", HEADS)
def test_renaming_classes_permutes_the_columns(name: str) -> None:
    x, y, text = toy()
    rename = {"ant": "zebra", "bee": "bee", "cat": "ape"}
    prior = as_prior(text)
    renamed = {rename[label]: row for label, row in prior.items()}
    a, b = make(name, prior), make(name, renamed)
    left = a.fit(x, y).decision_function(x)
    right = b.fit(x, np.array([rename[label] for label in y])).decision_function(x)
    assert list(b.classes_) == ["ape", "bee", "zebra"]
    # What is trained in single precision, or solved by iteration, is equal as far as that goes.
    exact = not ({"lr", "max_iter"} & set(a.get_params()))
    np.testing.assert_allclose(left, right[:, [2, 1, 0]], atol=1e-9 if exact else 1e-3)


@pytest.mark.parametrize("name", WITH_PRIOR)
def test_switched_off_it_is_the_zero_shot_classifier(name: str) -> None:
    x, y, text = toy()
    zero_shot = ZeroShotClassifier(as_prior(text), scale=37.0).fit()
    fitted = make(name, zero_shot, **(CASES.get(name, Case()).off or {})).fit(x, y)
    np.testing.assert_allclose(fitted.decision_function(x), 37 * x @ text.T, atol=1e-5)
    assert np.array_equal(fitted.predict(x), zero_shot.predict(x))
    # Switched on, it is something else.
    assert np.abs(make(name, zero_shot).fit(x, y).decision_function(x) - 37 * x @ text.T).max() > 1e-3
    # Cloned, as a grid search does, the prior arrives unfitted.
    again = clone(fitted).fit(x, y)
    np.testing.assert_array_equal(again.decision_function(x), fitted.decision_function(x))


@pytest.mark.parametrize("name", WITH_PRIOR)
def test_prior_is_matched_by_name_and_a_mismatch_is_explained(name: str) -> None:
    x, y, text = toy()
    swapped = {label: as_prior(text)[label] for label in ("cat", "ant", "bee")}
    np.testing.assert_array_equal(
        make(name, swapped).fit(x, y).decision_function(x),
        make(name, as_prior(text)).fit(x, y).decision_function(x),
    )
    by_array = make(name, text[[2, 0, 1]], classes=["cat", "ant", "bee"]).fit(x, y)
    np.testing.assert_allclose(
        by_array.decision_function(x), make(name, swapped).fit(x, y).decision_function(x), atol=1e-9
    )
    with pytest.raises(UsageError, match=r"bare array \(3, 10\): name its rows"):
        make(name, text).fit(x, y)
    with pytest.raises(UsageError, match="labels without a row in text_prior: 'cat'"):
        make(name, {"ant": text[0], "bee": text[1]}).fit(x, y)
    with pytest.raises(UsageError, match="classes of text_prior without an example: 'cow'"):
        make(name, {**as_prior(text), "cow": text[0]}).fit(x, y)
    with pytest.raises(UsageError, match=r"np.array\(names\)\[y\]"):
        make(name, as_prior(text)).fit(x, np.repeat([0, 1, 2], 6))
    narrow = {label: row[:4] for label, row in as_prior(text).items()}
    with pytest.raises(UsageError, match=r"10 features and (text_prior 4|the texts have 4)"):
        make(name, narrow).fit(x, y)
    with pytest.raises(UsageError, match="go together"):
        make(name, as_prior(text)).fit(x, y, X_val=x)


@pytest.mark.parametrize("name", HEADS)
def test_a_validation_split_is_used_or_ignored_but_never_breaks_the_sum(name: str) -> None:
    x, y, text = toy()
    held, asked, _ = toy(seed=2)
    head = make(name, as_prior(text))
    if "X_val" not in inspect.signature(head.fit).parameters:
        pytest.skip("takes no validation split")
    head.fit(x, y, X_val=held, y_val=asked)
    assert np.array_equal(sum(t.numpy() for t in head.terms(x).values()), head.decision_function(x))
    assert head.score(held, asked) >= make(name, as_prior(text)).fit(x, y).score(held, asked) - 0.12


@pytest.mark.parametrize("name", HEADS)
def test_it_works_with_scikit_learns_tools_and_survives_files(name: str, tmp_path: Path) -> None:
    x, y, text = toy()
    pipeline = make_pipeline(FunctionTransformer(unit), make(name, as_prior(text))).fit(x, y)
    assert pipeline.predict(x).shape == (18,)
    search = GridSearchCV(make(name, as_prior(text)), CASES.get(name, Case()).grid, cv=2).fit(x, y)
    head = search.best_estimator_
    logits = head.decision_function(x)
    file = io.BytesIO()
    joblib.dump(head, file)
    file.seek(0)
    np.testing.assert_array_equal(joblib.load(file).decision_function(x), logits)
    again = load_head(save_head(head, tmp_path / "head", model="small"))
    assert type(again) is type(head)
    np.testing.assert_array_equal(again.decision_function(x), logits)
    assert again.predict(x).tolist() == head.predict(x).tolist()


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


@pytest.mark.parametrize("name", HEADS)
def test_views_are_axis_one_and_one_view_changes_nothing(name: str) -> None:
    x, y, _ = toy()
    plain = make(name).fit(x, y).decision_function(x)
    np.testing.assert_allclose(make(name).fit(x[:, None], y).decision_function(x[:, None]), plain, atol=1e-9)
    both = np.stack([x, toy(seed=3)[0]], axis=1)
    fitted = make(name).fit(both, y)
    by_view = [fitted.decision_function(both[:, v]) for v in range(2)]
    np.testing.assert_allclose(fitted.decision_function(both), np.mean(by_view, axis=0), atol=1e-9)


@pytest.mark.parametrize("name", HEADS)
def test_one_class_with_one_shot_does_not_crash(name: str, tmp_path: Path) -> None:
    x, _, text = toy()
    for prior in (None, {"ant": text[0]}):
        fitted = make(name, prior).fit(x[:1], ["ant"])
        assert np.isfinite(fitted.decision_function(x)).all()
        assert set(fitted.predict(x)) == {"ant"}
    assert load_head(save_head(fitted, tmp_path / "head")).classes_.tolist() == ["ant"]


@pytest.mark.parametrize("name", [name for name in WITH_PRIOR if METHODS[name].input_level == "features"])
def test_the_pixel_predictor_is_the_head_and_has_gradients(name: str) -> None:
    x, y, text = toy(d=12)
    fitted = make(name, as_prior(text)).fit(x, y)

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
