"""SentenceAttentionAdapter and DescriptionClassifier of p179 (Enhancing CLIP with GPT-4, arXiv 2307.11661)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.base import clone

from binderclip.adapt import DescriptionClassifier, SentenceAttentionAdapter, load_head, save_head
from binderclip.adapt.few_shot.sentence_adapter import SentenceAttention, raw_sentences
from binderclip.errors import UsageError
from binderclip.models import TextBank

C, K, D = 3, 4, 12


def bank(counts: tuple[int, ...] = (K,) * C, seed: int = 0) -> TextBank:
    rng = torch.Generator().manual_seed(seed)
    owner = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    raw = torch.randn(len(owner), D, generator=rng) * torch.linspace(0.5, 3, len(owner))[:, None]
    return TextBank(["ant", "bee", "cat"][: len(counts)], list(map(str, owner)), raw, owner, torch.tensor(20.0))


def block(ratio: float = 0.3) -> SentenceAttention:
    torch.manual_seed(1)
    made = SentenceAttention(D, "attention", ratio).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def test_the_block_is_the_formula_written_out() -> None:
    made, (a, mask) = block(), raw_sentences(bank())
    got = made.sentences(a, mask)
    for c in range(C):
        q, k, v = (a[c] @ layer.weight.T for layer in (made.q, made.k, made.v))
        attention = torch.softmax(torch.einsum("ie,je->ij", q, k) / np.sqrt(D // 4), dim=-1)
        learned = attention @ v @ made.out.weight.T + made.out.bias
        mixed = 2 * (0.3 * learned + 0.7 * a[c])
        centred = (mixed - mixed.mean(-1, keepdim=True)) / (mixed.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        want = centred * made.norm.weight + made.norm.bias
        torch.testing.assert_close(got[c], want, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(made(a, mask)[c], F.normalize(want.mean(0), dim=-1), atol=1e-5, rtol=1e-4)


def test_sentences_are_raw_and_in_place() -> None:
    texts = bank((2, 4, 1))
    a, mask = raw_sentences(texts)
    assert mask.tolist() == [[True, True, False, False], [True] * 4, [True, False, False, False]]
    torch.testing.assert_close(a[mask], texts.raw)
    # Sentences of a class that do not stand together.
    mixed = TextBank(texts.names, texts.texts, texts.raw.flip(0), texts.owner.flip(0), texts.scale)
    torch.testing.assert_close(raw_sentences(mixed)[0][1], texts.raw[2:6].flip(0))


def test_symmetries_and_limits() -> None:
    made, (a, mask) = block(), raw_sentences(bank())
    whole = made(a, mask)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(made.sentences(a[:, order], mask), made.sentences(a, mask)[:, order])
    torch.testing.assert_close(made(a[:, order], mask), whole)
    torch.testing.assert_close(made(torch.cat([a, a], 1), torch.cat([mask, mask], 1)), whole)
    # Other classes and padding are not looked at.
    torch.testing.assert_close(made(a[1:2], mask[1:2]), whole[1:2])
    padded = torch.cat([a, 99 * torch.ones(C, 2, D)], 1)
    torch.testing.assert_close(made(padded, F.pad(mask, (0, 2))), whole)
    none = block(0.0)
    torch.testing.assert_close(none.sentences(a, mask), none.norm(2 * a))
    assert made.weights(a[:, :1], mask[:, :1]).eq(1).all()


def task(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images that look like the second sentence of their class and not like the others."""
    rng = np.random.default_rng(seed)
    unit = bank().padded()[0].numpy()
    y = np.repeat(np.arange(C), 8)
    x = unit[y, 1] - 0.4 * unit[y].sum(axis=1) + 0.1 * rng.normal(size=(24, D))
    return x, np.array(bank().names)[y]


def test_training_fits_and_carries_over_by_the_same_block(tmp_path: Path) -> None:
    x, y = task()
    plain = DescriptionClassifier(bank()).fit()
    head = SentenceAttentionAdapter(bank(), lr=0.05, epochs=60, ratio=0.5).fit(x, y)
    assert head.score(*task(1)) > plain.score(*task(1)) + 0.1
    assert np.array_equal(clone(head).fit(x, y).decision_function(x), head.decision_function(x))
    same = head.classifier_for(bank())
    np.testing.assert_allclose(same.decision_function(x), head.decision_function(x), atol=1e-4)
    other = head.classifier_for(bank((K, K), seed=9))
    assert list(other.classes_) == ["ant", "bee"]
    again = load_head(save_head(head, tmp_path / "head"))
    np.testing.assert_allclose(again.decision_function(x), head.decision_function(x), atol=1e-6)
    np.testing.assert_allclose(again.classifier_for(bank()).coef_, same.coef_, atol=1e-6)
    assert 0 < head.attention_entropy_ <= 1


def test_untrained_linear_residual_at_ratio_zero_is_the_raw_mean() -> None:
    x, y = task()
    head = SentenceAttentionAdapter(bank(), kind="linear-residual", ratio=0.0, epochs=0).fit(x, y)
    np.testing.assert_allclose(head.coef_, bank().prototypes("mean-raw-unit"), atol=1e-6)
    linear = SentenceAttentionAdapter(bank(), kind="linear", epochs=2).fit(x, y)
    assert not np.allclose(linear.coef_, head.coef_)


def test_description_classifier_is_the_mean_of_cosines_image_by_image() -> None:
    x, _ = task()
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    rows = bank().padded()[0].numpy()
    want = [[20 * np.mean([image @ sentence for sentence in own]) for own in rows] for image in unit]
    np.testing.assert_allclose(DescriptionClassifier(bank()).decision_function(x), want, atol=1e-5)


def test_mistakes_are_named() -> None:
    x, y = task()
    for make, words in [
        (lambda: SentenceAttentionAdapter({name: np.ones(D) for name in bank().names}), "must be a TextBank"),
        (
            lambda: SentenceAttentionAdapter(bank(), kind="mlp"),
            "kind must be one of attention, linear, linear-residual, got 'mlp'",
        ),
        (lambda: SentenceAttentionAdapter(bank(), ratio=2.0), r"ratio must be in \[0, 1\]"),
    ]:
        with pytest.raises(UsageError, match=words):
            make().fit(x, y)
    fitted = SentenceAttentionAdapter(bank(), epochs=0).fit(x, y)
    small = TextBank(["a"], ["a"], torch.ones(1, 3), torch.tensor([0]), torch.tensor(1.0))
    with pytest.raises(UsageError, match="width 3 and this head 12"):
        fitted.classifier_for(small)
