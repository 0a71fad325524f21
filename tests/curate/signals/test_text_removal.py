"""RSA and RSC (p051) with a model whose features are known: how dark the halves of a picture are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from binderclip.curate import TextRemovalScore
from binderclip.data.inpaint import inpaint_by_marching
from binderclip.data.made.words import polygon_mask, render_text
from binderclip.errors import UsageError


class Darkness:
    """A picture as the ink in its left and right half beside a constant; a text says which half it speaks of."""

    def encode_image(self, images: list[Image.Image], *, normalize: bool) -> torch.Tensor:
        rows = []
        for image in images:
            ink = 1 - np.asarray(image, dtype=np.float64).mean(2) / 255
            half = ink.shape[1] // 2
            rows.append([ink[:, :half].mean(), ink[:, half:].mean(), 0.02])
        return F.normalize(torch.tensor(rows), dim=1)

    def encode_text(self, texts: list[str], *, normalize: bool) -> torch.Tensor:
        return torch.tensor([[1.0, 0.0, 0.0] if "left" in text else [0.0, 1.0, 0.0] for text in texts]).double()


def blank() -> Image.Image:
    return Image.new("RGB", (160, 48), (255, 255, 255))


def test_what_is_painted_over_is_lost_and_nothing_else() -> None:
    first = render_text(blank(), "LEFT", size=20, position=(0.25, 0.5))
    both = render_text(first.image, "RIGHT", size=20, position=(0.75, 0.5))
    model, words = Darkness(), [*first.polygons, *both.polygons]
    score = TextRemovalScore(model)  # type: ignore[arg-type]
    elsewhere = [np.array([(2, 2), (8, 2), (8, 5), (2, 5)])]
    found = score(both.image, "on the left", words, first.polygons, control=elsewhere)

    def cosine(image: Image.Image) -> float:
        return float(model.encode_image([image], normalize=True)[0, 0])

    assert found.raw == pytest.approx(cosine(both.image), abs=1e-6)
    # Without its word the left half is white again.
    assert found.rsa == pytest.approx(found.raw - cosine(blank()), abs=0.02)
    without_left = render_text(blank(), "RIGHT", size=20, position=(0.75, 0.5)).image
    assert found.rsc == pytest.approx(found.raw - cosine(without_left), abs=0.02)
    assert found.rsc > 0.3
    assert found.random == pytest.approx(0.0, abs=1e-6)


def test_a_picture_without_text_loses_exactly_nothing() -> None:
    found = TextRemovalScore(Darkness())(blank(), "on the left", [], [])  # type: ignore[arg-type]
    assert (found.rsa, found.rsc, found.random) == (0.0, 0.0, None)


def test_polygons_hold_all_ink_of_their_words() -> None:
    shown = render_text(blank(), "two words", size=18)
    assert shown.words == ["two", "words"]
    assert len(shown.polygons) == 2
    ink = np.asarray(shown.image).min(2) < 255
    mask = polygon_mask(shown.polygons, (48, 160), margin=1)
    assert ink.any()
    assert not (ink & ~mask).any()
    one = polygon_mask(shown.polygons[:1], (48, 160), margin=1)
    assert (ink & one).any()
    assert (ink & ~one).any()
    faint = np.asarray(render_text(blank(), "two words", size=18, opacity=0.5).image)
    assert 120 < faint.min() < 135


def test_bad_settings_are_refused() -> None:
    for options in ({"radius": 0}, {"margin": -1}):
        with pytest.raises(UsageError, match="radius must be at least 1"):
            TextRemovalScore(Darkness(), **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="does not fit"):
        render_text(blank(), "a line that is far too long", size=30)
    for options in ({"size": 0}, {"opacity": 0.0}):
        with pytest.raises(UsageError, match="needs words"):
            render_text(blank(), "word", **options)


def test_filling_and_its_settings_are_the_callers() -> None:
    picture = render_text(blank(), "LEFT", size=20, position=(0.25, 0.5))
    model, holes = Darkness(), []

    def cosine(pixels: np.ndarray) -> float:
        shown = Image.fromarray((pixels * 255).round().astype(np.uint8))
        return float(model.encode_image([shown], normalize=True)[0, 0])

    def black(pixels: np.ndarray, hole: np.ndarray) -> np.ndarray:
        holes.append(hole)
        return np.where(hole[..., None], 0.0, pixels).astype(np.float32)

    pixels = np.asarray(picture.image, dtype=np.float32) / 255
    for margin in (0, 4):
        score = TextRemovalScore(model, inpaint=black, margin=margin)  # type: ignore[arg-type]
        found = score(picture.image, "on the left", picture.polygons, [])
        hole = polygon_mask(picture.polygons, (48, 160), margin=margin)
        assert np.array_equal(holes[-1], hole)
        assert found.rsa == pytest.approx(cosine(pixels) - cosine(black(pixels, hole)), abs=1e-6)
    # Half of a letter is left, so that what is near decides what is filled in.
    half = [np.array([(30, 8), (44, 8), (44, 40), (30, 40)])]
    for radius in (1, 9):
        found = TextRemovalScore(model, radius=radius)(picture.image, "on the left", half, [])  # type: ignore[arg-type]
        filled = inpaint_by_marching(pixels, polygon_mask(half, (48, 160), margin=1), radius=radius)
        assert found.rsa == pytest.approx(cosine(pixels) - cosine(np.clip(filled, 0, 1)), abs=1e-6)
