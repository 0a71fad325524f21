"""`binderclip generate --controlnet`: the library's call of the same seed, diffusers' resizing, and mistakes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.data import to_tensor
from binderclip.generate import ClassifierFreeGuidance, JointWindows, load_controlnet, load_denoiser, sample

from ...generate.conftest import tiny_controlnet as random_controlnet

Command = Callable[..., Any]


@pytest.fixture(scope="module")
def edges(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of 60 x 60 px."""
    path = tmp_path_factory.mktemp("control") / "edges.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 60, 3)).astype(np.uint8)).save(path)
    return path


def pixels(path: object) -> torch.Tensor:
    with Image.open(str(path)) as picture:
        return to_tensor(picture.convert("RGB"))


def as_diffusers_resizes(path: Path, size: tuple[int, int]) -> torch.Tensor:
    from diffusers.image_processor import VaeImageProcessor

    processor = VaeImageProcessor(vae_scale_factor=2, do_convert_rgb=True, do_normalize=False)
    with Image.open(path) as picture:
        resized: torch.Tensor = processor.preprocess(picture, height=size[0], width=size[1])
    return resized


def test_a_picture_is_that_of_the_library_with_the_same_seed(
    command: Command, tiny_diffusion: Path, tiny_controlnet: Path, edges: Path, tmp_path: Path
) -> None:
    words = ["generate", "a red dog", "--count", "2", "--seed", "4", "--steps", "3", "--guidance", "2.5",
             "-m", tiny_diffusion, "--json"]  # fmt: skip
    steered = ["--controlnet", tiny_controlnet, "--control-image", edges, "--conditioning-scale", "0.7"]
    done = command(*words, *steered, "--out", tmp_path / "steered")
    assert done.code == 0, done.err
    document = done.json()
    assert document["request"]["conditioning_scale"] == 0.7
    denoiser = load_controlnet(load_denoiser(tiny_diffusion), tiny_controlnet)
    denoiser = denoiser.conditioned_on(as_diffusers_resizes(edges, (16, 16)), scale=0.7)
    for row, seed in zip(document["pictures"], (4, 5), strict=True):
        noise = denoiser.noise(1, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            latents = sample(denoiser, noise, "a red dog", terms=[ClassifierFreeGuidance(2.5)], num_inference_steps=3)
            expected = denoiser.decode(latents)[0]
        assert float((pixels(row["picture"]) - expected).abs().max()) < 0.5 / 255 + 1e-3
    plain = command(*words, "--out", tmp_path / "plain").json()
    steered_pixels, plain_pixels = (pixels(each["pictures"][0]["picture"]) for each in (document, plain))
    assert float((steered_pixels - plain_pixels).abs().max()) > 4 / 255


def test_each_window_of_a_wide_picture_is_steered_by_its_part(
    command: Command, tiny_diffusion: Path, tiny_controlnet: Path, tmp_path: Path
) -> None:
    edges = tmp_path / "wide.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (32, 80, 3)).astype(np.uint8)).save(edges)
    words = ["generate", "a red dog", "--size", "16x40", "--steps", "3", "--guidance", "1", "-m", tiny_diffusion,
             "--controlnet", tiny_controlnet, "--control-image", edges, "--json"]  # fmt: skip
    made = command(*words, "--out", tmp_path / "out")
    assert made.code == 0, made.err
    windows, parts = JointWindows((8, 20), 8, 2), JointWindows((16, 40), 16, 4)
    denoiser = load_controlnet(load_denoiser(tiny_diffusion), tiny_controlnet)
    denoiser = denoiser.conditioned_on(parts.split(as_diffusers_resizes(edges, (16, 40))[0]))
    noise = denoiser.noise(1, (16, 40), torch.Generator().manual_seed(0))[0]
    with torch.no_grad():
        states = sample(denoiser, windows.split(noise), "a red dog", hooks=[windows], num_inference_steps=3)
        expected = denoiser.decode(windows.merge(states)[None])[0]
    assert float((pixels(made.json()["pictures"][0]["picture"]) - expected).abs().max()) < 0.5 / 255 + 1e-3
    synchronised = command(*words, "--sync", "--out", tmp_path / "sync")
    assert synchronised.code == 0, synchronised.err


def test_what_does_not_go_together_is_said(
    command: Command, tiny_diffusion: Path, tiny_controlnet: Path, edges: Path, tmp_path: Path
) -> None:
    def refused(text: str, *words: object, model: object = tiny_diffusion) -> None:
        done = command("generate", "a cat", "--steps", "1", "-m", model, *words, "--out", tmp_path / "out")
        assert done.code != 0
        assert text in " ".join(done.err.split())
        assert "Traceback" not in done.err
        assert not (tmp_path / "out").exists()

    network, image = ("--controlnet", tiny_controlnet), ("--control-image", edges)
    refused("--controlnet needs --control-image: the picture that it reads", *network)
    refused("--control-image needs --controlnet: the folder", *image)
    refused("--conditioning-scale goes with --controlnet", "--conditioning-scale", "0.5")
    refused("--conditioning-scale", *network, *image, "--conditioning-scale", "3")
    refused("give the folder of a diffusers pipeline by --model", *network, *image, model="small-diffusion")
    refused("there is no file", *network, "--control-image", tmp_path / "none.png")
    refused("a ControlNet cannot be read: there is no folder", "--controlnet", tmp_path / "none", *image)
    refused("holds a UNet2DConditionModel, not a ControlNetModel", "--controlnet", tiny_diffusion / "unet", *image)
    done = command("generate", "a", "--from-folder", tmp_path, *network, *image)
    assert "--controlnet does not go with --from-folder" in done.err
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nxx")
    refused("broken.png", *network, "--control-image", tmp_path / "broken.png")


def test_a_controlnet_of_another_base_model_is_refused(
    command: Command, tiny_diffusion: Path, edges: Path, tmp_path: Path
) -> None:
    random_controlnet(cross_attention_dim=32).save_pretrained(tmp_path / "other")
    done = command("generate", "a cat", "-m", tiny_diffusion, "--controlnet", tmp_path / "other", "--control-image",
                   edges, "--out", tmp_path / "out")  # fmt: skip
    assert done.code != 0
    assert "its cross_attention_dim is 32, the denoiser's 24" in " ".join(done.err.split())


@pytest.mark.parametrize(
    ("size", "hint"), [((90, 60), "give --size 16x24"), ((60, 90), "give --size 24x16"), ((76, 60), "--size 16x20")]
)
def test_a_control_image_of_another_shape_is_refused_and_the_size_that_fits_is_taken(
    command: Command, tiny_diffusion: Path, tiny_controlnet: Path, tmp_path: Path, size: tuple[int, int], hint: str
) -> None:
    Image.new("RGB", size, "white").save(tmp_path / "edges.png")
    words = ["generate", "a cat", "--steps", "1", "-m", tiny_diffusion, "--controlnet", tiny_controlnet,
             "--control-image", tmp_path / "edges.png", "--out", tmp_path / "out"]  # fmt: skip
    done = command(*words)
    assert done.code == 2
    assert hint in " ".join(done.err.split())
    assert f"{size[0]} x {size[1]} px, of another shape than the pictures (16 x 16)" in " ".join(done.err.split())
    assert command(*words, "--size", hint.split()[-1]).code == 0


def test_transparent_parts_of_a_control_image_are_black(
    command: Command, tiny_diffusion: Path, tiny_controlnet: Path, tmp_path: Path
) -> None:
    """Nothing lies there, in pictures of edges, depth and poses."""
    Image.new("RGBA", (16, 16), (255, 255, 255, 0)).save(tmp_path / "clear.png")
    Image.new("RGB", (16, 16), "black").save(tmp_path / "black.png")
    made = []
    for name in ("clear", "black"):
        done = command("generate", "a cat", "--steps", "1", "-m", tiny_diffusion, "--controlnet", tiny_controlnet,
                       "--control-image", tmp_path / f"{name}.png", "--out", tmp_path / name)  # fmt: skip
        assert done.code == 0, done.err
        made.append(pixels(tmp_path / name / "a-cat-0.png"))
    assert torch.equal(*made)
