"""Features of hidden patches, predicted as a frozen tower sees them in the whole picture (masked feature modelling)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.losses.dense.masked_patches import random_patch_order
from binderclip.settings import check_choice

if TYPE_CHECKING:
    from binderclip.models.towers import Tower

__all__ = ["FeatureMaskedModeling", "patch_features", "random_block_masks"]

ATTEMPTS = 10
FRUITLESS = 1000
"""Rectangles that are tried for the first one of a picture."""


def random_block_masks(
    count: int, grid: tuple[int, int], masked: int, *, least: int = 4, aspect: float = 0.3,
    generator: torch.Generator | None = None,
) -> Bool[Tensor, "B h w"]:  # fmt: skip
    """Which patches of each picture are hidden: rectangles that overlap, until enough are.

    A rectangle has from `least` patches to what is still to be hidden, and is smaller than the grid in both directions.
    After ten in a row that hide nothing new or too much the rest is left, so that a few masks fall one or two short (as
    in the program of BEiT and EVA); but the first rectangle is looked for until one fits.

    Args:
        count: pictures B.
        grid: (h, w) of patches.
        masked: how many patches to hide.
        least: patches of the smallest rectangle.
        aspect: h / w of the flattest rectangle, in (0, 1]; its inverse is that of the steepest.
        generator: of the draws.

    Raises:
        UsageError: a number that hides no patch or all of them, or a grid in which no rectangle fits.

    Paper: Bao et al., "BEiT: BERT Pre-Training of Image Transformers", arXiv 2106.08254.
    """
    if not 0 < masked < grid[0] * grid[1]:
        raise UsageError(f"{masked} of {grid[0]} x {grid[1]} patches: some are to be hidden, some seen")
    if least < 1 or not 0 < aspect <= 1:
        raise UsageError(f"least must be at least 1 and aspect in (0, 1], got {least} and {aspect}")
    draws = _uniform(generator)
    masks = [_one_mask(grid, masked, least, aspect, draws) for _ in range(count)]
    result = torch.tensor(masks, dtype=torch.bool).reshape(count, *grid)
    if not result.flatten(1).any(1).all():
        raise UsageError(f"no rectangle fits into a grid of {grid[0]} x {grid[1]} patches; use masking='random'")
    return result


def _uniform(generator: torch.Generator | None) -> Iterator[float]:
    """Endless numbers in [0, 1)."""
    while True:
        yield from torch.rand(1024, generator=generator).tolist()


def _one_mask(
    grid: tuple[int, int], masked: int, least: int, aspect: float, draws: Iterator[float]
) -> list[list[bool]]:
    mask = [[False] * grid[1] for _ in range(grid[0])]
    left, failed = masked, 0
    # a mask that hides nothing would leave its picture without a loss
    while left > 0 and (failed < ATTEMPTS or (left == masked and failed < FRUITLESS)):
        area = least + next(draws) * (left - least)
        ratio = math.exp((2 * next(draws) - 1) * math.log(aspect))
        h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        failed += 1
        if h >= grid[0] or w >= grid[1]:
            continue
        top, side = int(next(draws) * (grid[0] - h + 1)), int(next(draws) * (grid[1] - w + 1))
        new = sum(not hidden for row in mask[top : top + h] for hidden in row[side : side + w])
        if 0 < new <= left:
            for row in mask[top : top + h]:
                row[side : side + w] = [True] * w
            left, failed = left - new, 0
    return mask


def patch_features(
    tower: Tower, images: Float[Tensor, "B 3 H W"], grid: tuple[int, int] | None = None
) -> Float[Tensor, "B N D"]:
    """The patch tokens of a tower after its last block and final norm.

    Args:
        tower: whatever `open_image_tower` gives.
        images: normalised pixels.
        grid: (h, w) patches to give pictures the size of; None takes them as they are.
    """
    size = None if grid is None else (grid[0] * tower.patch, grid[1] * tower.patch)
    if size is not None and tuple(images.shape[-2:]) != size:
        images = F.interpolate(images, size, mode="bicubic", antialias=True, align_corners=False)
    return tower.norm(tower.run(tower.embed(images)).patches)


class FeatureMaskedModeling(nn.Module):
    """Minus the cosine between what a student says of hidden patches and what a teacher sees there.

    The student gets pictures in which a part of the patches is replaced by a learned token, and its tokens at these
    places, after the final norm and a linear layer, are held against the teacher's features of the whole picture. Seen
    patches are in no term. A small trained tower so starts a larger new one ('weak teaches strong').

    Args:
        width: D of the student's tokens.
        target: T, of the teacher's.
        ratio: share of the patches that is hidden; of 256 patches 0.4 hides 102 (the released scripts: 105).
        masking: "block", see `random_block_masks`, or "random" patches.
        least, aspect: of the blocks.

    Raises:
        UsageError: a ratio or masking that is none; at the call, targets that do not fit the student's grid.

    Examples:
        >>> import binderclip
        >>> tower = binderclip.load("small").image_tower
        >>> loss = FeatureMaskedModeling(tower.width, tower.width)
        >>> images = torch.zeros(2, 3, 128, 128)
        >>> with torch.no_grad():
        ...     targets = patch_features(tower, images)
        >>> bool(loss(tower, images, targets).abs() <= 1)
        True

    Paper: Sun et al., "EVA-CLIP-18B: Scaling CLIP to 18 Billion Parameters", arXiv 2402.04252; the objective is EVA's
    (arXiv 2211.07636).
    """

    def __init__(
        self,
        width: int,
        target: int,
        *,
        ratio: float = 0.4,
        masking: Literal["block", "random"] = "block",
        least: int = 4,
        aspect: float = 0.3,
    ) -> None:
        super().__init__()
        if not 0 < ratio < 1:
            raise UsageError(f"ratio is the share of patches that is hidden, in (0, 1), got {ratio}")
        check_choice("masking", masking, ("block", "random"))
        self.ratio, self.masking, self.least, self.aspect = ratio, masking, least, aspect
        self.mask = nn.Parameter(nn.init.trunc_normal_(torch.empty(width), std=0.02))
        self.predict = nn.Linear(width, target)
        nn.init.trunc_normal_(self.predict.weight, std=0.02)
        nn.init.zeros_(self.predict.bias)

    def draw(
        self, count: int, grid: tuple[int, int], generator: torch.Generator | None = None
    ) -> Bool[Tensor, "B h w"]:
        """Hidden patches of `count` pictures."""
        patches = grid[0] * grid[1]
        if self.masking == "block":
            masked = int(patches * self.ratio)
            return random_block_masks(
                count, grid, masked, least=self.least, aspect=self.aspect, generator=generator
            )  # fmt: skip
        hidden = random_patch_order(count, patches, self.ratio, generator)[1]
        return torch.zeros(count, patches, dtype=torch.bool).scatter(1, hidden, True).reshape(count, *grid)

    def forward(
        self,
        student: Tower,
        images: Float[Tensor, "B 3 H W"],
        targets: Float[Tensor, "B N T"],
        *,
        masks: Bool[Tensor, "B h w"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, ""]:
        """The loss, in [-1, 1].

        Args:
            student: its tower.
            images: normalised pixels, as it is given them.
            targets: the teacher's features, row by row, such as those of `patch_features`; any length.
            masks: hidden patches; default drawn anew.
            generator: of the draw.
        """
        grid = student.grid_of(images)
        if targets.shape[1] != grid[0] * grid[1]:
            raise UsageError(f"targets of {targets.shape[1]} patches for a student's grid of {grid[0]} x {grid[1]}")
        masks = self.draw(len(images), grid, generator) if masks is None else masks
        where = masks.flatten(1).nonzero(as_tuple=True)  # on the CPU, where they were drawn: no wait for the device
        if not len(where[0]):
            raise UsageError("masks hide no patch")
        hidden = masks.to(images.device).flatten(1)  # (B, N)
        tokens = student.embed(images, on_patches=lambda x: torch.where(hidden[..., None], self.mask.to(x.dtype), x))
        if tokens.patches.shape[1] != hidden.shape[1]:
            raise UsageError("the student drops patches while it trains; masked features need all of them")
        rows, places = (each.to(images.device) for each in where)
        predicted = self.predict(student.norm(student.run(tokens).patches[rows, places]))  # (M, T)
        return -F.cosine_similarity(predicted.float(), targets[rows, places].float(), dim=-1).mean()
