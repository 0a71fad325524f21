"""The contract all heads share: scikit-learn's checks and tools, priors matched by name, named terms, views, files."""

from __future__ import annotations

import inspect
import io
import math
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import joblib
import numpy as np
import pyarrow as pa
import pytest
import torch
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.metrics import get_scorer
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import has_fit_parameter

from binderclip.adapt import (
    CDUL,
    ECO,
    GLAD,
    METHODS,
    ContinualZeroShot,
    DescriptionClassifier,
    FullFineTune,
    GaussianHead,
    LinearProbe,
    LoRATuning,
    NearestExampleClassifier,
    OneVsRest,
    PolarClassifier,
    ProGrad,
    PromptLearning,
    RankingAdapter,
    SentenceAttentionAdapter,
    TipAdapter,
    ZeroShotClassifier,
    blend_search,
    load_head,
    save_head,
)
from binderclip.adapt.few_shot.gaussian import PRECISIONS
from binderclip.errors import CheckpointError, UsageError


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
WEIGHTED = ["ape", "gda", "linear-probe", "tip-adapter"]
WITH_PRIOR = [name for name in HEADS if CASES.get(name, Case()).off is not None]


def make(name: str, prior: Any = None, **settings: Any) -> Any:
    """A head with quick settings, on this prior where it takes one."""
    case = CASES.get(name, Case())
    given = {} if prior is None or case.off is None else {"text_prior": prior}
    return METHODS[name](**{**case.fast, **given, **settings})


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def toy(seed: int = 0, n: int = 6, d: int = 10, noise: float = 0.3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features (3 n, d), names (3 n,), text rows (3, d) of the classes ant, bee, cat."""
    rng = np.random.default_rng(seed)
    centres = unit(rng.normal(size=(3, d)))
    x = unit(np.repeat(centres, n, axis=0) + noise * rng.normal(size=(3 * n, d)))
    text = unit(centres + 0.2 * rng.normal(size=(3, d)))
    return x, np.repeat(["ant", "bee", "cat"], n), text


POSITIONAL = {
    CDUL: ["aggregator", "network"],
    ContinualZeroShot: ["texts"],
    DescriptionClassifier: ["bank"],
    ECO: ["model", "text_prior"],
    FullFineTune: ["model"],
    GLAD: ["model", "text_prior"],
    LinearProbe: ["C"],
    LoRATuning: ["model", "text_prior"],
    NearestExampleClassifier: [],
    OneVsRest: ["base"],
    PolarClassifier: ["presence", "absence"],
    ProGrad: ["model", "text_prior"],
    PromptLearning: ["model", "text_prior"],
    RankingAdapter: ["model"],
    SentenceAttentionAdapter: ["text_prior"],
    ZeroShotClassifier: ["bank"],
}
"""Arguments that may be given without their names; those of a method that is not listed are `["text_prior"]`."""
ESTIMATORS = {*POSITIONAL, *(getattr(method, "func", method) for method in METHODS.values())}


@pytest.mark.parametrize("kind", sorted(ESTIMATORS, key=lambda kind: kind.__name__))
def test_the_constructor_stores_what_it_is_given(kind: Any) -> None:
    first = POSITIONAL.get(kind, ["text_prior"])
    names = set(inspect.signature(kind).parameters)
    given = {key: object() for key in names}
    head = kind(*(given[key] for key in first), **{key: given[key] for key in names - set(first)})
    with pytest.raises(TypeError, match="positional argument"):
        kind(*([None] * (len(first) + 1)))
    assert {key: vars(head)[key] for key in names} == given
    assert head.get_params(deep=False) == given
    assert set(head.set_params(**dict.fromkeys(names, 3)).get_params().values()) == {3}
    copy = clone(head)
    assert type(copy) is kind
    assert copy.get_params() == head.get_params()


def test_settings_of_a_family_are_one_list_and_each_head_keeps_its_defaults() -> None:
    def defaults(name: str) -> dict[str, Any]:
        return {key: p.default for key, p in inspect.signature(METHODS[name]).parameters.items()}

    assert defaults("eco") == {**defaults("coop"), "n_prompts": 4, "init": None}
    steering = {"rho": 0.05, "rule": "steer", "strength": 0.5, "keep_norm": True}
    assert defaults("glad") == {**defaults("lora"), **steering}
    # One context for all classes is what ProGrad is about.
    left_out = set(defaults("coop")) - set(defaults("prograd"))
    assert left_out == {"n_prompts", "class_specific", "loss"}


def as_prior(text: np.ndarray) -> dict[str, np.ndarray]:
    return dict(zip(["ant", "bee", "cat"], text, strict=True))


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.filterwarnings("ignore")
def test_scikit_learn_accepts_it(name: str) -> None:
    results = check_estimator(make(name), on_fail=None, on_skip=None)
    failed = {r["check_name"]: str(r["exception"]) for r in results if r["status"] == "failed"}
    assert failed == {}
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


def two_of(seed: int = 0) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """The classes ant and bee of `toy` with much noise, and their texts."""
    x, y, text = toy(seed, n=9, noise=2.0)
    return x[y != "cat"], y[y != "cat"], {"ant": text[0], "bee": text[1]}


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_for_two_classes_the_decision_is_the_lead_of_the_second(name: str) -> None:
    x, y, prior = two_of()
    head = make(name, prior).fit(x, y)
    logits, margin = head.predict_logits(x), head.decision_function(x)
    assert (logits.shape, margin.shape) == ((18, 2), (18,))
    np.testing.assert_allclose(head.predict_proba(x)[:, 1], 1 / (1 + np.exp(-margin)), atol=1e-9)
    assert np.array_equal(head.predict(x), np.where(margin > 0, "bee", "ant"))
    other, truth, _ = two_of(seed=4)
    # The area under the curve is the share of pairs in the right order, whatever scikit-learn makes of it.
    lead = head.predict_logits(other) @ [-1, 1]
    pairs = np.subtract.outer(lead[truth == "bee"], lead[truth == "ant"])
    area = float(((pairs > 0) + 0.5 * (pairs == 0)).mean())
    assert get_scorer("roc_auc")(head, other, truth) == pytest.approx(area)
    # average_precision wants to be told which answer is the positive one unless it is 1
    numbers = make(name, {0: prior["ant"], 1: prior["bee"]}).fit(x, (y == "bee").astype(int))
    assert 0 < get_scorer("average_precision")(numbers, other, (truth == "bee").astype(int)) <= 1


@pytest.mark.parametrize("name", HEADS)
def test_scikit_learns_wrappers_take_it(name: str) -> None:
    x, y, prior = two_of()
    calibrated = CalibratedClassifierCV(make(name, prior), cv=2).fit(x, y)
    assert calibrated.predict_proba(x).shape == (18, 2)
    features, labels, _ = toy()
    every = OneVsRestClassifier(make(name)).fit(features, labels)
    assert every.decision_function(features).shape == (18, 3)
    assert (every.predict(features) == labels).mean() > 0.8


def test_pixels_and_several_labels_keep_a_column_a_class() -> None:
    x, y, prior = two_of()
    head = GaussianHead(prior).fit(x, y)
    rows = torch.from_numpy(x)
    assert head.predictor(torch.nn.Identity()).from_features(rows).shape == (18, 2)
    several = METHODS["zero-shot"](prior, multi_label=True).fit()
    assert several.decision_function(x).shape == (18, 2)
    polar = PolarClassifier(prior["bee"], prior["ant"], classes=["ant", "bee"], calibrate=True).fit(x, y)
    assert np.array_equal(polar.predict(x), np.where(polar.decision_function(x) > 0, "bee", "ant"))


@pytest.mark.parametrize("name", HEADS)
def test_the_columns_of_a_data_frame_are_remembered(name: str, tmp_path: Path) -> None:
    x, y, text = toy()
    columns = [f"f{i}" for i in range(10)]
    frame = pa.table(dict(zip(columns, x.T, strict=True)))
    head = make(name, as_prior(text)).fit(frame, y)
    again = load_head(save_head(head, tmp_path / "head"))
    plain = make(name, as_prior(text)).fit(x, y)
    for fitted in (head, again):
        assert list(fitted.feature_names_in_) == columns
        np.testing.assert_array_equal(fitted.decision_function(frame), plain.decision_function(x))
        with pytest.raises(ValueError, match="feature names should match"):
            fitted.predict(frame.select(columns[::-1]))
        with pytest.warns(UserWarning, match="does not have valid feature names"):
            fitted.predict(x)
    with pytest.warns(UserWarning, match="fitted without feature names"):
        plain.predict(frame)
    assert not hasattr(head.fit(x, y), "feature_names_in_")


@pytest.mark.parametrize(
    ("name", "settings"),
    [(name, {}) for name in WEIGHTED] + [("gda", {"precision": p, "priors": "empirical"}) for p in PRECISIONS],
)
@pytest.mark.parametrize("tuned", [False, True])
def test_a_weight_is_a_number_of_copies(name: str, settings: dict[str, Any], tuned: bool) -> None:
    x, y, text = toy(noise=1.0)
    counts = np.random.default_rng(5).integers(0, 4, size=len(y))
    counts[::6] = 2  # every class keeps a picture
    held = toy(seed=2)[:2] if tuned else ()
    for prior in (None, as_prior(text)):
        weighted = make(name, prior, **settings).fit(x, y, *held, sample_weight=counts)
        copied = make(name, prior, **settings).fit(np.repeat(x, counts, axis=0), np.repeat(y, counts), *held)
        close = 2e-2 if name == "linear-probe" else 1e-8  # the solver stops where it is near enough
        np.testing.assert_allclose(weighted.decision_function(x), copied.decision_function(x), rtol=close, atol=close)
        plain = make(name, prior, **settings).fit(x, y, *held)
        assert np.abs(weighted.decision_function(x) - plain.decision_function(x)).max() > 1e-5
        # views of a picture share its weight
        views = make(name, prior, **settings).fit(x[:, None], y, *held, sample_weight=counts.astype(float).tolist())
        np.testing.assert_allclose(views.decision_function(x), weighted.decision_function(x), atol=1e-9)


def test_weights_exist_where_they_mean_something_and_bad_ones_are_refused() -> None:
    x, y, _ = toy()
    assert [name for name in HEADS if has_fit_parameter(make(name), "sample_weight")] == sorted(WEIGHTED)
    for weights, words in [
        (np.ones(3), r"shape \(18,\), one for each row of X, not \(3,\)"),
        (np.full(18, np.nan), "finite and at least 0"),
        (-np.ones(18), "finite and at least 0"),
        ((y != "bee") * 1.0, "zero for every row of class 'bee'"),
    ]:
        for name in WEIGHTED:
            with pytest.raises(UsageError, match=words):
                make(name).fit(x, y, sample_weight=weights)
    with pytest.raises(UsageError, match="sums to 1: a weight says how often"):
        GaussianHead().fit(x, y, sample_weight=np.full(18, 1 / 18))


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


@pytest.mark.parametrize("name", HEADS)
def test_numbers_that_cannot_be_meant_are_refused_before_any_work(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, text = toy()

    def worked(*_: Any) -> None:
        raise AssertionError("work was begun")

    kind = METHODS[name]
    for step in ("_module", "_fit", "_set_prior"):
        if hasattr(kind, step):
            monkeypatch.setattr(kind, step, worked)
    for setting, value in make(name).get_params().items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        # 1e400 reads as infinity
        for absurd in (math.nan, 1e400):
            if not (setting == "C" and absurd == math.inf):
                with pytest.raises(UsageError, match=rf"^{setting} must be (finite|a whole number), not (nan|inf)$"):
                    make(name, as_prior(text), **{setting: absurd}).fit(x, y)


def test_features_texts_and_saved_heads_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    x, y, text = toy()
    head = GaussianHead(as_prior(text)).fit(x, y)
    bad = torch.from_numpy(x.copy())
    bad[3, 2] = math.nan
    for call in (head.predict, head.predict_proba, head.decision_function):
        with pytest.raises(UsageError, match="X contains NaN or infinity"):
            call(bad)
        with pytest.raises(ValueError, match="contains NaN"):
            call(bad.numpy())
    with pytest.raises(UsageError, match="NaN or infinity for the class 'bee'"):
        GaussianHead({**as_prior(text), "bee": np.full(10, np.nan)}).fit(x, y)
    with pytest.raises(UsageError, match="lrs must be finite, not inf"):
        METHODS["prolip"](as_prior(text), lrs=(1e-3, math.inf)).fit(x, y)
    with pytest.raises(UsageError, match=r"epochs must be a whole number, not 2\.5"):
        METHODS["clip-adapter"](as_prior(text), epochs=2.5).fit(x, y)
    head.means_[0, 0] = math.nan
    with pytest.raises(CheckpointError, match="means_ of this head holds NaN"):
        load_head(save_head(head, tmp_path / "head"))


def test_bad_settings_are_named() -> None:
    x, y, text = toy()
    assert set(METHODS) >= {"gda", "tip-adapter", "linear-probe", "zero-shot"}
    for head, words in [
        (TipAdapter(beta=-1.0), "beta must be at least 0"),
        (LinearProbe(C=0.0), "C must be above 0"),
        (GaussianHead(alpha=-1.0), "alpha must be at least 0"),
        (GaussianHead(precision="full"), "precision must be one of shrunk"),
        (GaussianHead(priors="flat"), "priors must be one of equal, empirical"),
    ]:
        with pytest.raises(UsageError, match=words):
            head.fit(x, y)
    with pytest.raises(UsageError, match="scale must be above 0"):
        ZeroShotClassifier(as_prior(text), scale=0.0).fit()
    with pytest.raises(UsageError, match="names a class twice"):
        ZeroShotClassifier(text, classes=["a", "a", "b"]).fit()
    with pytest.raises(UsageError, match="classes that y has not, such as 'dog'"):
        GaussianHead(as_prior(text)).fit(x, y, x[:1], ["dog"])
