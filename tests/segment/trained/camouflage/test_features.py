"""p131 (OVCamouflage): which maps are read of a U-Net and of a tower."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.generate import LatentDenoiser
from binderclip.generate.denoisers.prompts import PromptEncoder
from binderclip.models import ImageTextModel
from binderclip.segment import DiffusionFeatures, TowerFeatures

IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Letters(PromptEncoder):
    """States that a text's letters seed."""

    width = 24  # type: ignore[assignment]
    length = 4  # type: ignore[assignment]

    def states(self, texts: Any) -> Tensor:
        seeds = [sum(text.encode()) for text in texts]
        return torch.stack([torch.randn(4, 24, generator=torch.Generator().manual_seed(seed)) for seed in seeds])

    def tokens(self, text: str) -> list[int]:
        return list(text.encode())[:2]

    frame = (0, 1, 2)  # type: ignore[assignment]
    vocabulary = 256  # type: ignore[assignment]

    def word_vectors(self, ids: Tensor) -> Tensor:
        raise NotImplementedError  # no test teaches it a word

    def states_of(self, ids: Tensor, vector: Tensor, *, positioned: bool = True) -> Tensor:
        raise NotImplementedError


@pytest.fixture(scope="module")
def denoiser() -> LatentDenoiser:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(16, 32), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=24, attention_head_dim=2, norm_num_groups=8,
    )  # fmt: skip
    autoencoder = diffusers.AutoencoderKL(
        block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2, norm_num_groups=4,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, sample_size=16,
    )  # fmt: skip
    return LatentDenoiser(unet, autoencoder, Letters()).requires_grad_(False).eval()


def test_maps_are_the_ends_of_the_encoder_s_levels_and_of_the_decoder(denoiser: LatentDenoiser) -> None:
    features = DiffusionFeatures(denoiser, "a moth")
    maps = features(IMAGES)
    assert [tuple(each.shape) for each in maps] == [(2, 16, 8, 8), (2, 32, 4, 4), (2, 16, 8, 8)]
    assert features.widths == (16, 32, 16)
    # The network's own ending on D is its prediction, and its own halving of E_1 enters the next level.
    unet = denoiser.unet
    t = torch.zeros(2, dtype=torch.long)
    latents = denoiser.encode(IMAGES)
    noisy = denoiser.schedule.add_noise(latents, torch.zeros_like(latents), t)
    predicted = unet.conv_out(unet.conv_act(unet.conv_norm_out(maps[-1])))
    torch.testing.assert_close(predicted, denoiser(noisy, t, ("a moth",)))
    entered: list[Tensor] = []
    hook = unet.down_blocks[1].register_forward_pre_hook(
        lambda _m, _a, given: entered.append(given["hidden_states"]), with_kwargs=True
    )
    denoiser(noisy, t, ("a moth",))
    hook.remove()
    torch.testing.assert_close(unet.down_blocks[0].downsamplers[0](maps[0]), entered[-1])


def test_what_is_seen_depends_on_text_time_and_noise_alone(denoiser: LatentDenoiser) -> None:
    plain = DiffusionFeatures(denoiser, "a moth")(IMAGES)
    again = DiffusionFeatures(denoiser, "a moth")(IMAGES)
    assert all(torch.equal(one, two) for one, two in zip(plain, again, strict=True))
    assert not any(len(block._forward_hooks) for block in denoiser.unet.down_blocks)
    assert not torch.allclose(plain[-1], DiffusionFeatures(denoiser, "an owl")(IMAGES)[-1])
    noisy = [DiffusionFeatures(denoiser, "a moth", t=500, noise_seed=seed)(IMAGES)[-1] for seed in (0, 0, 1)]
    assert torch.equal(noisy[0], noisy[1])
    assert not torch.allclose(noisy[0], noisy[2])
    single = DiffusionFeatures(denoiser, "a moth", t=500, noise_seed=0)(IMAGES[1:])[-1]  # one draw for all pictures
    torch.testing.assert_close(single, noisy[0][1:], atol=1e-5, rtol=1e-5)
    larger = F.interpolate(IMAGES, (32, 48), mode="nearest")
    assert DiffusionFeatures(denoiser)(larger)[0].shape == (2, 16, 8, 8)
    for t in (-1, 1000):
        with pytest.raises(UsageError, match="t must be"):
            DiffusionFeatures(denoiser, t=t)


def test_maps_of_a_tower_are_its_normed_patches(clip_model: ImageTextModel) -> None:
    features = TowerFeatures(clip_model, (0, 2), size=32)
    maps = features(IMAGES)
    assert [tuple(each.shape) for each in maps] == [(2, 48, 4, 4)] * 2
    tower = clip_model.image_tower
    tokens = tower.run(tower.embed(replace(clip_model.preprocess, size=(32, 32), resize_mode="squash")(IMAGES)))
    torch.testing.assert_close(maps[-1], tower.norm(tokens.patches).mT.unflatten(2, (4, 4)))
    with pytest.raises(UsageError, match="rising order"):
        TowerFeatures(clip_model, (2, 0))
    with pytest.raises(UsageError, match="no multiple of the patch"):
        TowerFeatures(clip_model, (0, 2), size=30)
