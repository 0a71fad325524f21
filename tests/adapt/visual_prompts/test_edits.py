"""Visual prompts in pixels: Outline and Crop of p070 (arXiv 2304.06712) and p163, Outside of p015 (2306.04356)."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy.ndimage import binary_dilation, gaussian_filter

from binderclip.adapt import MARKS, Copies, Crop, Edit, Outline, Outside, Region, Tint
from binderclip.errors import UsageError

SHAPE = (60, 80)
BOX = (20, 10, 60, 40)


@pytest.fixture
def image() -> np.ndarray:
    """Smooth blue and green; no red anywhere, so that a mark is what is red."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return np.stack([0 * x, 3 * x, 4 * y], axis=-1).astype(np.uint8)


@pytest.fixture
def mask() -> np.ndarray:
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return (x - 40) ** 2 + (y - 25) ** 2 <= 12**2


def drawn(image: np.ndarray, edited: np.ndarray) -> np.ndarray:
    return (image != edited).any(axis=-1)


def test_the_circle_lies_on_the_ellipse_and_touches_the_four_sides(image: np.ndarray) -> None:
    line = 2 / SHAPE[0]
    there = drawn(image, Outline("ellipse", width=line)(image, Region(BOX)))
    rows, columns = np.nonzero(there)
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == BOX
    # Distance of each pixel's middle from the ellipse with half axes 20 and 15, in units of the half axes.
    radius = np.hypot((columns + 0.5 - 40) / 20, (rows + 0.5 - 25) / 15)
    assert radius.max() <= 1 + 0.5 / 15
    assert radius.min() >= 1 - 2.5 / 15
    assert len(rows) == pytest.approx(2 * 2 * np.pi * np.sqrt((20**2 + 15**2) / 2), rel=0.15)


@pytest.mark.parametrize("width", [0.01, 3 / 60])
def test_the_box_is_a_frame_of_the_right_width(image: np.ndarray, width: float) -> None:
    line = max(1, round(width * 60))
    there = drawn(image, Outline("box", width=width)(image, Region(BOX)))
    expected = np.zeros(SHAPE, dtype=bool)
    expected[10:40, 20:60] = True
    expected[10 + line : 40 - line, 20 + line : 60 - line] = False
    assert (there == expected).all()


def test_the_contour_lies_on_the_border_of_the_mask(image: np.ndarray, mask: np.ndarray) -> None:
    there = drawn(image, Outline("contour", width=2 / 60)(image, Region(mask=mask)))
    rows, columns = np.nonzero(there)
    radius = np.hypot(columns - 40, rows - 25)
    assert radius.min() > 12 - 2
    assert radius.max() < 12 + 2
    # One pixel outside, one inside.
    assert (there & ~mask).any()
    assert (there & mask).any()


def test_the_arrow_ends_at_the_middle_and_comes_from_the_centre_of_the_image(image: np.ndarray) -> None:
    region = Region((60, 10, 80, 20))
    rows, columns = np.nonzero(drawn(image, Outline("arrow", width=1 / 60)(image, region)))
    assert np.hypot(columns - 70, rows - 15).min() <= 1
    away = np.array([70 - 40, 15 - 30])
    start = np.array([70, 15]) - away / np.hypot(*away) * 0.25 * 60
    furthest = np.hypot(columns - 70, rows - 15).max()
    assert furthest == pytest.approx(0.25 * 60, abs=1)
    assert np.hypot(columns - start[0], rows - start[1]).min() <= 1
    centred = drawn(image, Outline("arrow", width=1 / 60)(image, Region((30, 20, 50, 40))))
    assert np.nonzero(centred)[0].min() >= 29


def test_marks_at_a_point_have_its_size(image: np.ndarray) -> None:
    for shape in ("keypoint", "cross"):
        _, columns = np.nonzero(drawn(image, Outline(shape)(image, Region(point=(40, 30)))))
        assert (columns.min() + columns.max() + 1) / 2 == pytest.approx(40, abs=1)
        assert columns.max() - columns.min() + 1 == pytest.approx(2 * 0.06 * 60, abs=1.5)


def test_nothing_drawn_is_nothing_changed(image: np.ndarray, mask: np.ndarray) -> None:
    region = Region(BOX, mask)
    shapes = ("ellipse", "box", "contour", "arrow", "keypoint", "cross")
    nothing: list[Edit] = [Outline(shape, width=0) for shape in shapes]
    nothing += [Tint("mask", alpha=0), Outside("blur", sigma=0), Outside("tint", alpha=0)]
    for edit in nothing:
        assert np.array_equal(edit(image, region), image), edit


def test_a_region_of_the_whole_image_leaves_nothing_outside(image: np.ndarray) -> None:
    whole = Region((0, 0, 80, 60), np.ones(SHAPE, dtype=bool))
    for how in ("blur", "gray", "tint"):
        assert np.array_equal(Outside(how, "mask")(image, whole), image)
        assert np.array_equal(Outside(how, "box")(image, whole), image)
    assert np.array_equal(Crop()(image, whole), image)


