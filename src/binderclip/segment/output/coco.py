"""Segmentations as COCO annotations: one for each connected region of a class, as run lengths."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int
from scipy import ndimage

from binderclip.data.formats.run_lengths import run_lengths
from binderclip.errors import UsageError


def coco_document(
    pictures: Iterable[tuple[str, Int[np.ndarray, "H W"]]],
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
    if min_area < 1:
        raise UsageError(f"min_area must be at least 1, not {min_area}")
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
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": index + 1,
                        "area": area,
                        "bbox": [int(left), int(top), int(mask.shape[1]), int(mask.shape[0])],
                        "segmentation": {"size": [int(height), int(width)], "counts": run_lengths(whole)},
                        "iscrowd": 0,
                    }
                )
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(classes)]
    return {"images": images, "annotations": annotations, "categories": categories}
