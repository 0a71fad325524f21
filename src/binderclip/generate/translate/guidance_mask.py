"""The one mask in which a user says which parts of a picture are reflected and which are behind the glass."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.numeric import check_number

__all__ = ["REFLECTED", "TRANSMITTED", "anchor_masks", "contrastive_mask", "training_masks"]

REFLECTED = 1.0
TRANSMITTED = 125 / 255
"""Values of the contrastive mask, as the released code has them; what is unknown is 0."""

_BRIGHTER, _ALIKE, _AREA = 0.1, 0.03, 400 / 224**2
"""Residual above which a pixel counts as reflected, below which as transmitted; least area as a part of the picture."""


def contrastive_mask(
    reflection: Bool[Tensor, "*_ B H W"] | None = None, transmission: Bool[Tensor, "*_ B H W"] | None = None
) -> Float[Tensor, "B 1 H W"]:
    """One mask of what is known to be reflected (1) and transmitted (125/255); 0 where nothing is known.

    Points and boxes become masks by a promptable segmenter (`segment.promptable`); several of one kind are united.

    Args:
        reflection, transmission: masks of either kind, of one picture each, or (K, B, H, W), K of each picture.

    Raises:
        UsageError: no mask at all, masks of different sizes, or a pixel that is said to be of either layer.

    Paper: Towards Flexible Interactive Reflection Removal with Human Guidance (arXiv 2406.01555).

    Examples:
        >>> import torch
        >>> left = torch.tensor([[[True, False]]])
        >>> contrastive_mask(left, ~left).flatten().tolist()
        [1.0, 0.4901960790157318]
    """
    united = [None if mask is None else mask.any(0) if mask.ndim == 4 else mask for mask in (reflection, transmission)]
    given = [mask for mask in united if mask is not None]
    if not given or any(mask.ndim != 3 or mask.shape != given[0].shape for mask in given):
        raise UsageError("masks must be (B, H, W) or (K, B, H, W) of one size, and of one kind at least")
    mirror, behind = (torch.zeros_like(given[0]) if mask is None else mask for mask in united)
    if bool((mirror & behind).any()):
        raise UsageError("reflection and transmission overlap: a pixel is marked as one of the two")
    return (REFLECTED * mirror + TRANSMITTED * behind).float()[:, None]


def training_masks(
    images: Float[Tensor, "B 3 H W"],
    transmission: Float[Tensor, "B 3 H W"],
    *,
    probability: float = 0.5,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "B 1 H W"]:
    """Contrastive masks as a user might draw them, from the truth: one region of either kind, or none.

    By the residual I - T, mean over channels: of the connected regions above 0.1 the one with the largest mean is
    marked as reflected, of those below 0.03 the one with the smallest mean as transmitted, each with the given
    probability. Regions are connected along diagonals too and larger than 400 of 224 x 224 pixels, or as much of
    another size. The released code indexes the residual by 0 and 1 where it means the region, so that its choice among
    regions is arbitrary; here it is the one that is meant.

    Args:
        images: what is seen.
        transmission: the layer behind the glass.
        probability: of a mark of either kind, drawn for each picture and kind.
        generator: of the draws.

    Raises:
        UsageError: pictures of different shapes, or a probability outside of [0, 1].

    Paper: Towards Flexible Interactive Reflection Removal with Human Guidance (arXiv 2406.01555).
    """
    if images.shape != transmission.shape or images.ndim != 4:
        raise UsageError(
            f"pictures must be (B, C, H, W) of one shape: {tuple(images.shape)} and {tuple(transmission.shape)}"
        )
    check_number("probability", probability, least=0, most=1)
    residuals = (images - transmission).mean(1).detach().cpu().numpy()
    drawn = (torch.rand(len(images), 2, generator=generator) < probability).tolist()
    masks = np.zeros(residuals.shape, np.float32)
    for mask, residual, (mirror, behind) in zip(masks, residuals, drawn, strict=True):
        if mirror:
            mask[_largest(residual, _BRIGHTER)] = REFLECTED
        if behind:
            mask[_largest(-residual, -_ALIKE)] = TRANSMITTED
    return torch.from_numpy(masks).to(images)[:, None]


def _largest(residual: np.ndarray, bound: float) -> np.ndarray:
    """Of the connected regions above the bound that are large enough, the one of the largest mean; or no pixel."""
    from scipy.ndimage import label, mean

    labels, count = label(residual > bound, structure=np.ones((3, 3)))
    numbers = np.flatnonzero(np.bincount(labels.ravel(), minlength=count + 1) > _AREA * residual.size)
    numbers = numbers[numbers > 0]  # 0 is what lies below the bound
    if not len(numbers):
        return np.zeros(residual.shape, bool)
    return labels == numbers[np.argmax(mean(residual, labels, numbers))]


def anchor_masks(
    mask: Float[Tensor, "B 1 H W"], size: tuple[int, int], *, coverage: float | None = None
) -> tuple[Bool[Tensor, "B 1 h w"], Bool[Tensor, "B 1 h w"]]:
    """The cells of a grid that the mask marks as transmitted, and those that it marks as reflected.

    Args:
        mask: contrastive masks.
        size: (h, w) of the grid.
        coverage: None resizes the mask and takes whole cells of 1 as reflected and every other cell above 0 as
            transmitted, so that a cell that is reflected in part counts as transmitted: as released, for 224 pixels and
            more. A number in [0, 1) takes what either kind covers more than that much of.

    Raises:
        UsageError: a coverage outside of [0, 1).
    """
    if coverage is None:
        cells = F.interpolate(mask, size, mode="bilinear", align_corners=False)
        return (cells != 0) & (cells != REFLECTED), cells == REFLECTED
    check_number("coverage", coverage, least=0, below=1)
    kinds = torch.cat([(mask > 0) & (mask < REFLECTED), mask == REFLECTED], 1).to(mask.dtype)
    transmitted, reflected = (F.adaptive_avg_pool2d(kinds, size) > coverage).split(1, 1)
    return transmitted, reflected
