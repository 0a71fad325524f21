"""From a heatmap to candidate masks: points and the box before, a box a word, or every mask there is."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from scipy import ndimage
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.segment.maps import unit_range
from binderclip.segment.promptable import AutomaticMasks, ImageState, PromptableSegmenter, Prompts, predict_masks

__all__ = [
    "CandidateMasks",
    "Candidates",
    "EveryMask",
    "FromPoints",
    "FromWordBoxes",
    "Look",
    "contained_dropped",
    "grown_box",
    "heatmap_points",
]

Rectangle = tuple[float, float, float, float]


@dataclass
class Look:
    """What a round knows.

    Attributes:
        image: the picture. state: encoded by the segmenter.
        task: in words. words: of the object.
        maps: one for each of the words, as the localiser gives them; None without a localiser or a word.
        heat: what they agree on, in [0, 1].
        boxes: where the words were seen, xyxy in pixels.
        box: around the mask of the round before, grown.
    """

    image: Image.Image
    segmenter: PromptableSegmenter
    state: ImageState
    task: str = ""
    words: tuple[str, ...] = ()
    maps: Float[Tensor, "W h w"] | None = None
    heat: Float[Tensor, "h w"] | None = None
    boxes: list[Rectangle] = field(default_factory=list)
    box: Rectangle | None = None


@dataclass(frozen=True)
class CandidateMasks:
    """N masks that may be the answer.

    Attributes:
        logits: at the picture's size, 0 is the threshold.
        scores: predicted IoU, or what candidates are ranked by.
        names: class of each; None where candidates have no classes.
    """

    logits: Float[Tensor, "N H W"]
    scores: Float[Tensor, "N"]
    names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.logits)


@runtime_checkable
class Candidates(Protocol):
    """Asks a promptable segmenter for candidates."""

    def __call__(self, look: Look) -> CandidateMasks:
        """None at all is an empty answer."""
        ...


def heatmap_points(
    heat: Float[Tensor, "h w"],
    size: tuple[int, int],
    *,
    threshold: float = 0.9,
    down_sample: float = 0.5,
    max_fraction: float = 0.5,
) -> tuple[Float[Tensor, "P 2"], list[int]]:
    """Hottest cells as inside points and as many coldest ones as outside points.

    Args:
        heat: of the object.
        size: (H, W) of the picture.
        threshold: of the map's range, from which a cell is hot.
        down_sample: the map is resized by one over it: 0.5 doubles it.
        max_fraction: most of the cells that may be hot.

    Returns:
        (x, y) in pixels at the cells' centres, cut to whole pixels as GenSAM does, outside points first, the hot ones
        in ascending heat; and labels. None of either for a constant map.
    """
    if heat.amax() - heat.amin() <= 1e-12:
        return heat.new_zeros(0, 2), []
    shape = [max(1, math.floor(n / down_sample)) for n in heat.shape]
    cells = unit_range(
        torch.nn.functional.interpolate(heat[None, None].float(), size=shape, mode="bilinear", align_corners=False)[0]
    )[0].flatten()
    count = min(int((cells >= threshold).sum()), int(max_fraction * len(cells)))
    count = max(1, count)
    order = cells.argsort(stable=True)
    chosen = torch.cat([order[:count], order[-count:]])
    x = ((chosen % shape[1] + 0.5) * size[1] / shape[1]).floor()
    y = ((chosen // shape[1] + 0.5) * size[0] / shape[0]).floor()
    return torch.stack([x, y], 1).float(), [0] * count + [1] * count


def grown_box(mask: Bool[np.ndarray, "H W"], share: float = 0.1) -> Rectangle:
    """The largest box of a connected part, grown by a share of its size on each side and cut to the picture.

    Parts are compared by the area of their box over that of the whole mask. As in GenSAM's code the upper left corner
    moves by whole pixels, rounded down, and the lower right one, rounded up, by a share of the size that the box has
    after that.

    Args:
        mask: where it is empty, the box is the whole picture.
        share: of the box's size.
    """
    height, width = mask.shape
    numbers, count = ndimage.label(mask, np.ones((3, 3)))
    if not count:
        return 0.0, 0.0, float(width), float(height)
    places = ndimage.find_objects(numbers)
    rows, columns = max(places, key=lambda p: (p[0].stop - p[0].start) * (p[1].stop - p[1].start))
    x0 = columns.start - math.floor((columns.stop - columns.start) * share)
    y0 = rows.start - math.floor((rows.stop - rows.start) * share)
    x1 = columns.stop + math.ceil((columns.stop - x0) * share)
    y1 = rows.stop + math.ceil((rows.stop - y0) * share)
    return float(max(0, x0)), float(max(0, y0)), float(min(width, x1)), float(min(height, y1))


def _points(look: Look, threshold: float, down_sample: float) -> tuple[Float[Tensor, "P 2"], list[int]]:
    if look.heat is None:
        raise UsageError("points come from a heatmap: give a localiser")
    return heatmap_points(look.heat, look.state.size, threshold=threshold, down_sample=down_sample)


@dataclass(frozen=True)
class FromPoints:
    """GenSAM: all points at once, with the box of the round before; the segmenter's candidates.

    Args:
        threshold, down_sample: of `heatmap_points`.
    """

    threshold: float = 0.9
    down_sample: float = 0.5

    @torch.no_grad()
    def __call__(self, look: Look) -> CandidateMasks:
        """See `Candidates`; a flat heatmap gives no points and leaves the box, in the first round the whole picture."""
        points, labels = _points(look, self.threshold, self.down_sample)
        height, width = look.state.size
        box = look.box if len(points) or look.box is not None else (0.0, 0.0, float(width), float(height))
        prompts = Prompts.of(points=points if len(points) else None, labels=labels or None, box=box)
        masks = look.segmenter.predict(look.state, prompts, multimask=True)
        return CandidateMasks(masks.logits[0].cpu(), masks.scores[0].cpu())


@dataclass(frozen=True)
class FromWordBoxes:
    """INT: a prompt for every box of the object's word, each with the points of the heatmap.

    Args:
        threshold, down_sample: of `heatmap_points`.
    """

    threshold: float = 0.9
    down_sample: float = 0.5

    @torch.no_grad()
    def __call__(self, look: Look) -> CandidateMasks:
        """See `Candidates`; without a box the points alone."""
        if not look.boxes:
            return FromPoints(self.threshold, self.down_sample)(look)
        points, labels = _points(look, self.threshold, self.down_sample)
        count = len(look.boxes)
        prompts = Prompts(
            points.expand(count, -1, -1) if len(points) else None,
            torch.tensor(labels).expand(count, -1) if labels else None,
            torch.tensor(look.boxes, dtype=torch.float32),
        )
        logits, scores = predict_masks(look.segmenter, look.state, prompts)
        return CandidateMasks(logits.cpu(), scores.cpu())


@dataclass(frozen=True)
class EveryMask:
    """SLIP: all masks of the picture, parts merged into wholes, without the background.

    Args:
        points_per_side: of the grid of points.
        overlap: share of a mask inside a larger one above which it is a part of it and dropped; None keeps parts.
        drop_largest: whether the largest mask that is left is taken for the background and dropped. Where an object
            fills the picture that is wrong; where it was the only one, nothing is left, and a warning says so.
        pred_iou_thresh: predicted IoU below which a mask is dropped; None for the segmenter's own.
        settings: further ones of `AutomaticMasks`.
    """

    points_per_side: int = 16
    overlap: float | None = 0.8
    drop_largest: bool = True
    pred_iou_thresh: float | None = 0.9
    settings: tuple[tuple[str, Any], ...] = ()

    @torch.no_grad()
    def __call__(self, look: Look) -> CandidateMasks:
        """See `Candidates`."""
        automatic = AutomaticMasks(
            look.segmenter, points_per_side=self.points_per_side, pred_iou_thresh=self.pred_iou_thresh,
            **dict(self.settings),
        )  # fmt: skip
        masks = automatic.on(look.state)
        kept = list(range(len(masks)))
        if self.overlap is not None:
            kept = contained_dropped(masks.masks, self.overlap)
        if self.drop_largest:
            if len(kept) == 1:
                warnings.warn(
                    "the only mask was taken for the background: the setting drop_largest=False keeps it", stacklevel=2
                )
            kept = kept[1:]
        return CandidateMasks(20.0 * masks.masks[kept].float() - 10.0, masks.scores[kept])


def contained_dropped(masks: Bool[Tensor, "N H W"], overlap: float = 0.8) -> list[int]:
    """Numbers of the masks, sorted from large to small, of which no larger one holds more than a share.

    Masks are held against those that were dropped too, as the released code does.
    """
    flat = masks.flatten(1).float()
    areas = flat.sum(1)
    inside = (flat @ flat.T) / areas.clamp(min=1)  # [a, b]: share of b that lies in a
    larger = areas[:, None] > areas[None]
    return [i for i in range(len(masks)) if not bool((larger[:, i] & (inside[:, i] > overlap)).any())]
