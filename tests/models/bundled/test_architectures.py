"""The registered image towers: timm and open_clip open them, folding is exact, locations and sizes are as said."""

from __future__ import annotations

import open_clip
import pytest
import timm
import torch

import binderclip.models  # noqa: F401  (registers the names)
from binderclip.errors import CheckpointError, UsageError
from binderclip.models.bundled.architectures import (
    CLIP_MEAN,
    CLIP_STD,
    LiteTrunk,
    PooledLite,
    fold_lite,
    lite_pixels_to_clip,
)


def random_lite(name: str) -> torch.nn.Module:
    """timm's own network with norm statistics that matter."""
    torch.manual_seed(0)
    net = timm.create_model(f"tf_efficientnet_{name}", pretrained=False).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.7, 1.3)
            torch.nn.init.normal_(module.bias, std=0.1)
    return net


@pytest.mark.parametrize("name", ["lite0", "lite2"])
def test_folded_trunk_equals_timms_network_with_batch_norm(name: str) -> None:
    net = random_lite(name)
    trunk = LiteTrunk(name)
    trunk.load_state_dict(fold_lite(name, net.state_dict()))
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        expected = net.forward_features(x)
        assert torch.allclose(trunk(x), expected, atol=1e-4 * float(expected.abs().max()))
        assert torch.allclose(trunk.train()(x), trunk.eval()(x)), "no batch statistics may be left"


def test_dilated_trunk_agrees_with_the_strided_one_where_both_look() -> None:
    # Away from the border the dilated map holds the strided map at every second location of the first dilated stage.
    torch.manual_seed(0)
    coarse, fine = LiteTrunk("lite0").eval(), LiteTrunk("lite0", output_stride=16).eval()
    fine.load_state_dict(coarse.state_dict())
    x = torch.randn(1, 3, 512, 512)
    with torch.no_grad():
        a, b = coarse(x), fine(x)
        assert a.shape[2:] == (16, 16)
        assert b.shape[2:] == (32, 32)
        # TF's SAME padding of an even map with an odd kernel puts the strided samples at odd places.
        inner = a[:, :, 7:9, 7:9]
        gaps = [
            float((b[:, :, r::2, c::2][:, :, 7:9, 7:9] - inner).abs().max() / inner.abs().max())
            for r in (0, 1)
            for c in (0, 1)
        ]
    assert min(gaps) < 1e-3


def test_fold_refuses_other_weights() -> None:
    with pytest.raises(CheckpointError, match="lite0"):
        fold_lite("lite0", {"stem.weight": torch.zeros(1)})


def test_input_scale_is_absorbed_inside_the_picture() -> None:
    torch.manual_seed(0)
    trunk = LiteTrunk("lite0")
    pixels = torch.rand(1, 3, 64, 64)
    mean, std = torch.tensor(CLIP_MEAN).view(3, 1, 1), torch.tensor(CLIP_STD).view(3, 1, 1)
    with torch.no_grad():
        expected = trunk.stem((255 * pixels - 127) / 128)
        lite_pixels_to_clip(trunk)
        got = trunk.stem((pixels - mean) / std)
    assert torch.allclose(got[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], atol=1e-4)


@pytest.mark.parametrize("size", [128, 144, 256])
def test_hybrid_vit_takes_multiples_of_sixteen(size: int) -> None:
    tower = timm.create_model("binderclip_lite0_vit").eval()
    with torch.no_grad():
        tokens = tower.forward_features(torch.randn(1, 3, size, size))
    assert tokens.shape == (1, 1 + (size // 16) ** 2, 256)
    assert tower.default_cfg["mean"] == CLIP_MEAN


def test_every_parameter_of_the_hybrid_learns() -> None:
    # Stages that are kept and not used would get no gradient, and DDP would fail on them.
    torch.manual_seed(0)
    tower = timm.create_model("binderclip_lite0_vit")
    tower(torch.randn(2, 3, 64, 64)).square().sum().backward()
    assert [name for name, p in tower.named_parameters() if p.grad is None] == []


def test_a_batch_is_the_sum_of_its_pictures() -> None:
    # What gradient accumulation and per-example clipping rest on: no layer mixes the pictures of a batch.
    torch.manual_seed(0)
    tower = timm.create_model("binderclip_lite0_vit").double().train()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        both = tower(x)
        alone = torch.cat([tower(x[:1]), tower(x[1:])])
    assert torch.allclose(both, alone, atol=1e-10)


def test_pooled_tower_through_open_clip_and_its_errors() -> None:
    vision = {"timm_model_name": "binderclip_lite2", "timm_pool": "avg", "timm_proj": "linear", "image_size": 96}
    text = {"context_length": 8, "vocab_size": 32, "width": 32, "heads": 2, "layers": 1}
    model = open_clip.model.CustomTextCLIP(16, vision, text).eval()
    with torch.no_grad():
        assert model.encode_image(torch.randn(2, 3, 96, 96)).shape == (2, 16)
    with pytest.raises(UsageError, match="average"):
        PooledLite(global_pool="max")
    with pytest.raises(UsageError, match="output_stride"):
        LiteTrunk(output_stride=4)
