"""Tiny random networks of Stable Diffusion's layout, for parity with diffusers."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from binderclip.generate import LatentDenoiser, TransformersPromptEncoder


def tiny_unet(channels: int = 4) -> Any:
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8, in_channels=channels, out_channels=4, block_out_channels=(16, 32), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=24, attention_head_dim=2, norm_num_groups=8,
    ).eval()  # fmt: skip


def tiny_autoencoder() -> Any:
    from diffusers import AutoencoderKL

    torch.manual_seed(1)
    return AutoencoderKL(
        block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2, norm_num_groups=4,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, sample_size=16,
    ).eval()  # fmt: skip


def tiny_text(folder: Path) -> tuple[Any, Any]:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    letters = [*"abcdefghijklmnopqrstuvwxyz"]
    merges = ["r e", "re d</w>", "d o", "do g</w>", "o n</w>", "c a", "ca t</w>"]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *(merge.replace(" ", "") for merge in merges)]
    vocabulary = {token: place for place, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16)
    torch.manual_seed(2)
    end = vocabulary["<|endoftext|>"]
    config = CLIPTextConfig(
        vocab_size=len(vocabulary), hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16, bos_token_id=end - 1, eos_token_id=end, pad_token_id=end,
    )  # fmt: skip
    return tokenizer, CLIPTextModel(config).eval()


def tiny_pipeline(folder: Path, kind: str = "StableDiffusionPipeline", channels: int = 4) -> Any:
    """A stock pipeline whose parts are tiny and random."""
    import diffusers

    tokenizer, encoder = tiny_text(folder / "words")
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    )  # fmt: skip
    pipeline = getattr(diffusers, kind)(
        vae=tiny_autoencoder(), text_encoder=encoder, tokenizer=tokenizer, unet=tiny_unet(channels),
        scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tiny_controlnet(**changes: Any) -> Any:
    """A random one for the tiny network, whose output is not zero as that of a new one is."""
    from diffusers import ControlNetModel

    torch.manual_seed(6)
    settings: dict[str, Any] = {
        "block_out_channels": (16, 32), "layers_per_block": 1, "cross_attention_dim": 24, "attention_head_dim": 2,
        "norm_num_groups": 8, "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "conditioning_embedding_out_channels": (8, 16),
    }  # fmt: skip
    controlnet = ControlNetModel(**(settings | changes)).eval()
    for parameter in controlnet.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    return controlnet


class Projection(nn.Module):
    """Four tokens of an embedding of six numbers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.linear = nn.Linear(6, 4 * 24)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).unflatten(-1, (4, 24))


@pytest.fixture(scope="session")
def make_pipeline() -> Callable[..., Any]:
    """Stock pipelines whose parts are tiny and random: `make_pipeline(folder, kind, channels)`."""
    pytest.importorskip("diffusers")
    return tiny_pipeline


@pytest.fixture(scope="session")
def make_denoiser(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., LatentDenoiser]:
    """Tiny random denoisers that encode prompts of letters: `make_denoiser(channels)`, 9 channels with image tokens."""
    pytest.importorskip("diffusers")
    tokenizer, encoder = tiny_text(tmp_path_factory.mktemp("words"))

    def make(channels: int = 9) -> LatentDenoiser:
        projection = Projection() if channels == 9 else None
        torch.manual_seed(5)
        denoiser = LatentDenoiser(
            tiny_unet(channels), tiny_autoencoder(), TransformersPromptEncoder(tokenizer, copy.deepcopy(encoder)),
            image_projection=projection,
        )  # fmt: skip
        return denoiser.requires_grad_(False).eval()

    return make


@pytest.fixture
def tiny_denoiser(make_denoiser: Callable[..., LatentDenoiser]) -> LatentDenoiser:
    """An inpainting network with image tokens."""
    return make_denoiser()
