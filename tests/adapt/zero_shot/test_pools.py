"""Pools and the zero-shot classifier: shared laws, ContextPool of p121 (arXiv 2308.01313) against a double loop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from binderclip.adapt import (
    POOLS,
    AutoPool,
    ContextPool,
    ContinualZeroShot,
    DescriptionClassifier,
    MaxPool,
    MeanPool,
    PolarClassifier,
    Tiles,
    TipAdapter,
    ZeroShotClassifier,
    load_head,
    save_head,
)
from binderclip.errors import NotSupported, UsageError
from binderclip.models import TextBank
from binderclip.similarity.hubness import CSLS

C, Z, D = 4, 6, 10


class Own(MaxPool):
    """A pool of somebody else."""


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    rows = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(rows, dim=-1)


def bank(counts: tuple[int, ...] = (Z,) * C, seed: int = 1) -> TextBank:
    owner = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    raw = 3 * unit(len(owner), D, seed=seed) * torch.linspace(0.5, 2, len(owner), dtype=torch.float64)[:, None]
    names = ["ant", "bee", "cat", "dog"][: len(counts)]
    return TextBank(names, [f"text {i}" for i in range(len(owner))], raw, owner, torch.tensor(20.0))


@pytest.mark.parametrize("pool", POOLS)
def test_one_descriptor_is_the_plain_classifier(pool: str) -> None:
    one, x = bank((1, 1, 1, 1)), unit(7, D).numpy()
    plain = ZeroShotClassifier(one).fit()
    pooled = ZeroShotClassifier(one, pool=pool).fit()
    np.testing.assert_allclose(pooled.predict_proba(x), plain.predict_proba(x), atol=1e-12)
    array = ZeroShotClassifier(one.unit.numpy(), classes=one.names, pool=pool, scale=20.0).fit()
    np.testing.assert_allclose(array.predict_proba(x), plain.predict_proba(x), atol=1e-9)


@pytest.mark.parametrize("counts", [(Z,) * C, (2, 6, 1, 3)])
def test_mean_and_max_are_what_numpy_makes_of_the_sentences(counts: tuple[int, ...]) -> None:
    texts, x = bank(counts), unit(7, D).numpy()
    by_sentence = 20 * x @ texts.unit.numpy().T
    parts = [by_sentence[:, texts.owner.numpy() == c] for c in range(C)]
    answers = {"mean": [p.mean(1) for p in parts], "max": [p.max(1) for p in parts]}
    for name, want in answers.items():
        got = ZeroShotClassifier(texts, pool=name).decision_function(x)
        np.testing.assert_allclose(got, np.stack(want, axis=1), atol=1e-9)
    rows, mask = texts.padded()
    sims = torch.einsum("nd,ckd->nck", torch.from_numpy(x), rows)
    np.testing.assert_allclose(MeanPool()(sims, mask, scale=20.0), np.stack(answers["mean"], axis=1), atol=1e-9)
    # The mean of cosines is the prototype that is not normalised again, which is another classifier than mean-unit.
    folded = ZeroShotClassifier(texts, prototype="mean").decision_function(x)
    np.testing.assert_allclose(folded, np.stack(answers["mean"], axis=1), atol=1e-9)
    np.testing.assert_array_equal(DescriptionClassifier(texts).decision_function(x), folded)
    assert not np.allclose(ZeroShotClassifier(texts).decision_function(x), folded)
    assert clone(DescriptionClassifier(texts, scale=3.0)).get_params()["scale"] == 3.0


def test_duplicates_change_the_mean_but_not_the_maximum() -> None:
    sims = torch.einsum("nd,ckd->nck", unit(7, D), bank().padded()[0])
    double = torch.cat([sims, sims[..., :1]], dim=-1)
    torch.testing.assert_close(MaxPool()(double), MaxPool()(sims))
    torch.testing.assert_close(MeanPool()(double), (MeanPool()(sims) * Z + sims[..., 0]) / (Z + 1))


@pytest.mark.parametrize("pool", [MaxPool(), AutoPool(0.7), ContextPool(3.0)])
def test_permuting_classes_or_descriptors_permutes_the_answer(pool: object) -> None:
    x, texts = unit(7, D), bank()
    plain = ZeroShotClassifier(texts, pool=pool).logits(x)
    turned = ZeroShotClassifier(texts.select(["dog", "ant", "cat", "bee"]), pool=pool).logits(x)
    torch.testing.assert_close(turned, plain[:, [3, 0, 2, 1]])
    order = torch.cat([c * Z + torch.tensor([3, 1, 5, 0, 2, 4]) for c in range(C)])
    mixed = TextBank(texts.names, texts.texts, texts.raw[order], texts.owner, texts.scale)
    torch.testing.assert_close(ZeroShotClassifier(mixed, pool=pool).logits(x), plain)


@pytest.mark.parametrize("pool", [MaxPool(), AutoPool(0.7), ContextPool(3.0)])
def test_chunks_dtypes_and_devices_do_not_matter(pool: object, monkeypatch: pytest.MonkeyPatch) -> None:
    x, texts = unit(7, D), bank()
    head = ZeroShotClassifier(texts, pool=pool).fit()
    whole = head.logits(x)
    monkeypatch.setattr("binderclip.adapt.zero_shot.classifier.CHUNK", 2 * C * Z)
    torch.testing.assert_close(head.logits(x), whole)
    torch.testing.assert_close(head.logits(x.float()).double(), whole, atol=1e-3, rtol=1e-3)
    assert head.logits(x[:0]).shape == (0, C)


# -- contexts ------------------------------------------------------------------------------------------------------


def by_loop(scores: np.ndarray, context: np.ndarray) -> np.ndarray:
    """P(y|x) = sum_z P(z|x) P(y|x,z) of one image, written as two loops."""
    out = np.zeros(len(scores))
    for z in range(scores.shape[1]):
        given = softmax(scores[:, z])
        for y in range(len(scores)):
            out[y] += context[z] * given[y]
    return out


@pytest.mark.parametrize("temperature", [0.5, 1.0, 5.0])
def test_context_pool_equals_the_double_loop(temperature: float) -> None:
    x, texts = unit(7, D), bank()
    scores = 20 * np.einsum("nd,ckd->nck", x, texts.padded()[0])
    free = unit(Z, D, seed=5)
    pure = softmax(20 * x.numpy() @ free.numpy().T / temperature, axis=-1)
    joint = softmax(logsumexp(scores / temperature, axis=1), axis=-1)
    for infer, context in [("joint", joint), (free, pure)]:
        head = ZeroShotClassifier(texts, pool=ContextPool(temperature, infer=infer)).fit()
        want = np.stack([by_loop(s, p) for s, p in zip(scores, context, strict=True)])
        np.testing.assert_allclose(head.predict_proba(x), want, atol=1e-12)
        np.testing.assert_allclose(np.exp(head.decision_function(x)).sum(axis=1), 1, atol=1e-12)
        hard = ZeroShotClassifier(texts, pool=ContextPool(temperature, infer=infer, hard=True)).predict_proba(x)
        only = np.eye(Z)[context.argmax(1)]
        np.testing.assert_allclose(hard, [by_loop(s, p) for s, p in zip(scores, only, strict=True)], atol=1e-12)


def test_joint_at_temperature_one_is_the_flat_softmax_marginalised() -> None:
    x, texts = unit(7, D), bank()
    scores = 20 * torch.einsum("nd,ckd->nck", x, texts.padded()[0])
    flat = scores.flatten(1).softmax(-1).unflatten(1, (C, Z)).sum(-1)
    np.testing.assert_allclose(ZeroShotClassifier(texts, pool="context").predict_proba(x), flat, atol=1e-12)


def test_context_limits() -> None:
    x, texts = unit(7, D), bank()
    scores = 20 * torch.einsum("nd,ckd->nck", x, texts.padded()[0])
    mean = scores.softmax(1).mean(-1)
    np.testing.assert_allclose(ZeroShotClassifier(texts, pool=ContextPool(1e9)).predict_proba(x), mean, atol=1e-7)
    level = ContextPool(infer=unit(1, D, seed=8).expand(Z, D))
    np.testing.assert_allclose(ZeroShotClassifier(texts, pool=level).predict_proba(x), mean, atol=1e-9)
    # Cosines near one at scale 100 overflow a plain exponential in single precision.
    close = torch.full((2, C, Z), 0.99) + 0.01 * torch.rand(2, C, Z)
    assert torch.isfinite(ContextPool()(close, scale=100.0)).all()


# -- the classifier ------------------------------------------------------------------------------------------------


def test_it_is_a_scikit_learn_estimator_with_any_pool() -> None:
    x, texts = unit(7, D).numpy(), bank()
    for pool in (None, "auto", ContextPool(2.0)):
        head = ZeroShotClassifier(texts, pool=pool)
        again = clone(head)
        pipeline = make_pipeline(FunctionTransformer(lambda rows: 3 * rows), again).fit(x)
        np.testing.assert_allclose(pipeline.predict_proba(x), head.fit().predict_proba(x), atol=1e-9)
        assert set(pipeline.predict(x)) <= set(texts.names)
        assert head.coef_.shape == (C, D)
        assert head.to_open_clip().shape == (D, C)
    # A pooled classifier still is a text prior: its prototypes.
    labels = np.array(["ant", "bee", "cat", "dog", "ant", "bee", "cat"])
    fitted = TipAdapter(ZeroShotClassifier(texts, pool="auto"), alpha=0.0).fit(x, labels)
    np.testing.assert_allclose(fitted.decision_function(x), ZeroShotClassifier(texts).decision_function(x), atol=1e-9)


def test_negatives_take_their_mean_score_off_every_class() -> None:
    x, texts = unit(7, D).numpy(), bank()
    rows = unit(3, D, seed=4).numpy()
    plain = ZeroShotClassifier(texts).decision_function(x)
    less = ZeroShotClassifier(texts, negatives=rows).decision_function(x)
    np.testing.assert_allclose(less, plain - 20 * (x @ rows.T).mean(axis=1, keepdims=True), atol=1e-9)
    terms = ZeroShotClassifier(texts, pool="auto", negatives=rows).terms(torch.from_numpy(x))
    assert set(terms) == {"text", "negatives"}
    other = TextBank(["sky"], ["sky"], 5 * torch.from_numpy(rows[:1]), torch.tensor([0]), torch.tensor(1.0))
    np.testing.assert_allclose(
        ZeroShotClassifier(texts, negatives=other).decision_function(x), plain - 20 * x @ rows[:1].T, atol=1e-9
    )


@pytest.mark.parametrize("pool", [None, *POOLS])
@pytest.mark.parametrize("rule", ["mean-unit", "mean", "mean-raw-unit"])
def test_texts_that_are_near_everything_lose_as_much_as_in_the_models_own_similarity(
    pool: str | None, rule: str, tmp_path: Path
) -> None:
    """Against `TextBank.logits`, whose scores differ by what a picture has in common with everything, row by row."""
    references = unit(9, D, seed=6)
    csls = CSLS(references, neighbours=3, image_weight=0.3, text_weight=0.9).double()
    # One sentence a class, or with the rules of several sentences three: only the mean is then a prototype.
    count = 3 if pool in (None, "mean") else 1
    texts = replace(bank((count,) * C), geometry=csls)
    x = unit(7, D)
    theirs = texts.logits(x, "mean" if pool == "mean" else rule)
    head = ZeroShotClassifier(texts, pool=pool, prototype=rule).fit()
    np.testing.assert_allclose(head.predict_proba(x), theirs.softmax(-1), atol=1e-6)
    without = ZeroShotClassifier(replace(texts, geometry=None), pool=pool, prototype=rule)
    assert np.abs(without.predict_proba(x) - head.predict_proba(x)).max() > 0.05
    again = load_head(save_head(head, tmp_path / "head"))
    np.testing.assert_allclose(again.predict_proba(x), head.predict_proba(x), atol=1e-9)
    if pool != "context":
        other = replace(bank((2,), seed=8), geometry=csls)
        less = ZeroShotClassifier(texts, pool=pool, prototype=rule, negatives=other)
        # What the picture has in common with everything falls out of the difference.
        expected = theirs - texts.scale * other.similarities(x, "mean")
        np.testing.assert_allclose(less.decision_function(x), expected, atol=1e-5)


def test_other_zero_shot_classifiers_take_the_models_similarity() -> None:
    csls = CSLS(unit(9, D, seed=6), neighbours=3, image_weight=0.3, text_weight=0.9).double()
    texts, x = replace(bank(), geometry=csls), unit(7, D)
    want = texts.logits(x).softmax(-1)
    growing = ContinualZeroShot(texts).fit(classes=texts.names[:1])
    growing.partial_fit(classes=texts.names[1:])
    np.testing.assert_allclose(growing.predict_proba(x), want, atol=1e-6)
    poles = [replace(bank((Z,), seed=seed), geometry=csls) for seed in (1, 2)]
    margin = poles[0].similarities(x) - poles[1].similarities(x)
    polar = PolarClassifier(*poles, scale=20.0)
    np.testing.assert_allclose(polar.predict_proba(x)[:, 1], (20 * margin[:, 0]).sigmoid(), atol=1e-6)


def test_multi_label_is_the_mean_of_the_whole_and_the_best_tile() -> None:
    x, texts = unit(3, 5, D).numpy(), bank()
    head = ZeroShotClassifier(texts, multi_label=True).fit()
    by_view = softmax(20 * x @ head.coef_.T, axis=-1)
    want = (by_view[:, 0] + by_view[:, 1:].max(axis=1)) / 2
    np.testing.assert_allclose(head.predict_proba(x), want, atol=1e-12)
    np.testing.assert_array_equal(head.predict(x), want >= 0.5)
    np.testing.assert_allclose(1 / (1 + np.exp(-head.decision_function(x))), want, atol=1e-9)
    np.testing.assert_allclose(head.predict_proba(x[:, 0]), by_view[:, 0], atol=1e-12)


def test_a_saved_classifier_pools_as_before_and_what_cannot_be_saved_is_refused(tmp_path: Path) -> None:
    texts, x = bank((2, 6, 1, 3)), unit(7, D).numpy()
    free = ContextPool(2.0, infer=unit(Z, D, seed=5))
    for words, pool in [(texts, None), (texts, "max"), (texts, AutoPool(0.6, "pre")), (bank(), free)]:
        head = ZeroShotClassifier(words, pool=pool, negatives=None if pool is free else x[:2]).fit()
        head.predict(x)
        again = load_head(save_head(head, tmp_path / "head"))
        np.testing.assert_allclose(again.decision_function(x), head.decision_function(x), atol=1e-9)
    for options in ({"pool": Own()}, {"views": Tiles(2)}):
        with pytest.raises(NotSupported, match="cannot be saved"):
            save_head(ZeroShotClassifier(texts, **options).fit(), tmp_path / "head")


def test_mistakes_are_named() -> None:
    texts, x = bank(), unit(2, D)
    for options, words in [
        ({"pool": "median"}, "pool must be one of mean, max, auto, context, got 'median'"),
        ({"pool": AutoPool}, "a pool such as AutoPool"),
        ({"negatives": np.ones((2, 3))}, r"negatives has shape \(2, 3\): it must be \(M, 10\)"),
        ({"negatives": np.ones((2, D)), "pool": "context"}, "cannot be taken off"),
    ]:
        with pytest.raises(UsageError, match=words):
            ZeroShotClassifier(texts, **options).fit()
    for pool, words in [
        (ContextPool(0.0), "temperature must be above 0"),
        (ContextPool(infer="free"), "infer is 'joint' or a tensor"),
        (ContextPool(infer=unit(2, D)), r"infer has shape \(2, 10\): 6 contexts of width 10"),
    ]:
        with pytest.raises(UsageError, match=words):
            ZeroShotClassifier(texts, pool=pool).logits(x)
    with pytest.raises(UsageError, match="every class in every context"):
        ZeroShotClassifier(bank((2, 6, 1, 3)), pool="context").logits(x)
