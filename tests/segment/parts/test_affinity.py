"""Features of outside models on the windows of a segmenter."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from binderclip.errors import UsageError
from binderclip.models import load_vision
from binderclip.models.image_text.preprocess import Preprocess
from binderclip.models.image_text.vision import VisionModel, new_backbone
from binderclip.models.towers import Record
from binderclip.segment import LastBlock, Segmenter, identity
from binderclip.segment.parts.affinity import CentredSoftmax, External, centred_softmax, cosines
from binderclip.segment.parts.context import Context, Frame, open_windows


def windows(model, places: list[tuple[int, int]], size: tuple[int, int] = (32, 48)) -> Context:
    pixels = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    frame = Frame(model, pixels, pixels)
    cut = torch.cat([pixels[..., y : y + 32, x : x + 32] for y, x in places])
    with torch.no_grad():
        return open_windows(frame, cut, places, Record())


def means(pixels: torch.Tensor) -> torch.Tensor:
    """Mean colours of cells of 8 pixels."""
    return F.avg_pool2d(pixels, 8)


def centred(pixels: torch.Tensor) -> torch.Tensor:
    """The same around grey: some pairs are alike and some opposite."""
    return means(pixels) - 0.5


def test_features_of_the_whole_picture_are_cut_where_the_windows_lie(clip_model) -> None:
    context = windows(clip_model, [(0, 0), (0, 16)])
    whole, each = External(means, per="image")(context), External(means)(context)
    assert whole.shape == (2, 3, 4, 4)
    # Cells of 8 px are cells of the tower, so a window's own features are the picture's, cut.
    torch.testing.assert_close(whole, each)
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(2, 4, 4))


def test_a_source_runs_once_a_call(clip_model) -> None:
    seen = []

    def source(pixels: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(pixels.shape))
        return means(pixels)

    context = windows(clip_model, [(0, 0), (0, 16)])
    for _ in range(2):
        External(source)(context)
        External(source, per="image")(context)
    assert seen == [(2, 3, 32, 32), (1, 3, 32, 48)]


def test_own_features_are_the_normalised_stream(clip_model) -> None:
    context = windows(clip_model, [(0, 0)])
    block = clip_model.visual.transformer.resblocks[-1]
    want = F.normalize(block.ln_1(context.tokens.x)[:, 1:], dim=-1)
    found = External()(context)
    torch.testing.assert_close(found.flatten(2).mT, want)
    torch.testing.assert_close(cosines(found), want @ want.mT)


@pytest.mark.parametrize(("of", "places"), [("q+k", (0, 1)), ("v", (2,))])
def test_queries_keys_and_values_are_the_librarys(clip_model, monkeypatch, of: str, places: tuple[int, ...]) -> None:
    context = windows(clip_model, [(0, 0)])
    attention = clip_model.visual.transformer.resblocks[-1]
    joint = F.linear(attention.ln_1(context.tokens.x), attention.attn.in_proj_weight, attention.attn.in_proj_bias)
    want = F.normalize(sum(joint.chunk(3, dim=-1)[place] for place in places)[:, 1:], dim=-1)  # type: ignore[index]
    torch.testing.assert_close(External(of=of)(context).flatten(2).mT, want)
    # A named tower: by a hook on its last qkv, as DINO's authors read it.
    torch.manual_seed(0)
    options = {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": 2, "num_heads": 3, "dynamic_img_size": True}
    backbone = new_backbone("vit_tiny_patch16_224", options)
    tower = VisionModel(backbone, arch="vit_tiny_patch16_224", preprocess=Preprocess(size=(32, 32))).eval()
    monkeypatch.setattr("binderclip.models.load_vision", lambda name: tower)
    seen = []
    handle = backbone.blocks[-1].attn.qkv.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        backbone.forward_features(tower.preprocess.normalize(context.pixels))
        handle.remove()
        found = External(f"made for {of}", of=of)(context)
    assert found.shape[-2:] == (2, 2)
    want = F.normalize(sum(seen[0].chunk(3, dim=-1)[place] for place in places)[:, 1:], dim=-1)  # type: ignore[index]
    torch.testing.assert_close(found.flatten(2).mT, want)


def test_bad_sources_are_named(clip_model) -> None:
    context = windows(clip_model, [(0, 0)])
    with pytest.raises(UsageError, match=r"\(B, C, h, w\)"):
        External(lambda pixels: pixels[0])(context)
    with pytest.raises(UsageError, match="per must be one of window, image"):
        External(per="pixel")
    with pytest.raises(UsageError, match='"q", "k", "v"'):
        External("small-dino", of="qk")
    with pytest.raises(UsageError, match="needs the name of a tower"):
        External(means, of="v")
    with pytest.raises(UsageError, match="gamma"):
        CentredSoftmax(gamma=0.0)
    with pytest.raises(UsageError, match="mean must be one of window, batch"):
        CentredSoftmax(mean="image")  # type: ignore[arg-type]


@pytest.mark.parametrize("of", ["q", "k", "v"])
def test_heads_of_a_named_tower_are_its_librarys_own_projection(clip_model, of) -> None:
    context = windows(clip_model, [(0, 0), (0, 16)])
    found = External("small-dino", of=of)(context)
    model, seen = load_vision("small-dino"), []
    handle = model.backbone.blocks[-1].attn.qkv.register_forward_hook(lambda _m, _i, out: seen.append(out))
    with torch.no_grad():
        model.patch_features(context.pixels, size=(32, 32))
    handle.remove()
    want = seen[0].unflatten(-1, (3, -1))[:, 1:, "qkv".index(of)]
    torch.testing.assert_close(found.flatten(2).mT, F.normalize(want, dim=-1))


@pytest.mark.parametrize("masked", [True, False])
def test_centred_softmax_entry_by_entry(masked) -> None:
    similar = cosines(torch.randn(2, 3, 2, 3, generator=torch.Generator().manual_seed(0)))
    means = similar.mean((1, 2))
    found = centred_softmax(similar, means[:, None, None], beta=1.1, gamma=2.0, masked=masked)
    for b in range(2):
        for i in range(6):
            raw = [2.0 * (float(similar[b, i, j]) - 1.1 * float(means[b])) for j in range(6)]
            kept = [math.exp(value) if value >= 0 or j == i or not masked else 0.0 for j, value in enumerate(raw)]
            want = torch.tensor([value / sum(kept) for value in kept])
            torch.testing.assert_close(found[b, i], want)


def test_limits_of_the_rule() -> None:
    similar = cosines(torch.randn(1, 4, 3, 3, generator=torch.Generator().manual_seed(1)))
    none = centred_softmax(similar, torch.tensor(10.0))
    torch.testing.assert_close(none[0], torch.eye(9))  # nothing is above: every patch keeps to itself, no NaN
    flat = centred_softmax(similar, similar.mean(), beta=0.0, gamma=1e-6, masked=False)
    torch.testing.assert_close(flat, torch.full((1, 9, 9), 1 / 9), atol=1e-5, rtol=0)
    sharp = centred_softmax(similar, similar.mean(), gamma=1e4)
    torch.testing.assert_close(sharp[0], torch.eye(9), atol=1e-5, rtol=0)


def test_alike_patches_share_a_value_and_strangers_keep_theirs(clip_model) -> None:
    context = windows(clip_model, [(0, 0)])
    halves = torch.zeros(1, 2, 4, 4)
    halves[:, 0, :, :2], halves[:, 1, :, 2:] = 1.0, 1.0
    found = LastBlock(CentredSoftmax(External(lambda _p: halves)))(context)
    values = LastBlock(identity)(context)
    # The mean of values is the value of their mean, as the output projection is affine.
    torch.testing.assert_close(found[..., :2], values[..., :2].mean((2, 3), keepdim=True).expand(-1, -1, 4, 2))
    torch.testing.assert_close(found[..., 2:], values[..., 2:].mean((2, 3), keepdim=True).expand(-1, -1, 4, 2))


def test_the_mean_over_a_batch_lets_windows_see_each_other(clip_model) -> None:
    context = windows(clip_model, [(0, 0), (0, 16)])
    similar = cosines(External(centred)(context))
    rule = CentredSoftmax(External(centred), mean="batch")
    got = rule(context.block, context.qkv(-1), context).weights[:, 0]
    torch.testing.assert_close(got, centred_softmax(similar, similar.mean()))
    alone = CentredSoftmax(External(centred))(context.block, context.qkv(-1), context).weights[:, 0]
    torch.testing.assert_close(alone[:1], centred_softmax(similar[:1], similar[:1].mean()))
    assert not torch.equal(alone, got)


def test_the_preset_runs_on_any_tower_and_a_grid_of_its_own(clip_model) -> None:
    # ProxyCLIP, arXiv 2408.04883
    image = torch.rand(3, 40, 64, generator=torch.Generator().manual_seed(2))
    found = Segmenter(clip_model, "proxyclip")(image, ["a cat", "a dog"])
    assert found.labels.shape == (40, 64)
    assert set(found.labels.unique().tolist()) <= {0, 1}
    assert load_vision("small-dino").image_tower.patch == 8
