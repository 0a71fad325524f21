"""COCO documents read back by hand, and by pycocotools where it is installed."""

from __future__ import annotations

import numpy as np
import pytest

from binderclip.errors import UsageError
from binderclip.segment import coco_document, run_lengths


def decoded(counts: list[int], size: tuple[int, int]) -> np.ndarray:
    flat, value = [], 0
    for count in counts:
        flat += [value] * count
        value = 1 - value
    return np.array(flat, dtype=bool).reshape(size, order="F")


def test_every_region_is_one_annotation_that_decodes_to_its_mask() -> None:
    labels = np.full((9, 12), -1)
    labels[1:4, 1:6] = 1
    labels[6:9, 8:12] = 1
    labels[5, 0] = 2  # too small
    labels[6:9, 0:7] = 0
    found = coco_document([("a.png", labels)], ["background", "cat", "dog"], min_area=4)
    assert [c["name"] for c in found["categories"]] == ["background", "cat", "dog"]
    assert found["images"] == [{"id": 1, "file_name": "a.png", "height": 9, "width": 12}]
    assert [(a["category_id"], a["bbox"], a["area"]) for a in found["annotations"]] == [
        (2, [1, 1, 5, 3], 15),
        (2, [8, 6, 4, 3], 12),
    ]
    union = np.zeros(labels.shape, dtype=bool)
    for annotation in found["annotations"]:
        mask = decoded(annotation["segmentation"]["counts"], labels.shape)
        assert mask.sum() == annotation["area"]
        union |= mask
    assert np.array_equal(union, labels == 1)


def test_classes_that_are_skipped_have_no_annotations() -> None:
    labels = np.array([[0, 0, 1, 1], [2, 2, 2, 2]])
    for skip, kept in (((), [1, 2, 3]), (("sky", "sea"), [1]), (("background",), [1, 2, 3])):
        found = coco_document([("a.png", labels)], ["ship", "sky", "sea"], skip=skip, min_area=1)
        assert [a["category_id"] for a in found["annotations"]] == kept
    found = coco_document([("a.png", labels)], ["background", "sky", "sea"], min_area=1)
    assert [a["category_id"] for a in found["annotations"]] == [2, 3]


@pytest.mark.parametrize("seed", range(4))
def test_run_lengths_start_with_zeros_and_go_down_columns(seed: int) -> None:
    mask = np.random.default_rng(seed).random((5, 7)) > 0.5
    counts = run_lengths(mask)
    assert sum(counts) == mask.size
    assert np.array_equal(decoded(counts, mask.shape), mask)
    assert all(count > 0 for count in counts[1:])
    with pytest.raises(UsageError, match="min_area"):
        coco_document([], ["a"], min_area=0)
