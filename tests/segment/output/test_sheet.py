"""The sheet of several segmenters: every cell is the overlay of its segmentation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.errors import UsageError
from binderclip.segment import Segmentation, segmentation_sheet
from binderclip.segment.output.palette import colours


def segmentation(label: int, *, size: tuple[int, int] = (60, 60), classes: tuple[str, ...] = ("cat", "dog", "cow")):
    scores = torch.zeros(len(classes), 4, 4)
    picture = Image.new("RGB", (size[1], size[0]), (120, 120, 120))
    return Segmentation(classes, torch.full(size, label, dtype=torch.int32), scores, picture)


def test_every_cell_is_the_overlay_of_its_segmentation() -> None:
    rows = [{"a": segmentation(0), "b": segmentation(1)}, {"a": segmentation(1), "b": segmentation(1)}]
    sheet = np.asarray(segmentation_sheet(rows, side=60)).astype(int)
    for number, row in enumerate(rows):
        for column, name in enumerate(row, start=1):
            wanted = np.asarray(row[name].overlay(legend=False)).astype(int)[30, 30]
            found = sheet[22 + number * 64 + 30, 4 + column * 64 + 30]
            assert np.abs(found - wanted).max() <= 1, (number, name)
    # The picture itself stands first, and the legend names the two classes that occur, not the third.
    assert np.abs(sheet[22 + 30, 4 + 30] - 120).max() <= 1
    below = {tuple(pixel) for pixel in sheet[22 + 2 * 64 + 4 :].reshape(-1, 3)}
    cat, dog, cow = colours(3)
    assert {cat, dog} <= below
    assert cow not in below


def test_a_wide_picture_keeps_its_aspect_and_its_row_is_as_low() -> None:
    rows = [{"a": segmentation(0, size=(30, 60))}, {"a": segmentation(1)}]
    sheet = np.asarray(segmentation_sheet(rows, side=60)).astype(int)
    grey, first, second = (np.full(3, 120), *(row["a"].overlay(legend=False).getpixel((15, 15)) for row in rows))
    assert np.abs(sheet[22 + 15, 4 + 30] - grey).max() <= 1
    assert np.abs(sheet[22 + 15, 4 + 64 + 30] - first).max() <= 1
    assert (sheet[22 + 32, 4 + 64 + 30] == 255).all()
    assert np.abs(sheet[22 + 34 + 45, 4 + 64 + 30] - second).max() <= 1


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "at least one picture"),
        ([{}], "at least one picture"),
        ([{"a": segmentation(0)}, {"b": segmentation(0)}], "the same segmenters"),
        ([{"a": segmentation(0), "b": segmentation(0, classes=("cat", "dog"))}], "the same segmenters and classes"),
    ],
)
def test_rows_that_do_not_fit_together_are_refused(rows: list, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        segmentation_sheet(rows)
