"""Attention maps against loops over the library's own weights, the ordinary forward, and recorded sites."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from binderclip.errors import UsageError
from binderclip.models.towers import Record, Recorder, Site
from binderclip.segment import (
    AttentionMean,
    Blend,
    DualPath,
    Frame,
    LastBlock,
    Segmenter,
    SelfSelf,
    identity,
    layer_at,
    self_cosine,
    vanilla,
    without_class_token,
)
from binderclip.segment.parts.context import open_windows, records

LABELS = ["a cat", "a dog", "green grass"]


def picture(height: int = 32, width: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


def opened(model, *parts, seed: int = 0):
    image = picture(32, 48, seed)[None]
    with torch.no_grad():
        return open_windows(Frame(model, image, image), image, [(0, 0)], records(*parts))


def by_hand(model, context, layer: int = -1) -> dict[str, torch.Tensor]:
    """Query, key and value (H, L, d) from the library's packed matrix."""
    block = model.visual.transformer.resblocks[layer]
    with torch.no_grad():
        packed = F.linear(block.ln_1(context.stream(layer)[0]), block.attn.in_proj_weight, block.attn.in_proj_bias)
    heads = block.attn.num_heads
    return {
        name: part.unflatten(1, (heads, -1)).transpose(0, 1)
        for name, part in zip("qkv", packed.chunk(3, 1), strict=True)
    }


@pytest.mark.parametrize("of", ["q", "k", "v", "q+k", "q+k+v"])
def test_self_self_attention_is_that_of_loops_over_tokens(clip_model, of: str) -> None:
    map_ = SelfSelf(of)
    context = opened(clip_model, map_)
    hand = by_hand(clip_model, context)
    with torch.no_grad():
        found = map_(context.block, context.qkv(), context)[0]
        mean = SelfSelf(of, combine="mean")(context.block, context.qkv(), context)[0]
    terms = of.split("+")
    for head in (0, 3):
        for i in (0, 5):
            want = torch.zeros(found.shape[-1])
            for term in terms:
                x = hand[term][head]
                scores = torch.stack([(x[i] * x[j]).sum() / 12**0.5 for j in range(len(x))])
                want += scores.exp() / scores.exp().sum()
            torch.testing.assert_close(found[head, i], want, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.sum(-1), torch.full(found.shape[:2], float(len(terms))))
    torch.testing.assert_close(mean * len(terms), found)


def test_clearclip_is_the_librarys_modules_without_residual_and_mlp(clip_model) -> None:
    found = Segmenter(clip_model, "clearclip", size=32)(picture(), LABELS)
    image = picture()[None]
    with torch.no_grad():
        context = open_windows(Frame(clip_model, image, image), image, [(0, 0)], Record())
        hand = by_hand(clip_model, context)
        heads = ((hand["q"] @ hand["q"].mT) / 12**0.5).softmax(-1) @ hand["v"]
        visual = clip_model.visual
        tokens = visual.transformer.resblocks[-1].attn.out_proj(heads.transpose(0, 1).flatten(1))
        dense = F.normalize(visual.ln_post(tokens[1:]) @ visual.proj, dim=-1).T.unflatten(1, (4, 4))[None]
        cosines = torch.einsum("behw,qe->bqhw", dense, clip_model.encode_text(LABELS, normalize=True))
        want = clip_model.scale() * F.interpolate(cosines, size=(32, 32), mode="bilinear")[0]
    torch.testing.assert_close(found.scores, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "map_",
    [
        Blend(vanilla, SelfSelf("v"), share=1.0),
        Blend(SelfSelf("q+k"), vanilla, share=0.0),
        AttentionMean(vanilla, blocks=(-1,)),
        Blend(AttentionMean(vanilla, blocks=(1.0,)), vanilla, share=0.3),
    ],
)
def test_maps_that_are_the_blocks_own_give_the_ordinary_forward(clip_model, map_) -> None:
    plain = Segmenter(clip_model, "plain", size=32)(picture(), LABELS)
    found = Segmenter(clip_model, size=32, last_block=LastBlock(map_, residual=True, mlp=True))(picture(), LABELS)
    torch.testing.assert_close(found.scores, plain.scores, rtol=1e-4, atol=1e-4)


def test_blend_takes_the_identity_for_the_unit_matrix(clip_model) -> None:
    half = LastBlock(Blend(identity, vanilla, share=0.25))
    context = opened(clip_model, half)
    with torch.no_grad():
        parts = [LastBlock(each)(context) for each in (identity, vanilla)]
        found = half(context)
    torch.testing.assert_close(found, 0.25 * parts[0] + 0.75 * parts[1], rtol=1e-4, atol=1e-5)


