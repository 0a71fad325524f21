"""Dense maps of convolutional towers: equal to the library's embedding where pooling is linear, and in its limits."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from timm.models.convnext import ConvNeXt
from timm.models.fastvit import FastVit
from torch import Tensor, nn

from binderclip.errors import NotSupported, UsageError
from binderclip.models import ImageTextModel, build
from binderclip.models.towers import open_convolutional_tower
from binderclip.models.towers.tokens import gather_patches
from binderclip.segment import Segmenter

from ..conftest import shake

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
LABELS = ["a cat", "a dog", "green grass"]


def wrapped(trunk: nn.Module, head: nn.Module) -> ImageTextModel:
    """A small trunk inside open_clip's own adapter for timm."""
    vision = {"timm_model_name": "test_convnext", "timm_pool": "avg", "timm_proj": "linear", "image_size": 64}
    model = build({"embed_dim": 24, "custom_text": True, "vision_cfg": vision, "text_cfg": TEXT}, name="tiny")
    model.backbone.visual.trunk, model.backbone.visual.head = trunk, head
    shake(model.backbone, scale=0.05)
    return model.eval()


def resnet() -> ImageTextModel:
    vision = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None}
    model = build({"embed_dim": 24, "vision_cfg": vision, "text_cfg": TEXT}, name="tiny-resnet")
    shake(model.backbone, scale=0.05)
    return model.eval()


def convnext(**options) -> ImageTextModel:
    trunk = ConvNeXt(depths=(1, 1, 2, 1), dims=(8, 16, 24, 40), num_classes=0, **options)
    return wrapped(trunk, nn.Sequential(nn.Dropout(0.0), nn.Linear(40, 24, bias=False)))


def fastvit() -> ImageTextModel:
    """MobileCLIP's: the network's own classifier is the projection."""
    trunk = FastVit(
        layers=(1, 1, 1, 1), embed_dims=(8, 16, 32, 64), mlp_ratios=(2, 2, 2, 2), cls_ratio=2.0,
        token_mixers=("repmixer", "repmixer", "repmixer", "attention"), num_classes=24,
    )  # fmt: skip
    return wrapped(trunk, nn.Sequential())


MODELS = {
    "resnet": resnet,
    "convnext": convnext,
    "convnext, norm first": partial(convnext, head_norm_first=True),
    "fastvit": fastvit,
}
LINEAR = ("convnext, norm first", "fastvit")


@pytest.fixture(scope="module", params=list(MODELS))
def named(request: pytest.FixtureRequest) -> tuple[str, ImageTextModel]:
    torch.manual_seed(0)
    return request.param, MODELS[request.param]()


@pytest.fixture
def pixels() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def test_the_composition_is_open_clips_forward(named, pixels) -> None:
    _, model = named
    tower = model.dense_tower
    assert (tower.depth, tower.patch, tower.grid, tower.embed_dim) == (0, 32, (2, 2), 24)
    assert torch.allclose(tower(pixels), model.backbone.encode_image(pixels), atol=1e-5)
    assert tower.dense_images(pixels).shape == (2, 24, 2, 2)
    assert tower.dense_images(torch.randn(1, 3, 96, 160)).shape == (1, 24, 3, 5)


@torch.no_grad()
def test_the_mean_of_the_map_is_the_embedding_where_pooling_is_linear(named, pixels) -> None:
    name, model = named
    mean, own = model.dense_tower.dense_images(pixels).mean((2, 3)), model.backbone.encode_image(pixels)
    assert torch.allclose(mean, own, atol=1e-5) == (name in LINEAR)


