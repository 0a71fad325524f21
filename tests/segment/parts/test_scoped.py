"""Scoped attention, region tokens and votes in regions, against limits, loops and the library's own modules.

CorrCLIP (p164, arXiv 2411.10086).
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from scipy.sparse.csgraph import connected_components

from binderclip.errors import NotSupported, UsageError
from binderclip.models.image_text.preprocess import Preprocess
from binderclip.models.image_text.vision import VisionModel, new_backbone
from binderclip.models.towers.tokens import append_tokens
from binderclip.segment import (
    PARTS,
    BranchSum,
    External,
    Felzenszwalb,
    LastBlock,
    MaskClassTokens,
    MaskMajority,
    MaskScoped,
    PromptedRegions,
    Scope,
    Segmenter,
    SpatialBranch,
    identity,
    override,
    parts_of,
)
from binderclip.segment.parts.affinity import cosines
from binderclip.segment.parts.context import Context, Frame, open_windows, records
from binderclip.segment.parts.region_scope import (
    image_regions,
    large_over_small,
    majority,
    merged,
    sampled,
    scoped_softmax,
)
from binderclip.segment.parts.scoped import region_bias, region_tokens
from binderclip.segment.promptable.oracle import OracleSegmenter

LABELS = ["a cat", "a dog", "green grass"]


def opened(model, *parts, size: tuple[int, int] = (32, 32), windows: int = 1) -> Context:
    pixels = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    places = [(0, 8 * index) for index in range(windows)]
    cut = torch.cat([pixels[..., y : y + 32, x : x + 32] for y, x in places])
    with torch.no_grad():
        return open_windows(Frame(model, pixels, pixels), cut, places, records(*parts))


def columns(image: torch.Tensor) -> torch.Tensor:
    """Two regions beside each other, and a strip that is in none."""
    ids = torch.full(image.shape[-2:], 10000)
    ids[:, 8:24], ids[:, 24:] = 7, -1
    return ids


def one(image: torch.Tensor) -> torch.Tensor:
    return torch.zeros(image.shape[-2:], dtype=torch.int32)


def each(image: torch.Tensor) -> torch.Tensor:
    """Every patch of 8 pixels a region."""
    height, width = image.shape[-2:]
    return (torch.arange(height)[:, None] // 8) * width + torch.arange(width) // 8


def test_one_region_is_no_scope_and_a_region_a_patch_is_the_value_path(clip_model) -> None:
    context = opened(clip_model)
    whole = MaskScoped(Scope(one), tau=4.0)(context.block, context.qkv(-1), context)
    similar = cosines(External()(context))
    torch.testing.assert_close(whole.weights[:, 0], (4 * similar).softmax(-1))
    free = MaskScoped(Scope(columns), inside=False)(context.block, context.qkv(-1), context)
    torch.testing.assert_close(whole.weights, free.weights)
    alone = LastBlock(MaskScoped(Scope(each, merge=None)))(context)
    torch.testing.assert_close(alone, LastBlock(identity)(context), rtol=1e-4, atol=1e-5)


def test_rows_are_distributions_that_stay_in_their_region(clip_model) -> None:
    context = opened(clip_model, size=(32, 40), windows=2)
    scope = Scope(columns, merge=None)
    weights = MaskScoped(scope)(context.block, context.qkv(-1), context).weights[:, 0]
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 16))
    ids = scope(context)
    # The second window starts 8 pixels further to the right. Sources' own numbers do not matter, but for -1.
    assert ids[:, 0].tolist() == [[1, 0, 0, -1], [0, 0, -1, -1]]
    flat = ids.flatten(1)
    both = (flat[:, :, None] >= 0) & (flat[:, None] >= 0)
    across = both & (flat[:, :, None] != flat[:, None])
    assert across.any()
    assert (weights[across] == 0).all()


def test_patches_in_no_region_attend_where_likeness_is_above_the_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    features = F.normalize(torch.randn(1, 5, 3, 3, generator=generator), dim=1)
    similar, ids = cosines(features), torch.tensor([[0, 0, -1, 1, 1, -1, 0, 2, -1]])
    found = scoped_softmax(similar, ids, 4.0)[0]
    mean = similar.mean()
    for i in range(9):
        total = {}
        for j in range(9):
            loose = ids[0, i] < 0 or ids[0, j] < 0
            allowed = similar[0, i, j] > mean if loose else ids[0, i] == ids[0, j]
            if allowed or i == j:
                total[j] = float(np.exp(4 * similar[0, i, j]))
        want = [total.get(j, 0.0) / sum(total.values()) for j in range(9)]
        np.testing.assert_allclose(found[i].numpy(), want, atol=1e-6)
    # Nothing is above the mean where all are alike: each keeps itself.
    same = scoped_softmax(torch.ones(1, 4, 4), torch.full((1, 4), -1))
    torch.testing.assert_close(same[0], torch.eye(4))


def test_regions_are_merged_as_connected_components() -> None:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(-1, 9, (8, 8), generator=generator) + 9995
    ids[ids == 9994] = -1
    features = F.normalize(torch.randn(4, 8, 8, generator=generator) + 1.0, dim=0)
    values = ids[ids >= 0].unique()
    means = torch.stack([F.normalize(features[:, ids == value].mean(1), dim=0) for value in values])
    similar = means @ means.T
    eps = float((similar.max() - similar)[~torch.eye(len(values), dtype=torch.bool)].median()) * 0.4
    count, want = connected_components((similar.max() - similar <= eps).numpy(), directed=False)
    found = merged(ids, features, eps)
    assert 1 < count < len(values)
    assert (found[ids < 0] == -1).all()
    for value, cluster in zip(values, want, strict=True):
        for other, second in zip(values, want, strict=True):
            assert (found[ids == value][0] == found[ids == other][0]) == (cluster == second)
    assert sorted(found.unique().tolist()) == list(range(-1, count))
    assert merged(torch.full((2, 2), -1), features[:, :2, :2]).eq(-1).all()


def test_region_tokens_leave_the_others_unchanged(clip_model) -> None:
    context, tower = opened(clip_model), clip_model.image_tower
    member = torch.rand(1, 5, 16, generator=torch.Generator().manual_seed(0)) < 0.4
    tokens = append_tokens(context.start, context.start.x[:, :1].expand(-1, 5, -1))
    with torch.no_grad():
        plain = tower.run(context.start).x
        beside = tower.run(tokens, attn_bias=region_bias(tokens, member)).x
        seen = tower.run(tokens).x
    assert (beside[:, :17] - plain).abs().max() < 1e-5
    assert (seen[:, :17] - plain).abs().max() > 1e-3


def test_region_tokens_against_the_librarys_blocks_with_a_mask(clip_model) -> None:
    """Tokens before the others, and a mask given to the library's own modules, as in the released code."""
    context = opened(clip_model)
    member = torch.rand(1, 3, 16, generator=torch.Generator().manual_seed(1)) < 0.4
    member[0, 2] = False
    x = torch.cat([context.start.x[:, :1].expand(-1, 3, -1), context.start.x], 1)
    allowed = torch.zeros(20, 20, dtype=torch.bool)
    allowed[3:, 3:] = True
    allowed[:3, 3], allowed[:3, 4:] = True, member[0]
    mask = torch.zeros(20, 20).masked_fill(~allowed, -torch.inf)
    with torch.no_grad():
        for block in clip_model.visual.transformer.resblocks:
            x = block(x, attn_mask=mask)
        found = region_tokens(context, member)
    torch.testing.assert_close(found, x[:, :3], rtol=1e-4, atol=1e-5)


