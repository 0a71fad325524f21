"""Masks of one picture, wherever they are from, and what is measured and mended about each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import ndimage
from torch import Tensor

from binderclip.data.formats.run_lengths import run_lengths
from binderclip.data.synthetic_scenes.paste import boxes_of

__all__ = ["RegionMasks", "stability_score", "tidy"]


@dataclass(frozen=True)
class RegionMasks:
    """Masks of one picture, the largest first. Superpixels and exact masks take the same form (`from_ids`).

    Attributes:
        masks: they may overlap.
        boxes: xyxy in pixels, half-open.
        scores: predicted IoU; 1 where nothing predicted it.
        stability: IoU of the mask at a higher and a lower threshold; 1 where there was none.
        points: (x, y) of the prompt in pixels, nan where there was none.
    """

    masks: Bool[Tensor, "N H W"]
    boxes: Float[Tensor, "N 4"]
    scores: Float[Tensor, "N"]
    stability: Float[Tensor, "N"]
    points: Float[Tensor, "N 2"]

    def __len__(self) -> int:
        return len(self.masks)

    @classmethod
    def of(
        cls,
        masks: Bool[Tensor, "N H W"],
        *,
        scores: Float[Tensor, "N"] | None = None,
        stability: Float[Tensor, "N"] | None = None,
        points: Float[Tensor, "N 2"] | None = None,
    ) -> RegionMasks:
        """Masks from anywhere; empty ones are left out, the rest sorted by area."""
        areas = masks.flatten(1).sum(1)
        order = areas.argsort(descending=True, stable=True)
        order = order[areas[order] > 0]
        kept = masks[order]
        count = len(masks)
        one, nowhere = torch.ones(count), torch.full((count, 2), torch.nan)
        parts = (
            one if scores is None else scores,
            one if stability is None else stability,
            nowhere if points is None else points,
        )
        return cls(kept, boxes_of(kept[None])[0] if len(kept) else torch.zeros(0, 4), *(part[order] for part in parts))

    @classmethod
    def from_ids(cls, ids: Int[Tensor, "H W"]) -> RegionMasks:
        """The regions of an id map, such as superpixels; negative ids are no region."""
        values = ids[ids >= 0].unique()
        return cls.of(ids[None] == values[:, None, None])

    @property
    def areas(self) -> Int[Tensor, "N"]:
        """Pixels of each mask."""
        return self.masks.flatten(1).sum(1)

    def id_map(self) -> Int[Tensor, "H W"]:
        """Number of the mask at each pixel, small masks painted over large ones; -1 where there is none."""
        ids = torch.full(self.masks.shape[1:], -1, dtype=torch.int32)
        for number, mask in enumerate(self.masks):
            ids[mask] = number
        return ids

    def records(self) -> list[dict[str, Any]]:
        """The dictionaries that segment_anything's generator gives; `bbox` is x, y, width, height."""
        rows = []
        for i in range(len(self)):
            x0, y0, x1, y1 = self.boxes[i].tolist()
            rows.append(
                {
                    "segmentation": self.masks[i].numpy(),
                    "area": int(self.areas[i]),
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "predicted_iou": float(self.scores[i]),
                    "stability_score": float(self.stability[i]),
                    "point_coords": [self.points[i].tolist()],
                }
            )
        return rows

    def annotations(self, image: int = 1, *, first: int = 1, category: int = 1) -> list[dict[str, Any]]:
        """COCO annotations, `score` and `stability_score` among their keys.

        Args:
            image: id of the picture.
            first: id of the first annotation.
            category: id of the class of all masks.
        """
        entries = []
        for number, record in enumerate(self.records()):
            mask = record["segmentation"]
            entries.append(
                {
                    "id": first + number,
                    "image_id": image,
                    "category_id": category,
                    "area": record["area"],
                    "bbox": [int(v) for v in record["bbox"]],
                    "segmentation": {"size": list(mask.shape), "counts": run_lengths(mask)},
                    "iscrowd": 0,
                    "score": round(record["predicted_iou"], 6),
                    "stability_score": round(record["stability_score"], 6),
                }
            )
        return entries


def stability_score(logits: Float[Tensor, "N H W"], offset: float = 1.0) -> Float[Tensor, "N"]:
    """IoU of each mask at a threshold of +offset and of -offset; they are nested, so it is a ratio of areas."""
    inner = (logits > offset).flatten(1).sum(1)
    outer = (logits > -offset).flatten(1).sum(1)
    return inner / outer.clamp(min=1)


def tidy(mask: Bool[Tensor, "H W"], area: int) -> Bool[Tensor, "H W"]:
    """Holes of fewer pixels filled, then islands of fewer removed (the largest stays in any case)."""
    solid = mask.cpu().numpy()
    for holes in (True, False):
        labels, count = ndimage.label(solid ^ holes, structure=np.ones((3, 3)))
        sizes = np.bincount(labels.flatten(), minlength=count + 1)
        small = sizes < area
        small[0] = False
        if not holes and count:
            small[1 + int(sizes[1:].argmax())] = False
        solid = np.where(small[labels], holes, solid)
    return torch.from_numpy(solid.astype(bool))
