"""Released ControlNets: what the stock pipeline draws with one, their keys and shapes, and folders of other kinds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from binderclip.errors import CheckpointError, NotSupported, UsageError
from binderclip.generate import ClassifierFreeGuidance, LatentDenoiser, load_controlnet, load_denoiser, sample

from ..conftest import tiny_controlnet

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, make_pipeline: Callable[..., Any]) -> tuple[Path, Path]:
    """Of a pipeline, and of a ControlNet for it."""
    where = tmp_path_factory.mktemp("steered")
    make_pipeline(where).save_pretrained(where / "pipeline")
    tiny_controlnet().save_pretrained(where / "controlnet")
    return where / "pipeline", where / "controlnet"


@pytest.fixture(scope="module")
def steered(folders: tuple[Path, Path]) -> LatentDenoiser:
    return load_controlnet(load_denoiser(folders[0]), folders[1])


def test_a_picture_steers_as_in_the_stock_pipeline(folders: tuple[Path, Path], steered: LatentDenoiser) -> None:
    import diffusers

    controlnet = diffusers.ControlNetModel.from_pretrained(folders[1])
    stock = diffusers.StableDiffusionControlNetPipeline.from_pretrained(folders[0], controlnet=controlnet)
    stock.set_progress_bar_config(disable=True)
    edges = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(1))
    noise = steered.noise(2, (16, 24), torch.Generator().manual_seed(3))
    expected = stock(
        ["a red dog"] * 2, image=edges, latents=noise, num_inference_steps=4, guidance_scale=4.0, height=16, width=24,
        controlnet_conditioning_scale=0.7, output_type="latent",
    ).images  # fmt: skip
    settings: dict[str, Any] = {"terms": [ClassifierFreeGuidance(4.0)], "num_inference_steps": 4}
    latents = sample(steered.conditioned_on(edges, scale=0.7), noise, "a red dog", **settings)
    torch.testing.assert_close(latents, expected, rtol=1e-4, atol=1e-4)
    plain = sample(load_denoiser(folders[0]), noise, "a red dog", **settings)
    assert float((latents - plain).abs().max()) > 0.01
    for idle in (steered, steered.conditioned_on(edges, scale=0)):
        torch.testing.assert_close(sample(idle, noise, "a red dog", **settings), plain)


def test_each_picture_has_its_own_control_image(steered: LatentDenoiser) -> None:
    """Two pictures with two control images are those that are drawn one by one."""
    edges = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    noise = steered.noise(2, (16, 16), torch.Generator().manual_seed(3))
    settings: dict[str, Any] = {"terms": [ClassifierFreeGuidance(4.0)], "num_inference_steps": 3}
    both = sample(steered.conditioned_on(edges), noise, "a red dog", **settings)
    single = [
        sample(steered.conditioned_on(edges[[i]]), noise[[i]], "a red dog", **settings) for i in range(len(edges))
    ]
    torch.testing.assert_close(both, torch.cat(single), rtol=1e-4, atol=1e-4)
    swapped = sample(steered.conditioned_on(edges.flip(0)), noise, "a red dog", **settings)
    assert float((both - swapped).abs().max()) > 0.01


def test_keys_and_shapes_are_those_of_stable_diffusion_1() -> None:
    """The paper's 12 zero convolutions and one of the middle; 16 to 256 channels for 8 times the latents' side."""
    from diffusers import ControlNetModel

    with torch.device("meta"):  # without memory
        state = ControlNetModel(cross_attention_dim=768).state_dict()
    zero = [key for key in state if key.startswith("controlnet_down_blocks.") and key.endswith(".weight")]
    assert len(zero) == 12
    assert state["controlnet_mid_block.weight"].shape == state[zero[-1]].shape == (1280, 1280, 1, 1)
    assert state["controlnet_cond_embedding.conv_in.weight"].shape == (16, 3, 3, 3)
    assert state["controlnet_cond_embedding.conv_out.weight"].shape == (320, 256, 3, 3)
    assert {key.split(".")[0] for key in tiny_controlnet().state_dict()} == {key.split(".")[0] for key in state}


def test_other_folders_are_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    denoiser = load_denoiser(folders[0])
    with pytest.raises(CheckpointError, match="a ControlNet cannot be read: there is no folder"):
        load_controlnet(denoiser, tmp_path / "none")
    with pytest.raises(CheckpointError, match="holds a UNet2DConditionModel, not a ControlNetModel"):
        load_controlnet(denoiser, folders[0] / "unet")
    tiny_controlnet(cross_attention_dim=32).save_pretrained(tmp_path / "wide")
    with pytest.raises(CheckpointError, match="its cross_attention_dim is 32, the denoiser's 24"):
        load_controlnet(denoiser, tmp_path / "wide")
    tiny_controlnet(conditioning_embedding_out_channels=(8, 8, 16)).save_pretrained(tmp_path / "small")
    with pytest.raises(CheckpointError, match="makes pictures 4 times smaller, the denoiser's autoencoder 2 times"):
        load_controlnet(denoiser, tmp_path / "small")
    broken = tmp_path / "broken"
    shutil.copytree(folders[1], broken)
    state = load_file(broken / WEIGHTS)
    state.pop("controlnet_mid_block.bias")
    save_file(state, broken / WEIGHTS, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 weights are missing .* controlnet_mid_block\.bias"):
        load_controlnet(denoiser, broken)
    (broken / WEIGHTS).write_bytes((folders[1] / WEIGHTS).read_bytes()[:-40])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_controlnet(denoiser, broken)
    (broken / "config.json").write_text(json.dumps([]))
    with pytest.raises(CheckpointError, match="must be an object"):
        load_controlnet(denoiser, broken)


def test_control_images_of_other_sizes_are_refused(folders: tuple[Path, Path], steered: LatentDenoiser) -> None:
    with pytest.raises(NotSupported, match="load_controlnet gives it one"):
        load_denoiser(folders[0]).conditioned_on(torch.zeros(1, 3, 16, 16))
    for shape in ((3, 16, 16), (1, 1, 16, 16), (1, 3, 15, 16)):
        with pytest.raises(UsageError, match="control images must be"):
            steered.conditioned_on(torch.zeros(shape))
    with pytest.raises(UsageError, match="scale"):
        steered.conditioned_on(torch.zeros(1, 3, 16, 16), scale=3)
    bound = steered.conditioned_on(torch.zeros(1, 3, 16, 16))
    with pytest.raises(UsageError, match="do not fit control images"):
        bound(torch.zeros(1, 4, 4, 8), torch.tensor([5]))
