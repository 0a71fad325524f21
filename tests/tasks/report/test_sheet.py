"""Contact sheets: names of files below the captions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from binderclip.tasks.report.sheet import contact_sheet, with_scale


def test_names_stand_below_each_card(tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    entries = [(picture, "label", "0.90") for picture in pictures]
    plain = np.asarray(Image.open(contact_sheet(entries, tmp_path / "a.png", side=100)))
    named = np.asarray(Image.open(contact_sheet(entries, tmp_path / "b.png", side=100, names=["one.jpg", ""])))
    assert named.shape[0] == plain.shape[0] + 16
    # What is new is below the first card only: the second has no name.
    row = slice(14 + 100 + 26, 14 + 100 + 26 + 16)
    assert (named[row, 14:114] < 200).any()
    assert (named[row, 128:228] == 255).all()


def test_what_a_model_saw_is_framed_on_the_card(tmp_path: Path) -> None:
    wide = Image.new("RGB", (100, 50), (90, 120, 90))
    frames = [(0.25, 0.0, 0.75, 1.0), (0.0, 0.0, 1.0, 1.0)]
    shown = np.asarray(Image.open(contact_sheet([(wide, "", "")] * 2, tmp_path / "a.png", side=100, frames=frames)))
    # Pictures lie in the middle of their cards; the frame's sides are white columns at a quarter of the first.
    middle = shown[14 + 40 : 14 + 60]
    columns = [int(x) for x in np.flatnonzero((middle[:, 14:114] == 255).all(axis=(0, 2)))]
    assert columns == [25, 74]
    assert not (middle[:, 128:228] == 255).all(axis=(0, 2)).any()


def test_the_strip_below_a_picture_grows_with_it() -> None:
    ramp = Image.new("RGB", (256, 1))
    heights = [
        with_scale(Image.new("RGB", (width, width // 2)), "text", ramp, ("no", "yes")).height - width // 2
        for width in (800, 3200)
    ]
    assert heights[1] == 4 * heights[0]


def test_a_picture_of_a_line_stands_on_its_card(tmp_path: Path) -> None:
    for size in ((900, 2), (2, 900), (1, 1)):
        sheet = contact_sheet([(Image.new("RGB", size, (200, 0, 0)), "", "")], tmp_path / "a.png", side=100)
        red = (np.asarray(Image.open(sheet)) == (200, 0, 0)).all(axis=2)
        high, wide = (int(red.any(axis=axis).sum()) for axis in (1, 0))
        assert (wide, high) == tuple(max(1, round(100 * each / max(size))) for each in size)


def test_cards_are_as_high_as_the_highest_picture_needs(tmp_path: Path) -> None:
    wide, square = Image.new("RGB", (300, 100)), Image.new("RGB", (50, 50))
    heights = [
        Image.open(contact_sheet([(one, "", "") for one in row], tmp_path / "a.png", columns=2, side=120)).height
        for row in ([wide, wide, wide], [wide, wide, square], [square])
    ]
    assert heights == [2 * (40 + 14) + 14, 2 * (120 + 14) + 14, 120 + 2 * 14]
