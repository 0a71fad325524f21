"""p080 (Latent-CLIP): a tower over latents against the pixel tower, its autoencoder, folders and released names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from binderclip.errors import CheckpointError, UsageError
from binderclip.models import LatentCLIP, autoencoder_identity, build, load
from binderclip.models.files.released import read_released

CFG: dict[str, Any] = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 16, "layers": 2, "width": 64, "head_width": 64, "patch_size": 4},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
}
LATENTS = torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(0))


class Halved(nn.Module):
    """An autoencoder whose latents are pictures of half the side, in its own units."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def encode(self, images: Tensor) -> Any:
        from types import SimpleNamespace

        return SimpleNamespace(latents=self.weight * nn.functional.avg_pool2d(images, 2))


def model(**settings: Any) -> LatentCLIP:
    torch.manual_seed(0)
    return LatentCLIP(CFG, "mine", **settings).eval()


def test_with_the_identity_as_autoencoder_it_is_the_pixel_model() -> None:
    """Three channels, no factor: what remains is open_clip's model of the same weights."""
    latent = model(in_channels=3)
    pixel = build(CFG).eval()
    pixel.backbone.load_state_dict(latent.model.backbone.state_dict())
    normalised = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(latent.encode_latents(normalised), pixel.encode_pixels(normalised))
    words = ["a red apple", "a dog"]
    torch.testing.assert_close(latent.encode_text(words), pixel.encode_text(words))
    torch.testing.assert_close(latent.scale(), pixel.scale())


def test_latents_are_seen_in_the_autoencoder_s_units() -> None:
    one, scaled = model(), model(scaling_factor=0.125)
    torch.testing.assert_close(scaled.encode_latents(0.125 * LATENTS), one.encode_latents(LATENTS))
    torch.testing.assert_close(scaled.encode_latents(LATENTS, scaled=False), one.encode_latents(LATENTS))
    assert not torch.allclose(scaled.encode_latents(LATENTS), one.encode_latents(LATENTS))
    shifted = model(scaling_factor=1.5305, shift_factor=0.0609)  # of Stable Diffusion 3, by diffusers' formula
    torch.testing.assert_close(shifted.encode_latents((LATENTS - 0.0609) * 1.5305), one.encode_latents(LATENTS))
    torch.testing.assert_close(shifted.encode_latents(LATENTS, scaled=False), one.encode_latents(LATENTS))
    mean, std = [0.1, 0.2, 0.3, 0.4], [1.0, 2.0, 3.0, 4.0]
    standard = model(mean=mean, std=std, scaling_factor=0.5)
    seen = (LATENTS / 0.5 - torch.tensor(mean).reshape(4, 1, 1)) / torch.tensor(std).reshape(4, 1, 1)
    torch.testing.assert_close(standard.encode_latents(LATENTS), one.encode_latents(seen))
    unit = one.encode_latents(LATENTS, normalize=True)
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(3))
    leaf = LATENTS.clone().requires_grad_()
    one.encode_latents(leaf).sum().backward()
    assert leaf.grad is not None
    assert bool((leaf.grad != 0).any())


def test_it_is_tied_to_one_autoencoder() -> None:
    own, other = Halved(), Halved(2.0)
    torch.manual_seed(0)
    tied = LatentCLIP(CFG, own, in_channels=3, scaling_factor=0.5).eval()
    assert tied.autoencoder == autoencoder_identity(own) == autoencoder_identity(Halved())
    assert len(tied.autoencoder) == 32
    images = torch.rand(2, 3, 32, 32)
    features = tied.encode_image(images, own)
    torch.testing.assert_close(features, tied.encode_latents(own.encode(2 * images - 1).latents, scaled=False))
    for wrong in (other, other.half(), "sdxl"):
        with pytest.raises(UsageError, match="tied to one"):
            tied.check_autoencoder(wrong)
    with pytest.raises(UsageError, match="tied to one"):
        tied.encode_image(images, other)
    with pytest.raises(UsageError, match="latents must be"):
        tied.encode_image(images[..., :16], own)


def test_a_folder_brings_it_back(tmp_path: Path) -> None:
    saved = model(scaling_factor=0.13025, shift_factor=0.5, mean=[0.1] * 4, std=[2.0] * 4)
    opened = LatentCLIP.open(saved.save(tmp_path / "own", card={"summary": "tiny"}))
    torch.testing.assert_close(opened.encode_latents(LATENTS), saved.encode_latents(LATENTS))
    assert (opened.autoencoder, opened.scaling_factor, opened.in_channels) == ("mine", 0.13025, 4)
    assert opened.shift_factor == 0.5
    with pytest.raises(CheckpointError, match="holds no model"):
        load(str(tmp_path / "own"))  # it reads no pictures
    with pytest.raises(CheckpointError):
        LatentCLIP.open(tmp_path / "none")


def test_a_checkpoint_of_open_clip_s_training_is_read_by_its_names(tmp_path: Path) -> None:
    own = model()
    state = {f"module.{name}": value for name, value in own.model.backbone.state_dict().items()}
    torch.save({"epoch": 34, "name": "run", "state_dict": state}, tmp_path / "epoch_34.pt")
    released = read_released(tmp_path / "epoch_34.pt")
    opened = LatentCLIP.from_state(released, "sdxl")
    assert (opened.scaling_factor, opened.autoencoder, opened.latent_size) == (0.13025, "sdxl", (16, 16))
    torch.testing.assert_close(opened.encode_latents(LATENTS, scaled=False), own.encode_latents(LATENTS))
    torch.testing.assert_close(opened.encode_text(["a dog"]), own.encode_text(["a dog"]))
    for missing in ("visual.conv1.weight", "visual.ln_post.bias"):
        with pytest.raises(CheckpointError, match=missing):
            LatentCLIP.from_state({name: value for name, value in released.items() if name != missing}, "sdxl")
    with pytest.raises(CheckpointError, match="no Latent-CLIP"):
        LatentCLIP.from_state({"visual.conv1.weight": torch.zeros(2)}, "sdxl")


def test_bad_settings_are_refused() -> None:
    for settings, message in (
        ({"in_channels": 0}, "in_channels"),
        ({"scaling_factor": 0.0}, "scaling_factor"),
        ({"shift_factor": float("nan")}, "shift_factor"),
        ({"mean": [0.0]}, "mean and std"),
        ({"std": [0.0] * 4}, "mean and std"),
    ):
        with pytest.raises(UsageError, match=message):
            model(**settings)
    with pytest.raises(UsageError, match="autoencoder"):
        LatentCLIP(CFG, " ")
    with pytest.raises(UsageError, match="latents must be"):
        model().encode_latents(LATENTS[:, :3])
    with pytest.raises(UsageError, match="own vision transformer"):
        LatentCLIP(CFG | {"vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}}, "mine")
