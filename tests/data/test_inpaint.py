"""Telea's inpainting: OpenCV's weights and order, values between those around them, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from binderclip.data.inpaint import inpaint_by_marching
from binderclip.errors import UsageError


def disc(side: int = 24, radius: float = 5.0, at: tuple[int, int] = (12, 11)) -> np.ndarray:
    rows, columns = np.mgrid[:side, :side]
    return (rows - at[0]) ** 2 + (columns - at[1]) ** 2 <= radius**2


def ramp(side: int = 24) -> np.ndarray:
    rows, columns = np.mgrid[:side, :side] / side
    return np.stack([rows + 2 * columns, 1 - columns, np.full_like(rows, 0.3)], 2)


def grain(side: int = 48) -> np.ndarray:
    return np.random.default_rng(0).uniform(0.2, 0.8, (side, side, 3))


def stroke(side: int = 48) -> np.ndarray:
    hole = disc(side, 6.0, (24, 20))
    hole[12:16, 6:40] = True
    return hole


@pytest.mark.parametrize("radius", [1, 3, 5])
def test_pixels_alone_continue_planes_and_the_rest_is_untouched(radius: int) -> None:
    """Around one unknown pixel the weights are symmetric, so that a plane's value comes out exactly."""
    image, alone = ramp(), np.zeros((24, 24), bool)
    alone[11, 12] = True
    for hole in (alone, disc(), disc(at=(0, 3)), np.eye(24, dtype=bool)):
        broken = np.where(hole[..., None], np.nan, image)
        found = inpaint_by_marching(broken, hole, radius=radius)
        assert np.array_equal(found[~hole], image[~hole])
        np.testing.assert_allclose(found[..., 2], 0.3, atol=1e-12)
        assert found.dtype == image.dtype
    np.testing.assert_allclose(inpaint_by_marching(image, alone, radius=radius), image, atol=1e-9)


@pytest.mark.parametrize(
    "hole", [stroke(), disc(48, 20, (0, 0)), disc(48, 9, (47, 20))], ids=["inside", "corner", "edge"]
)
@pytest.mark.parametrize("radius", [1, 3, 6])
def test_no_value_leaves_the_range_of_the_picture(hole: np.ndarray, radius: int) -> None:
    found = inpaint_by_marching(grain(), hole, radius=radius)[hole]
    assert 0.2 <= found.min() < found.max() <= 0.8


def test_the_size_of_the_picture_around_a_hole_changes_nothing() -> None:
    image, hole = grain(48), stroke(48)
    wide, around = grain(90), np.zeros((90, 90), bool)
    wide[20:68, 30:78], around[20:68, 30:78] = image, hole
    np.testing.assert_allclose(
        inpaint_by_marching(wide, around)[around], inpaint_by_marching(image, hole)[hole], atol=1e-12
    )


@pytest.mark.parametrize("radius", [1, 3, 5])
def test_opencv_with_values_before_which_its_slopes_are_nothing(radius: int) -> None:
    """OpenCV adds half a grey level and at most 1.42 of its slopes to each value: nothing where values go to 1e6."""
    cv2 = pytest.importorskip("cv2")
    image, hole = grain(), stroke()
    peer = cv2.inpaint((image[..., 0] * 1e6).astype(np.float32), hole.astype(np.uint8), radius, cv2.INPAINT_TELEA) / 1e6
    np.testing.assert_allclose(inpaint_by_marching(image, hole, radius=radius)[..., 0], peer, atol=2e-5)


def test_opencv_on_eight_bits() -> None:
    """As people call it: what it adds and rounds comes to two levels of 255 on the mean, and the error is the same."""
    cv2 = pytest.importorskip("cv2")
    rows, columns = np.mgrid[:48, :48] / 48
    smooth = (0.5 + 0.3 * np.sin(5 * rows) * np.cos(4 * columns) + 0.1 * columns)[..., None].repeat(3, 2)
    hole = stroke()
    for image in (smooth, grain()):
        peer = cv2.inpaint((image * 255).round().astype(np.uint8), hole.astype(np.uint8), 3, cv2.INPAINT_TELEA) / 255
        own = inpaint_by_marching(image, hole)
        assert np.abs(own - peer)[hole].mean() < 2 / 255
        assert np.abs(own - image)[hole].mean() < 1.05 * np.abs(peer - image)[hole].mean()


def test_stored_values_of_opencv() -> None:
    """`cv2.inpaint(1e6 * image, hole, 3, cv2.INPAINT_TELEA) / 1e6` of opencv-python-headless 4.14, float32."""
    rows, columns = np.mgrid[:14, :14]
    image = ((7 * rows**2 + 13 * columns * rows + 5 * columns) % 17 / 16)[..., None]
    hole = np.zeros((14, 14), bool)
    hole[5:9, 5:8], hole[6, 4:10] = True, True
    reference = [
        0.482025,
        0.509767,
        0.369443,
        0.49675,
        0.508362,
        0.463707,
        0.411711,
        0.348106,
        0.464594,
        0.526636,
        0.470124,
        0.425972,
        0.356612,
        0.502307,
        0.535835,
    ]
    np.testing.assert_allclose(inpaint_by_marching(image, hole)[hole][:, 0], reference, atol=2e-6)


def test_what_cannot_be_filled_is_refused() -> None:
    image = ramp(8)
    with pytest.raises(UsageError, match="whole picture"):
        inpaint_by_marching(image, np.ones((8, 8), bool))
    with pytest.raises(UsageError, match=r"\(H, W, C\)"):
        inpaint_by_marching(image, np.ones((7, 8), bool))
    with pytest.raises(UsageError, match="radius"):
        inpaint_by_marching(image, disc(8, 1, (4, 4)), radius=0)
    with pytest.raises(UsageError, match="not finite"):
        inpaint_by_marching(np.where(image > 2, np.nan, image), disc(8, 1, (4, 4)))
    assert np.array_equal(inpaint_by_marching(image, np.zeros((8, 8), bool)), image)
