"""Decomposition and mean ablation (p085, arXiv 2310.05916) against the library's forward and hand-made towers."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from binderclip.errors import DataError, NotSupported, UsageError
from binderclip.explain import (
    decompose_image_embedding,
    decompositions,
    early_heads,
    late_blocks,
    mean_ablate,
)

TEXTS = ["a cat", "a dog", "grass"]
BLOCKS, HEADS, WIDTH = 2, 4, 24


@pytest.fixture(scope="module")
def batch() -> torch.Tensor:
    return torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("by", ["head", "token", "head_token", "layer", "mlp"])
def test_all_terms_sum_to_encode_image_raw_and_unit(clip_model, batch, by) -> None:
    found = decompose_image_embedding(clip_model, batch, by=by, batch_size=2)
    with torch.no_grad():
        raw = clip_model.encode_image(batch)
    torch.testing.assert_close(found.total(), raw, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.unit().total(), F.normalize(raw, dim=-1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.length, raw.norm(dim=-1), rtol=1e-4, atol=1e-5)
    assert (found.index, found.skipped) == ((0, 1, 2, 3, 4), ())
    mlps = found.values if by == "mlp" else found.rest["mlp"][:, None]
    torch.testing.assert_close(found.mlps.sum(1), mlps.sum(1))


def test_a_mean_pooled_tower_sums_up_too(batch) -> None:
    from binderclip.models import build

    torch.manual_seed(3)
    vision = {"image_size": 32, "layers": 2, "width": 48, "head_width": 12, "patch_size": 8, "pool_type": "avg"}
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    model = build({"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}).eval()
    found = decompose_image_embedding(model, batch, by="token")
    with torch.no_grad():
        torch.testing.assert_close(found.total(), model.encode_image(batch), rtol=1e-4, atol=1e-5)
    assert found.heat(TEXTS).shape == (5, 3, 4, 4)


def test_with_the_other_heads_silenced_the_embedding_is_the_direct_term(clip_model, batch) -> None:
    """In the last block nothing comes after attention but the MLP, which is silenced too."""
    model = copy.deepcopy(clip_model)
    block = model.visual.transformer.resblocks[-1]
    size = 48 // HEADS
    with torch.no_grad():
        block.mlp.c_proj.weight.zero_(), block.mlp.c_proj.bias.zero_(), block.attn.out_proj.bias.zero_()
        own = block.attn.out_proj.weight.clone()
        # The norm is made affine with a fixed spread by leaving it out.
        model.visual.ln_post = torch.nn.Identity()
        block.attn.out_proj.weight.zero_()
        without = model.encode_image(batch)
        head = 2
        block.attn.out_proj.weight[:, head * size : (head + 1) * size] = own[:, head * size : (head + 1) * size]
        lone = model.encode_image(batch) - without
        block.attn.out_proj.weight.copy_(own)
    found = decompose_image_embedding(model, batch)
    torch.testing.assert_close(found.values[:, -1, head], lone, rtol=1e-4, atol=1e-5)


def test_heat_maps_and_all_other_terms_are_the_cosines(clip_model, batch) -> None:
    found = decompose_image_embedding(clip_model, batch, by="token")
    heat = found.heat(TEXTS)
    assert heat.shape == (5, 3, 4, 4)
    rows = clip_model.encode_text(TEXTS, normalize=True).detach()
    unit = found.unit()
    others = unit.values[:, :, : found.prefix].sum((1, 2)) + sum(unit.rest.values())
    with torch.no_grad():
        cosines = clip_model.encode_image(batch, normalize=True) @ rows.T
    torch.testing.assert_close(heat.sum((2, 3)) + others @ rows.T, cosines, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(unit.heat(TEXTS), heat)
    centred = found.heat(rows, centre=True)
    torch.testing.assert_close(centred, heat - heat.mean(1, keepdim=True))
    torch.testing.assert_close(found.heat(clip_model.text_bank(TEXTS)), heat, rtol=1e-4, atol=1e-6)


def test_dot_products_alone_are_those_of_the_vectors(clip_model, batch) -> None:
    whole = decompose_image_embedding(clip_model, batch, by="head_token")
    small = decompose_image_embedding(clip_model, batch, by="head_token", onto=TEXTS)
    rows = clip_model.encode_text(TEXTS, normalize=True).detach()
    assert small.values.shape == (5, BLOCKS, HEADS, 17, 3)
    assert small.texts == tuple(TEXTS)
    torch.testing.assert_close(small.values, whole.values @ rows.T, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(small.mlps, whole.mlps @ rows.T, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(small.length, whole.length)
    torch.testing.assert_close(small.heat(), whole.heat(TEXTS), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(small.unit().total(), whole.unit().total() @ rows.T, rtol=1e-4, atol=1e-5)
    by_head = sum(small.head_heat(b, h) for b in range(BLOCKS) for h in range(HEADS))
    torch.testing.assert_close(by_head, small.heat(), rtol=1e-4, atol=1e-5)


def test_batches_and_lazy_images_change_nothing(clip_model, batch) -> None:
    whole = decompose_image_embedding(clip_model, batch)
    parts = list(decompositions(clip_model, (image for image in batch), batch_size=2))
    assert [len(part) for part in parts] == [2, 2, 1]
    torch.testing.assert_close(torch.cat([part.values for part in parts]), whole.values, rtol=1e-4, atol=1e-6)
    late = decompose_image_embedding(clip_model, batch, layers=[-1])
    assert late.layers == (1,)
    torch.testing.assert_close(late.total(), whole.total(), rtol=1e-4, atol=1e-5)


def test_unreadable_pictures_are_skipped_and_named(clip_model, tmp_path) -> None:
    from PIL import Image

    for name in ("a", "c"):
        Image.new("RGB", (40, 40), "red").save(tmp_path / f"{name}.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    paths = [tmp_path / f"{name}.png" for name in ("b", "a", "c", "b", "b")]
    found = decompose_image_embedding(clip_model, paths, batch_size=1, on_error="skip")
    assert found.index == (1, 2)
    assert [position for position, _ in found.skipped] == [0, 3, 4]
    with pytest.raises(DataError):
        decompose_image_embedding(clip_model, paths)
    with pytest.raises(DataError, match="none of 2 pictures"):
        decompose_image_embedding(clip_model, [paths[0]] * 2, on_error="skip")


def test_ablated_components_say_the_same_for_every_picture(clip_model, batch) -> None:
    found = decompose_image_embedding(clip_model, batch)
    unit = found.unit()
    torch.testing.assert_close(mean_ablate(found), unit.total())
    everything = [(b, h) for b in range(BLOCKS) for h in range(HEADS)]
    constant = mean_ablate(found, everything, mlps=True, rest=[n for n in found.rest if n != "mlp"])
    torch.testing.assert_close(constant, unit.total().mean(0).expand_as(constant), rtol=1e-4, atol=1e-5)
    one = mean_ablate(found, [(-1, 3), (1, 3)])
    torch.testing.assert_close(unit.total() - one, unit.values[:, 1, 3] - unit.values[:, 1, 3].mean(0))
    torch.testing.assert_close(mean_ablate(found, mlps=True), mean_ablate(found, rest=["mlp"]), rtol=1e-4, atol=1e-6)
    other = decompose_image_embedding(clip_model, batch.flip(3))
    moved = mean_ablate(found, [(0, 1)], reference=other) - mean_ablate(found, [(0, 1)])
    gap = (other.unit().values - unit.values)[:, 0, 1].mean(0)
    torch.testing.assert_close(moved, gap.expand_as(moved), rtol=1e-4, atol=1e-6)


def test_the_late_blocks_are_the_papers_four_where_there_are_twelve() -> None:
    assert [late_blocks(depth) for depth in (32, 24, 12, 6, 4, 1)] == [4, 4, 4, 2, 2, 1]


def test_early_heads_are_those_before_the_late_blocks(clip_model, batch) -> None:
    found = decompose_image_embedding(clip_model, batch)
    assert early_heads(found) == [(0, h) for h in range(HEADS)]
    assert early_heads(found, keep=2) == []
    with pytest.raises(UsageError, match=r"keep=3 is not in 0\.\.2"):
        early_heads(found, keep=3)


def test_bad_input_is_named(clip_model, batch) -> None:
    found = decompose_image_embedding(clip_model, batch, layers=[-1])
    with pytest.raises(UsageError, match="needs by='token'"):
        found.heat(TEXTS)
    with pytest.raises(UsageError, match="block 0 is not among"):
        mean_ablate(found, [(0, 0)])
    with pytest.raises(UsageError, match="head 9 of block 1"):
        mean_ablate(found, [(1, 9)])
    with pytest.raises(UsageError, match="block 5, but the tower has 2"):
        mean_ablate(found, mlps=[5])
    with pytest.raises(UsageError, match="'steam' is none of"):
        mean_ablate(found, rest=["steam"])
    with pytest.raises(UsageError, match="split in another way"):
        mean_ablate(found, reference=decompose_image_embedding(clip_model, batch))
    with pytest.raises(UsageError, match="need by='head'"):
        mean_ablate(decompose_image_embedding(clip_model, batch, by="token"), [(0, 0)])
    tokens = decompose_image_embedding(clip_model, batch, by="token")
    with pytest.raises(UsageError, match="at least two"):
        tokens.heat("a cat", centre=True)
    with pytest.raises(UsageError, match="at least one text"):
        tokens.heat(["a cat", " "])
    with pytest.raises(UsageError, match="images is empty"):
        decompose_image_embedding(clip_model, [])
    with pytest.raises(UsageError, match="by must be"):
        decompose_image_embedding(clip_model, batch, by="heads")
    with pytest.raises(UsageError, match=r"onto must be \(Q, 24\)"):
        decompose_image_embedding(clip_model, batch, onto=torch.ones(2, 7))


def test_a_tower_without_attention_is_refused_by_name() -> None:
    from binderclip.models import build

    conv = build(
        {
            "embed_dim": 16,
            "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
            "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
        }
    )
    with pytest.raises(NotSupported, match="ModifiedResNet"):
        decompose_image_embedding(conv, torch.rand(1, 3, 64, 64))
