"""LLaVA behind the tower interface: logits of transformers' own forward, grouped keys, and pruning (p069, p073)."""

from __future__ import annotations

import pytest
import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from binderclip.compress import FeatherTokenPruning
from binderclip.errors import NotSupported, UsageError
from binderclip.models.vision_language.llava import LlavaDecoder

IMAGE = 31


@pytest.fixture(scope="module")
def llava() -> LlavaForConditionalGeneration:
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=24, patch_size=6
    )
    text = LlamaConfig(
        vocab_size=32, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE, vision_feature_layer=-2)
    return LlavaForConditionalGeneration(config).eval().requires_grad_(False)


def prompt(before: int = 3, after: int = 5) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    words = torch.randint(0, 30, (2, before + after), generator=g)
    image = torch.full((2, 16), IMAGE)
    ids = torch.cat([words[:, :before], image, words[:, before:]], 1)
    return {"input_ids": ids, "pixel_values": torch.randn(2, 3, 24, 24, generator=g)}


def test_the_logits_are_those_of_transformers(llava):
    decoder, inputs = LlavaDecoder(llava), prompt()
    tokens = decoder.embed(inputs)
    assert (tokens.prefix, tokens.extra, tokens.grid) == (3, 5, (4, 4))
    found = decoder.project(decoder.pool(decoder.run(tokens)))
    torch.testing.assert_close(found, llava(**inputs).logits[:, -1], atol=1e-5, rtol=1e-4)


def test_pruning_keeps_positions_and_words(llava):
    decoder, inputs = LlavaDecoder(llava), prompt()
    tokens = decoder.embed(inputs)
    run = FeatherTokenPruning((1, 2), keep_rate=0.5, stride=2).run(decoder, tokens)
    assert run.kept[1].sum(1).min() >= 8
    assert run.tokens.positions[:, :3].tolist() == [[0, 1, 2]] * 2
    assert run.tokens.positions[:, -5:].tolist() == [list(range(19, 24))] * 2
    whole = FeatherTokenPruning((1, 2), keep_rate=1.0).run(decoder, tokens)
    assert torch.equal(whole.tokens.x, decoder.run(tokens).x)


def test_refusals(llava):
    decoder, inputs = LlavaDecoder(llava), prompt()
    with pytest.raises(NotSupported, match="Linear around NoneType"):
        LlavaDecoder(torch.nn.Linear(2, 2))
    with pytest.raises(UsageError, match="without padding"):
        decoder.embed({**inputs, "attention_mask": torch.tensor([[1] * 24, [0] + [1] * 23])})
    with pytest.raises(UsageError, match="got 0 image tokens"):
        decoder.embed({**inputs, "input_ids": inputs["input_ids"].clamp(max=30)})
