"""The causal decoder: rotary positions against transformers, causality, and its matrices."""

from __future__ import annotations

import torch

from binderclip.models.towers.tokens import Tokens
from binderclip.models.vision_language.decoder import Decoder, DecoderNet, rotary_angles, rotated


def decoder_of(depth: int = 3) -> Decoder:
    torch.manual_seed(0)
    return Decoder(DecoderNet(8, 9, 20, width=32, depth=depth, heads=2, ratio=2).eval().requires_grad_(False))


def sequence(length: int = 12, seed: int = 0) -> Tokens:
    x = torch.randn(2, length, 32, generator=torch.Generator().manual_seed(seed))
    return Tokens(x, torch.arange(length)[None], grid=(3, 3), prefix=1, extra=length - 10, causal=True)


def test_the_turn_is_that_of_llama():
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    q, k = torch.randn(2, 2, 3, 7, 16, generator=torch.Generator().manual_seed(0))
    places = torch.tensor([[0, 1, 2, 5, 9, 40, 41], [0, 3, 4, 6, 7, 40, 41]])
    config = LlamaConfig(hidden_size=48, num_attention_heads=3)
    cosine, sine = LlamaRotaryEmbedding(config)(q, places)
    expected = apply_rotary_pos_emb(q, k, cosine, sine)
    angles = rotary_angles(places, 16, 10_000.0)
    torch.testing.assert_close(rotated(q, angles), expected[0])
    torch.testing.assert_close(rotated(k, angles), expected[1])


def test_later_tokens_do_not_reach_earlier_ones():
    decoder, tokens = decoder_of(), sequence()
    changed = tokens.x.clone()
    changed[:, 8:] += 1
    one, other = decoder.run(tokens).x, decoder.run(tokens.with_x(changed)).x
    torch.testing.assert_close(one[:, :8], other[:, :8])
    assert (one[:, 8:] - other[:, 8:]).abs().min(-1).values.max() > 1e-4


def test_only_distances_count():
    decoder, tokens = decoder_of(), sequence()
    shifted = Tokens(tokens.x, tokens.positions + 100, grid=(3, 3), prefix=1, extra=2, causal=True)
    torch.testing.assert_close(decoder.run(tokens).x, decoder.run(shifted).x, atol=1e-4, rtol=1e-4)
    stretched = Tokens(tokens.x, tokens.positions * 2, grid=(3, 3), prefix=1, extra=2, causal=True)
    assert (decoder.run(tokens).x - decoder.run(stretched).x).abs().max() > 1e-2


def test_it_is_read_at_the_last_token():
    decoder, tokens = decoder_of(), sequence()
    out = decoder.run(tokens)
    logits = decoder.project(decoder.pool(out))
    assert logits.shape == (2, 20)
    net = decoder.module
    torch.testing.assert_close(logits, net.answer(net.norm(out.x[:, -1])))
    assert decoder.pool_weights(out).sum(1).tolist() == [1.0, 1.0]
    assert decoder.embed_dim == 20


def test_its_output_map_is_its_matrix():
    decoder = decoder_of(1)
    weight, bias = decoder.blocks[0].output_map()
    torch.testing.assert_close(weight.flatten(0, 1), decoder.module.layers[0].out.weight.T)
    torch.testing.assert_close(bias, torch.zeros(32))
