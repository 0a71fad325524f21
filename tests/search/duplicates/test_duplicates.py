"""Fingerprints, agreement and groups of copies, against closed forms, brute force and distortions of known pictures."""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from binderclip.data import load_data
from binderclip.errors import DataError
from binderclip.search.duplicates.alignment import AlikePairs, alike_pairs, crop_windows
from binderclip.search.duplicates.fingerprint import COPY, fingerprint_of, sharpness_of
from binderclip.search.duplicates.grouping import complete_groups

LEAST = 0.8


def copy_of(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGB").resize((COPY, COPY), Image.Resampling.BOX))


def compressed(picture: Image.Image) -> Image.Image:
    held = io.BytesIO()
    picture.save(held, "JPEG", quality=30)
    return Image.open(held)


def cropped(picture: Image.Image) -> Image.Image:
    wide, high = picture.size
    left, top = round(0.07 * wide), round(0.02 * high)
    return picture.crop((left, top, left + round(0.9 * wide), top + round(0.9 * high)))


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "half": lambda picture: picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.LANCZOS),
    "jpeg": compressed,
    "crop": cropped,
    "dark": lambda picture: ImageEnhance.Brightness(picture).enhance(0.7),
}


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    names = ("astronaut", "chelsea", "coffee", "rocket")
    samples = [each for each in load_data("photographs") if each.key.split(".")[0] in names]
    assert len(samples) == 4
    return [each.image.convert("RGB") for each in samples]


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_agrees_with_its_own_picture_alone(pictures: list[Image.Image], change: str) -> None:
    changed = [CHANGES[change](picture) for picture in pictures]
    pairs = alike_pairs(np.stack([copy_of(each) for each in [*pictures, *changed]]), least=LEAST)
    assert list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == [(row, row + 4) for row in range(4)]
    assert (pairs.agreement <= 1).all()


def test_a_crop_is_told_from_the_whole_by_its_place_alone(pictures: list[Image.Image]) -> None:
    # The baseline, one look at all of both pictures, does not see that they are one.
    whole, part = (copy_of(each).astype(float).mean(2) for each in (pictures[1], cropped(pictures[1])))
    assert np.corrcoef(whole.ravel(), part.ravel())[0, 1] < LEAST


