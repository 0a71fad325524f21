"""A promptable segmenter whose masks are cut along the edges of the picture: GrabCut from its logits and the clicks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from scipy import ndimage
from torch import Tensor

from binderclip.models.image_text.preprocess import ImageLike
from binderclip.models.image_text.word_maps import picture_patches
from binderclip.segment.cut.labels import CutSettings, Seeds, cut_seeds, scaled_size
from binderclip.segment.promptable.image import as_picture
from binderclip.segment.promptable.prompts import ImageState, Masks, PromptableSegmenter, Prompts
from binderclip.segment.promptable.regions import RegionMasks

__all__ = ["CutSegmenter", "cut_mask", "cut_regions"]

CLICKED = CutSettings(prior=2.0)
"""The logits count twice."""
SURE = 10.0
"""Logits of a decoder are only looked at up to here: it is surer than it is right."""
ALIKE = 2.0
"""Logit of one standard deviation of likeness to what lies under a single click."""


@dataclass(frozen=True)
class PictureState(ImageState):
    """An encoded picture with its pixels.

    Attributes:
        picture: (3, H, W) in [0, 1].
        patches: (C, h, w) unit features of its patches.
    """

    picture: Tensor = field(kw_only=True, repr=False)
    patches: Tensor = field(kw_only=True, repr=False)


@dataclass(frozen=True)
class CutSegmenter:
    """Any promptable segmenter, the best candidate of each prompt cut out anew by `cut_mask`.

    One click says little, and a decoder may take a part for the whole: what looks like the place of a single click to
    `small-dino` counts beside its logits. Further clicks, or a box, say where the object ends, and then they do not.
    Scores, further candidates and `low_res`, which later prompts are fed with, stay those of the segmenter.

    Args:
        segmenter: any promptable one.
        settings: of the cut, `prior` the weight of the logits.
    """

    segmenter: PromptableSegmenter
    settings: CutSettings = CLICKED

    @property
    def image_size(self) -> int:
        """Of the segmenter."""
        return self.segmenter.image_size

    @property
    def differentiable(self) -> bool:
        """Cuts have no gradient."""
        return False

    @torch.no_grad()
    def encode(self, image: ImageLike) -> PictureState:
        """Encode a picture, and keep its pixels."""
        from binderclip.data import to_tensor

        picture, _ = as_picture(image)
        state = self.segmenter.encode(picture)
        pixels = picture[0].float() if isinstance(picture, Tensor) else to_tensor(picture)
        patches = picture_patches(pixels[None])
        return PictureState(state.features, state.size, state.scale, picture=pixels, patches=patches)

    @torch.no_grad()
    def predict(self, state: Any, prompts: Prompts, *, multimask: bool = True) -> Masks:
        """Masks of the prompts; the best candidate of each is cut out."""
        masks = self.segmenter.predict(state, prompts, multimask=multimask)
        logits = masks.logits.clone()
        for row, best in enumerate(masks.best.tolist()):
            inside, away = _points(prompts, row)
            box = None if prompts.boxes is None else tuple(prompts.boxes[row].tolist())
            own = logits[row, best]
            evidence = own
            if len(inside) == 1 and not len(away) and box is None:
                evidence = own.clamp(-SURE, SURE) + ALIKE * _likeness(state, inside[0]).to(own)
            mask = cut_mask(state.picture, evidence, inside=inside, away=away, box=box, settings=self.settings)
            logits[row, best] = _agreeing(own, mask.to(own.device))
        return replace(masks, logits=logits)


def _likeness(state: PictureState, point: Float[np.ndarray, "2"]) -> Float[Tensor, "H W"]:
    """Cosine of every place with that of a point (x, y) in pixels, standardised over the picture."""
    height, width = state.picture.shape[-2:]
    rows, columns = state.patches.shape[-2:]
    row, column = min(int(point[1] * rows / height), rows - 1), min(int(point[0] * columns / width), columns - 1)
    cosines = torch.einsum("chw,c->hw", state.patches, state.patches[:, row, column])
    alike = (cosines - cosines.mean()) / cosines.std(correction=0).clamp(min=1e-4)
    return F.interpolate(alike[None, None], size=(height, width), mode="bilinear", align_corners=False)[0, 0]


def cut_mask(
    image: Float[Tensor, "3 H W"],
    logits: Float[Tensor, "H W"],
    *,
    inside: Float[np.ndarray, "n 2"] | None = None,
    away: Float[np.ndarray, "m 2"] | None = None,
    box: tuple[float, ...] | None = None,
    settings: CutSettings = CLICKED,
) -> Bool[Tensor, "H W"]:
    """A mask cut out along the edges of the picture, from logits that say about where it is.

    The inner half of the mask, by distance from its border, is surely the object, and so are the points inside; what
    is farther from the mask than the radius of a disc of its area is surely not, nor are the points outside and what
    is outside the box. Colour models of both sides, the logits and the edges decide the rest. With points inside, parts
    of the mask that hold none of them are dropped.

    Args:
        image: in [0, 1].
        logits: a pixel is the object where they are above 0; without such a pixel the mask stays empty.
        inside, away: (x, y) in pixels of points in the object and outside it.
        box: xyxy in pixels, half-open.
        settings: of the cut, `prior` the weight of the logits, which count up to 10.
    """
    size = (image.shape[-2], image.shape[-1])
    if not bool((logits > 0).any()):
        return logits.cpu() > 0
    grid = scaled_size(size, settings.side)
    small = F.interpolate(logits[None, None].cpu().float(), size=grid, mode="bilinear", antialias=True)[0, 0]
    evidence = small.clamp(-SURE, SURE).double().numpy()
    scale = np.array([grid[1] / size[1], grid[0] / size[0]])
    seeds = _seeds(evidence > 0, *(_discs(points, scale, grid) for points in (inside, away)))
    if box is not None:
        x0, y0, x1, y1 = (float(v) for v in np.asarray(box) * np.tile(scale, 2))
        rows, columns = np.arange(grid[0])[:, None] + 0.5, np.arange(grid[1])[None] + 0.5
        outside = (rows < y0 - 1) | (rows > y1 + 1) | (columns < x0 - 1) | (columns > x1 + 1)
        seeds = _ruled_out(seeds, outside)
    if not seeds.labels.any():
        return logits.cpu() > 0
    mask = cut_seeds(image, evidence[None], seeds, settings) == 1
    if inside is not None and len(inside):
        mask = _parts_with(mask, inside)
    return torch.from_numpy(mask)


def cut_regions(image: Float[Tensor, "3 H W"], regions: RegionMasks, settings: CutSettings = CLICKED) -> RegionMasks:
    """The masks of a picture, each cut out along its edges (`cut_mask`, from its points); scores and points stay.

    Args:
        image: in [0, 1].
        regions: of the picture, such as `AutomaticMasks` gives.
        settings: of the cut.
    """
    masks = []
    for mask, point in zip(regions.masks, regions.points, strict=True):
        near = _signed_distance(mask.cpu().numpy())
        inside = point[None].double().cpu().numpy() if bool(point.isfinite().all()) else None
        masks.append(cut_mask(image, torch.from_numpy(near).float(), inside=inside, settings=settings))
    if not masks:
        return regions
    return RegionMasks.of(torch.stack(masks), scores=regions.scores, stability=regions.stability, points=regions.points)


def _signed_distance(mask: Bool[np.ndarray, "H W"]) -> Float[np.ndarray, "H W"]:
    """Distance from the border in hundredths of the longer side, positive inside: logits of a mask that has none."""
    padded = np.pad(mask, 1, mode="edge")
    inner, outer = (ndimage.distance_transform_edt(each)[1:-1, 1:-1] for each in (padded, ~padded))
    return (inner - outer) * 100 / max(mask.shape)


def _seeds(mask: np.ndarray, inside: np.ndarray, away: np.ndarray) -> Seeds:
    padded = np.pad(mask, 1)
    depth = ndimage.distance_transform_edt(padded)[1:-1, 1:-1]
    area = mask.sum()
    labels = mask | inside
    sure = inside.copy()
    if area:
        sure |= mask & (depth >= np.median(depth[mask]))
        far = ndimage.distance_transform_edt(~mask) > np.sqrt(area / np.pi)
    else:
        far = np.zeros_like(mask)
    never = np.stack([np.zeros_like(mask), (far & ~inside) | away])
    sure &= ~away
    return Seeds(np.where(never[1], 0, labels).astype(np.int64), sure | never[1], never, np.ones_like(mask))


def _ruled_out(seeds: Seeds, outside: np.ndarray) -> Seeds:
    never = seeds.never.copy()
    never[1] |= outside
    return Seeds(np.where(outside, 0, seeds.labels), seeds.sure | outside, never, seeds.around)


def _discs(points: np.ndarray | None, scale: np.ndarray, grid: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """The cells of points and their neighbours."""
    discs = np.zeros(grid, dtype=bool)
    for x, y in np.zeros((0, 2)) if points is None else np.asarray(points) * scale:
        row, column = min(int(y), grid[0] - 1), min(int(x), grid[1] - 1)
        discs[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2] = True
    return discs


def _parts_with(mask: Bool[np.ndarray, "H W"], points: Float[np.ndarray, "n 2"]) -> Bool[np.ndarray, "H W"]:
    """The connected parts of a mask that hold a point; all of it where none does."""
    parts, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    rows = np.asarray(points)[:, 1].astype(int).clip(0, mask.shape[0] - 1)
    columns = np.asarray(points)[:, 0].astype(int).clip(0, mask.shape[1] - 1)
    held = np.unique(parts[rows, columns])
    held = held[held > 0]
    return np.isin(parts, held) if len(held) else mask


def _points(prompts: Prompts, row: int) -> tuple[np.ndarray, np.ndarray]:
    """(x, y) of the points inside and outside of one prompt."""
    if prompts.points is None or prompts.labels is None:
        return np.zeros((0, 2)), np.zeros((0, 2))
    points, labels = prompts.points[row].detach().double().cpu().numpy(), prompts.labels[row].cpu().numpy()
    return points[labels == 1], points[labels == 0]


def _agreeing(logits: Float[Tensor, "H W"], mask: Bool[Tensor, "H W"]) -> Float[Tensor, "H W"]:
    """Logits whose sign is the mask's; where they had it they stay."""
    sure = logits.abs().clamp(min=1e-3)
    return torch.where(mask, sure, -sure)
