"""Fused attention, the ensemble of layers and refinement by attention, against twins on the library's own modules.

CLIPer (p132, arXiv 2411.13836).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from binderclip.errors import UsageError
from binderclip.segment import (
    ClassRule,
    ClassScore,
    DiffusionAttention,
    FeatureAttention,
    FusedAttention,
    LastBlock,
    LayerEnsemble,
    Segmenter,
    SelfAttention,
    identity,
    vanilla,
)
from binderclip.segment.parts.context import Context, Frame, open_windows, records
from binderclip.segment.parts.fused import Balance, spread_by
from binderclip.segment.refine.attention_refine import combined

LABELS = ["a cat", "a dog", "green grass"]


def picture(height: int = 32, width: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def opened(model, *parts) -> Context:
    pixels = picture()
    with torch.no_grad():
        return open_windows(Frame(model, pixels, pixels), pixels, [(0, 0)], records(*parts))


def by_library(model) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Streams entering each block, and attention maps by `nn.MultiheadAttention` itself."""
    streams: list[torch.Tensor] = []
    blocks = model.visual.transformer.resblocks
    handles = [b.register_forward_pre_hook(lambda module, inputs: streams.append(inputs[0])) for b in blocks]
    with torch.no_grad():
        model.encode_image(picture())
        for handle in handles:
            handle.remove()
        maps = []
        for block, x in zip(blocks, streams, strict=True):
            normed = block.ln_1(x)
            maps.append(block.attn(normed, normed, normed, need_weights=True, average_attn_weights=False)[1])
    return streams, maps


def released(total: np.ndarray, calls: int) -> list[np.ndarray]:
    """The released procedure: each call divides the same array in place."""
    out = []
    for _ in range(calls):
        total /= total.sum(-2, keepdims=True)
        total /= total.sum(-1, keepdims=True)
        weights = (total + np.swapaxes(total, -1, -2)) / 2
        weights = np.clip(weights - weights.mean(-2, keepdims=True), 0, None)
        out.append(weights / weights.sum(-1, keepdims=True))
    return out


def test_fused_attention_is_the_released_procedure_in_place(clip_model) -> None:
    _, maps = by_library(clip_model)
    calls = released((maps[0] + maps[1]).double().numpy(), 3)
    fused = FusedAttention()
    context = opened(clip_model, fused)
    block, qkv = context.block, context.qkv(-1)
    for layer, want in enumerate(calls):
        found = fused.for_layer(layer)(block, qkv, context)
        np.testing.assert_allclose(found.numpy(), want, atol=2e-5)
    np.testing.assert_allclose(fused(block, qkv, context).numpy(), calls[2], atol=2e-5)
    np.testing.assert_allclose(FusedAttention(1)(block, qkv, context).numpy(), calls[0], atol=2e-5)
    assert FusedAttention(2).for_layer(0) == FusedAttention(2)
    assert np.abs(calls[0] - calls[2]).max() > 1e-3


def test_fused_rows_are_distributions_and_uniform_attention_gives_uniform_rows() -> None:
    weights = torch.rand(2, 3, 17, 17, generator=torch.Generator().manual_seed(0)).softmax(-1)
    found = Balance(weights).contrasted(1)
    assert (found >= 0).all()
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 3, 17))
    uniform = torch.full((1, 1, 17, 17), 3 / 17)
    torch.testing.assert_close(Balance(uniform).contrasted(1), torch.full((1, 1, 17, 17), 1 / 17))
    # A row in which nothing stands out, beside rows in which something does.
    mixed = torch.cat([uniform[0], weights[0]])[None]
    torch.testing.assert_close(Balance(mixed).contrasted(2)[0, 0], uniform[0, 0] / 3)


