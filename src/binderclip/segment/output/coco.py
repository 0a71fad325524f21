"""Segmentations as COCO annotations: one for each connected region of a class, as run lengths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage
from torch import Tensor

from binderclip.data.formats.run_lengths import run_lengths
from binderclip.errors import UsageError
from binderclip.numeric import check_number


def coco_document(
    pictures: Iterable[tuple[str, Int[np.ndarray, "_ _"]]],
    classes: Sequence[str],
    *,
    skip: Sequence[str] = ("background",),
    min_area: int = 16,
) -> dict[str, Any]:
    """A COCO document of label maps.

    Args:
        pictures: (file name, label map), -1 or a value beyond the classes = unsegmented.
        classes: names; category ids count from 1.
        skip: classes that get no annotations.
        min_area: smaller connected regions are left out, in pixels.

    Raises:
        UsageError: min_area below 1.
    """
    check_number("min_area", min_area, least=1)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (name, labels) in enumerate(pictures, start=1):
        height, width = labels.shape
        images.append({"id": number, "file_name": name, "height": int(height), "width": int(width)})
        for index, label in enumerate(classes):
            if label in skip:
                continue
            regions, count = ndimage.label(labels == index)
            for region, place in enumerate(ndimage.find_objects(regions, max_label=count), start=1):
                mask = regions[place] == region
                area = int(mask.sum())
                if area < min_area:
                    continue
                top, left = place[0].start, place[1].start
                whole = np.zeros((height, width), dtype=bool)
                whole[place] = mask
                numbers = {"id": len(annotations) + 1, "image_id": number, "category_id": index + 1}
                box = [int(left), int(top), int(mask.shape[1]), int(mask.shape[0])]
                annotations.append(numbers | _mask_entries(whole, area, box) | {"iscrowd": 0})
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(classes)]
    return {"images": images, "annotations": annotations, "categories": categories}


def instance_records(
    masks: Bool[Tensor, "N H W"], classes: Sequence[str], scores: Float[Tensor, "N"] | None = None
) -> list[dict[str, Any]]:
    """Class, score, area, box (x, y, width, height) and run lengths of each mask.

    Args:
        masks: each with a pixel; they may overlap.
        classes: name of each.
        scores: of each; None for instances that people have made, which have none.

    Raises:
        UsageError: an empty mask.
    """
    if not bool(masks.flatten(1).any(1).all()):
        raise UsageError("a mask without a pixel is no instance")
    records = []
    given = [{} if scores is None else {"score": round(float(scores[row]), 6)} for row in range(len(masks))]
    for name, score, mask in zip(classes, given, masks.cpu().numpy(), strict=True):
        rows, columns = np.nonzero(mask)
        top, left = int(rows.min()), int(columns.min())
        box = [left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top]
        records.append({"class": name, **score, **_mask_entries(mask, len(rows), box)})
    return records


def coco_instances(
    pictures: Iterable[tuple[str, tuple[int, int], Sequence[Mapping[str, Any]]]],
) -> dict[str, Any]:
    """A COCO document of instances, which may overlap, with their scores if any; classes are numbered as they appear.

    Args:
        pictures: (file name, (H, W), records as `instance_records` gives them).
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    classes: dict[str, int] = {}
    for number, (name, (height, width), records) in enumerate(pictures, start=1):
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        for record in records:
            category = classes.setdefault(record["class"], len(classes) + 1)
            numbers = {"id": len(annotations) + 1, "image_id": number, "category_id": category}
            own = {key: record[key] for key in ("area", "bbox", "segmentation", "score") if key in record}
            annotations.append(numbers | own | {"iscrowd": 0})
    categories = [{"id": index, "name": name} for name, index in classes.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def _mask_entries(mask: Bool[np.ndarray, "H W"], area: int, box: list[int]) -> dict[str, Any]:
    return {
        "area": area,
        "bbox": box,
        "segmentation": {"size": [int(side) for side in mask.shape], "counts": run_lengths(mask)},
    }
