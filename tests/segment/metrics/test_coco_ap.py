"""COCO's average precision and recall of masks and boxes against pycocotools, on random made cases."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from binderclip.errors import UsageError
from binderclip.segment.metrics import BoxMatcher, InstanceMatcher, box_overlaps, coco_average_precision, overlaps

SIDE, CLASSES = 200, 3
NAMES = (
    "map", "map_50", "map_75", "map_small", "map_medium", "map_large",
    "mar_1", "mar_10", "mar", "mar_small", "mar_medium", "mar_large",
)  # fmt: skip
"""In the order of pycocotools' `stats`."""


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 4) whole x0, y0, x1, y1 of sides from 5 to 150, so that all ranges of sizes are there."""
    sides = np.exp(rng.uniform(np.log(5), np.log(150), (count, 2))).round()
    corners = (rng.uniform(0, 1, (count, 2)) * (SIDE - sides)).round()
    return np.concatenate([corners, corners + sides], axis=1)


def picture(seed: int, crowds: bool) -> dict[str, Any]:
    """True boxes and predictions: most of them true ones moved a little, some again, some invented."""
    rng = np.random.default_rng(seed)
    true = random_boxes(rng, int(rng.integers(0, 15)))
    near = true[rng.random(len(true)) < 0.8]
    near = np.concatenate([near, near[: len(near) // 3]])
    near = (near + rng.normal(0, 0.06, near.shape) * (near[:, 2:] - near[:, :2]).repeat(2, 1)).round().clip(0, SIDE)
    ours = np.concatenate([near, random_boxes(rng, int(rng.integers(0, 14)))])
    ours[:, 2:] = np.maximum(ours[:, 2:], ours[:, :2] + 1)
    own, kinds = rng.integers(0, CLASSES, len(ours)), rng.integers(0, CLASSES, len(true))
    crowd = (rng.random(len(true)) < 0.3) & crowds
    # Few different scores, so that equal ones are ordered as COCO orders them.
    return {"ours": ours.clip(0, SIDE), "true": true, "classes": own, "target_classes": kinds,
            "scores": rng.integers(1, 12, len(ours)) / 12, "target_crowd": crowd}  # fmt: skip


def ellipses(boxes: np.ndarray) -> np.ndarray:
    """(N, SIDE, SIDE) the ellipse in each box."""
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    x0, y0, x1, y1 = (boxes[:, k, None, None] for k in range(4))
    inside = ((2 * x - x0 - x1) / (x1 - x0)) ** 2 + ((2 * y - y0 - y1) / (y1 - y0)) ** 2 <= 1
    return inside.reshape(len(boxes), SIDE, SIDE)


def by_pycocotools(pictures: list[dict[str, Any]], kind: str, areas: list[Any]) -> np.ndarray:
    """The twelve numbers of COCO's own code."""

    def shape(box: np.ndarray, mask: np.ndarray | None) -> dict[str, Any]:
        xywh = [float(v) for v in (*box[:2], *(box[2:] - box[:2]))]
        if mask is None:
            return {"bbox": xywh}
        return {"bbox": xywh, "segmentation": coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))}

    annotations, results = [], []
    for number, each in enumerate(pictures):
        masks = [ellipses(each[side]) if kind == "segm" else [None] * len(each[side]) for side in ("true", "ours")]
        for k, (box, mask) in enumerate(zip(each["true"], masks[0], strict=True)):
            annotations.append({
                "id": len(annotations) + 1, "image_id": number, "category_id": int(each["target_classes"][k]),
                "iscrowd": int(each["target_crowd"][k]), "area": float(areas[number][k]), **shape(box, mask),
            })  # fmt: skip
        for k, (box, mask) in enumerate(zip(each["ours"], masks[1], strict=True)):
            found = shape(box, mask)
            if kind == "segm":
                del found["bbox"]
            results.append({"image_id": number, "category_id": int(each["classes"][k]),
                            "score": float(each["scores"][k]), **found})  # fmt: skip
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": k, "height": SIDE, "width": SIDE} for k in range(len(pictures))],
        "categories": [{"id": k, "name": str(k)} for k in range(CLASSES)],
        "annotations": annotations,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(results), kind)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return np.where(judge.stats < 0, np.nan, judge.stats)


