"""Direct contributions: exact for every kind, and the right ones."""

from __future__ import annotations

import pytest
import torch

from binderclip.errors import NotSupported, UsageError
from binderclip.models.towers import Record, Recorder, Site
from binderclip.models.towers.contributions import TERMS, contributions
from binderclip.models.towers.tokens import cls_bias
from binderclip.models.towers.trace import trace

SPLITS = {"head": 4, "token": None, "head_token": None, "layer": None, "mlp": None}


def supported(tower) -> bool:
    """Attention output, pooling and projection of this member of the zoo are linear."""
    return tower.pooling in ("token", "mean", "map") and tower.affine_projection and tower.blocks[0].affine


@pytest.mark.parametrize("by", list(SPLITS))
def test_terms_sum_to_the_embedding(tower, pixels, by):
    seen = trace(tower, pixels)
    if not supported(tower):
        with pytest.raises(NotSupported):
            seen.contributions(by)
        return
    split = seen.contributions(by)
    assert torch.allclose(split.total(), seen.embedding, atol=1e-8)
    assert torch.allclose(split.unit().total().norm(dim=-1), torch.ones(2, dtype=tower.dtype), atol=1e-8)
    late = seen.contributions(by, layers=[-1])
    assert late.layers == (tower.depth - 1,)
    assert torch.allclose(late.values[:, 0], split.values[:, -1], atol=1e-10)
    assert torch.allclose(late.total(), seen.embedding, atol=1e-8)


def test_directions_pulled_back_are_those_of_the_output_map(tower):
    if not supported(tower):
        return
    rows = torch.randn(3, tower.width, generator=torch.Generator().manual_seed(0), dtype=tower.dtype)
    for block in tower.blocks:
        weight, bias = block.output_map()
        with torch.inference_mode():
            pulled, shift = block.pulled_back(rows)
        assert torch.allclose(pulled, torch.einsum("nd,hkd->nhk", rows, weight), atol=1e-10)
        assert torch.allclose(shift, bias, atol=1e-10)


def test_a_run_that_was_recorded_is_not_run_again(tower, pixels, monkeypatch):
    if not supported(tower):
        return
    recorder = Recorder(Record(*TERMS), tower.depth)
    start = tower.embed(pixels)
    final = tower.run(start, record=recorder)
    want = contributions(tower, start, final, by="token")
    monkeypatch.setattr(type(tower.blocks[0]), "__call__", lambda *args, **options: pytest.fail("run again"))
    found = contributions(tower, start, final, by="token", recorded=recorder.values)
    assert torch.allclose(found.values, want.values, atol=1e-10)
    assert torch.allclose(found.total(), want.total(), atol=1e-10)


def test_splits_are_consistent(tower, pixels):
    if not supported(tower):
        return
    seen = trace(tower, pixels)
    fine = seen.contributions("head_token").values
    assert torch.allclose(fine.sum(3), seen.contributions("head").values, atol=1e-9)
    assert torch.allclose(fine.sum(2), seen.contributions("token").values, atol=1e-9)
    assert torch.allclose(fine.sum((2, 3)), seen.contributions("layer").values, atol=1e-9)
    assert fine.shape[2:4] == (tower.heads, seen.tokens.x.shape[1])


def test_dot_products_are_those_of_the_whole_terms(tower, pixels):
    if not supported(tower):
        return
    seen = trace(tower, pixels)
    rows = torch.randn(3, tower.embed_dim, generator=torch.Generator().manual_seed(0), dtype=tower.dtype)
    whole, small = seen.contributions("head"), seen.contributions("head", onto=rows)
    assert torch.allclose(small.values, whole.values @ rows.T, atol=1e-8)
    assert torch.allclose(small.total(), seen.embedding @ rows.T, atol=1e-8)
    assert torch.allclose(small.unit().total(), whole.unit().total() @ rows.T, atol=1e-8)
    assert torch.allclose(whole.length, seen.embedding.norm(dim=-1), atol=1e-8)
    assert torch.allclose(whole.mlps.sum(1), seen.contributions("mlp").values.sum(1), atol=1e-8)


def test_single_precision_is_exact_to_1e5(case, pixels):
    if supported(case.tower):
        with torch.no_grad():
            seen = trace(case.tower, pixels)
        total = seen.contributions("token").total()
        assert (total - seen.embedding).abs().max() < 1e-5 * max(1.0, float(seen.embedding.abs().max()))


