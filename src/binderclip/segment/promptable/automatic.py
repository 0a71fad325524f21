"""Every object of a picture: a promptable segmenter asked at a grid of points, and its answers filtered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torchvision.ops import nms

from binderclip.data.synthetic_scenes.paste import boxes_of
from binderclip.errors import UsageError
from binderclip.models.image_text.preprocess import ImageLike
from binderclip.numeric import check_number
from binderclip.segment.promptable.crops import Box, crop_boxes, cropped, near_crop_edge
from binderclip.segment.promptable.image import as_picture
from binderclip.segment.promptable.prompts import ImageState, LowResSegmenter, PromptableSegmenter, Prompts
from binderclip.segment.promptable.regions import RegionMasks, stability_score, tidy

__all__ = ["AutomaticMasks"]

#: segment_anything's
THRESHOLDS = {"pred_iou_thresh": 0.88, "stability_score_thresh": 0.95, "stability_score_offset": 1.0}
MOST_LAYERS = 4


@dataclass(frozen=True)
class AutomaticMasks:
    """All masks of a picture from a grid of single clicks. Argument names are segment_anything's.

    Args:
        segmenter: any promptable one.
        points_per_side: points along each side of the grid.
        points_per_batch: prompts that are predicted at once.
        pred_iou_thresh: only candidates whose predicted IoU is above it are kept; 0 keeps all.
        stability_score_thresh: those whose stability is below it are dropped, too.
        stability_score_offset: how far the threshold of the logits is moved up and down to measure stability. These
            three depend on how sharp and how confident a model is: None takes those of its `automatic` (a mapping from
            these names; the bundled model has one), or segment_anything's 0.88, 0.95 and 1.
        box_nms_thresh: of two masks whose boxes overlap more (IoU), the one with the lower predicted IoU is dropped.
        min_mask_region_area: holes of fewer pixels are filled and loose islands of fewer removed. The largest island
            stays, so that no mask is dropped for its area. Of two masks whose boxes then overlap by more than the
            larger of `box_nms_thresh` and `crop_nms_thresh`, one that nothing was changed in is kept. Below 2 nothing
            is done.
        multimask: whether each point gives several candidates, or the single mask that is meant for clear prompts.
        crop_n_layers: layers of crops that are asked beside the whole picture, (2^i)^2 of them in layer i; each is
            encoded once. Masks that end at a crop's edge inside the picture are dropped.
        crop_nms_thresh: as `box_nms_thresh`, between crops: what was found in a smaller crop is kept.
        crop_overlap_ratio: how far crops of the first layer overlap, as a share of the picture's shorter side.
        crop_n_points_downscale_factor: points along each side are divided by it once more in every layer.

    Paper: Segment Anything (arXiv 2304.02643), section 5 and appendix B.

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
    crop_n_layers: int = 0
    crop_nms_thresh: float = 0.7
    crop_overlap_ratio: float = 512 / 1500
    crop_n_points_downscale_factor: int = 1

    def __post_init__(self) -> None:
        if self.points_per_side < 1 or self.points_per_batch < 1:
            raise UsageError("points_per_side and points_per_batch must be at least 1")
        for name in ("box_nms_thresh", "crop_nms_thresh"):
            if not 0 < getattr(self, name) <= 1:
                raise UsageError(f"{name} must be in (0, 1], got {getattr(self, name)}")
        check_number("min_mask_region_area", self.min_mask_region_area, least=0)
        if not 0 <= self.crop_n_layers <= MOST_LAYERS:
            raise UsageError(f"crop_n_layers must be in 0 to {MOST_LAYERS}, got {self.crop_n_layers}")
        check_number("crop_overlap_ratio", self.crop_overlap_ratio, least=0, below=1)
        check_number("crop_n_points_downscale_factor", self.crop_n_points_downscale_factor, least=1)

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
        """The masks of a picture; it and every crop of it are encoded once."""
        picture, size = as_picture(image)
        crops = crop_boxes(size, self.crop_n_layers, self.crop_overlap_ratio)
        masks_of_crops = [self._of_crop(picture, layer, crop, size) for layer, crop in crops]
        masks, scores, stability, points = (torch.cat([part[i] for part in masks_of_crops]) for i in range(4))
        if len(crops) > 1 and len(masks):
            area = torch.cat([torch.full((len(part[0]),), (b[2] - b[0]) * (b[3] - b[1]))
                              for part, (_, b) in zip(masks_of_crops, crops, strict=True)])  # fmt: skip
            chosen = nms(_corners(masks), 1 / area.float(), self.crop_nms_thresh)
            masks, scores, stability, points = (part[chosen] for part in (masks, scores, stability, points))
        return self._finished(masks, scores, stability, points)

    @torch.no_grad()
    def on(self, state: ImageState) -> RegionMasks:
        """The masks of a picture that the segmenter has encoded already; crops need its pixels and are not made."""
        height, width = state.size
        return self._finished(*self._of_state(state, 0, (0, 0, width, height), state.size))

    def _finished(self, masks: Tensor, scores: Tensor, stability: Tensor, points: Tensor) -> RegionMasks:
        """Small islands and holes away, masks that have become alike once, all by size."""
        if self.min_mask_region_area > 1 and len(masks):
            mended = torch.stack([tidy(mask, self.min_mask_region_area) for mask in masks])
            unchanged = (mended == masks).flatten(1).all(1).float()
            chosen = nms(_corners(mended), unchanged, max(self.box_nms_thresh, self.crop_nms_thresh))
            masks, scores, stability, points = (part[chosen] for part in (mended, scores, stability, points))
        return RegionMasks.of(masks, scores=scores, stability=stability, points=points)

    def grid(self, height: int, width: int, layer: int = 0) -> Float[Tensor, "P 2"]:
        """The points of a picture or crop, (x, y) in its pixels, half a step from the border."""
        count = max(1, int(self.points_per_side / self.crop_n_points_downscale_factor**layer))
        side = (torch.arange(count) + 0.5) / count
        return torch.stack(torch.meshgrid(side * width, side * height, indexing="xy"), -1).flatten(0, 1)

    def _of_crop(
        self, picture: ImageLike, layer: int, crop: Box, size: tuple[int, int]
    ) -> tuple[Bool[Tensor, "N H W"], Tensor, Tensor, Tensor]:
        """Masks at the picture's size, scores, stability and points in the picture, without doubles."""
        return self._of_state(self.segmenter.encode(cropped(picture, crop)), layer, crop, size)  # type: ignore[type-var]

    def _of_state(
        self, state: ImageState, layer: int, crop: Box, size: tuple[int, int]
    ) -> tuple[Bool[Tensor, "N H W"], Tensor, Tensor, Tensor]:
        x0, y0, x1, y1 = crop
        kept = list(self._ask(state, self.grid(y1 - y0, x1 - x0, layer)))
        masks, scores, stability, points = (torch.cat([part[i] for part in kept]) for i in range(4))
        boxes = _corners(masks) + torch.tensor([x0, y0, x0, y0])
        whole = ~near_crop_edge(boxes, crop, size)
        chosen = whole.nonzero()[:, 0]
        chosen = chosen[nms(boxes[chosen], scores[chosen], self.box_nms_thresh)]
        masks, scores, stability, points = (part[chosen] for part in (masks, scores, stability, points))
        if layer:
            masks = torch.nn.functional.pad(masks, (x0, size[1] - x1, y0, size[0] - y1))
        return masks, scores, stability, points + torch.tensor([x0, y0])

    def _ask(
        self, state: ImageState, grid: Float[Tensor, "P 2"]
    ) -> Iterator[tuple[Bool[Tensor, "N H W"], Tensor, Tensor, Tensor]]:
        """Good candidates of each batch: masks, scores, stability, points."""
        least = self.thresholds
        for points in grid.split(self.points_per_batch):
            prompts = Prompts(points[:, None], torch.ones(len(points), 1, dtype=torch.long))
            logits, scores, row = self._confident(state, prompts, least["pred_iou_thresh"])
            stability = stability_score(logits, least["stability_score_offset"])
            masks = logits > 0
            good = (stability >= least["stability_score_thresh"]) & masks.flatten(1).any(1)
            yield masks[good].cpu(), scores[good].cpu(), stability[good].cpu(), points[row.cpu()[good.cpu()]]

    def _confident(self, state: ImageState, prompts: Prompts, least: float) -> tuple[Tensor, Tensor, Tensor]:
        """Logits at the picture's size, scores and number of the prompt of the candidates that are sure enough.

        Where a segmenter can, only they are enlarged: most of the time goes into that.
        """
        if isinstance(self.segmenter, LowResSegmenter):
            low, scores = self.segmenter.predict_low(state, prompts, multimask=self.multimask)
            sure = _above(scores, least)
            logits = self.segmenter.enlarge(low[sure], state)
        else:
            masks = self.segmenter.predict(state, prompts, multimask=self.multimask)
            scores = masks.scores
            sure = _above(scores, least)
            logits = masks.logits[sure]
        return logits, scores[sure], sure.nonzero()[:, 0]


def _above(scores: Tensor, least: float) -> Tensor:
    """Which candidates are sure enough; a threshold of 0 is none, as predicted IoUs may be negative."""
    return scores > least if least > 0 else torch.ones_like(scores, dtype=torch.bool)


def _corners(masks: Bool[Tensor, "N H W"]) -> Float[Tensor, "N 4"]:
    """Boxes for `nms` as segment_anything measures them, from the first to the last pixel; one pixel is half of one."""
    if not len(masks):
        return torch.zeros(0, 4)
    boxes = boxes_of(masks[None])[0]
    return torch.cat([boxes[:, :2], torch.maximum(boxes[:, 2:] - 1, boxes[:, :2] + 0.5)], 1)