def test_a_region_of_everything_is_the_class_token(clip_model) -> None:
    # It sees the class token in place of itself, and starts as its copy: so it stays one.
    context = opened(clip_model)
    with torch.no_grad():
        whole = clip_model.image_tower.run(context.start).x[:, 0]
        found = region_tokens(context, torch.ones(1, 1, 16, dtype=torch.bool))[:, 0]
    torch.testing.assert_close(found, whole, rtol=1e-4, atol=1e-5)


def test_windows_with_different_regions_go_together(clip_model) -> None:
    scope, last = Scope(columns, merge=None), LastBlock(identity)
    branch = MaskClassTokens(scope=scope)
    both = opened(clip_model, size=(32, 40), windows=2)
    with torch.no_grad():
        found = branch(both, last, (4, 4))
        for index, ids in enumerate(scope(both)):
            member = ids.flatten() == ids.unique()[:, None]
            single = open_windows(both.frame, both.pixels[index : index + 1], [both.places[index]], records())
            tokens = region_tokens(single, member[None])[0]
            want = tokens[member.int().argmax(0)].T.unflatten(1, (4, 4))
            torch.testing.assert_close(found[index], want, rtol=1e-4, atol=1e-5)


def test_branches_are_summed_between_the_final_norm_and_the_projection(clip_model) -> None:
    scope = Scope(columns, merge=None)
    last = LastBlock(MaskScoped(scope))
    fusion = BranchSum((SpatialBranch(weight=0.7), MaskClassTokens(weight=0.3)))
    context, visual = opened(clip_model, fusion, last), clip_model.visual
    text = Segmenter(clip_model).bind(LABELS)
    block = visual.transformer.resblocks[-1]
    weights = MaskScoped(scope)(context.block, context.qkv(-1), context).weights[0, 0]

    def rewired(x: torch.Tensor) -> torch.Tensor:
        values = F.linear(block.ln_1(x), block.attn.in_proj_weight[96:], block.attn.in_proj_bias[96:])[0, 1:]
        return visual.ln_post(block.attn.out_proj(weights @ values))

    with torch.no_grad():
        early = visual.transformer.resblocks[0](context.start.x)
        member = scope(context)[0].flatten() == torch.tensor([-1, 0, 1])[:, None]
        tokens = region_tokens(context, member[None])[0]
        total = rewired(context.tokens.x) + 0.7 * rewired(early)
        total = total + 0.3 * visual.ln_post(tokens[member.int().argmax(0)])
        want = F.normalize(total @ visual.proj, dim=-1) @ text.rows.T
        found = fusion(context, last, text)
    torch.testing.assert_close(found[0].flatten(1).T, want, rtol=1e-4, atol=1e-5)


