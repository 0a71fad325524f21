"""New content in a part of a picture: the window, pixels outside bit for bit, feathering, and refused masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.tasks.retouching import (
    _at_size,
    checked_mask,
    grown,
    painted,
    read_mask,
    window_around,
    without_small_holes,
)


def picture_of_noise(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def box_mask(height: int, width: int, top: int, bottom: int, left: int, right: int) -> Tensor:
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


@pytest.mark.parametrize(
    ("box", "window"),
    [
        ((50, 60, 70, 80), (59, 39, 91, 71)),  # 32 px around it
        ((0, 4, 0, 4), (0, 0, 32, 32)),  # at the corner
        ((96, 100, 190, 200), (168, 68, 200, 100)),
        ((20, 60, 30, 100), (0, 0, 140, 100)),  # twice its 70 px, cut at the borders
        ((0, 99, 0, 200), (0, 0, 200, 100)),
    ],
)
def test_the_window_is_a_square_around_the_mask(box: tuple[int, ...], window: tuple[int, ...]) -> None:
    assert window_around(box_mask(100, 200, *box), 32) == window


@pytest.mark.parametrize(("width", "height"), [(32, 32), (100, 61), (20, 9), (300, 40)])
@pytest.mark.parametrize("feather", [0, 2])
def test_pixels_outside_of_the_mask_stay_and_the_painter_sees_the_models_side(
    width: int, height: int, feather: int
) -> None:
    picture = picture_of_noise(width, height)
    mask = box_mask(height, width, 2, height - 1, width // 4, width // 2)
    seen = []

    def paint(images: Tensor, hole: Tensor) -> Tensor:
        seen.append((images, hole))
        return torch.ones_like(images)

    result = np.asarray(painted(picture, mask, paint, 32, feather=feather))
    (images, hole), inside = seen[0], mask.numpy()
    assert (tuple(images.shape), tuple(hole.shape)) == ((1, 3, 32, 32), (1, 1, 32, 32))
    assert set(hole.unique().tolist()) == {0.0, 1.0}
    assert np.array_equal(result[~inside], np.asarray(picture)[~inside])
    if feather == 0:
        assert bool((result[inside] == 255).all())
    else:
        before = np.asarray(picture).astype(int)
        assert bool((result[inside] >= before[inside]).all())
        row, column = (1 + height) // 2, (width // 4 + width // 2) // 2  # the mask's middle
        if min(height - 3, width // 4) > 4 * feather + 2:
            assert bool((result[row, column] == 255).all())
            edge = result[row, width // 4].astype(int)
            assert bool((edge < 255).any())  # old and new are mixed


def test_what_is_painted_at_the_models_side_comes_back_as_it_is() -> None:
    picture, other = picture_of_noise(32, 32), picture_of_noise(64, 32).crop((32, 0, 64, 32))
    mask = box_mask(32, 32, 4, 20, 8, 30)
    pixels = torch.from_numpy(np.asarray(other).copy()).permute(2, 0, 1)[None].float() / 255
    result = np.asarray(painted(picture, mask, lambda images, hole: pixels, 32))
    assert np.array_equal(result[mask.numpy()], np.asarray(other)[mask.numpy()])


def test_a_thin_mask_is_not_lost_at_the_models_side() -> None:
    mask = box_mask(200, 200, 0, 200, 100, 101)
    holes = []

    def paint(images: Tensor, hole: Tensor) -> Tensor:
        holes.append(hole)
        return images

    painted(picture_of_noise(200, 200), mask, paint, 32)
    assert float(holes[0].sum()) == 32


def test_masks_are_read_and_wrong_ones_are_refused(tmp_path: Path) -> None:
    picture = picture_of_noise(20, 10)
    values = np.zeros((10, 20), np.uint8)
    values[3:5, 6:9] = 255
    values[0, 0] = 100
    Image.fromarray(values).save(tmp_path / "mask.png")
    assert torch.equal(read_mask(str(tmp_path / "mask.png"), picture), box_mask(10, 20, 3, 5, 6, 9))
    for name, size, value, words in (
        ("small", (10, 10), 255, "is 10 x 10 px, the picture 20 x 10"),
        ("empty", (20, 10), 0, "is empty"),
        ("full", (20, 10), 255, "is the whole picture"),
    ):
        Image.new("L", size, value).save(tmp_path / f"{name}.png")
        with pytest.raises(UsageError, match=words):
            read_mask(str(tmp_path / f"{name}.png"), picture)
    with pytest.raises(UsageError, match="there is no such file"):
        read_mask(str(tmp_path / "none.png"), picture)
    with pytest.raises(UsageError, match="grown by 20 px, is the whole picture"):
        grown(box_mask(10, 20, 3, 5, 6, 9), 20)
    assert bool(checked_mask(box_mask(4, 4, 0, 1, 0, 1), "x")[0, 0])


@pytest.mark.parametrize("side", [24, 50, 96, 150])
def test_what_goes_leaks_into_nothing_that_stays(side: int) -> None:
    hole = torch.zeros(1, 1, 96, 96)
    hole[..., 30:52, 41:60] = 1
    ground = torch.linspace(0.3, 0.4, 96).expand(1, 3, 96, 96)
    pictures = [ground * (1 - hole) + hole * value for value in (0.0, 1.0)]
    (first, mask), (second, _) = (_at_size(picture, hole, (side, side)) for picture in pictures)
    assert float(((first - second) * (1 - mask)).abs().max()) < 1e-4
    expected = torch.nn.functional.interpolate(ground, (side, side), mode="bilinear", antialias=True)
    assert float(((first - expected) * (1 - mask)).abs().max()) < 0.01


def test_small_holes_of_a_mask_are_closed_and_large_ones_and_bays_stay() -> None:
    mask = box_mask(60, 80, 5, 55, 5, 75).numpy()
    mask[10:14, 10:15] = False  # 20 px of 3,500
    mask[20:40, 30:50] = False  # 400 px
    mask[50:55, 60:62] = False  # open to the outside
    closed = without_small_holes(mask)
    assert bool(closed[10:14, 10:15].all())
    assert not closed[20:40, 30:50].any()
    assert not closed[50:55, 60:62].any()
    assert int(closed.sum()) == int(mask.sum()) + 20
    empty = np.zeros((4, 5), bool)
    assert not without_small_holes(empty).any()
    assert bool(without_small_holes(~empty).all())
