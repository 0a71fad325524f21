"""The direct effect of every patch: how much a score falls when that patch alone is taken away."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from binderclip.data.augment.fill import Fill
from binderclip.errors import UsageError
from binderclip.explain.engine.attribution import Attribution
from binderclip.explain.engine.placement import whole
from binderclip.numeric import check_number

Score = Callable[[Tensor], Tensor]
"""Images (B, 3, H, W) -> (B,) scores, or (B, 2) logits, of which the second minus the first is taken."""


@dataclass(frozen=True)
class PatchEffects:
    """The effects of patches on a score.

    Attributes:
        effects: (B, h, w) score of the picture minus the score without the patch.
        score: (B,) of the whole picture.
        size: (H, W) of the pictures in pixels.
    """

    effects: Float[Tensor, "B h w"]
    score: Float[Tensor, "B"]
    size: tuple[int, int]

    def top_share(self, share: float = 0.05) -> Float[Tensor, "B"]:
        """Share of the absolute effects that the strongest patches hold; NaN where no patch has any.

        Args:
            share: of the patches, rounded up to a whole number of them: the top 5 % of 64 are 4, of 16 one.
        """
        check_number("share", share, above=0, most=1)
        flat = self.effects.flatten(1).abs()
        count = math.ceil(share * flat.shape[1] - 1e-9)
        total = flat.sum(1)
        held = flat.topk(count, dim=1).values.sum(1) / total
        return torch.where(total > 0, held, torch.full_like(held, torch.nan))

    def uniformity(self) -> Float[Tensor, "B"]:
        """Entropy of the absolute effects over the largest possible one: 1 where all patches count alike."""
        flat = self.effects.flatten(1).abs()
        portion = flat / flat.sum(1, keepdim=True)
        return torch.special.entr(portion).sum(1) / math.log(flat.shape[1])

    def gini(self) -> Float[Tensor, "B"]:
        """Gini coefficient of the absolute effects; NaN where no patch has any.

        Mean absolute difference of two patches over twice the mean: 0 where all of N patches count alike, 1 - 1 / N
        where one holds everything.
        """
        ordered = self.effects.flatten(1).abs().sort(dim=1).values  # (B, N)
        count = ordered.shape[1]
        rank = torch.arange(1, count + 1, device=ordered.device)
        total = ordered.sum(1)
        gini = ((2 * rank - count - 1) * ordered).sum(1) / (count * total)
        return torch.where(total > 0, gini, torch.full_like(gini, torch.nan))

    def strongest(self) -> Int[Tensor, "B 2"]:
        """(row, column) of the patch that speaks loudest for the picture's own side, above or below 0."""
        sign = torch.where(self.score >= 0, 1.0, -1.0)[:, None]
        place = (self.effects.flatten(1) * sign).argmax(1)
        width = self.effects.shape[2]
        return torch.stack([place // width, place % width], 1)

    def attribution(self) -> Attribution:
        """The same as a map that draws itself over its picture."""
        return Attribution((self.effects,), (whole(self.size),), self.size, self.score, "patch direct effect")


@torch.no_grad()
def patch_direct_effect(
    score: Score, images: Float[Tensor, "B 3 H W"], *, patch: int = 16, fill: float | Fill = 0.0, batch_size: int = 64
) -> PatchEffects:
    """Measure by how much a score falls when a patch is taken away, for every patch of a grid.

    The copies of a picture, one without each patch, go through in batches: N + 1 passes for N patches.

    Args:
        score: images -> (B,) scores, such as a detector's logit; or (B, 2) logits of real and fake.
        images: in [0, 1].
        patch: side of a patch in pixels.
        fill: what stands in a patch that is taken away: 0 (the paper's), another number, or a `Fill`.
        batch_size: copies that go through at once.

    Raises:
        UsageError: sides that are no multiples of the patch, or scores of another shape.

    Paper: All Patches Matter, More Patches Better: Enhance AI-Generated Image Detection via Panoptic Patch Learning
    (arXiv 2504.01396).

    Examples:
        >>> effects = patch_direct_effect(lambda x: x[:, :, :8].sum((1, 2, 3)), torch.ones(1, 3, 16, 16), patch=8)
        >>> effects.effects[0].tolist()
        [[192.0, 192.0], [0.0, 0.0]]
    """
    grid = _grid_of(images, patch)
    height, width = images.shape[-2:]
    stand_in = (fill if isinstance(fill, Fill) else Fill("zero", value=fill))(images)
    complete = _scores(score, images, batch_size)
    rows = []
    for image, other in zip(images, stand_in, strict=True):
        rows.append(_scores(score, without_each(image, other, patch), batch_size))
    effects = complete[:, None] - torch.stack(rows)
    return PatchEffects(effects.view(-1, *grid), complete, (height, width))


@torch.no_grad()
def single_patch_scores(
    score: Score, images: Float[Tensor, "B 3 H W"], *, patch: int = 16, batch_size: int = 64
) -> Float[Tensor, "B h w"]:
    """Scores of pictures that are tiled with one of their patches, for every patch of a grid: what it says alone.

    A detector that looks at all patches knows a generated picture by any of them; one that relies on few fails on most
    tilings.

    Args:
        score: images -> (B,) scores, such as a detector's logit; or (B, 2) logits of real and fake.
        images: in [0, 1].
        patch: side of a patch in pixels.
        batch_size: tiled pictures that go through at once.

    Raises:
        UsageError: sides that are no multiples of the patch, or scores of another shape.

    Paper: All Patches Matter, More Patches Better: Enhance AI-Generated Image Detection via Panoptic Patch Learning
    (arXiv 2504.01396).

    Examples:
        >>> picture = torch.zeros(1, 3, 16, 16)
        >>> picture[:, :, :8, 8:] = 1.0
        >>> single_patch_scores(lambda x: x.mean((1, 2, 3)), picture, patch=8)[0].tolist()
        [[0.0, 1.0], [0.0, 0.0]]
    """
    down, along = _grid_of(images, patch)
    rows = []
    for image in images:
        patches = image.unfold(1, patch, patch).unfold(2, patch, patch).flatten(1, 2).movedim(1, 0)  # (N, 3, p, p)
        rows += [_scores(score, part.repeat(1, 1, down, along), batch_size) for part in patches.split(batch_size)]
    return torch.cat(rows).view(len(images), down, along)


def _grid_of(images: Float[Tensor, "B 3 H W"], patch: int) -> tuple[int, int]:
    """Rows and columns of patches."""
    height, width = images.shape[-2:]
    if patch < 1 or height % patch or width % patch:
        raise UsageError(f"{height} x {width} pixels: both sides must be multiples of the patch, {patch}")
    return height // patch, width // patch


def without_each(
    image: Float[Tensor, "3 H W"], stand_in: Float[Tensor, "3 H W"], patch: int
) -> Float[Tensor, "N 3 H W"]:
    """Copies of a picture, each without one patch, row by row."""
    height, width = image.shape[-2:]
    down, along = height // patch, width // patch
    keep = torch.eye(down * along, dtype=torch.bool, device=image.device).view(-1, 1, down, along)
    pixels = keep.repeat_interleave(patch, 2).repeat_interleave(patch, 3)  # (N, 1, H, W)
    return torch.where(pixels, stand_in, image)


def _scores(score: Score, images: Tensor, batch_size: int) -> Float[Tensor, "M"]:
    scores = torch.cat([score(part) for part in images.split(batch_size)])
    if scores.ndim == 2 and scores.shape[1] == 2:
        return scores[:, 1] - scores[:, 0]
    if scores.shape != (len(images),):
        raise UsageError(f"a score gives (B,) or (B, 2) numbers, got {tuple(scores.shape)} for {len(images)} pictures")
    return scores