@pytest.mark.parametrize("crowds", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_boxes_score_as_in_pycocotools(seed: int, crowds: bool) -> None:
    pictures = [picture(100 * seed + k, crowds) for k in range(8)]
    rng = np.random.default_rng(seed)
    # COCO's areas of true boxes are those of the masks, which are smaller.
    areas = [(b[:, 2:] - b[:, :2]).prod(1) * rng.uniform(0.5, 1, len(b)) for b in (each["true"] for each in pictures)]
    matcher = BoxMatcher()
    for each, area in zip(pictures, areas, strict=True):
        rest = {name: value for name, value in each.items() if name not in ("ours", "true")}
        matcher.update(each["ours"], each["true"], target_areas=area, **rest)
    found, want = matcher.compute(), by_pycocotools(pictures, "bbox", areas)
    np.testing.assert_allclose([getattr(found, name) for name in NAMES], want, atol=1e-12)
    assert len({round(v, 4) for v in want if v == v}) > 8


@pytest.mark.parametrize("crowds", [False, True])
@pytest.mark.parametrize("seed", range(2))
def test_masks_score_as_in_pycocotools(seed: int, crowds: bool) -> None:
    pictures = [picture(1000 + 100 * seed + k, crowds) for k in range(5)]
    matcher, areas = InstanceMatcher(), []
    for each in pictures:
        rest = {name: value for name, value in each.items() if name not in ("ours", "true")}
        masks = ellipses(each["true"])
        areas.append(masks.sum((1, 2)))
        matcher.update(ellipses(each["ours"]), masks, **rest)
    found, want = matcher.coco_average_precision(), by_pycocotools(pictures, "segm", areas)
    np.testing.assert_allclose([getattr(found, name) for name in NAMES], want, atol=1e-12)
    assert len({round(v, 4) for v in want if v == v}) > 8


def test_a_crowd_takes_any_number_of_predictions_and_is_no_miss() -> None:
    boxes = [[0, 0, 10, 10], [10, 0, 20, 10], [20, 0, 30, 10], [100, 0, 110, 10]]
    alone = BoxMatcher()
    alone.update(boxes, [[100, 0, 110, 10], [0, 0, 90, 10]], scores=[0.9, 0.8, 0.7, 0.6], target_crowd=[False, True])
    assert alone.compute().map == alone.compute().mar == 1
    counted = BoxMatcher()
    counted.update(boxes, [[100, 0, 110, 10], [0, 0, 90, 10]], scores=[0.9, 0.8, 0.7, 0.6])
    # Three mistakes before the one hit, and a miss: precision 1/4 up to recall 1/2, of 101 points 51.
    assert counted.compute().map == pytest.approx(51 / 101 / 4)
    nothing = BoxMatcher()
    nothing.update(boxes, [[0, 0, 90, 10]], target_crowd=[True])
    assert np.isnan(nothing.compute().map)


def test_crowds_are_refused_where_nothing_knows_them() -> None:
    matcher = InstanceMatcher()
    matcher.update(np.array([[1, 1, 0]]), np.array([[1, 1, 2]]), target_crowd=[False, True])
    assert matcher.coco_average_precision().map == 1
    for score in (matcher.compute, matcher.panoptic_quality, matcher.average_precision, matcher.sorted_ap):
        with pytest.raises(UsageError, match="target_crowd is for coco_average_precision alone"):
            score()


def test_scores_that_are_no_numbers_and_stacks_that_are_no_masks_are_refused() -> None:
    masks = np.zeros((2, 4, 5), dtype=bool)
    masks[0, :2, :2] = masks[1, 3, 3] = True
    scores = np.array([0.9, np.nan])
    for given in (scores, torch.from_numpy(scores), scores.astype(np.float16)):
        with pytest.raises(UsageError, match=r"scores\[1\] is NaN"):
            overlaps(masks, masks, scores=given)
        with pytest.raises(UsageError, match=r"scores\[1\] is NaN"):
            box_overlaps(np.eye(4)[:2].cumsum(1), np.eye(4)[:2].cumsum(1), scores=given)
    # Both sides read as the label map of a volume, two masks would be one instance of it.
    for one in (1, 255):
        for given in (one * masks.astype(np.uint8), torch.from_numpy(one * masks.astype(np.uint8))):
            for sides in ((given, given), (given, masks), (masks, given)):
                with pytest.raises(UsageError, match="a stack of masks is boolean"):
                    overlaps(*sides)
    volume = masks.astype(np.int32)
    assert overlaps(volume, volume).true.tolist() == [5]
    picture = (masks[0] | masks[1]).astype(np.uint8)
    assert overlaps(picture, picture).true.tolist() == [5]


def test_bad_input_is_named() -> None:
    good = [[0, 0, 4, 4]]
    for settings, words in [
        ({"boxes": [[0, 0, 4]]}, r"boxes has shape \(1, 3\)"),
        ({"boxes": [[5, 5, 4, 4]]}, r"boxes\[0\] ends before it begins"),
        ({"target_boxes": [[0, 0, 4, np.inf]]}, "target_boxes holds a coordinate that is not finite"),
        ({"scores": [1, 2]}, r"scores has shape \(2,\) for 1 instances"),
        ({"classes": [0]}, "give both classes and target_classes"),
        ({"classes": [-1], "target_classes": [0]}, "classes has the class -1"),
        ({"target_areas": [float("nan")]}, r"target_areas\[0\] is NaN"),
    ]:
        with pytest.raises(UsageError, match=words):
            box_overlaps(**{"boxes": good, "target_boxes": good, **settings})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="nothing to score"):
        BoxMatcher().compute()
    with pytest.raises(UsageError, match="thresholds must be IoUs"):
        coco_average_precision([box_overlaps(good, good)], thresholds=[0])
    with pytest.raises(UsageError, match="max_detections must be at least 1"):
        coco_average_precision([box_overlaps(good, good)], max_detections=0)
