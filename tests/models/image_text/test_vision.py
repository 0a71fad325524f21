"""Image towers without a text side: every source, against timm's own forward."""

from __future__ import annotations

import pytest
import timm
import torch

from binderclip.errors import CheckpointError, NotSupported, UsageError
from binderclip.models import VisionModel, load_vision
from binderclip.models.bundled.architectures import LiteStem, LiteTrunk
from binderclip.models.files.folders import compact_folder, folder_kind
from binderclip.models.image_text.preprocess import Preprocess
from binderclip.models.image_text.vision import new_backbone

TINY = {"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2}


@pytest.fixture(scope="module")
def tiny() -> VisionModel:
    torch.manual_seed(0)
    backbone = new_backbone("vit_tiny_patch16_224", TINY).eval()
    return VisionModel(
        backbone, arch="vit_tiny_patch16_224", options=TINY, name="tiny", preprocess=Preprocess(size=(32, 32))
    )


def test_features_are_timms_own(tiny):
    images = torch.rand(3, 3, 32, 32)
    pixels = tiny.preprocess(images)
    with torch.no_grad():
        torch.testing.assert_close(tiny.encode_image(images), tiny.backbone(pixels))
        tokens = tiny.backbone.forward_features(pixels)[:, 1:]
        maps = tiny.patch_features(images)
    torch.testing.assert_close(maps.flatten(2).mT, tokens)
    middle = tiny.backbone.forward_intermediates(pixels, indices=[0], intermediates_only=True)[0]
    torch.testing.assert_close(tiny.patch_features(images, layer=0), middle)
    unit = tiny.patch_features(images, normalize=True)
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(3, 2, 2))


def test_other_sizes_and_gradients(tiny):
    images = torch.rand(2, 3, 40, 40, requires_grad=True)
    maps = tiny.patch_features(images, size=(48, 64))
    assert maps.shape == (2, 32, 3, 4)
    maps.sum().backward()
    assert images.grad is not None
    with pytest.raises(UsageError, match="multiple of the patch"):
        tiny.patch_features(images, size=50)
    with pytest.raises(UsageError, match="2 blocks"):
        tiny.patch_features(images, layer=2)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_folders(tiny, tmp_path, dtype):
    tiny.save(tmp_path / "model", dtype=dtype)
    assert folder_kind(tmp_path / "model") == "vision"
    images = torch.rand(2, 3, 32, 32)
    expected = tiny.encode_image(images, normalize=True)
    for name in (tmp_path, tmp_path / "model"):
        found = load_vision(name)
        cosine = (found.encode_image(images, normalize=True) * expected).sum(1)
        assert float(cosine.detach().min()) > (0.99999 if dtype == "float32" else 0.999)
        assert found.preprocess == tiny.preprocess
    small = compact_folder(tmp_path, tmp_path / "small")
    assert load_vision(small).card["name"] == "tiny"


def test_any_timm_vit_opens_the_same_way(tmp_path):
    """DINOv2's registers and LayerScale, DINO's plain ViT; weights from a file."""
    model = load_vision("timm:vit_small_patch14_reg4_dinov2/none")
    assert model.image_tower.prefix == 5
    assert model.patch_features(torch.rand(1, 3, 28, 42), size=(28, 42)).shape == (1, 384, 2, 3)
    torch.manual_seed(1)
    backbone = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    from safetensors.torch import save_file

    save_file(backbone.state_dict(), tmp_path / "weights.safetensors")
    found = load_vision(f"timm:vit_tiny_patch16_224/{tmp_path}/weights.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(backbone.parameters(), found.backbone.parameters(), strict=True))


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("small-dno", UsageError, "load\\(\\) opens image-text models"),
        ("timm:resnet50/none", NotSupported, "VisionTransformers"),
        ("timm:vit_smal_patch16_224/none", UsageError, "did you mean"),
        ("timm:vit_tiny_patch16_224/nowhere.safetensors", CheckpointError, "no weight file"),
    ],
)
def test_errors_say_what_would_be_right(name, kind, said):
    with pytest.raises(kind, match=said):
        load_vision(name)


def test_a_folder_of_another_kind_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(CheckpointError, match="vision tower"):
        load_vision(tmp_path / "a")


def test_the_stem_is_the_lower_part_of_a_trunk():
    """Undilated, the first three stages are the trunk's; the columns are all five stages side by side."""
    torch.manual_seed(0)
    trunk, stem, columns = LiteTrunk("lite0").eval(), LiteStem().eval(), LiteStem(columns=True).eval()
    stem.load_trunk(trunk.state_dict())
    columns.load_trunk(trunk.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        y = trunk.stem_act(trunk.stem(x))
        maps = []
        for stage in list(trunk.stages.children())[:3]:
            y = stage(y)
            maps.append(y)
        fine, middle, coarse = stem.levels(x)
        wide = columns(x)
    torch.testing.assert_close(fine, maps[0])
    torch.testing.assert_close(middle, maps[1])
    assert coarse.shape == (1, 112, 8, 8)
    assert wide.shape == (1, 272, 8, 8)
    torch.testing.assert_close(wide[:, :16], torch.nn.functional.avg_pool2d(fine, 4))
    torch.testing.assert_close(wide[:, 40:80], maps[2])
    torch.testing.assert_close(wide[:, -112:], coarse)
    with pytest.raises(CheckpointError, match="trunk has no"):
        stem.load_trunk({})