def test_many_passes_are_sinkhorns_scaling() -> None:
    start = torch.rand(9, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.05
    rows, columns, sums = Balance(start).factors(300)
    found = rows[:, None] * start * columns
    torch.testing.assert_close(found.sum(0), sums)
    torch.testing.assert_close(found.sum(0), torch.ones(9, dtype=torch.float64))
    torch.testing.assert_close(found.sum(1), torch.ones(9, dtype=torch.float64))

    def ratios(x: torch.Tensor) -> torch.Tensor:
        return x[1:, 1:] * x[:1, :1] / (x[1:, :1] * x[:1, 1:])

    # Scaling rows and columns leaves cross ratios alone, and there is one doubly stochastic matrix that has them.
    torch.testing.assert_close(ratios(found), ratios(start))


def ensemble_by_library(model, scale: float) -> torch.Tensor:
    """Softmax maps of every layer, by the library's modules with the last block's own attention."""
    streams, _ = by_library(model)
    visual, blocks = model.visual, model.visual.transformer.resblocks
    rows = model.encode_text(LABELS, normalize=True).detach()
    rows = torch.cat([rows, F.normalize(rows.mean(0, keepdim=True), dim=-1)])
    maps = []
    with torch.no_grad():
        for x in [blocks[0].ln_1(streams[0]), blocks[1].ln_1(streams[1]), streams[2]]:
            normed = blocks[2].ln_1(x)
            out = visual.ln_post(blocks[2].attn(normed, normed, normed)[0])[:, 1:] @ visual.proj
            maps.append((scale * F.normalize(out, dim=-1) @ rows.T).softmax(-1)[0, :, :3].T.unflatten(1, (4, 4)))
    return torch.stack(maps)


def test_the_ensemble_is_the_mean_of_layers_through_the_last_block(clip_model) -> None:
    scale = 20.0
    maps = ensemble_by_library(clip_model, scale)
    fusion, last = LayerEnsemble(scale=scale, spread=False), LastBlock(vanilla)
    context = opened(clip_model, fusion, last)
    text = Segmenter(clip_model).bind(LABELS)
    torch.testing.assert_close(fusion(context, last, text)[0], maps.mean(0), rtol=1e-4, atol=1e-5)
    # By columns: what a cell holds goes where it attends to.
    _, attention = by_library(clip_model)
    cut = torch.where(maps[-1] < 0.6 * maps[-1].amax((1, 2), keepdim=True), 0.0, maps[-1])
    spread = torch.einsum("qi,ij->qj", cut.flatten(1), attention[-1][0].mean(0)[1:, 1:]).unflatten(1, (4, 4))
    want = (maps[0] + maps[1] + cut) / 3 + spread
    found = replace(fusion, spread=True, cut=0.6)(context, last, text)[0]
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-5)


def test_the_identity_leaves_the_last_map_as_it_is(clip_model) -> None:
    maps = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(spread_by(maps, torch.eye(16)[None]), maps)
    text = Segmenter(clip_model).bind(LABELS)
    fusion, last = LayerEnsemble(cut=0.0), LastBlock(identity)
    context = opened(clip_model, fusion, last)
    mean = replace(fusion, spread=False)(context, last, text)
    x = context.tokens.x
    own = last.of(context, context.block.qkv(x), x)
    rows = torch.cat([text.rows, F.normalize(text.rows.mean(0, keepdim=True), dim=-1)])
    dense = F.normalize(context.tower.head(own.flatten(2).mT), dim=-1)
    single = (text.scale * dense @ rows.T).softmax(-1)[..., :3].mT.unflatten(2, (4, 4))
    torch.testing.assert_close(fusion(context, last, text) - mean, single, rtol=1e-4, atol=1e-5)


def test_the_extra_class_is_the_mean_of_what_is_not_background(clip_model) -> None:
    fusion = LayerEnsemble(spread=False)
    with_words = Segmenter(clip_model, background=["a wall"]).bind(LABELS)
    rows = fusion._rows(with_words)
    torch.testing.assert_close(rows[-1], F.normalize(with_words.rows[1:].mean(0), dim=-1))
    context, last = opened(clip_model, fusion), LastBlock()
    full, bare = fusion(context, last, with_words), replace(fusion, extra=False)(context, last, with_words)
    assert (full.sum(1) < 1).all()
    torch.testing.assert_close(bare.sum(1), torch.ones(1, 4, 4))


def test_background_words_only_take_up_probability(clip_model) -> None:
    text = Segmenter(clip_model, background=["a wall", "the sky"]).bind(LABELS)
    fusion, last = LayerEnsemble(scale=20.0, cut=0.4), LastBlock(vanilla)
    context = opened(clip_model, fusion, last)
    both, front = (replace(fusion, background=on)(context, last, text) for on in (True, False))
    # Softmax is over all words, so that what is left of the labels is the same.
    torch.testing.assert_close(front[:, 2:], both[:, 2:])
    assert (front[:, :2] == 0).all()
    assert (both[:, :2] > 0).any()


