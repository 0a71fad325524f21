"""Folders of diffusers' pipelines: parity with the stock pipelines on the same random weights, and damaged folders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from binderclip.errors import CheckpointError, NotSupported, UsageError
from binderclip.generate import (
    ClassifierFreeGuidance,
    ImageTextPromptEncoder,
    LatentDenoiser,
    NoiseSchedule,
    load_denoiser,
    sample,
    save_denoiser,
)
from binderclip.models import load


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


@pytest.mark.parametrize("part", ["unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"])
def test_no_part_has_random_weights_in_the_place_of_lost_ones(
    folder: Path, tmp_path: Path, part: str, capfd: pytest.CaptureFixture[str]
) -> None:
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    weights = broken / f"{part}.safetensors"
    state = load_file(weights)
    last = sorted(state)[-1]
    save_file({name: value for name, value in state.items() if name != last}, weights, {"format": "pt"})
    with pytest.raises(CheckpointError, match=f"1 weights are missing .* {last}"):
        load_denoiser(broken)
    weights.write_bytes((folder / f"{part}.safetensors").read_bytes()[:-40])  # an interrupted download
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_denoiser(broken)
    assert capfd.readouterr().err == ""  # neither package says on its own that a layer will be random


def test_a_tokenizer_without_its_words_is_refused(folder: Path, tmp_path: Path) -> None:
    """transformers makes one that knows no word, of which every prompt is the empty one."""
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / "tokenizer" / "tokenizer_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"lacks tokenizer/tokenizer_config\.json: was its download interrupted"):
        load_denoiser(broken)
    shutil.copy(folder / "tokenizer" / "tokenizer_config.json", broken / "tokenizer")
    (broken / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"lacks tokenizer/tokenizer\.json"):
        load_denoiser(broken)
    for name in ("vocab.json", "merges.txt"):  # the older form, which Stable Diffusion's folders have
        shutil.copy(folder.parent / "words" / name, broken / "tokenizer")
    assert load_denoiser(broken).text.tokens("red dog") == load_denoiser(folder).text.tokens("red dog")
    (broken / "tokenizer" / "merges.txt").unlink()
    with pytest.raises(CheckpointError, match=r"lacks tokenizer/merges\.txt"):
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
    with pytest.raises(UsageError, match="there is no denoiser or folder 'nothing'"):
        load_denoiser("nothing")


@pytest.fixture
def own(tiny_clip: Callable[[int], Path]) -> LatentDenoiser:
    """A network of our own folders: prompts by a contrastive model, image tokens, a small autoencoder."""
    from diffusers import AutoencoderTiny, UNet2DConditionModel
    from diffusers.models.embeddings import ImageProjection

    text = ImageTextPromptEncoder(load(str(tiny_clip(1))))
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=9, block_out_channels=(16, 32), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=text.width, attention_head_dim=2, norm_num_groups=8,
    )  # fmt: skip
    autoencoder = AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1), scaling_factor=0.8,
    )  # fmt: skip
    projection = ImageProjection(image_embed_dim=6, cross_attention_dim=text.width, num_image_text_embeds=4)
    network = LatentDenoiser(unet, autoencoder, text, image_projection=projection, prediction="v_prediction")
    return network.requires_grad_(False).eval()


def test_a_folder_of_our_own_gives_the_network_back(
    own: LatentDenoiser, tiny_clip: Callable[[int], Path], tmp_path: Path
) -> None:
    save_denoiser(own, tmp_path / "own", card={"name": "own"}, text_model=str(tiny_clip(1)), dtype="float32")
    other = load_denoiser(tmp_path / "own")
    prompt = replace(own.prompt("a cat"), image_tokens=own.image_tokens(torch.ones(1, 6))[0])
    x, t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([300])
    torch.testing.assert_close(other(x, t, [prompt]), own(x, t, [prompt]))
    torch.testing.assert_close(other.prompt("a cat").keys, prompt.keys)
    torch.testing.assert_close(other.image_tokens(torch.ones(1, 6))[0], prompt.image_tokens)
    torch.testing.assert_close(other.decode(x), own.decode(x))
    config = (tmp_path / "own" / "config.json").read_text().replace('"sample_size": 8', '"sample_sise": 8')
    (tmp_path / "own" / "config.json").write_text(config.replace('"block_out_channels"', '"block_channels"'))
    with pytest.raises(CheckpointError, match="does not hold what its configuration says"):
        load_denoiser(tmp_path / "own")


def test_what_a_folder_of_our_own_does_not_hold_is_not_written(
    own: LatentDenoiser, make_denoiser: Callable[..., LatentDenoiser], tmp_path: Path
) -> None:
    def refused(network: LatentDenoiser, message: str) -> None:
        with pytest.raises(NotSupported, match=message):
            save_denoiser(network, tmp_path / "own", card={}, text_model="small")

    refused(make_denoiser(9), "whose prompts a contrastive model encodes")
    autoencoder, own.autoencoder = own.autoencoder, make_denoiser(9).autoencoder
    refused(own, "an AutoencoderKL cannot be written")
    own.autoencoder, own.schedule = autoencoder, NoiseSchedule.linear()
    refused(own, "only a denoiser of Stable Diffusion's schedule")
    assert not (tmp_path / "own").exists()
