"""Q-Boost (p177, arXiv 2312.15300): limits, symmetry, products of experts, and words of a language model."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.models import ImageTextModel
from binderclip.quality import PromptEnsemble, PromptQuality, PromptWords, TriadicScore, WordLogitScorer, create_metric
from binderclip.quality.score.qboost import TRIPLES

WORDS = [word for row in TRIPLES for word in row]


class Table:
    """Gives every word a column of a table."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def word_logits(self, images: object, words: list[str]) -> Tensor:
        return self.values[:, [WORDS.index(word) for word in words]]


def table(seed: int, count: int = 6) -> Tensor:
    return 3 * torch.randn(count, len(WORDS), generator=torch.Generator().manual_seed(seed))


@settings(max_examples=30)
@given(st.integers(0, 10_000))
def test_the_ensemble_is_a_product_of_experts_with_weights_one_half_and_zero(seed: int) -> None:
    values = table(seed)
    p, n, q = values.exp().unflatten(1, (3, 3)).prod(1).pow(1 / 3).T  # geometric means over the synonyms
    scores = PromptEnsemble(Table(values))(None)
    assert torch.allclose(scores, (p + 0.5 * n) / (p + n + q), atol=1e-5)
    assert bool(((scores >= 0) & (scores <= 1)).all())
    assert torch.allclose(PromptEnsemble(Table(values + 7.0))(None), scores, atol=1e-5)
    mirrored = PromptEnsemble(Table(values), [row[::-1] for row in TRIPLES])(None)
    assert torch.allclose(mirrored, 1 - scores, atol=1e-5)


def test_limits() -> None:
    values = table(0)
    assert torch.allclose(TriadicScore(Table(torch.zeros(2, 9)))(None), torch.full((2,), 0.5))
    # Without the neutral word three tones are two.
    no_middle = values.clone()
    no_middle[:, 1] = -1e4
    binary = PromptEnsemble(Table(values), [("good", "poor")])(None)
    assert torch.allclose(TriadicScore(Table(no_middle))(None), binary, atol=1e-6)
    assert torch.allclose(binary, torch.sigmoid(values[:, 0] - values[:, 2]), atol=1e-6)
    # Equal rows are one row.
    same = values[:, :3].repeat(1, 3)
    assert torch.allclose(PromptEnsemble(Table(same))(None), TriadicScore(Table(same))(None), atol=1e-6)
    # Up with the positive logit, down with the negative one.
    steps = torch.zeros(5, 9)
    steps[:, 0] = torch.arange(5.0)
    assert bool((TriadicScore(Table(steps))(None).diff() > 0).all())
    assert bool((TriadicScore(Table(steps.roll(2, 1)))(None).diff() < 0).all())


def test_logits_are_averaged_and_not_probabilities() -> None:
    values = table(3)
    alone = torch.stack([TriadicScore(Table(values), row)(None) for row in TRIPLES]).mean(0)
    assert (alone - PromptEnsemble(Table(values))(None)).abs().max() > 0.02


def test_a_video_is_the_score_of_its_mean_logits() -> None:
    values = table(1, count=4)
    mean = PromptEnsemble(Table(values.mean(0, keepdim=True)))(None)
    assert torch.allclose(PromptEnsemble(Table(values)).video(None), mean[0], atol=1e-6)


def test_a_language_models_words_are_their_first_tokens() -> None:
    ids = {"good": [1, 11, 4], "average": [1, 12], "poor": [1, 13], "goodish": [1, 11, 5], "": [1]}
    logits = torch.randn(2, 20, generator=torch.Generator().manual_seed(0))
    asked: list[str] = []

    def answered(images: object, question: str) -> Tensor:
        asked.append(question)
        return logits

    scorer = WordLogitScorer(answered, ids.__getitem__, begin=1)
    p, n, q = logits[:, [11, 12, 13]].exp().T
    assert torch.allclose(TriadicScore(scorer)(None), (p + n / 2) / (p + n + q), atol=1e-6)
    assert asked == ["Rate the quality of the image."]
    with pytest.raises(UsageError, match="'good' and 'goodish' begin with the same token"):
        scorer.word_logits(None, ["good", "goodish"])
    with pytest.raises(UsageError, match="no token"):
        scorer.word_logits(None, [""])


@torch.no_grad()
def test_a_contrastive_model_scores_words_by_scaled_cosines(vit: ImageTextModel) -> None:
    images = torch.rand(3, 3, 40, 48, generator=torch.Generator().manual_seed(0))
    base = PromptQuality(vit, scale=7.0)
    found = PromptEnsemble(PromptWords(base))(images)
    rows = [tuple(f"{word} photo." for word in row) for row in TRIPLES]
    assert torch.allclose(found, PromptQuality(vit, rows, scale=7.0, average="logits")(images), atol=1e-6)
    assert torch.allclose(create_metric("q-boost", model=vit, scale=7.0)(images), found, atol=1e-6)
    with pytest.raises(UsageError, match="needs one"):
        PromptWords(base, "photo")


def test_mistakes_are_named() -> None:
    with pytest.raises(UsageError, match="three words"):
        TriadicScore(Table(table(0)), ("good", "poor"))
    with pytest.raises(UsageError, match="as many texts"):
        PromptEnsemble(Table(table(0)), [("good", "poor"), ("high", "medium", "low")])
    with pytest.raises(UsageError, match="word_logits"):
        PromptEnsemble(3)  # type: ignore[arg-type]
