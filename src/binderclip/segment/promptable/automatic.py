"""Every object of a picture: a promptable segmenter asked at a grid of points, and its answers filtered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import ndimage
from torch import Tensor
from torchvision.ops import nms

from binderclip.data.scenes.paste import boxes_of
from binderclip.errors import UsageError
from binderclip.models.image_text.preprocess import ImageLike
from binderclip.segment.promptable.prompts import PromptableSegmenter, Prompts

__all__ = ["AutomaticMasks", "RegionMasks"]

#: segment_anything's
THRESHOLDS = {"pred_iou_thresh": 0.88, "stability_score_thresh": 0.95, "stability_score_offset": 1.0}


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
        found = []
        for i in range(len(self)):
            x0, y0, x1, y1 = self.boxes[i].tolist()
            found.append(
                {
                    "segmentation": self.masks[i].numpy(),
                    "area": int(self.areas[i]),
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "predicted_iou": float(self.scores[i]),
                    "stability_score": float(self.stability[i]),
                    "point_coords": [self.points[i].tolist()],
                }
            )
        return found


@dataclass(frozen=True)
class AutomaticMasks:
    """All masks of a picture from a grid of single clicks. Argument names are segment_anything's.

    Args:
        segmenter: any promptable one.
        points_per_side: points along each side of the grid.
        points_per_batch: prompts that are predicted at once.
        pred_iou_thresh: candidates whose predicted IoU is below it are dropped.
        stability_score_thresh: those whose stability is below it, too.
        stability_score_offset: how far the threshold of the logits is moved up and down to measure stability. These
            three depend on how sharp and how confident a model is: None takes those of its `automatic` (a mapping from
            these names; the bundled model has one), or segment_anything's 0.88, 0.95 and 1.
        box_nms_thresh: of two masks whose boxes overlap more (IoU), the one with the lower predicted IoU is dropped.
        multimask: whether each point gives several candidates, or the single mask that is meant for clear prompts.
        min_mask_region_area: loose islands and holes of fewer pixels are removed, and masks of fewer are dropped.

    Paper: Segment Anything (arXiv 2304.02643), section 5 and appendix B. Crops of the picture are not made.

    Raises:
        UsageError: a number out of its range.
    """

    segmenter: PromptableSegmenter
    points_per_side: int = 16
    points_per_batch: int = 64
    pred_iou_thresh: float | None = None
    stability_score_thresh: float | None = None
    stability_score_offset: float | None = None
    box_nms_thresh: float = 0.7
    min_mask_region_area: int = 1
    multimask: bool = True

    def __post_init__(self) -> None:
        if self.points_per_side < 1 or self.points_per_batch < 1:
            raise UsageError("points_per_side and points_per_batch must be at least 1")
        if not 0 < self.box_nms_thresh <= 1:
            raise UsageError(f"box_nms_thresh must be in (0, 1], got {self.box_nms_thresh}")
        if self.min_mask_region_area < 0:
            raise UsageError(f"min_mask_region_area must be at least 0, got {self.min_mask_region_area}")

    @property
    def thresholds(self) -> dict[str, float]:
        """The three thresholds as they are used."""
        own = getattr(self.segmenter, "automatic", {})
        given = {name: getattr(self, name) for name in THRESHOLDS}
        return {
            name: own.get(name, usual) if given[name] is None else given[name] for name, usual in THRESHOLDS.items()
        }

    @torch.no_grad()
    def __call__(self, image: ImageLike) -> RegionMasks:
        """The masks of a picture; it is encoded once."""
        state = self.segmenter.encode(image)
        height, width = state.size
        grid = self.grid(height, width)
        kept = list(self._ask(state, grid))
        masks = torch.cat([part[0] for part in kept])
        scores, stability, points = (torch.cat([part[i] for part in kept]) for i in (1, 2, 3))
        if self.min_mask_region_area > 1 and len(masks):
            masks = torch.stack([tidy(mask, self.min_mask_region_area) for mask in masks])
        large = masks.flatten(1).sum(1) >= max(1, self.min_mask_region_area)
        masks, scores, stability, points = (part[large] for part in (masks, scores, stability, points))
        if not len(masks):
            return RegionMasks.of(masks, scores=scores, stability=stability, points=points)
        chosen = nms(boxes_of(masks[None])[0], scores, self.box_nms_thresh)
        return RegionMasks.of(masks[chosen], scores=scores[chosen], stability=stability[chosen], points=points[chosen])

    def grid(self, height: int, width: int) -> Float[Tensor, "P 2"]:
        """The points, (x, y) in pixels, half a step from the border."""
        side = (torch.arange(self.points_per_side) + 0.5) / self.points_per_side
        return torch.stack(torch.meshgrid(side * width, side * height, indexing="xy"), -1).flatten(0, 1)

    def _ask(self, state: Any, grid: Float[Tensor, "P 2"]) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Good candidates of each batch: masks, scores, stability, points."""
        least = self.thresholds
        for points in grid.split(self.points_per_batch):
            labels = torch.ones(len(points), 1, dtype=torch.long)
            found = self.segmenter.predict(state, Prompts(points[:, None], labels), multimask=self.multimask)
            logits, scores = found.logits.flatten(0, 1).cpu(), found.scores.flatten().cpu()
            candidates = found.scores.shape[1]
            good = scores >= least["pred_iou_thresh"]
            stability = stability_score(logits, least["stability_score_offset"])
            good &= (stability >= least["stability_score_thresh"]) & (logits > 0).flatten(1).any(1)
            places = points.repeat_interleave(candidates, 0)
            yield logits[good] > 0, scores[good], stability[good], places[good]


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