def test_another_layer_may_be_spread(clip_model) -> None:
    scale = 20.0
    maps, (_, attention) = ensemble_by_library(clip_model, scale), by_library(clip_model)
    fusion, last = LayerEnsemble(scale=scale, cut=0.6, layer=-2), LastBlock(vanilla)
    context = opened(clip_model, fusion, last)
    cut = torch.where(maps[1] < 0.6 * maps[1].amax((1, 2), keepdim=True), 0.0, maps[1])
    spread = torch.einsum("qi,ij->qj", cut.flatten(1), attention[-1][0].mean(0)[1:, 1:]).unflatten(1, (4, 4))
    want = (maps[0] + cut + maps[2]) / 3 + spread
    text = Segmenter(clip_model).bind(LABELS)
    torch.testing.assert_close(fusion(context, last, text)[0], want, rtol=1e-4, atol=1e-5)
    with pytest.raises(UsageError, match="block 3"):
        replace(fusion, layer=3)(context, last, text)


def test_products_of_attention_maps_against_numpy() -> None:
    eye = torch.eye(16).repeat(3, 1, 1)
    torch.testing.assert_close(combined(eye), torch.eye(16), rtol=0, atol=1e-4)
    maps = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0)).pow(3)
    cleaned = []
    for each in maps.double().numpy():
        each = each / (each.max(0) + 1e-5)
        each[each < 0.2] = 0
        cleaned.append(each / (each.sum(1, keepdims=True) + 1e-5))
    np.testing.assert_allclose(combined(maps, cut=0.2).numpy(), cleaned[0] @ cleaned[1] @ cleaned[2], atol=1e-5)
    np.testing.assert_allclose(combined(maps, cut=0.2, combine="mean").numpy(), np.mean(cleaned, 0), atol=1e-5)
    np.testing.assert_allclose(combined(maps, cut=0.2, combine=1).numpy(), cleaned[1], atol=1e-5)
    with pytest.raises(UsageError, match="there are 3"):
        combined(maps, combine=3)


def test_refinement_shares_scores_within_what_attends_to_each_other(clip_model) -> None:
    # Two halves that attend to themselves: every class becomes its mean over each half.
    half = (torch.arange(16) % 4 >= 2).long()
    weights = (half[:, None] == half[None]).float()[None] / 8
    refine = DiffusionAttention(lambda image: (weights, (4, 4)))
    logits = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0))
    pixels = picture()
    found = refine(pixels, logits, Frame(clip_model, pixels, pixels)).exp()
    left, right = (logits.softmax(0)[:, :, part].mean((1, 2)) for part in (slice(0, 2), slice(2, 4)))
    want = torch.stack([left, left, right, right], 1)[:, None].expand(3, 4, 4)
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)
    raw = replace(refine, weigh="exp")(pixels, logits, Frame(clip_model, pixels, pixels)).exp()
    torch.testing.assert_close(raw[:, 0, 0], logits[:, :, :2].exp().mean((1, 2)), rtol=1e-4, atol=1e-4)


def test_self_attention_is_the_librarys(clip_model) -> None:
    _, maps = by_library(clip_model)
    found, grid = SelfAttention(clip_model, (1, 0), size=32)(picture())
    assert grid == (4, 4)
    torch.testing.assert_close(found, torch.cat([maps[1][0], maps[0][0]])[:, 1:, 1:], rtol=1e-4, atol=1e-5)
    pixels = picture()
    frame = Frame(clip_model, pixels, pixels)
    logits = torch.randn(2, 32, 32, generator=torch.Generator().manual_seed(0))
    own = DiffusionAttention()(pixels, logits, frame)
    given = DiffusionAttention(SelfAttention(clip_model, (0, 1)))(pixels, logits, frame)
    torch.testing.assert_close(own, given)


def test_feature_attention_follows_likeness() -> None:
    features = torch.zeros(1, 3, 2, 4)
    features[0, 0, :, :2], features[0, 1, :, 2:], features[0, :, 0, 3] = 1.0, 1.0, torch.tensor([0.0, 0.0, 1.0])
    weights, grid = FeatureAttention(lambda image: features)(picture())
    assert grid == (2, 4)
    groups = torch.tensor([0, 0, 1, 2, 0, 0, 1, 1])
    same = (groups[:, None] == groups[None]).float()
    torch.testing.assert_close(weights[0], same / same.sum(1, keepdim=True))