def test_blocks_of_the_spatial_branch() -> None:
    branch = SpatialBranch()
    assert list(branch.layers(12)) == [5, 6, 7, 8, 9]
    assert list(branch.layers(24)) == list(range(10, 22))
    assert list(branch.layers(32)) == list(range(2, 30))
    assert list(branch.layers(4)) == [0, 1]
    assert list(SpatialBranch(blocks=3).layers(12)) == [7, 8, 9]
    with pytest.raises(UsageError, match="blocks 3: a tower of 4 blocks has 2"):
        SpatialBranch(blocks=3).layers(4)


def test_votes_against_scipy_and_twice_is_once() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(-1, 4, (20, 30), generator=generator, dtype=torch.int32)
    ids = torch.randint(-1, 6, (20, 30), generator=generator)
    found = majority(labels, ids)
    for region in range(6):
        want = stats.mode(labels[ids == region].numpy()).mode
        assert (found[ids == region] == want).all()
    assert torch.equal(found[ids < 0], labels[ids < 0])
    assert found.dtype == labels.dtype
    assert torch.equal(majority(found, ids), found)
    assert torch.equal(majority(labels, torch.full_like(ids, -1)), labels)


def test_the_preset_votes_in_regions_of_the_picture(clip_model) -> None:
    image = torch.zeros(3, 40, 56)
    image[0, :, :23], image[1, :, 23:] = 1.0, 1.0
    found = Segmenter(clip_model, "corrclip", size=32)(image, LABELS)
    assert len(found.labels[:, :22].unique()) == 1
    assert len(found.labels[:, 24:].unique()) == 1
    frame = Frame(clip_model, image[None], image[None])
    ids = image_regions(Felzenszwalb(), frame)
    assert len(ids.unique()) == 2
    assert (ids[:, 0] == ids[0, 0]).all()
    # What gives masks with an id map is asked for it.
    masks = SimpleNamespace(id_map=lambda: ids)
    voted = MaskMajority(lambda picture: masks)(found.labels, found.scores, frame)
    assert torch.equal(voted, majority(found.labels, ids))