def test_landscapes_of_one_light_and_other_details_do_not_agree() -> None:
    """Light above and dark below, as two views of a city are; their details are drawn apart, a copy's are its own."""
    random = np.random.default_rng(0)
    slope = np.linspace(220, 40, COPY)[:, None]
    noise = [np.kron(random.normal(0, 14, (COPY // 3, COPY // 3)), np.ones((3, 3))) for _ in range(2)]
    views = [np.repeat((slope + each).clip(0, 255).astype(np.uint8)[..., None], 3, 2) for each in noise]
    darker = (views[0] * 0.8).astype(np.uint8)
    pairs = alike_pairs(np.stack([*views, darker]), least=LEAST)
    assert list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == [(0, 2)]
    # without their details the two are alike
    a, b = (each.astype(float).mean(2).ravel() for each in views)
    assert np.corrcoef(a, b)[0, 1] > 0.9


def test_drawings_of_one_shape_that_differ_in_a_part_or_a_colour_do_not_agree() -> None:
    from PIL import ImageDraw

    def drawn(colour: str, hand: tuple[int, int]) -> np.ndarray:
        picture = Image.new("RGB", (96, 96), "white")
        draw = ImageDraw.Draw(picture)
        draw.ellipse((8, 8, 88, 88), fill=colour)
        draw.line((48, 48, *hand), fill="black", width=6)
        return np.asarray(picture)

    clocks = [drawn("orange", (48, 16)), drawn("orange", (80, 48)), drawn("seagreen", (48, 16))]
    grey = [each.astype(float).mean(2).ravel() for each in clocks]
    assert all(np.corrcoef(a, b)[0, 1] > LEAST for a, b in itertools.combinations(grey, 2))
    assert len(alike_pairs(np.stack(clocks), least=LEAST).first) == 0
    assert len(alike_pairs(np.stack([clocks[0], clocks[0] // 2 + 40]), least=LEAST).first) == 1


def test_pictures_without_a_pattern_and_no_pictures_agree_with_nothing() -> None:
    flat = np.stack([np.full((COPY, COPY, 3), level, np.uint8) for level in (0, 0, 255)])
    assert len(alike_pairs(flat, least=LEAST).first) == 0
    assert len(alike_pairs(flat[:0], least=LEAST).first) == 0


@pytest.mark.parametrize("kept", [0.5, 0.6, 0.8, 1.0])
def test_crops_are_inside_and_begin_with_the_whole(kept: float) -> None:
    windows = crop_windows(kept)
    assert windows[0].tolist() == [0, 0, 1, 1]
    assert (windows >= 0).all()
    assert (windows <= 1 + 1e-6).all()
    assert (np.prod(windows[:, 2:] - windows[:, :2], 1) > kept - 0.08).all()
    assert len(np.unique(windows, axis=0)) == len(windows)


@pytest.mark.parametrize("seed", range(3))
def test_every_crop_has_a_window_near_it(seed: int) -> None:
    draws, windows = np.random.default_rng(seed), crop_windows(0.6)
    for _ in range(200):
        wide = draws.uniform(0.6, 1)
        high = draws.uniform(0.6 / wide, 1)
        left, top = draws.uniform(0, 1 - wide), draws.uniform(0, 1 - high)
        edges = np.array([left, top, left + wide, top + high])
        # No edge is further than the search for it goes.
        assert np.abs(windows - edges).max(1).min() < 0.076


@pytest.mark.parametrize(
    "window", [(0.0, 0.0, 0.62, 1.0), (0.2, 0.1, 0.98, 0.9), (0.2, 0.15, 1.0, 0.96), (0.02, 0.0, 1.0, 0.65)]
)
def test_a_crop_that_keeps_three_fifths_agrees(pictures: list[Image.Image], window: tuple[float, ...]) -> None:
    parts = [
        picture.crop([round(share * side) for share, side in zip(window, picture.size * 2, strict=True)])  # type: ignore[arg-type]
        for picture in pictures
    ]
    copies = np.stack([copy_of(each) for each in [*pictures, *map(compressed, parts)]])
    pairs = alike_pairs(copies, least=LEAST)
    assert list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == [(row, row + 4) for row in range(4)]
    # The baseline, crops that keep nearly all, does not see that all of them are parts.
    assert len(alike_pairs(copies, least=LEAST, kept=0.9).first) < 4


def test_a_chain_of_frames_is_not_one_group() -> None:
    # Each agrees with the next one and no other: by single linkage all six would be one group.
    chain = AlikePairs(np.arange(5), np.arange(1, 6), np.array([0.9, 0.95, 0.85, 0.95, 0.9]))
    groups = complete_groups(chain, 7, least=LEAST)
    assert [group.tolist() for group in groups] == [[1, 2], [3, 4]]


@pytest.mark.parametrize("seed", range(5))
def test_in_a_group_each_agrees_with_each(seed: int) -> None:
    draws = np.random.default_rng(seed)
    first, second = np.triu_indices(30, 1)
    agree = draws.random(len(first)) < 0.3
    pairs = AlikePairs(first[agree], second[agree], draws.uniform(LEAST, 1, agree.sum()))
    known = set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    groups = complete_groups(pairs, 30, least=LEAST)
    rows = [row for group in groups for row in group.tolist()]
    assert len(rows) == len(set(rows))
    assert all(pair in known for group in groups for pair in itertools.combinations(group.tolist(), 2))
    # No two groups could be one, nor is one left out that agrees with all of a group.
    alone = [[row] for row in range(30) if row not in rows]
    whole = [*(group.tolist() for group in groups), *alone]
    for a, b in itertools.combinations(whole, 2):
        assert not all((min(x, y), max(x, y)) in known for x in a for y in b)


def test_a_picture_that_is_turned_by_its_tag_has_the_same_pixels(tmp_path: Path, pictures: list[Image.Image]) -> None:
    pictures[1].save(tmp_path / "a.png")
    tag = Image.Exif()
    tag[0x0112] = 6
    tag[0x0132] = "2019:05:04 10:20:30"
    pictures[1].rotate(90, expand=True).save(tmp_path / "b.png", exif=tag)
    os.utime(tmp_path / "a.png", (0, 0))
    a, b = (fingerprint_of(tmp_path / name) for name in ("a.png", "b.png"))
    assert a.pixels_hash == b.pixels_hash
    assert a.bytes_hash != b.bytes_hash
    assert (a.width, a.height) == (b.width, b.height) == pictures[1].size
    assert (a.date, b.date) == (datetime.fromtimestamp(0), datetime(2019, 5, 4, 10, 20, 30))
    assert a.bytes == (tmp_path / "a.png").stat().st_size


def test_what_is_transparent_differs_and_what_is_broken_is_an_error(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (255, 255, 255, 255)).save(tmp_path / "white.png")
    Image.new("RGBA", (8, 8), (255, 255, 255, 0)).save(tmp_path / "clear.png")
    (tmp_path / "broken.png").write_bytes(b"nothing")
    white, clear = (fingerprint_of(tmp_path / name) for name in ("white.png", "clear.png"))
    assert white.pixels_hash != clear.pixels_hash
    with pytest.raises(DataError, match="broken"):
        fingerprint_of(tmp_path / "broken.png")


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    assert sharpness_of(Image.new("RGB", (20, 20), "red")) == 0
    board = (np.indices((16, 16)).sum(0) % 2 * 100).astype(np.uint8)
    # Inside each pixel has four neighbours of the other value, at the edges fewer: the border repeats itself.
    padded = np.pad(board.astype(float), 1, mode="edge")
    sums = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:] - 4.0 * board
    assert sharpness_of(Image.fromarray(board)) == pytest.approx(sums.var())
    cat = load_data("photographs")[0].image.convert("RGB")
    assert sharpness_of(cat) > 2 * sharpness_of(cat.resize((60, 60)).resize(cat.size, Image.Resampling.BICUBIC))
