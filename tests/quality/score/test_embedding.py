"""Embeddings at a picture's own size: against the library's forward, attention written out, and their limits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import DataError, NotSupported, UsageError
from binderclip.models import ImageTextModel
from binderclip.quality import NativeEmbedding


def made(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_at_the_models_own_size_it_is_the_librarys_forward(vit: ImageTextModel, resnet: ImageTextModel) -> None:
    for model, side in ((vit, 32), (resnet, 64)):
        images = made(2, 3, side, side)
        native = NativeEmbedding(model, "interpolate")(images)
        assert torch.allclose(native, model.encode_pixels(model.preprocess.normalize(images)), atol=1e-5)


@torch.no_grad()
def test_a_resnet_without_positions_is_attention_of_the_mean_to_all_places(resnet: ImageTextModel) -> None:
    images = made(2, 3, 70, 104)
    pool, pixels = resnet.visual.attnpool, resnet.preprocess.normalize(images)
    last = resnet.dense_tower.feature_map(pixels)  # type: ignore[attr-defined]
    rows = []
    for one in last:
        x = one.flatten(1).T
        x = torch.cat([x.mean(0, keepdim=True), x])
        heads = []
        for q, k, v in zip(
            *(p(x).chunk(pool.num_heads, -1) for p in (pool.q_proj, pool.k_proj, pool.v_proj)), strict=True
        ):
            weights = (q[0] @ k.T / q.shape[1] ** 0.5).softmax(-1)
            heads.append(weights @ v)
        rows.append(pool.c_proj(torch.cat(heads)))
    found = NativeEmbedding(resnet)(images)
    assert torch.allclose(found, torch.stack(rows), atol=1e-5)
    assert not torch.allclose(found, NativeEmbedding(resnet, "interpolate")(images), atol=1e-3)


@torch.no_grad()
def test_a_transformer_sees_the_centre_with_interpolated_positions(vit: ImageTextModel) -> None:
    images = made(1, 3, 45, 61)
    found = NativeEmbedding(vit)(images)
    tower = vit.image_tower
    # 40 x 56 of 45 x 61: two rows and two columns are left out at the top and on the left.
    pixels = vit.preprocess.normalize(images[..., 2:42, 2:58])
    assert torch.allclose(found, tower(pixels), atol=1e-6)
    assert torch.allclose(found, NativeEmbedding(vit)(images[..., 2:42, 2:58]), atol=1e-6)


@torch.no_grad()
def test_files_of_all_sizes_are_what_tensors_are_and_bad_ones_are_named(vit: ImageTextModel, tmp_path: Path) -> None:
    sizes = [(40, 40), (40, 40), (24, 56), (7, 40), (40, 40)]
    images = [(made(3, *size, seed=row) * 255).byte() for row, size in enumerate(sizes)]
    for row, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{row}.png")
    (tmp_path / "9.png").write_bytes((tmp_path / "0.png").read_bytes()[:60])
    paths = [*(tmp_path / f"{row}.png" for row in range(5)), tmp_path / "9.png"]
    done: list[int] = []
    embed = NativeEmbedding(vit)
    found = embed.files(paths, batch_size=2, progress=done.append)
    assert found.index == [0, 1, 2, 4]
    assert [Path(key).name for key, _ in found.skipped] == ["3.png", "9.png"]
    assert "7 x 40 pixels, this model needs 8" in found.skipped[0][1]
    wanted = torch.cat([embed(images[row][None].float() / 255) for row in found.index])
    assert torch.allclose(found.features, wanted, atol=1e-5)
    assert done[-1] == 6
    with pytest.raises(DataError, match=r"3\.png"):
        embed.files(paths, on_error="raise")
    assert embed.files([paths[3]]).features.shape == (0, 24)


@torch.no_grad()
def test_large_pictures_are_reduced_where_it_is_asked_for(vit: ImageTextModel) -> None:
    images = made(1, 3, 64, 96)
    half = F.interpolate(images, (32, 48), mode="bicubic", antialias=True).clamp(0, 1)
    assert torch.allclose(NativeEmbedding(vit, longest=48)(images), NativeEmbedding(vit)(half), atol=1e-5)
    assert torch.equal(NativeEmbedding(vit, longest=96)(images), NativeEmbedding(vit)(images))
    picture = Image.fromarray((images[0] * 255).byte().permute(1, 2, 0).numpy())
    assert NativeEmbedding(vit, longest=48).pixels(picture).shape == (32, 48, 3)
    flat = Image.new("RGB", (400, 20))
    with pytest.raises(DataError, match="a picture, reduced to 48 px: 2 x 48 pixels, this model needs 8"):
        NativeEmbedding(vit, longest=48).pixels(flat)
    assert NativeEmbedding(vit, longest=400).pixels(flat).shape == (16, 400, 3)


def test_gradients_reach_the_pixels(vit: ImageTextModel, resnet: ImageTextModel) -> None:
    for model in (vit, resnet):
        images = made(1, 3, 64, 72).requires_grad_()
        NativeEmbedding(model)(images).square().sum().backward()
        assert images.grad is not None
        assert images.grad.abs().sum() > 0


def test_mistakes_are_named(vit: ImageTextModel) -> None:
    with pytest.raises(UsageError, match="positions must be one of auto, drop, interpolate, got 'keep'"):
        NativeEmbedding(vit, "keep")  # type: ignore[arg-type]
    with pytest.raises(NotSupported, match="attention pooling of CLIP's ResNets"):
        NativeEmbedding(vit, "drop")
    with pytest.raises(UsageError, match="longest"):
        NativeEmbedding(vit, longest=0)
    with pytest.raises(DataError, match="7 x 40"):
        NativeEmbedding(vit)(made(1, 3, 7, 40))
    with pytest.raises(UsageError, match="divide 0"):
        NativeEmbedding(vit)(255 * made(1, 3, 40, 40))
    with pytest.raises(UsageError, match="batch_size"):
        NativeEmbedding(vit).files([], batch_size=0)
