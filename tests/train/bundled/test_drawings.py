"""Pictures for the bundled denoiser: what captions say is what is drawn, and rules name it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from binderclip.train.bundled.data.drawings import (
    COLOURS,
    SHAPES,
    CaptionedPicture,
    drawing_pictures,
    shape_pictures,
)
from binderclip.train.bundled.figures.diffusion_figures import name_shape, shape_mask


def pixels(picture: CaptionedPicture) -> Tensor:
    return torch.from_numpy(picture.pixels.copy()).permute(2, 0, 1).float() / 255


def test_rules_name_every_single_shape() -> None:
    pictures = shape_pictures(120, 3, pairs=0.0)
    named = [name_shape(pixels(picture)) for picture in pictures]
    assert [f"a {colour} {shape}" for shape, colour in named] == [picture.caption for picture in pictures]
    assert {shape for shape, _ in named} == set(SHAPES)
    assert {colour for _, colour in named} == set(COLOURS)


def test_an_empty_ground_has_no_name() -> None:
    assert name_shape(torch.full((3, 64, 64), 0.9)) == (None, None)


def test_two_shapes_stand_in_the_order_of_the_caption() -> None:
    for picture in shape_pictures(20, 5, pairs=1.0):
        left, right = (part.split() for part in picture.caption.split(" and "))
        image = pixels(picture)
        for half, words in ((image[..., :32], left), (image[..., 32:], right)):
            mask = shape_mask(half)
            median = half[:, mask].median(1).values * 255
            torch.testing.assert_close(median, torch.tensor(COLOURS[words[1]]).float(), atol=2, rtol=0)


def test_the_alpha_is_where_the_shape_is() -> None:
    for picture in shape_pictures(10, 1, pairs=0.0):
        inside = torch.from_numpy(picture.alpha.copy()) > 200
        assert bool(shape_mask(pixels(picture))[inside].all())


@pytest.fixture(scope="module")
def drawings() -> list[CaptionedPicture]:
    return drawing_pictures("val", 0, limit=80)


def test_silhouettes_are_painted_in_the_colour_that_they_are_called(drawings: list[CaptionedPicture]) -> None:
    silhouettes = [picture for picture in drawings if picture.kind == "silhouette"]
    assert len(silhouettes) > 5
    for picture in silhouettes:
        colour = np.array(COLOURS[picture.caption.split()[0]])
        solid = picture.pixels[picture.alpha == 255]
        if len(solid):
            assert np.abs(np.median(solid, 0) - colour).max() <= 2


def test_the_same_seed_draws_the_same_pictures(drawings: list[CaptionedPicture]) -> None:
    again = drawing_pictures("val", 0, limit=80)
    assert all((a.pixels == b.pixels).all() and a.caption == b.caption for a, b in zip(drawings, again, strict=True))
    other = drawing_pictures("val", 1, limit=80)
    assert any(a.caption != b.caption for a, b in zip(drawings, other, strict=True))