def test_blur_is_that_of_pillow_outside_and_the_image_inside(image: np.ndarray, mask: np.ndarray) -> None:
    edited = Outside("blur", "mask", sigma=4 / 80)(image, Region(mask=mask))
    blurred = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(4)))
    assert np.array_equal(edited[mask], image[mask])
    assert np.array_equal(edited[~mask], blurred[~mask])
    # SciPy's Gaussian agrees in the interior: the radius is a standard deviation.
    other = gaussian_filter(image.astype(float), (4, 4, 0), mode="nearest")
    assert np.abs(edited - other)[15:-15, 15:-15][~mask[15:-15, 15:-15]].max() <= 4


def test_grey_is_the_luminance_and_can_swap_red_and_blue(image: np.ndarray, mask: np.ndarray) -> None:
    region = Region(mask=mask)
    for swap, weights in ((False, (0.299, 0.587, 0.114)), (True, (0.114, 0.587, 0.299))):
        edited = Outside("gray", "mask", swap=swap)(image, region)
        level = image @ np.array(weights)
        assert np.abs(edited.astype(float) - level[..., None])[~mask].max() <= 1
        assert np.array_equal(edited[mask], image[mask])


def test_tints_mix_with_alpha(image: np.ndarray, mask: np.ndarray) -> None:
    green = np.array([0, 255, 0])
    filled = Tint("mask")(image, Region(mask=mask)).astype(float)
    assert np.abs(filled[mask] - (0.5 * image[mask] + 0.5 * green)).max() <= 0.5
    assert np.array_equal(filled[~mask], image[~mask])
    solid = Outside("tint", alpha=1, color=(9, 8, 7))(image, Region(mask=mask))
    assert (solid[~mask] == (9, 8, 7)).all()


def test_crops_follow_the_formulas(image: np.ndarray) -> None:
    assert np.array_equal(Crop()(image, Region(BOX)), image[10:40, 20:60])
    assert np.array_equal(Crop(margin=0.5)(image, Region((30, 20, 40, 30))), image[15:35, 25:45])
    # The radiology crop: half side max(bw / 2, bh / 2, 0.2 w, 0.2 h) around the middle, here 0.2 * 80 = 16.
    assert np.array_equal(Crop(least=0.4, square=True)(image, Region((35, 25, 45, 35))), image[14:46, 24:56])
    corner = Crop(least=0.4, square=True)(image, Region((0, 0, 4, 4)))
    assert np.array_equal(corner, image[:18, :18])


def test_edits_compose_from_left_to_right(image: np.ndarray, mask: np.ndarray) -> None:
    region = Region(BOX, mask)
    blur, contour, crop = Outside("blur"), Outline("contour"), Crop()
    assert np.array_equal((blur | contour)(image, region), contour(blur(image, region), region))
    assert not np.array_equal((blur | contour)(image, region), (contour | blur)(image, region))
    # After a crop the region is in the crop's coordinates.
    there = drawn(image[10:40, 20:60], (crop | Outline("box"))(image, region))
    assert there[0].all()
    assert there[-1].all()
    assert ((blur | contour) | crop).crops
    assert not (blur | contour).crops


@pytest.mark.parametrize("name", sorted(set(MARKS) - {"arrow"}))
def test_marks_commute_with_mirroring(image: np.ndarray, mask: np.ndarray, name: str) -> None:
    region = Region(BOX, mask | np.roll(mask, 5, axis=1))
    there = MARKS[name](image[:, ::-1], region.flipped(80))[:, ::-1]
    back = MARKS[name](image, region)
    if isinstance(MARKS[name], Outline):
        # Lines may move by one pixel.
        ours, theirs = drawn(image, back), drawn(image, there)
        around = np.ones((3, 3), dtype=bool)
        assert ours.any()
        assert not (ours & ~binary_dilation(theirs, around)).any()
        assert not (theirs & ~binary_dilation(ours, around)).any()
    else:
        assert (np.abs(there.astype(int) - back) <= 2).all()


def test_copies_are_shared_and_the_image_is_left_alone(image: np.ndarray) -> None:
    before = image.copy()
    copies = Copies(image)
    one = Outside("blur", "box")(image, Region(BOX), copies=copies)
    first = copies.blurred(100 / 384 * 80)
    Outside("blur", "box")(image, Region((0, 0, 9, 9)), copies=copies)
    assert copies.blurred(100 / 384 * 80) is first
    assert np.array_equal(one, Outside("blur", "box")(image, Region(BOX)))
    for edit in MARKS.values():
        edit(image, Region(BOX))
    assert np.array_equal(image, before)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Outline("star"), "Outline shape must be one of"),
        (lambda: Outline(width=2), "share of the side"),
        (lambda: Outline(color="reddish"), "color 'reddish' is unknown"),
        (lambda: Outline(color=(0, 0, 300)), "three numbers"),
        (lambda: Tint("star"), "Tint shape must be one of"),
        (lambda: Tint(alpha=2), "alpha must be in"),
        (lambda: Outside("wash"), "one of blur, gray, tint"),
        (lambda: Outside(sigma=-1), "sigma must be"),
        (lambda: Crop(margin=-1), "margin -1"),
    ],
)
def test_mistakes_are_named(make, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()
