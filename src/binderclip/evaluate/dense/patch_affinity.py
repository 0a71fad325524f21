"""How well the affinity of patch features tells objects apart: average precision of same-object pairs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from binderclip.errors import UsageError
from binderclip.models import correlation

__all__ = ["PatchAffinity", "patch_affinity", "patch_owners"]


@dataclass(frozen=True)
class PatchAffinity:
    """Means over images.

    Attributes:
        precision: average precision where each object patch ranks all other patches and those of its own object are
            right. among_objects: the same where it ranks object patches only (images of one object left out).
        chance: share of right patches, what random features reach in `precision` in expectation.
        per_image: (N,) the precisions, nan where an image has no object of two patches.
    """

    precision: float
    among_objects: float
    chance: float
    per_image: Float[Tensor, "N"]


def patch_owners(masks: Bool[Tensor, "N K H W"], grid: tuple[int, int], *, covered: float = 0.5) -> Int[Tensor, "N L"]:
    """The object that covers at least `covered` of a patch, -1 where none does."""
    cover = functional.adaptive_avg_pool2d(masks.float(), grid).flatten(2)
    most, owner = cover.max(1)
    return torch.where(most >= covered, owner, -1)


def patch_affinity(
    features: Float[Tensor, "N D h w"], masks: Bool[Tensor, "N K H W"], *, centre: bool = True, covered: float = 0.5
) -> PatchAffinity:
    """Rank patches by the cosine to each object patch and see whether those of the same object come first.

    Args:
        features: a map for each image; raw colours are a baseline.
        masks: the visible pixels of each object.
        centre: subtract each image's mean feature first.
        covered: share of a patch that an object must cover to own it.

    Raises:
        UsageError: numbers of images that differ, or no image with an object of two patches.
    """
    if len(features) != len(masks):
        raise UsageError(f"{len(features)} feature maps for masks of {len(masks)} images")
    owners = patch_owners(masks, (features.shape[-2], features.shape[-1]), covered=covered)
    rows, others, chances = [], [], []
    for one, owner in zip(correlation(features.flatten(2).mT, centre=centre), owners, strict=True):
        there = owner >= 0
        same = (owner[:, None] == owner) & there
        same.fill_diagonal_(False)
        asked = there & same.any(1)
        if not bool(asked.any()):
            rows.append(torch.tensor(torch.nan))
            continue
        every = ~torch.eye(len(owner), dtype=torch.bool)
        rows.append(_average_precision(one, same, every)[asked].mean())
        chances.append((same.sum(1) / (len(owner) - 1))[asked].mean())
        if len(owner[asked].unique()) > 1:
            others.append(_average_precision(one, same, every & there)[asked].mean())
    per_image = torch.stack(rows)
    if bool(per_image.isnan().all()):
        raise UsageError("no image has an object that owns two patches; take a finer grid or larger objects")
    among = torch.stack(others).mean() if others else torch.tensor(torch.nan)
    return PatchAffinity(float(per_image.nanmean()), float(among), float(torch.stack(chances).mean()), per_image)


def _average_precision(
    scores: Float[Tensor, "L L"], right: Bool[Tensor, "L L"], kept: Bool[Tensor, "L L"]
) -> Float[Tensor, "L"]:
    """Of each row: mean over right columns of the precision at their rank, among the kept columns."""
    order = scores.masked_fill(~kept, -torch.inf).argsort(1, descending=True)
    hit = right.gather(1, order).float()
    rank = torch.arange(1, scores.shape[1] + 1, device=scores.device)
    return (hit * hit.cumsum(1) / rank).sum(1) / hit.sum(1).clamp(min=1)
