"""Attention of the last word: against numpy, its closed form under rotary positions, and its invariance (p073)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from binderclip.compress import TokenContext, attention_criterion
from binderclip.errors import UsageError


def context_of(decoder, tokens, layer=2, mask=None):
    """Layer - 1 in fact gets `tokens`, so that both are known."""
    tokens = tokens if mask is None else replace(tokens, mask=mask)
    return TokenContext(decoder, layer, tokens, tokens, tokens.grid[0] * tokens.grid[1])


def projected(decoder, tokens, layer=1):
    """Queries of the last token and keys, by the weights, (B, H, d) and (B, H, L, d)."""
    weights = decoder.module.layers[layer]
    x = tokens.x.numpy()
    normed = x / np.sqrt((x**2).mean(-1, keepdims=True) + np.finfo(x.dtype).eps) * weights.norm1.weight.numpy()
    query, key, _ = np.split(normed @ weights.qkv.weight.numpy().T, 3, axis=-1)
    heads = [part.reshape(*part.shape[:2], 2, 16).transpose(0, 2, 1, 3) for part in (query, key)]
    return heads[0][:, :, -1], heads[1]


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("over", ["image", "all"])
def test_without_the_turn_against_numpy(decoder, sequence, over):
    tokens = sequence()
    query, key = projected(decoder, tokens)
    logits = np.einsum("bhd,bhld->bhl", query, key) / 4
    expected = softmax(logits[..., 1:-5]) if over == "image" else softmax(logits)[..., 1:-5]
    found = attention_criterion(context_of(decoder, tokens), rope=False, over=over)
    np.testing.assert_allclose(found.numpy(), expected.mean(1), atol=1e-6)


def test_with_the_turn_it_is_the_attention_of_the_layer(decoder, sequence):
    """The layer's own attention map, which a run records."""
    from binderclip.models.towers.record import Record, Recorder, Site

    tokens = sequence()
    recorder = Recorder(Record("attn", layers=[1]), decoder.depth)
    entering = {}
    decoder.run(tokens, record=recorder, on_block=lambda layer, now: entering.setdefault(layer, now))
    context = TokenContext(decoder, 2, entering[2], entering[1], 36)
    attention = recorder.values[Site("attn", 1)]
    found = attention_criterion(context, rope=True, over="all")
    np.testing.assert_allclose(found.numpy(), attention[:, :, -1, 1:-5].mean(1).numpy(), atol=1e-6)


def test_permuting_the_image_permutes_scores_only_without_the_turn(decoder, sequence):
    tokens = sequence()
    order = torch.randperm(36, generator=torch.Generator().manual_seed(1))
    index = torch.cat([torch.tensor([0]), 1 + order, torch.arange(37, 42)])
    moved = tokens.with_x(tokens.x[:, index])
    plain, turned = (
        [attention_criterion(context_of(decoder, one), rope=rope) for one in (tokens, moved)] for rope in (False, True)
    )
    torch.testing.assert_close(plain[0][:, order], plain[1])
    assert (turned[0][:, order] - turned[1]).abs().max() > 1e-3


def test_equal_tokens_score_alike_without_the_turn_and_by_a_sum_of_cosines_with_it(decoder, sequence):
    tokens = sequence(batch=1)
    x = tokens.x.clone()
    x[:, 1:37] = x[:, 1:2]
    tokens = tokens.with_x(x)
    plain = attention_criterion(context_of(decoder, tokens), rope=False)
    torch.testing.assert_close(plain, torch.full_like(plain, 1 / 36))
    # Re(q conj(k) exp(i D theta^(-2 p / d))) summed over the pairs p, D the distance to the last word
    query, key = projected(decoder, tokens)
    pairs = 10_000.0 ** (-np.arange(0, 16, 2) / 16)
    distance = 41 - np.arange(1, 37)
    as_complex = [part[..., :8] + 1j * part[..., 8:] for part in (query[0], key[0, :, 1])]
    product = as_complex[0] * as_complex[1].conj()  # (H, pairs)
    logits = (product[:, None] * np.exp(1j * distance[:, None] * pairs)).real.sum(-1) / 4
    found = attention_criterion(context_of(decoder, tokens), rope=True)
    np.testing.assert_allclose(found[0].numpy(), softmax(logits).mean(0), atol=1e-5)
    assert found.std() > 1e-3


def test_padding_scores_nothing(decoder, sequence):
    tokens = sequence()
    mask = torch.ones(2, 42, dtype=torch.bool)
    mask[1, 30:37] = False
    scores = attention_criterion(context_of(decoder, tokens, mask=mask), rope=False)
    torch.testing.assert_close(scores[1, 29:36], torch.zeros(7))
    torch.testing.assert_close(scores.sum(1), torch.ones(2))


def test_refusals(decoder, sequence):
    tokens = sequence()
    with pytest.raises(UsageError, match="there is none before layer 0"):
        attention_criterion(TokenContext(decoder, 0, tokens, None, 36))
    with pytest.raises(UsageError, match="over"):
        attention_criterion(context_of(decoder, tokens), over="words")  # type: ignore[arg-type]