def test_regions_by_prompts_lie_large_over_small(monkeypatch) -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.randint(0, 20, (6, 2), generator=generator)
    masks = torch.zeros(6, 40, 60, dtype=torch.bool)
    for index, (y, x) in enumerate(corners.tolist()):
        masks[index, y : y + 6 + 3 * index, x : x + 8 + 5 * index] = True
    found = large_over_small(masks)
    for y, x in torch.randint(0, 40, (300, 2), generator=generator).tolist():
        there = [index for index in range(6) if masks[index, y, x]]
        assert found[y, x] == max(there, key=lambda index: int(masks[index].sum()), default=-1)
    assert (large_over_small(masks[:0]) == -1).all()
    # A segmenter that knows the masks, asked at 8 x 8 points: what no mask covers is in no region.
    asked = []

    class Known(OracleSegmenter):
        def predict(self, state, prompts, *, multimask=True):
            asked.append((len(prompts), multimask))
            return super().predict(state, prompts, multimask=multimask)

    apart = torch.zeros(2, 40, 60, dtype=torch.bool)
    apart[0, 3:30, 2:25], apart[1, 10:38, 30:58] = True, True
    monkeypatch.setattr("binderclip.segment.parts.region_scope.load_promptable", lambda name: Known(apart))
    ids = PromptedRegions("known")(torch.rand(3, 40, 60, generator=generator))
    assert sum(count for count, _ in asked) == 64
    assert not any(multimask for _, multimask in asked)
    assert (ids[~apart.any(0)] == -1).all()
    assert ids[apart[0]].unique().numel() == ids[apart[1]].unique().numel() == 1
    assert ids[10, 10] != ids[20, 40]


def test_the_settings_lead_from_one_preset_to_the_other() -> None:
    place = ("last_block", "map", "scope")
    changes = [
        ((*place, "regions"), "prompted"),
        ((*place, "features", "source"), "small-dino"),
        ((*place, "features", "of"), "q+k"),
        (("relabel", "0", "regions"), "prompted"),
    ]
    assert override(parts_of("corrclip"), changes) == parts_of("corrclip-sam")
    sam = parts_of("corrclip-sam")
    assert sam.last_block.map.scope.regions == sam.relabel[0].regions == PromptedRegions()  # found once


def test_the_preset_runs_on_named_models(clip_model, monkeypatch) -> None:
    torch.manual_seed(0)
    options = {"img_size": 32, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3, "dynamic_img_size": True}
    backbone = new_backbone("vit_tiny_patch16_224", options)
    tower = VisionModel(backbone, arch="vit_tiny_patch16_224", preprocess=Preprocess(size=(32, 32))).eval()
    masks = torch.zeros(2, 40, 60, dtype=torch.bool)
    masks[0, :, :20], masks[1, 5:35, 25:55] = True, True
    monkeypatch.setattr("binderclip.models.load_vision", lambda name: tower)
    monkeypatch.setattr("binderclip.segment.parts.region_scope.load_promptable", lambda name: OracleSegmenter(masks))
    place = ("last_block", "map", "scope")
    parts = override(
        parts_of("corrclip-sam"),
        [
            ((*place, "features", "source"), "a tower of the test"),
            ((*place, "regions", "model"), "masks of the test"),
            (("relabel", "0", "regions", "model"), "masks of the test"),
        ],
    )
    chosen = {name: getattr(parts, name) for name in PARTS}
    found = Segmenter(clip_model, **chosen)(torch.rand(3, 40, 60), LABELS)
    assert found.labels.shape == (40, 60)
    assert all(len(found.labels[mask].unique()) == 1 for mask in masks)


def test_ids_are_taken_at_the_centres_of_cells() -> None:
    ids = torch.arange(20 * 40).view(20, 40)
    # The picture of 20 x 40 is seen at 40 x 80; a window of 40 x 40 at column 40, in cells of 10.
    found = sampled(ids, (40, 80), (4, 4), within=(0, 40, 40, 40))
    assert torch.equal(found, ids[[2, 7, 12, 17]][:, [22, 27, 32, 37]])


def test_bad_regions_and_towers_are_named(clip_model) -> None:
    image = torch.rand(3, 32, 32)
    with pytest.raises(UsageError, match="integers of the picture's size"):
        Segmenter(clip_model, relabel=MaskMajority(lambda picture: torch.zeros(3, 3, dtype=torch.int)))(image, LABELS)
    with pytest.raises(UsageError, match="integers of the picture's size"):
        Segmenter(clip_model, relabel=MaskMajority(lambda picture: torch.zeros(32, 32)))(image, LABELS)
    with pytest.raises(UsageError, match="needs a scope"):
        Segmenter(clip_model, fusion=BranchSum((MaskClassTokens(),)))(image, LABELS)
    with pytest.raises(NotSupported, match="class token"):
        region_tokens(SimpleNamespace(prefix=0), torch.ones(1, 1, 4, dtype=torch.bool))
    for make, words in [
        (lambda: MaskScoped(tau=0.0), "tau must be"),
        (lambda: Scope(merge=0.0), "merge must be"),
        (lambda: SpatialBranch(blocks=0), "blocks must be"),
    ]:
        with pytest.raises(UsageError, match=words):
            make()