@torch.no_grad()
def test_a_map_of_equal_places_is_the_embedding(named, monkeypatch) -> None:
    """The norm behind ConvNeXt's pooling sees the mean; where all places are equal, that is each of them."""
    name, model = named
    if name == "resnet":
        pytest.skip("its pooling adds positions")
    tower, trunk = model.dense_tower, model.backbone.visual.trunk
    flat = torch.randn(2, tower.width, 1, 1).expand(-1, -1, 2, 2).contiguous()
    monkeypatch.setattr(trunk, "forward_features", lambda _: flat)
    pixels = torch.zeros(2, 3, 64, 64)
    own = model.backbone.encode_image(pixels)
    assert torch.allclose(tower.dense_images(pixels), own[:, :, None, None].expand(-1, -1, 2, 2), atol=1e-5)


@torch.no_grad()
def test_attention_pooling_that_attends_evenly_without_positions_is_the_mean(pixels) -> None:
    model = resnet()
    pool = model.backbone.visual.attnpool
    pool.positional_embedding.zero_()
    pool.q_proj.weight.zero_()
    pool.q_proj.bias.zero_()
    mean = model.dense_tower.dense_images(pixels).mean((2, 3))
    assert torch.allclose(mean, model.backbone.encode_image(pixels), atol=1e-5)


def test_gradients_are_the_librarys(named, pixels) -> None:
    _, model = named
    parameters = list(model.backbone.visual.parameters())
    weights = torch.linspace(-1, 1, 48).view(2, 24)
    ours, theirs = (
        torch.autograd.grad((f(pixels) * weights).sum(), parameters, allow_unused=True)
        for f in (model.dense_tower, model.backbone.encode_image)
    )
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a, b, atol=1e-4 * max(1.0, float(b.abs().max())))


@torch.no_grad()
def test_the_dense_preset_segments_by_the_map(named) -> None:
    _, model = named
    image = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(1))
    found = Segmenter(model, "dense", size=64)(image, LABELS)
    rows = model.encode_text(LABELS, normalize=True)
    dense = F.normalize(model.dense_tower.dense_images(model.preprocess.normalize(image[None])), dim=1)
    cosines = F.interpolate(torch.einsum("behw,qe->bqhw", dense, rows), size=(64, 96), mode="bilinear")[0]
    assert found.labels.shape == (64, 96)
    assert torch.allclose(found.scores, model.scale() * cosines, atol=1e-3)


@pytest.mark.parametrize("preset", ["value", "plain", "sclip", "cliper", "itaclip", "decomposition"])
def test_presets_that_need_attention_name_the_one_that_does_not(preset) -> None:
    with pytest.raises(NotSupported, match=r"ModifiedResNet\) without attention, which .* needs; the preset dense"):
        Segmenter(resnet(), preset)


def test_what_has_no_blocks_refuses_what_reads_them(pixels) -> None:
    tower = resnet().dense_tower
    tokens = tower.embed(pixels)
    with pytest.raises(NotSupported, match="nothing to rewire"):
        tower.run(tokens, attn_bias=torch.zeros(1, 1, 4, 4))
    with pytest.raises(NotSupported, match="value path"):
        tower.value_path(tokens)
    with pytest.raises(UsageError, match="no place may be dropped"):
        tower.pool(gather_patches(tokens, torch.tensor([0, 1])))
    with pytest.raises(NotSupported, match=r"2 x 2 places alone, not for \(3, 3\)"):
        tower(torch.zeros(1, 3, 96, 96))


def test_other_networks_are_named() -> None:
    with pytest.raises(NotSupported, match="ConvNeXt, pooled by 'max', gives no map"):
        open_convolutional_tower(convnext(global_pool="max").backbone)
    with pytest.raises(NotSupported, match="Linear gives no map"):
        open_convolutional_tower(nn.Linear(2, 2))
    vision = {"timm_model_name": "swin_tiny_patch4_window7_224", "timm_pool": "avg", "timm_proj": "linear"}
    swin = build({"embed_dim": 24, "custom_text": True, "vision_cfg": vision, "text_cfg": TEXT}, name="swin")
    with pytest.raises(NotSupported, match="SwinTransformer is not supported"):
        Segmenter(swin, "dense")
