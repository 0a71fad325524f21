"""EViT's selection and token merging in image towers of timm and open_clip."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch

from binderclip.compress.tokens.image_towers import ClassAttentionPruning, TokenMerging, matched_pairs
from binderclip.errors import UsageError
from binderclip.models import open_image_tower


@pytest.fixture(scope="module")
def tower():
    torch.manual_seed(0)
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=64, patch_size=8, embed_dim=48, depth=4, num_heads=2, num_classes=0
    )
    return open_image_tower(vit.double().eval().requires_grad_(False))


def images(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def attention_of(tower, x, layer):
    """Of timm's own modules, by numpy-like steps; (B, L)."""
    block = tower.module.blocks[layer]
    q, k, _ = block.attn.qkv(block.norm1(x)).view(*x.shape[:2], 3, 2, 24).permute(2, 0, 3, 1, 4)
    return (q[:, :, :1] @ k.transpose(-2, -1) / 24**0.5).softmax(-1)[:, :, 0].mean(1)


def test_the_most_attended_patches_of_the_block_before_stay(tower):
    tokens = tower.embed(images())
    run = ClassAttentionPruning((2,), keep_rate=0.5).run(tower, tokens)
    attention = attention_of(tower, tower.run(tokens, stop=1).x, 1)[:, 1:]
    assert torch.equal(run.kept[2], attention >= attention.topk(32).values[:, -1:])
    assert run.lengths == (65.0, 65.0, 33.0, 33.0)


def test_keeping_all_and_merging_none_is_the_tower(tower):
    pixels = images()
    whole = tower(pixels)
    assert torch.equal(ClassAttentionPruning((1, 3), keep_rate=1.0).embed_images(tower, pixels), whole)
    torch.testing.assert_close(TokenMerging(0).embed_images(tower, pixels), whole)


def test_pairs_against_a_loop():
    metric = torch.randn(3, 12, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = matched_pairs(metric, 3, prefix=1)
    for row, target in zip(metric.numpy(), found.tolist(), strict=True):
        unit = row / np.linalg.norm(row, axis=1, keepdims=True)
        sources, targets = range(1, 12, 2), range(2, 12, 2)
        best = {s: max(targets, key=lambda t, s=s: unit[s] @ unit[t]) for s in sources}
        merged = sorted(sources, key=lambda s: -(unit[s] @ unit[best[s]]))[:3]
        assert target == [best[place] if place in merged else place for place in range(12)]


def test_merged_tokens_are_means_and_count_as_often(tower):
    """Two equal patches merged give what both gave: attention of `log 2` more, and their mean is themselves."""
    tokens = tower.embed(images(1))
    x = tokens.x.clone()
    x[:, 2::2] = x[:, 1::2]  # pairs of equals, so that every merge is exact
    tokens = tokens.with_x(x)
    whole = tower.pool(tower.run(tokens))
    assert TokenMerging(32).run(tower, tokens).lengths == (65.0, 33.0, 17.0, 9.0)
    # the first block merges equals alone; later ones would merge more, so that they only count here
    out, size = TokenMerging(32)._block(tower.blocks[0], None, tokens, torch.ones(1, 65, dtype=torch.float64))
    assert size[0].tolist() == [1.0] + [2.0] * 32
    for block in tower.blocks[1:]:
        out, size = TokenMerging(0)._block(block, None, out, size)
    torch.testing.assert_close(tower.pool(out), whole)


def test_positions_stay_in_order(tower):
    tokens = tower.embed(images())
    out = TokenMerging(8).run(tower, tokens)
    assert out.lengths == (65.0, 57.0, 49.0, 41.0)
    assert out.tokens.x.shape[1] == 33
    assert out.tokens.positions[:, 0].tolist() == [0, 0]
    assert bool((out.tokens.positions.diff(dim=1) > 0).all())
    assert out.flops_ratio() < 0.85


def test_refusals(tower):
    with pytest.raises(UsageError, match="r must be a whole number"):
        TokenMerging(-1)
    with pytest.raises(UsageError, match="keep_rate"):
        ClassAttentionPruning(keep_rate=0)
    tokens = tower.embed(images())
    masked = type(tokens)(tokens.x, tokens.positions, mask=torch.ones(2, 65, dtype=torch.bool), grid=(8, 8), prefix=1)
    with pytest.raises(UsageError, match="without mask"):
        TokenMerging(4).run(tower, masked)