@pytest.mark.parametrize(("centre", "gamma"), [(1.2, 3.0), (0.5, 7.0)])
def test_feature_attention_is_a_softmax_of_centred_cosines(centre: float, gamma: float) -> None:
    features = torch.randn(1, 5, 3, 4, generator=torch.Generator().manual_seed(0)).abs()
    weights, _ = FeatureAttention(lambda image: F.normalize(features, dim=1), centre=centre, gamma=gamma)(picture())
    rows = features[0].flatten(1).T.double().numpy()
    cosines = rows @ rows.T / np.linalg.norm(rows, axis=1)[:, None] / np.linalg.norm(rows, axis=1)
    scores = np.exp(gamma * (cosines - centre * cosines.mean()))
    scores[(cosines < centre * cosines.mean()) & ~np.eye(12, dtype=bool)] = 0
    np.testing.assert_allclose(weights[0], scores / scores.sum(1, keepdims=True), atol=1e-5)


def test_own_features_are_those_before_the_last_block(clip_model) -> None:
    streams, _ = by_library(clip_model)
    with torch.no_grad():
        normed = F.normalize(clip_model.visual.transformer.resblocks[-1].ln_1(streams[-1])[0, 1:], dim=-1)
    similar = normed @ normed.T
    logits = 3.0 * (similar - 1.2 * similar.mean())
    logits[(logits < 0) & ~torch.eye(16, dtype=torch.bool)] = -torch.inf
    weights, pixels = logits.softmax(-1), picture()
    coarse = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(1))
    refine = DiffusionAttention("features", cut=None, weigh="exp")
    # With the windows at hand or without.
    context = opened(clip_model)
    context.frame.context = context
    for frame in (context.frame, Frame(clip_model, pixels, pixels)):
        found = refine(pixels, coarse.log(), frame).exp()
        want = torch.einsum("ij,qj->qi", weights, coarse.flatten(1)).unflatten(1, (4, 4))
        torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-5)


def test_class_scores_by_hand() -> None:
    maps = torch.tensor([[0.2, 0.8, 0.4, 0.6], [0.1, 0.2, 0.3, 0.1], [0.05, 0.6, 0.01, 0.5]])
    logits = maps.log().unflatten(1, (2, 2))
    doubled = ClassScore(lambda image, x, frame: x + torch.tensor(2.0).log(), threshold=0.5, stretch=True)
    frame = Frame(None, picture(), picture())
    found = doubled(picture(), logits, frame).exp().flatten(1)
    # Scores are 1.5 times the maxima: 1.2, 0.45 and 0.9; the second class is out.
    want = torch.stack([(maps[0] - 0.2) / 0.6, torch.zeros(4), (maps[2] - 0.01) / 0.59])
    torch.testing.assert_close(found, want, rtol=1e-3, atol=1e-4)
    plain = ClassScore()(picture(), logits, frame).exp().flatten(1)
    torch.testing.assert_close(plain, maps, rtol=1e-3, atol=1e-4)


def test_presets_run_and_weak_pixels_are_background(clip_model) -> None:
    found = Segmenter(clip_model, "cliper", size=32)(picture(), LABELS)
    assert found.labels.shape == (32, 32)
    assert int(found.labels.min()) >= 0
    behind = Segmenter(clip_model, "cliper-background", size=32, background=["a wall"])(picture(), LABELS)
    best = behind.scores.exp().amax(0)
    assert behind.scores[0].exp().max() < 1e-6
    assert torch.equal(behind.labels[best < 0.6], torch.zeros_like(behind.labels[best < 0.6]))


def test_bad_settings_are_named(clip_model) -> None:
    for make, words in [
        (lambda: FusedAttention(0), "passes must be"),
        (lambda: FusedAttention("all"), "passes must be"),
        (lambda: LayerEnsemble(cut=2.0), "cut must be"),
        (lambda: DiffusionAttention("dino"), "features, own or a callable"),
        (lambda: DiffusionAttention(combine="sum"), "combine must be"),
        (lambda: DiffusionAttention(weigh="raw"), "weigh must be"),
        (lambda: DiffusionAttention(cut=1.0), "cut must be"),
        (lambda: SelfAttention(None, ()), "layers is empty"),
    ]:
        with pytest.raises(UsageError, match=words):
            make()
    with pytest.raises(UsageError, match=r"\(M, N, N\)"):
        Segmenter(clip_model, refine=DiffusionAttention(lambda image: (torch.rand(3, 4), (2, 2))))(picture(), LABELS)
    with pytest.raises(UsageError, match="through a LastBlock"):
        Segmenter(clip_model, last_block=lambda context: context.tokens.x, fusion=LayerEnsemble())(picture(), LABELS)
    assert ClassRule(over="given").absolute
