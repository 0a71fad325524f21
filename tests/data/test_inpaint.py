"""Telea's inpainting: what it must reproduce exactly, and OpenCV's own where that is installed."""

from __future__ import annotations

import numpy as np
import pytest

from binderclip.data.inpaint import inpaint_telea
from binderclip.errors import UsageError


def disc(side: int = 24, radius: float = 5.0, at: tuple[int, int] = (12, 11)) -> np.ndarray:
    rows, columns = np.mgrid[:side, :side]
    return (rows - at[0]) ** 2 + (columns - at[1]) ** 2 <= radius**2


def ramp(side: int = 24) -> np.ndarray:
    rows, columns = np.mgrid[:side, :side] / side
    return np.stack([rows + 2 * columns, 1 - columns, np.full_like(rows, 0.3)], 2)


@pytest.mark.parametrize("radius", [1, 3, 5])
def test_planes_are_continued_and_the_rest_is_untouched(radius: int) -> None:
    """Every prediction is of first order: pixels whose neighbours are all known continue a plane exactly, whatever the
    weights; where the front has only one known side, its slope across is taken for 0, and a plane comes near.
    """
    image, alone = ramp(), np.zeros((24, 24), bool)
    alone[6:20:7, 5:20:7] = True
    for hole, error in ((alone, 1e-9), (disc(), 0.06), (disc(at=(0, 3)), 0.06), (np.eye(24, dtype=bool), 0.06)):
        broken = np.where(hole[..., None], np.nan, image)
        found = inpaint_telea(broken, hole, radius=radius)
        assert np.abs(found - image).max() < error
        assert np.array_equal(found[~hole], image[~hole])
        np.testing.assert_allclose(found[..., 2], 0.3, atol=1e-12)
        assert found.dtype == image.dtype


def test_it_is_near_opencvs() -> None:
    cv2 = pytest.importorskip("cv2")
    rows, columns = np.mgrid[:48, :48] / 48
    image = (0.5 + 0.3 * np.sin(5 * rows) * np.cos(4 * columns) + 0.1 * columns)[..., None].repeat(3, 2)
    hole = disc(48, 6.0, (24, 20))
    hole[10:13, 5:40] = True
    peer = cv2.inpaint((image * 255).round().astype(np.uint8), hole.astype(np.uint8), 3, cv2.INPAINT_TELEA) / 255
    own = inpaint_telea(image, hole)
    away = np.abs(own - image)[hole].mean()
    assert np.abs(own - peer)[hole].mean() < 0.03
    assert away < 1.5 * np.abs(peer - image)[hole].mean() + 0.005
    mean = np.abs(image - image[~hole].mean())[hole].mean()
    assert away < 0.3 * mean


def test_what_cannot_be_filled_is_refused() -> None:
    image = ramp(8)
    with pytest.raises(UsageError, match="whole picture"):
        inpaint_telea(image, np.ones((8, 8), bool))
    with pytest.raises(UsageError, match=r"\(H, W, C\)"):
        inpaint_telea(image, np.ones((7, 8), bool))
    with pytest.raises(UsageError, match="radius"):
        inpaint_telea(image, disc(8, 1, (4, 4)), radius=0)
    assert np.array_equal(inpaint_telea(image, np.zeros((8, 8), bool)), image)
