"""Guided reflection removal (p022, arXiv 2406.01555): torch's transformer layer, what each mask may move, losses."""

from __future__ import annotations

import math
from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.generate import PromptBlock, ReflectionLayers, ReflectionRemover, reflection_losses
from binderclip.generate.translate.naf_blocks import NAFBlock

T = TypeVar("T", bound=nn.Module)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def scrambled(module: T) -> T:
    """Every parameter drawn anew, those that start at 0 too."""
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=g) / math.sqrt(max(parameter[0].numel(), 1)))
    return module.eval()


def small() -> ReflectionRemover:
    torch.manual_seed(0)
    settings = {"encoder_blocks": (1, 1), "decoder_blocks": (1, 1), "heads": 2, "hidden": 16, "coverage": 0.5}
    return scrambled(ReflectionRemover(4, **settings))  # type: ignore[arg-type]


def test_a_prompt_block_under_a_mask_of_ones_is_torchs_transformer_layer() -> None:
    width, heads = 16, 4
    block = scrambled(PromptBlock(width, heads=heads, hidden=32))
    peer = nn.TransformerEncoderLayer(width, heads, 32, batch_first=True).eval()
    # torch scales by the width of a head: its queries get what the whole width takes off more.
    less = (width / heads) ** 0.5 * width**-0.5
    with torch.no_grad():
        attention = peer.self_attn
        attention.in_proj_weight.copy_(torch.cat([block.query.weight * less, block.key.weight, block.value.weight]))
        attention.in_proj_bias.copy_(torch.cat([block.query.bias * less, block.key.bias, block.value.bias]))
        for mine, theirs in (
            (block.out, attention.out_proj), (block.norm1, peer.norm1), (block.norm2, peer.norm2),
            (block.feed[0], peer.linear1), (block.feed[3], peer.linear2),
        ):  # fmt: skip
            theirs.load_state_dict(mine.state_dict())
    x = drawn(1, 2, width, 3, 5)
    expected = peer(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(block(x, torch.ones(2, 1, 3, 5, dtype=torch.bool)), expected, atol=1e-5, rtol=1e-4)


def test_places_that_are_not_marked_ask_with_the_bias_alone() -> None:
    block = scrambled(PromptBlock(8, heads=2, hidden=8))
    marked = torch.zeros(1, 1, 2, 2, dtype=torch.bool)
    asked: list[Tensor] = []
    block.query.register_forward_hook(lambda module, inputs, output: asked.append(output))  # type: ignore[arg-type]
    x = drawn(0, 1, 8, 2, 2)
    block(x, marked)
    torch.testing.assert_close(asked[0], block.query.bias.expand(1, 4, 8))
    marked[..., 0, 0] = True
    block(x, marked)
    torch.testing.assert_close(asked[1][:, 1:], block.query.bias.expand(1, 3, 8))
    assert not torch.allclose(asked[1][:, 0], block.query.bias)


def test_norm_is_of_channels_and_a_new_block_is_the_identity() -> None:
    x = drawn(0, 2, 6, 3, 4)
    rows = F.layer_norm(x.permute(0, 2, 3, 1), (6,), eps=1e-6).permute(0, 3, 1, 2)
    torch.testing.assert_close(NAFBlock(6).norm1(x), rows)
    assert torch.equal(NAFBlock(6)(x), x)
    # With the depthwise kernel at its centre, a scrambled block is per pixel but for the attention's mean.
    block = scrambled(NAFBlock(6))
    with torch.no_grad():
        kernel = torch.zeros_like(block.depthwise.weight)
        kernel[..., 1, 1] = block.depthwise.weight[..., 1, 1]
        block.depthwise.weight.copy_(kernel)
    mixed = x.flatten(2)[..., torch.randperm(12, generator=torch.Generator().manual_seed(1))].reshape(x.shape)
    torch.testing.assert_close(block(mixed).flatten(2).sort(2)[0], block(x).flatten(2).sort(2)[0], rtol=1e-4, atol=1e-5)


def test_both_layers_share_everything_but_the_prompt_blocks() -> None:
    remover = small()
    images, mask = drawn(0, 2, 3, 16, 16), torch.zeros(2, 1, 16, 16)
    one = remover(images, mask)
    assert not torch.allclose(one.transmission, one.reflection)
    remover.ask_reflection.load_state_dict(remover.ask_transmission.state_dict())
    other = remover(images, mask)  # both masks are empty, so both streams are alike now
    torch.testing.assert_close(other.transmission, other.reflection)
    torch.testing.assert_close(other.transmission, one.transmission)


def test_a_mark_moves_its_own_stream() -> None:
    remover = small()
    with torch.no_grad():
        remover.first.weight[:, 3] = 0.0  # the encoder does not see the mask: it works by the anchors alone
    images, empty = drawn(0, 1, 3, 16, 16), torch.zeros(1, 1, 16, 16)
    plain = remover(images, empty)
    for value, moved, still in ((1.0, "reflection", "transmission"), (125 / 255, "transmission", "reflection")):
        mask = empty.clone()
        mask[..., :8, :8] = value
        layers = remover(images, mask)
        torch.testing.assert_close(getattr(layers, still), getattr(plain, still))
        assert not torch.allclose(getattr(layers, moved), getattr(plain, moved), atol=1e-4)


def test_any_size_is_that_of_the_picture_padded_with_black() -> None:
    remover, images = small(), drawn(0, 1, 3, 10, 13)
    padded = F.pad(images, (0, 3, 0, 2))
    one, other = remover(images, torch.zeros(1, 1, 10, 13)), remover(padded, torch.zeros(1, 1, 12, 16))
    torch.testing.assert_close(one.reflection, other.reflection[..., :10, :13])


def test_the_published_size_has_the_published_widths() -> None:
    with torch.device("meta"):
        remover = ReflectionRemover()
    assert remover.ask_reflection.query.weight.shape == (1024, 1024)
    assert sum(isinstance(module, NAFBlock) for module in remover.modules()) == 24 + 1 + 10


def test_losses_are_0_but_for_exclusion_at_the_truth_and_weighted_beside_it() -> None:
    t, r = drawn(0, 2, 3, 16, 16), torch.full((2, 3, 16, 16), 0.25)
    losses = reflection_losses(ReflectionLayers(t, r), t, r)
    assert float(losses["exclusion"]) == pytest.approx(1e-6**0.25)
    assert max(abs(float(losses[name])) for name in ("transmission", "reflection", "ssim")) < 1e-6
    losses = reflection_losses(ReflectionLayers(t + 0.1, r), t, r, perceptual=lambda x, y: (x - y).mean())
    assert float(losses["transmission"]) == pytest.approx(0.3 * 0.01, rel=1e-3)  # brightness has no gradient
    assert float(losses["perceptual"]) == pytest.approx(0.001, rel=1e-3)


def test_it_learns_two_pictures_apart() -> None:
    torch.manual_seed(0)
    remover = ReflectionRemover(8, encoder_blocks=(1,), decoder_blocks=(1,), heads=2, hidden=16, coverage=0.5)
    t, r = drawn(0, 2, 3, 8, 8) * 0.5, drawn(1, 2, 3, 8, 8) * 0.5
    mask = torch.zeros(2, 1, 8, 8)
    optimizer = torch.optim.AdamW(remover.parameters(), lr=3e-3, betas=(0.9, 0.9), weight_decay=1e-3)
    values = []
    for _ in range(25):
        loss = torch.stack(list(reflection_losses(remover(t + r, mask), t, r).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < 0.8 * values[0]


def test_mistakes_are_named() -> None:
    with pytest.raises(UsageError, match="heads must divide 6"):
        PromptBlock(6, heads=4)
    with pytest.raises(UsageError, match="dropout"):
        PromptBlock(6, heads=2, dropout=1.0)
    with pytest.raises(UsageError, match="as many levels up as down"):
        ReflectionRemover(4, encoder_blocks=(1,), decoder_blocks=(1, 1))
    with pytest.raises(UsageError, match="width"):
        ReflectionRemover(0)
    with pytest.raises(UsageError, match="must be"):
        small()(torch.zeros(1, 3, 8, 8), torch.zeros(1, 1, 8, 4))
