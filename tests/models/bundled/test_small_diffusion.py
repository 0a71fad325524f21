"""The bundled weights `small-diffusion`: their size, their card, and that they draw what a text says."""

from __future__ import annotations

import json

import pytest
import torch

from binderclip import load
from binderclip.errors import UsageError
from binderclip.generate import LatentDenoiser, inpaint, load_denoiser
from binderclip.models.files.registry import BUNDLED
from binderclip.studies.protocols.plain_shapes import plain_shapes
from binderclip.train.bundled.data.drawings import COLOURS
from binderclip.train.bundled.figures.diffusion_figures import drawn_pictures, name_shape

pytest.importorskip("diffusers")
FOLDER = BUNDLED / "small-diffusion"


@pytest.fixture(scope="module")
def denoiser() -> LatentDenoiser:
    return load_denoiser()


def test_they_are_small_and_their_card_says_where_they_come_from() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 8e6
    card = json.loads((FOLDER / "card.json").read_text(encoding="utf-8"))
    assert card["name"] == "small-diffusion"
    assert card["recipe"] == "binderclip.train.bundled.generative.diffusion.train_diffusion"
    assert "small-diffusion" in (BUNDLED / "NOTICE.txt").read_text(encoding="utf-8")
    with pytest.raises(UsageError, match=r"load_denoiser\('small-diffusion'\) opens it"):
        load("small-diffusion")


def test_the_colour_of_a_text_is_drawn(denoiser: LatentDenoiser) -> None:
    colours = ["red", "green", "blue", "yellow", "purple", "black"]
    drawn = drawn_pictures(denoiser, [f"a {colour} square" for colour in colours], steps=10)
    named = [name_shape(image)[1] for image in drawn]
    right = sum(one == colour for one, colour in zip(named, colours, strict=True))
    assert right >= 4, named  # by chance one of ten
    assert set(colours) <= set(COLOURS)


def test_what_is_known_stays_and_what_is_not_is_painted(denoiser: LatentDenoiser) -> None:
    shapes = plain_shapes(4, 0)
    mask = torch.zeros(4, 1, 64, 64)
    mask[..., 24:40, 24:40] = 1
    grey = shapes.images * (1 - mask) + 0.5 * mask
    out = inpaint(denoiser, grey, mask, num_inference_steps=10, generator=torch.Generator().manual_seed(0))
    assert torch.equal(out * (1 - mask), shapes.images * (1 - mask))
    # of a shape whose rim is seen more is guessed right than by the colour of the ground
    flat = shapes.images * (1 - mask) + shapes.grounds * mask
    assert float((out - shapes.images).square().sum()) < float((flat - shapes.images).square().sum())
