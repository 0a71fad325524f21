"""Regions of a picture from anywhere: where attention may go, and over which labels are voted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from binderclip.errors import UsageError, require
from binderclip.models.towers import Record
from binderclip.segment.parts.affinity import External
from binderclip.segment.parts.context import Context, Frame
from binderclip.segment.promptable import AutomaticMasks, load_promptable

#: picture (3, H, W) in [0, 1] -> (H, W) integers, -1 where there is no region; or what has an `id_map()`, such as the
#: masks that `promptable.AutomaticMasks` finds
RegionSource: TypeAlias = "Callable[[Tensor], Any]"


@dataclass(frozen=True)
class Felzenszwalb:
    """Regions by Felzenszwalb's and Huttenlocher's graph cuts of scikit-image; they need no model.

    Args:
        scale: larger for larger regions, for pixel values in [0, 1].
        sigma: of the Gaussian that smooths the picture first, in pixels.
        min_size: smaller regions are merged with a neighbour, in pixels.

    Raises:
        MissingDependency: (when called) scikit-image is not installed.
    """

    scale: float = 100.0
    sigma: float = 0.8
    min_size: int = 50

    def __call__(self, image: Float[Tensor, "3 H W"]) -> Int[Tensor, "H W"]:
        """Every pixel is in a region."""
        segmentation: Any = require("skimage.segmentation", "photographs")
        ids = segmentation.felzenszwalb(
            image.permute(1, 2, 0).cpu().numpy(), scale=self.scale, sigma=self.sigma, min_size=self.min_size
        )
        return torch.from_numpy(np.ascontiguousarray(ids, dtype=np.int64))


@dataclass(frozen=True)
class PromptedRegions:
    """Regions of a promptable segmenter that is asked at a grid of points; larger masks lie over smaller ones.

    The settings are CorrCLIP's: few points, one mask each, and weak masks are kept, as a patch in no region is worse
    off than one in a poor region.

    Args:
        model: name of a promptable segmenter (`load_promptable`), opened when the first picture comes.
        points_per_side, pred_iou_thresh, stability_score_thresh, multimask: of `AutomaticMasks`.

    Raises:
        UsageError: (when called) there is no such model, or a number is out of its range.

    Paper: CorrCLIP: Reconstructing Patch Correlations in CLIP for Open-Vocabulary Semantic Segmentation
    (arXiv 2411.10086).
    """

    model: str = "small-sam"
    points_per_side: int = 8
    pred_iou_thresh: float = 0.4
    stability_score_thresh: float = 0.4
    multimask: bool = False

    def __call__(self, image: Float[Tensor, "3 H W"]) -> Int[Tensor, "H W"]:
        """Numbers of masks, -1 where there is none."""
        masks = AutomaticMasks(
            _promptable(self.model),
            points_per_side=self.points_per_side,
            pred_iou_thresh=self.pred_iou_thresh,
            stability_score_thresh=self.stability_score_thresh,
            multimask=self.multimask,
            points_per_batch=16,  # masks of a large picture are large
        )(image)
        return large_over_small(masks.masks)


def large_over_small(masks: Bool[Tensor, "N H W"]) -> Int[Tensor, "H W"]:
    """Number of the largest mask over each pixel, of equal ones the last; -1 where there is none."""
    ids = torch.full(masks.shape[1:], -1)
    for number in masks.flatten(1).sum(1).argsort(stable=True).tolist():
        ids[masks[number]] = number
    return ids


@lru_cache(maxsize=2)
def _promptable(name: str) -> Any:
    return load_promptable(name)


def image_regions(source: RegionSource, frame: Frame) -> Int[Tensor, "H W"]:
    """Region ids of the picture at its own size, found once for all segmenters of one call.

    Raises:
        UsageError: ids that are no integers of the picture's size.
    """
    return frame.once(("regions", source), lambda: _found(source, frame.image))


def _found(source: RegionSource, image: Tensor) -> Int[Tensor, "H W"]:
    regions = source(image[0])
    regions = torch.as_tensor(regions.id_map() if hasattr(regions, "id_map") else regions)
    if tuple(regions.shape) != tuple(image.shape[-2:]) or regions.is_floating_point():
        raise UsageError(
            f"regions must be integers of the picture's size {tuple(image.shape[-2:])}, not {regions.dtype} of "
            f"{tuple(regions.shape)}"
        )
    # Ids are numbered anew from 0, -1 stays, so that no source's own numbers can be taken for anything else.
    values, ids = regions.to(image.device).long().clamp(min=-1).unique(return_inverse=True)
    return ids + min(0, int(values[0]))


def sampled(
    ids: Int[Tensor, "H W"], size: tuple[int, int], grid: tuple[int, int], *, within: tuple[float, float, float, float]
) -> Int[Tensor, "h w"]:
    """Ids at the centres of cells.

    Args:
        ids: of the picture.
        size: (h, w) of the picture as it is cut into windows.
        grid: cells of the window.
        within: (top, left, height, width) of the window, in pixels of `size`.
    """
    top, left, height, width = within
    rows = _centres(top, height, grid[0], ids.shape[0] / size[0], ids.shape[0])
    columns = _centres(left, width, grid[1], ids.shape[1] / size[1], ids.shape[1])
    return ids[rows.to(ids.device)][:, columns.to(ids.device)]


def _centres(start: float, length: float, cells: int, ratio: float, most: int) -> Tensor:
    places = (start + (torch.arange(cells, dtype=torch.float64) + 0.5) * length / cells) * ratio
    return places.floor().long().clamp(0, most - 1)


@dataclass(frozen=True)
class Scope:
    """Regions of every window, those that look alike made one.

    Args:
        regions: finds them (see `RegionSource`).
        features: say which regions are alike, and give the grid.
        merge: regions become one whose mean features are nearer than this to each other, or to a chain of regions
            between them (DBSCAN); the distance is the cosine's fall from the best pair's. None to keep them all.

    Raises:
        UsageError: merge is not positive.
    """

    regions: RegionSource = Felzenszwalb()
    features: External = field(default_factory=External)
    merge: float | None = 0.2

    def __post_init__(self) -> None:
        if self.merge is not None and self.merge <= 0:
            raise UsageError(f"merge must be positive or None, not {self.merge}")

    @property
    def record(self) -> Record:
        """What the features want."""
        return self.features.record

    def __call__(self, context: Context) -> Int[Tensor, "B gh gw"]:
        """Ids on the grid of the features, -1 outside of all regions."""
        if ("scope", self) not in context.notes:
            context.notes["scope", self] = self._ids(context)
        return context.notes["scope", self]

    def _ids(self, context: Context) -> Tensor:
        frame, features = context.frame, self.features(context)
        ids = image_regions(self.regions, frame)
        grid, size = (features.shape[-2], features.shape[-1]), (frame.pixels.shape[-2], frame.pixels.shape[-1])
        side = (context.pixels.shape[-2], context.pixels.shape[-1])
        cut = [sampled(ids, size, grid, within=(*place, *side)) for place in context.places]
        if self.merge is not None:
            cut = [merged(own, each, self.merge) for own, each in zip(cut, features, strict=True)]
        return torch.stack(cut)


def merged(ids: Int[Tensor, "h w"], features: Float[Tensor, "C h w"], eps: float = 0.2) -> Int[Tensor, "h w"]:
    """Regions whose mean features are alike, made one; see `Scope`.

    Args:
        ids: -1 stays.
        features: of unit length.
        eps: largest distance of neighbours, in cosine.

    Returns:
        Ids from 0, numbered anew.
    """
    from sklearn.cluster import DBSCAN

    values, flat = ids[ids >= 0].unique(), ids.flatten()
    if len(values) < 2:
        return torch.where(ids >= 0, 0, -1)
    member = (flat == values[:, None]).to(features)
    means = F.normalize((member @ features.flatten(1).T) / member.sum(1, keepdim=True), dim=1)
    similar = means @ means.T
    distance = (similar.max() - similar).clamp(min=0).cpu().numpy()
    cluster = DBSCAN(metric="precomputed", eps=eps, min_samples=1).fit_predict(distance)
    table = torch.full((int(values.max()) + 2,), -1, dtype=torch.long, device=ids.device)
    table[values] = torch.from_numpy(cluster).long().to(ids.device)
    return table[ids]


@dataclass(frozen=True)
class MaskMajority:
    """Every region takes the label of most of its pixels; what is in no region stays.

    Args:
        regions: finds them (see `RegionSource`).

    Paper: CorrCLIP: Reconstructing Patch Correlations in CLIP for Open-Vocabulary Semantic Segmentation
    (arXiv 2411.10086).
    """

    regions: RegionSource = Felzenszwalb()

    def __call__(self, labels: Int[Tensor, "H W"], _logits: Tensor, frame: Frame) -> Int[Tensor, "H W"]:
        """The label map; of several labels that are equally frequent the smallest."""
        return majority(labels, image_regions(self.regions, frame).to(labels.device))


def majority(labels: Int[Tensor, "H W"], ids: Int[Tensor, "H W"]) -> Int[Tensor, "H W"]:
    """The most frequent label of every region; -1, unsegmented, counts as a label. Pixels with a negative id stay."""
    inside = ids >= 0
    if not bool(inside.any()):
        return labels
    low, kinds = int(labels.min()), int(labels.max()) - int(labels.min()) + 1
    count = torch.bincount(ids[inside] * kinds + (labels[inside] - low), minlength=(int(ids.max()) + 1) * kinds)
    best = count.view(-1, kinds).argmax(1) + low
    return torch.where(inside, best[ids.clamp(min=0)].to(labels.dtype), labels)


def scoped_softmax(
    similar: Float[Tensor, "B N N"], ids: Int[Tensor, "B N"], tau: float = 4.0
) -> Float[Tensor, "B N N"]:
    """Softmax over the patches of the same region.

    A patch in no region attends, and is attended to, where the similarity is above the mean of all; and to itself.

    Args:
        similar: cosines.
        ids: region of every patch, -1 = none.
        tau: factor on the cosines.
    """
    allowed = ids[:, :, None] == ids[:, None, :]
    loose = ids < 0
    either = loose[:, :, None] | loose[:, None, :]
    above = similar > similar.mean((1, 2), keepdim=True)
    allowed = torch.where(either, above, allowed) | torch.eye(ids.shape[1], dtype=torch.bool, device=ids.device)
    return (tau * similar).masked_fill(~allowed, -torch.inf).softmax(-1)
