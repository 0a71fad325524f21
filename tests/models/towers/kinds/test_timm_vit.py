"""What is particular to timm's ViT, and what is refused."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.models.vision_transformer import ParallelScalingBlock
from timm.models.vision_transformer import VisionTransformer as TimmVit
from torch import nn

from binderclip.errors import NotSupported, UsageError
from binderclip.models.towers import open_image_tower

SIZES = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4, "num_classes": 10}


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_wee_patch16_reg1_gap_256"])
def test_registered_models_open_as_they_are(name):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=12).eval()
    side = model.patch_embed.img_size[0]
    x = torch.randn(1, 3, side, side)
    with torch.no_grad():
        tower = open_image_tower(model)
        assert torch.allclose(tower(x), model(x), atol=1e-5)
    assert tower.patch == 16
    assert tower.image_size == (side, side)


def test_drop_path_and_patch_dropout_in_training():
    model = TimmVit(**SIZES, patch_drop_rate=0.5, drop_path_rate=0.9)
    tower, x = open_image_tower(model), torch.randn(3, 3, 32, 32)
    model.train()
    assert tower.embed(x).x.shape[1] == 9
    torch.manual_seed(0)
    first = tower(x)
    assert not torch.allclose(first, tower(x))
    model.eval()
    assert torch.allclose(tower(x), model(x), atol=1e-5)


def test_masked_patches_do_not_reach_the_pool():
    for pool in ("map", "avg", "max", "avgmax"):
        torch.manual_seed(0)
        model = TimmVit(**SIZES, global_pool=pool, class_token=False).eval()
        tower = open_image_tower(model)
        tokens = tower.run(tower.embed(torch.randn(2, 3, 32, 32)))
        mask = torch.arange(16).expand(2, -1) < 6
        half = type(tokens)(tokens.x, tokens.positions, mask, tokens.grid)
        cut = type(tokens)(tokens.x[:, :6], tokens.positions[:, :6], None, tokens.grid)
        assert torch.allclose(tower.pool(half), tower.pool(cut), atol=1e-6), pool


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: timm.create_model("convnext_atto"),
            "ConvNeXt is not supported; supported: timm Eva, and VisionTransf",
        ),
        (lambda: timm.create_model("fastvit_t8"), "FastVit is not supported"),
        (lambda: TimmVit(**SIZES, global_pool=""), "global_pool ''"),
        (lambda: TimmVit(**SIZES, global_pool="prr"), "global_pool 'prr'"),
        (lambda: TimmVit(**SIZES, block_fn=ParallelScalingBlock), "ParallelScalingBlock"),
        (lambda: TimmVit(**SIZES, attn_layer="diff"), "DiffAttention"),
        (lambda: nn.Sequential(nn.Linear(2, 2)), "image tower Sequential is not supported; supported: open_clip"),
    ],
)
def test_what_is_not_supported_is_named(build, message):
    with pytest.raises(NotSupported, match=message):
        open_image_tower(build())


def test_dynamic_padding_is_refused():
    with pytest.raises(UsageError, match="dynamic_img_pad"):
        open_image_tower(TimmVit(**SIZES, dynamic_img_size=True, dynamic_img_pad=True))
