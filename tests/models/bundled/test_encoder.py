"""Bundled models in torch alone: bit for bit the towers that `load` builds of timm's and open_clip's classes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from open_clip.tokenizer import get_clean_fn
from PIL import Image
from torch.nn import functional

from binderclip.errors import CheckpointError, NotSupported, UsageError
from binderclip.models import load, load_encoder
from binderclip.models.bundled.encoder import LiteBlock, SameConv2d
from binderclip.models.files import registry
from binderclip.models.text.tokenize import clean_whitespace

NAMES = list(registry.bundled_folders())
TEXTS = ["a photo of a cat", "red &amp;  apple", "ﬁ heart", "an icon of a very unusual zeppelin"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_bundled_model_encodes_the_same_bits(name: str, dtype: str, pictures: list[Image.Image]) -> None:
    theirs, ours = load(name, dtype=dtype), load_encoder(name, dtype=dtype)
    bare = [getattr(model.backbone, "base", model.backbone) for model in (ours, theirs)]
    assert type(bare[0]) is not type(bare[1])
    assert torch.equal(ours.encode_image(pictures), theirs.encode_image(pictures))
    assert torch.equal(ours.encode_text(TEXTS), theirs.encode_text(TEXTS))
    assert ours.fingerprint == theirs.fingerprint
    assert (ours.activation, ours.scale().item(), ours.embed_dim) == (theirs.activation, theirs.scale().item(), 384)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [(8, 8), (7, 8), (8, 5), (9, 7), (1, 2), (1, 1)])
def test_padding_in_the_kernel_is_padding_of_the_picture(kernel: int, size: tuple[int, int]) -> None:
    """Of n pixels at stride 2, TensorFlow pads kernel - 2 where n is even and kernel - 1 where it is odd."""
    generator = torch.Generator().manual_seed(0)
    conv = SameConv2d(4, 4, kernel, 2, groups=4).requires_grad_(False)
    pixels = torch.randn(2, 4, *size, generator=generator)
    total = [kernel - 2 + n % 2 for n in size]
    sides = [side for n in reversed(total) for side in (n // 2, n - n // 2)]
    expected = functional.conv2d(functional.pad(pixels, sides), conv.weight, conv.bias, 2, groups=4)
    for conv.in_kernel in (False, True):
        torch.testing.assert_close(conv(pixels), expected)


def test_a_block_leaves_its_input_and_has_gradients() -> None:
    """Without gradients a block overwrites maps of its own, never the one it was given."""
    block = LiteBlock(8, 8, 3, 1, 1, 6)
    x = torch.randn(1, 8, 6, 6, generator=torch.Generator().manual_seed(0))
    kept = x.clone()
    with torch.no_grad():
        y = block(x)
    assert torch.equal(x, kept)
    assert torch.equal(block(x.requires_grad_()), y)
    block(x).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("size", [(128, 192), (224, 96)])
def test_other_sizes_take_resized_positions(size: tuple[int, int]) -> None:
    theirs, ours = load("small"), load_encoder("small")
    pixels = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ours.encode_image(pixels, size=size), theirs.encode_image(pixels, size=size))


def test_gradients_reach_the_pixels_as_through_the_towers() -> None:
    pixels = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    found = []
    for model in (load("small"), load_encoder("small")):
        own = pixels.clone().requires_grad_()
        model.encode_image(own).square().sum().backward()
        found.append(own.grad)
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)


def test_a_folder_saved_from_it_is_the_same_model(tmp_path: Path, pictures: list[Image.Image]) -> None:
    folder = load_encoder("small").save(tmp_path / "model")
    assert load(folder).fingerprint == load("small").fingerprint
    again = load_encoder(tmp_path)  # the run folder around it
    assert torch.equal(again.encode_image(pictures), load("small").encode_image(pictures))


def test_towers_are_refused_by_the_name_of_what_opens_them() -> None:
    model = load_encoder("small")
    for what in ("image_tower", "dense_tower", "text_tower"):
        with pytest.raises(NotSupported, match="load_encoder, which encodes alone: `load`"):
            getattr(model, what)


def test_another_architecture_is_loaded_as_ever(clip_folder: Path) -> None:
    assert type(load_encoder(clip_folder).backbone) is type(load(clip_folder).backbone)


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("vision_cfg", "timm_pool", "avg"),
        ("vision_cfg", "timm_drop", 0.1),
        ("text_cfg", "no_causal_mask", True),
        ("text_cfg", "pool_type", "last"),
    ],
)
def test_settings_that_it_does_not_have_are_left_to_load(part: str, name: str, value: object, tmp_path: Path) -> None:
    from binderclip.documents import json_text, parse_json

    folder = tmp_path / "model"
    shutil.copytree(registry.bundled_folders()["small"], folder)
    config = parse_json((folder / registry.CONFIG).read_text())
    config["model_cfg"][part][name] = value
    (folder / registry.CONFIG).write_text(json_text(config))
    from binderclip.models.image_text.folder import encoder_from_folder

    assert encoder_from_folder(folder, "changed") is None


def test_damage_is_told_as_by_load(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(registry.bundled_folders()["small"], folder)
    weights = folder / registry.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:5000])
    said = []
    for opened in (load, load_encoder):
        with pytest.raises(CheckpointError) as error:
            opened(folder)
        said.append(str(error.value))
    assert said[0] == said[1]
    with pytest.raises(UsageError, match="there is no model or folder 'smal'"):
        load_encoder("smal")


@pytest.mark.parametrize(
    "text", ["  a\tb\n c ", "&lt;b&gt; &amp;amp; x", "schÃ¶n", "ﬁne “quotes”", "", "\u3000full width　"]
)
def test_texts_are_cleaned_as_open_clip_cleans_them(text: str) -> None:
    assert clean_whitespace(text) == get_clean_fn("whitespace")(text)
