"""Folders of diffusers' pipelines: parity with the stock pipelines on the same random weights, and damaged folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from binderclip.errors import CheckpointError, NotSupported, UsageError
from binderclip.generate import ClassifierFreeGuidance, LatentDenoiser, load_denoiser, sample


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_pipeline: Callable[..., Any]) -> Path:
    where = tmp_path_factory.mktemp("pipeline")
    make_pipeline(where).save_pretrained(where / "saved")
    return where / "saved"


@pytest.fixture(scope="module")
def denoiser(folder: Path) -> LatentDenoiser:
    return load_denoiser(folder)


def test_classifier_free_guidance_gives_what_the_stock_pipeline_gives(folder: Path, denoiser: LatentDenoiser) -> None:
    import diffusers

    stock = diffusers.StableDiffusionPipeline.from_pretrained(folder)
    stock.set_progress_bar_config(disable=True)
    noise = denoiser.noise(2, (16, 24), torch.Generator().manual_seed(3))
    expected = stock(
        ["a red dog"] * 2, latents=noise, num_inference_steps=5, guidance_scale=4.0, height=16, width=24,
        output_type="latent",
    ).images  # fmt: skip
    latents = sample(
        denoiser, noise, "a red dog", terms=[ClassifierFreeGuidance(4.0)], num_inference_steps=5
    )  # fmt: skip
    torch.testing.assert_close(latents, expected, rtol=1e-4, atol=1e-4)
    pixels = stock.vae.decode(expected / stock.vae.config.scaling_factor).sample
    torch.testing.assert_close(denoiser.decode(latents), (pixels / 2 + 0.5).clamp(0, 1), rtol=1e-4, atol=1e-4)


def test_an_inpainting_network_gives_what_the_stock_inpainting_pipeline_gives(
    tmp_path: Path, make_pipeline: Callable[..., Any]
) -> None:
    stock = make_pipeline(tmp_path, "StableDiffusionInpaintPipeline", channels=9)
    stock.save_pretrained(tmp_path / "saved")
    denoiser = load_denoiser(tmp_path / "saved")
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 4:12, 2:10] = 1
    noise = denoiser.noise(1, (16, 16), torch.Generator().manual_seed(3))
    # the stock pipeline draws from its autoencoder's posterior; its mean makes the comparison exact
    kind = type(stock.vae.encode(image).latent_dist)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "sample", lambda self, generator=None: self.mode())
        expected = stock(
            "a dog", image=2 * image - 1, mask_image=mask, latents=noise, num_inference_steps=3, guidance_scale=3.0,
            height=16, width=16, output_type="latent", strength=1.0,
        ).images  # fmt: skip
    bound = denoiser.inpainting(image, mask)
    latents = sample(bound, noise, "a dog", terms=[ClassifierFreeGuidance(3.0)], num_inference_steps=3)
    torch.testing.assert_close(latents, expected, rtol=1e-4, atol=1e-4)


def test_a_folder_without_a_part_or_with_missing_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    shutil.rmtree(broken / "vae")
    with pytest.raises(CheckpointError, match="lacks vae: was its download interrupted"):
        load_denoiser(broken)
    shutil.copytree(folder / "vae", broken / "vae")
    scheduler = broken / "scheduler" / "scheduler_config.json"
    text = scheduler.read_text()
    scheduler.unlink()
    with pytest.raises(CheckpointError, match=r"scheduler_config\.json cannot be read"):
        load_denoiser(broken)
    scheduler.write_text(text)
    weights = broken / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    state.pop("conv_in.weight")
    save_file(state, weights, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 weights are missing .* conv_in.weight"):
        load_denoiser(broken)
    weights.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_denoiser(broken)


@pytest.mark.parametrize(
    ("index", "error", "message"),
    [
        ('{"text_encoder_2": ["transformers", "CLIPTextModelWithProjection"]}', NotSupported, "two text encoders"),
        ("{", CheckpointError, "is not JSON"),
        ("[]", CheckpointError, "must be an object"),
        (None, CheckpointError, "has no model_index.json"),
    ],
)
def test_other_folders_are_refused(tmp_path: Path, index: Any, error: type[Exception], message: str) -> None:
    if index is not None:
        (tmp_path / "model_index.json").write_text(index)
    with pytest.raises(error, match=message):
        load_denoiser(tmp_path)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(UsageError, match="no denoiser or folder 'nothing'"):
        load_denoiser("nothing")