def by_hand(tower, seen, added):
    """What `added` (B, L, D) in the final stream contributes, through the modules, with the norm's spread frozen."""
    final = seen.tokens.x
    weight = tower.project(torch.eye(tower.width, dtype=tower.dtype))
    weight = weight - tower.project(torch.zeros(1, tower.width, dtype=tower.dtype))

    def norm(x, reference):
        scaled = (x - x.mean(-1, keepdim=True)) / (reference.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        return scaled * tower.final_norm.weight

    if tower.pooling == "token":
        return norm(added[:, 0], final[:, 0]) @ weight
    patches, reference = added[:, tower.prefix :], final[:, tower.prefix :]
    if tower.norm_last:
        return norm(patches.mean(1), reference.mean(1)) @ weight
    return norm(patches, reference).mean(1) @ weight


@pytest.mark.parametrize(
    "name", ["open_clip", "open_clip avg layer_scale", "open_clip avg norm last, patch dropout", "hf clip"]
)
def test_one_head_is_what_it_writes(name, pixels, exact):
    tower = exact(name)
    seen = trace(tower, pixels, record=Record("attn", "v", "mlp_out"))
    heads, mlps = seen.contributions("head"), seen.contributions("mlp")
    tokens = seen.contributions("head_token", layers=[1])
    for layer, block in enumerate(tower.blocks):
        attention, v = seen.value(Site("attn", layer)), seen.value(Site("v", layer))
        nothing = block.mix(attention, torch.zeros_like(v))
        for head in range(tower.heads):
            only = torch.zeros_like(v)
            only[:, head] = v[:, head]
            expected = by_hand(tower, seen, block.mix(attention, only) - nothing)
            assert torch.allclose(heads.values[:, layer, head], expected, atol=1e-8)
        expected = by_hand(tower, seen, seen.value(Site("mlp_out", layer)))
        assert torch.allclose(mlps.values[:, layer], expected, atol=1e-8)
        if layer == 1:
            lone = torch.zeros_like(v)
            lone[:, 2, 3] = v[:, 2, 3]
            expected = by_hand(tower, seen, block.mix(attention, lone) - nothing)
            assert torch.allclose(tokens.values[:, 0, 2, 3], expected, atol=1e-8)


@pytest.mark.parametrize("name", ["timm map", "hf siglip"])
def test_attention_pooling_splits_by_its_own_weights(name, pixels, exact):
    tower = exact(name)
    seen = trace(tower, pixels, record=Record("mlp_out"))
    split = seen.contributions("mlp").values[:, -1]
    head = tower.module.attn_pool if name == "timm map" else tower.module.head
    final, added = seen.tokens.x, seen.value(Site("mlp_out", -1))
    frozen = tower.norm(final)
    pool = tower.attention_pool(seen.tokens)
    spread = (final.var(-1, unbiased=False, keepdim=True) + tower.final_norm.eps).sqrt()
    normed = (added - added.mean(-1, keepdim=True)) / spread * tower.final_norm.weight
    expected = torch.zeros_like(split)
    size = tower.width // 4
    for r in range(4):  # one pooling head after the other, with the library's own layers
        summed = torch.einsum("bl,bld->bd", pool.weights[:, r], normed)
        if name == "timm map":
            value = head.kv(summed)[:, tower.width :] - head.kv(torch.zeros_like(summed))[:, tower.width :]
            out = head.proj.weight
        else:
            value = summed @ head.attention.in_proj_weight[2 * tower.width :].T
            out = head.attention.out_proj.weight
        expected += value[:, r * size : (r + 1) * size] @ out[:, r * size : (r + 1) * size].T
    assert torch.allclose(split, expected, atol=1e-8)
    if name == "hf siglip":
        library = head.attention(head.probe.expand(2, -1, -1), frozen, frozen, average_attn_weights=False)[1]
        assert torch.allclose(pool.weights, library[:, :, 0], atol=1e-9)


def test_bias_is_part_of_the_forward(exact, pixels):
    tower = exact("open_clip")
    bias = cls_bias(torch.linspace(0, 2, 16).view(4, 4))
    seen = trace(tower, pixels, attn_bias=bias, bias_blocks=[-1])
    assert torch.allclose(seen.contributions("token").total(), seen.embedding, atol=1e-8)
    assert not torch.allclose(seen.embedding, trace(tower, pixels).embedding, atol=1e-4)


def test_rewired_or_training_towers_are_refused(case, pixels):
    tower = case.tower
    with pytest.raises(NotSupported, match="on_block"):
        trace(tower, pixels, on_block=lambda layer, tokens: tokens).contributions()
    seen = trace(tower, pixels)
    with pytest.raises(UsageError, match="by must be"):
        seen.contributions("heads")
    case.module.train()
    try:
        with pytest.raises(UsageError, match="eval mode"):
            contributions(tower, seen.start, seen.tokens)
    finally:
        case.module.eval()
