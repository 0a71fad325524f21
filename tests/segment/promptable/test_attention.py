"""The encoder attention that Trident (p148) mixes by, against the modules' own output."""

from __future__ import annotations

import pytest
import torch

from binderclip.errors import NotSupported, UsageError
from binderclip.segment.promptable import OracleSegmenter, PromptModel, PromptNetwork, encoder_attention


def picture(height: int, width: int) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))


def output_of(module: torch.nn.Module, run) -> torch.Tensor:
    seen = []
    handle = module.register_forward_hook(lambda _m, _i, out: seen.append(out))
    run()
    handle.remove()
    return seen[0]


def test_the_bundled_networks_attention_is_what_its_block_computes() -> None:
    torch.manual_seed(0)
    model = PromptModel(PromptNetwork(side=64, width=32, heads=2, blocks=2)).eval()
    image = picture(48, 80)
    attention = model.backbone.blocks[-1].attn
    with torch.no_grad():
        want = output_of(attention, lambda: model.encode(image))
        found = encoder_attention(model, image)
        mixed = (found.weights @ found.values).transpose(0, 1).flatten(1)
        torch.testing.assert_close(attention.proj(mixed)[None], want, atol=1e-5, rtol=1e-4)
    assert found.grid == (8, 8)
    torch.testing.assert_close(found.weights.sum(-1), torch.ones(2, 64))
    assert encoder_attention(model, image, side=128).grid == (16, 16)
    for side in (20, 0, 800_000_000):
        with pytest.raises(UsageError, match="multiple of 8 pixels up to 2048"):
            encoder_attention(model, image, side=side)
    with pytest.raises(NotSupported, match="OracleSegmenter"):
        encoder_attention(OracleSegmenter(torch.ones(1, 32, 32)), picture(32, 32))
