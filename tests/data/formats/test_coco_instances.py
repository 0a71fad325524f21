"""COCO instances against pycocotools: polygons, run lengths and compressed run lengths are the same masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from binderclip.data.formats.coco_instances import coco_instance_pictures, polygon_interior, unpacked_run_lengths
from binderclip.data.formats.run_lengths import from_run_lengths, run_lengths
from binderclip.errors import DataError

SIZE = (40, 60)


def document(segmentation: Any, **more: Any) -> dict[str, Any]:
    return {
        "images": [{"id": 7, "file_name": "a.jpg", "height": SIZE[0], "width": SIZE[1]}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "segmentation": segmentation, **more}],
        "categories": [{"id": 3, "name": "cup"}],
    }


@pytest.mark.parametrize("seed", range(4))
def test_compressed_run_lengths_are_those_of_pycocotools(seed: int) -> None:
    decoder = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(seed)
    mask = rng.random(SIZE) < (0.5 if seed % 2 else 0.02)
    packed = decoder.encode(np.asfortranarray(mask.astype(np.uint8)))
    text = packed["counts"].decode()
    assert unpacked_run_lengths(text) == run_lengths(mask)
    (picture,) = coco_instance_pictures(document({"size": list(SIZE), "counts": text}))
    ((name, counts),) = picture.instances
    assert name == "cup"
    np.testing.assert_array_equal(from_run_lengths(counts, SIZE), mask)


def test_polygons_hold_the_pixels_whose_centres_are_inside() -> None:
    np.testing.assert_array_equal(np.argwhere(polygon_interior([2, 1, 5, 1, 5, 3, 2, 3], (5, 8))),
                                  [(r, c) for r in (1, 2) for c in (2, 3, 4)])  # fmt: skip
    # A star whose middle is wound twice, against a point-in-polygon test of another library.
    from matplotlib.path import Path as Outline

    angles = np.arange(5) * 4 * np.pi / 5
    corners = np.stack([30 + 17.3 * np.sin(angles), 20 + 17.3 * np.cos(angles)], axis=1)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    centres = np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5], axis=1)
    crossings = np.zeros(len(centres), dtype=int)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        right = (y0 > centres[:, 1]) != (y1 > centres[:, 1])
        at = x0 + (centres[:, 1] - y0) / (y1 - y0) * (x1 - x0)
        crossings += right & (at > centres[:, 0])
    mask = polygon_interior(corners.ravel().tolist(), SIZE)
    np.testing.assert_array_equal(mask.ravel(), crossings % 2 == 1)
    convex = [3.2, 4.1, 50.7, 9.3, 41.0, 35.5, 8.8, 30.1]
    outline = Outline(np.reshape(convex, (-1, 2))).contains_points(centres)
    np.testing.assert_array_equal(polygon_interior(convex, SIZE).ravel(), outline)


def test_polygons_are_nearly_those_of_pycocotools() -> None:
    """It rounds corners to a fifth of a pixel: the border may differ, nothing else."""
    decoder = pytest.importorskip("pycocotools.mask")
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    polygons = [np.stack([x + 9 * np.cos(angles), 20 + 12 * np.sin(angles)], axis=1).ravel().tolist() for x in (14, 40)]
    theirs = decoder.decode(decoder.merge(decoder.frPyObjects(polygons, *SIZE))).astype(bool)
    (picture,) = coco_instance_pictures(document(polygons))
    ours = from_run_lengths(picture.instances[0][1], SIZE)
    assert (ours & theirs).sum() / (ours | theirs).sum() > 0.95


def test_crowds_are_left_out_and_counted() -> None:
    (picture,) = coco_instance_pictures(document([[1, 1, 5, 1, 5, 5]], iscrowd=1))
    assert (picture.instances, picture.left_out) == ([], 1)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[1, 2, 3, 4]], "at least three corners"),
        ([], "a list of polygons"),
        ([[1, 2, 3, 4, 5, float("nan")]], "at least three corners"),
        ({"size": [4, 4], "counts": [16]}, r"a mask of \[4, 4\] on a picture"),
        ({"size": list(SIZE), "counts": [7]}, "do not add up"),
        ({"size": list(SIZE), "counts": "\x10"}, "not part of compressed"),
        ({"size": list(SIZE), "counts": "o"}, "end within a number"),
        ({"size": list(SIZE), "counts": [True]}, "do not add up"),
        (None, "a list of polygons"),
    ],
)
def test_what_is_wrong_is_named(segmentation: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"annotation 1: .*{message}"):
        coco_instance_pictures(document(segmentation), title="file.json")


def test_tables_that_do_not_fit_are_named() -> None:
    good = document([[1, 1, 5, 1, 5, 5]])
    for table, entry, message in (
        ("images", {"id": 1}, "image 1 has no id, file_name"),
        ("images", {"id": 7, "file_name": "a", "height": 60_000, "width": 60_000}, "larger than any that is opened"),
        ("images", {"id": 7, "file_name": "a", "height": True, "width": 3}, "image 1 has no id, file_name"),
        ("categories", {"id": 3}, "category 1 has no id and name"),
        ("annotations", {"image_id": 8}, "annotation 1 is of no image"),
        ("annotations", {"image_id": [8]}, "annotation 1 is of no image"),
    ):
        with pytest.raises(DataError, match=message):
            coco_instance_pictures({**good, table: [entry]})
