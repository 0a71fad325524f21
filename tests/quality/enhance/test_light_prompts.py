"""Pairs of light: words, learned sentences (p024), learned vectors (p050)."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.models import ImageTextModel
from binderclip.quality import LatentPromptGuidance, LearnedLightPrompts, LightWords


def features(count: int, width: int = 24) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(3))


def test_words_are_the_models_own_classification(vit: ImageTextModel) -> None:
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    words = ("a bright picture", "a dark picture")
    pair = LightWords(vit, words)
    with torch.no_grad():
        found = pair.backlit(vit.encode_image(images))
        wanted = vit.classify(images, list(words), templates="{}").probs[:, 1]
        assert torch.allclose(found, wanted.cpu(), atol=1e-5)
        assert float(pair.loss(vit.encode_image(images))) == pytest.approx(320 * float(wanted.mean()), rel=1e-4)
    assert not list(pair.parameters())


def test_learned_sentences_begin_as_xs_and_every_token_has_a_gradient(vit: ImageTextModel) -> None:
    pair = LearnedLightPrompts(vit, n_ctx=5)
    with torch.no_grad():
        wanted = vit.encode_text(["X X X X X"], normalize=True)
        assert torch.allclose(pair.vectors, wanted.expand(2, -1), atol=1e-5)
        assert torch.allclose(pair.backlit(features(4)), torch.full((4,), 0.5))
    assert pair.table.shape == (2, 7, 32)  # start and end too
    pair.backlit(features(4)).sum().backward()
    assert pair.table.grad is not None
    assert bool((pair.table.grad.abs().amax(2) > 0).all())
    # They are no submodule's: nothing of the model is trained or saved with them.
    assert list(pair.state_dict()) == ["table"]
    assert LearnedLightPrompts(vit, n_ctx=999).table.shape[1] == vit.text_tower.context_length
    with pytest.raises(UsageError, match="n_ctx must be at least 1"):
        LearnedLightPrompts(vit, n_ctx=0)


def test_a_sentence_of_words_in_the_table_is_those_words(vit: ImageTextModel) -> None:
    pair = LearnedLightPrompts(vit, n_ctx=3)
    ids = vit.tokenize(["a dark photo"]).ids[:, :5]
    with torch.no_grad():
        pair.table[1] = vit.text_tower.embed_tokens(ids)[0] / pair.unit
        assert torch.allclose(pair.vectors[1], vit.encode_text(["a dark photo"], normalize=True)[0], atol=1e-5)


def test_vectors_are_xaviers_and_their_probability_is_a_sigmoid() -> None:
    pair = LatentPromptGuidance(512, seed=2)
    assert float(pair.ends.detach().std()) == pytest.approx((2 / 514) ** 0.5, rel=0.1)
    x = F.normalize(features(4, 512), dim=-1)
    well, back = F.normalize(pair.ends.detach(), dim=-1)
    assert torch.allclose(pair.backlit(x), (100 * (x @ back - x @ well)).sigmoid(), atol=1e-5)
    assert not torch.equal(pair.ends, LatentPromptGuidance(512, seed=3).ends)