def test_attention_mean_reads_every_block_once_and_rows_sum_to_two(clip_model) -> None:
    map_ = AttentionMean(blocks=(0, 1, 1 / 3))
    context = opened(clip_model, map_)
    with torch.no_grad():
        found = map_(context.block, context.qkv(), context)[0]
        want = torch.zeros_like(found)
        for layer in (0, 1):
            for term in "qk":
                x = by_hand(clip_model, opened(clip_model, Wants("block_in")), layer)[term]
                want += (x @ x.mT / 12**0.5).softmax(-1) / 2
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.sum(-1), torch.full(found.shape[:2], 2.0))


class Wants:
    def __init__(self, *names: str) -> None:
        self.record = Record(*names)


def test_dual_path_adds_up_attention_and_skips_the_mlps(clip_model) -> None:
    tower = clip_model.image_tower
    for share, start in ((1 / 3, 2), (2 / 3, 1), (1.0, 0)):
        path = DualPath(vanilla, share=share)
        context = opened(clip_model, path)
        with torch.no_grad():
            recorder = Recorder(Record("block_in", "attn_out"), tower.depth)
            tower.run(context.start, record=recorder)
            want = recorder.values[Site("block_in", start)]
            for layer in range(start, 3):
                want = want + recorder.values[Site("attn_out", layer)]
            found = path(context)
        torch.testing.assert_close(found.flatten(2).mT, want[:, 1:], rtol=1e-4, atol=1e-5)
    with pytest.raises(UsageError, match="share 0 of the depth"):
        DualPath(share=0)


def test_a_last_block_without_queries_lends_those_of_the_block_before(clip_model) -> None:
    model = copy.deepcopy(clip_model)
    last = model.visual.transformer.resblocks[-1].attn
    with torch.no_grad():
        last.in_proj_weight[:96] = 0
        last.in_proj_bias[:96] = 0
    context = opened(model, SelfSelf("q"))
    with torch.no_grad():
        found = SelfSelf("q+v")(context.block, context.qkv(), context)
        q, v = context.qkv(-2)[0], context.qkv(-1)[2]
        want = context.block.weights(q, q) + context.block.weights(v, v)
        torch.testing.assert_close(found, want)
        torch.testing.assert_close(
            SelfSelf("q", layer=1)(context.block, context.qkv(), context), want - context.block.weights(v, v)
        )
        uniform = SelfSelf("q", fallback=False)(context.block, context.qkv(), context)
    torch.testing.assert_close(uniform, torch.full_like(uniform, 1 / uniform.shape[-1]))


def test_cosines_of_all_heads_and_terms_are_averaged(clip_model) -> None:
    context = opened(clip_model, SelfSelf("q"))
    with torch.no_grad():
        found = self_cosine(context.qkv(-2))[0]
        block = Wants("block_in")
        hand = by_hand(clip_model, opened(clip_model, block), 1)
    for i, j in ((0, 4), (7, 2)):
        want = (
            sum(float(F.cosine_similarity(hand[t][h, i], hand[t][h, j], dim=0)) for t in "qkv" for h in range(4)) / 12
        )
        assert float(found[i, j]) == pytest.approx(want, abs=1e-5)
    torch.testing.assert_close(found.diagonal(), torch.ones(len(found)))
    left = without_class_token(found[None], 1)[0]
    for i, j in ((0, 3), (6, 6), (2, 5)):
        assert float(left[i, j]) == pytest.approx(max(0.0, float(found[i + 1, j + 1] - found[0, j + 1])), abs=1e-6)


def test_shares_of_the_depth_are_the_papers_blocks() -> None:
    assert [layer_at(share, 12) for share in (7 / 12, 8 / 12, 10 / 12, 1.0, 0.01)] == [6, 7, 9, 11, 0]
    assert [layer_at(share, 24) for share in (7 / 12, 8 / 12, 10 / 12)] == [13, 15, 19]
    assert [layer_at(index, 12) for index in (0, 3, -1)] == [0, 3, 11]
    for wrong in (0.0, 1.5, 12):
        with pytest.raises(UsageError, match="block"):
            layer_at(wrong, 12)


def test_bad_settings_are_named() -> None:
    for wrong in ("", "qq", "q+q", "q,k"):
        with pytest.raises(UsageError, match='of is "q", "k", "v"'):
            SelfSelf(wrong)
    with pytest.raises(UsageError, match="combine must be one of sum, mean"):
        SelfSelf("q", combine="max")  # type: ignore[arg-type]
