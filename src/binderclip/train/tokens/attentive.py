"""Which patches a text is likely to speak of: kept by the attention of another tower (A-CLIP, arXiv 2212.08653)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from binderclip.data.uniform import uniform
from binderclip.errors import UsageError
from binderclip.models.towers import Record, Recorder, Site, Tower

__all__ = ["AttentivePatches", "EnclosingCrops", "class_attention", "crop_resize", "project_scores"]

Boxes = Float[Tensor, "B 4"]
"""(x1, y1, x2, y2) as fractions of the picture's sides."""


@dataclass(frozen=True, kw_only=True)
class AttentivePatches:
    """The blocks of patches with the highest scores.

    Args:
        keep: share of the blocks that stay, in (0, 1]: int(n keep) + 1 of n blocks, at most all; of single patches
            int(n keep), at least one.
        block: patches a side of a block, whose patches share their fate; it must divide the grid.

    Raises:
        UsageError: a share out of range, or a block of no patch.

    Paper: Yang et al., "Attentive Mask CLIP", arXiv 2212.08653.
    """

    keep: float = 0.5
    block: int = 2

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1 or self.block < 1:
            raise UsageError(f"attentive mask: keep {self.keep} lies in (0, 1], block {self.block} is at least 1")

    def blocks(self, grid: tuple[int, int]) -> int:
        """How many blocks of a grid stay."""
        if grid[0] % self.block or grid[1] % self.block:
            raise UsageError(
                f"attentive mask: blocks of {self.block} x {self.block} do not divide a grid of {grid[0]} x {grid[1]} "
                "patches"
            )
        total = grid[0] * grid[1] // self.block**2
        return max(1, int(total * self.keep)) if self.block == 1 else min(total, int(total * self.keep) + 1)

    def count(self, grid: tuple[int, int]) -> int:
        """How many patches of a grid stay."""
        return self.blocks(grid) * self.block**2

    def select(self, scores: Float[Tensor, "B h w"]) -> Int[Tensor, "B k"]:
        """Which patches stay, in order. Of equal scores the earlier block does.

        Args:
            scores: of each patch; a block's is their mean.
        """
        h, w = scores.shape[1:]
        kept = self.blocks((h, w))
        mean = F.avg_pool2d(scores[:, None], self.block).flatten(1)  # (B, n): bilinear halving is this mean
        best = mean.sort(dim=1, descending=True, stable=True).indices[:, :kept]
        chosen = torch.zeros_like(mean).scatter_(1, best, 1.0).view(-1, 1, h // self.block, w // self.block)
        fate = chosen.repeat_interleave(self.block, 2).repeat_interleave(self.block, 3).flatten(1)  # (B, N)
        return fate.sort(dim=1, descending=True, stable=True).indices[:, : self.count((h, w))].sort(dim=1).values


@dataclass(frozen=True, kw_only=True)
class EnclosingCrops:
    """Two random crops of a picture and a third that contains both, by a hash of (seed, key, epoch).

    Each edge of the third lies anywhere between the nearest edge of the two and that of the picture. (The released code
    takes a wrong index for its left edge; this is what the paper says.)

    Args:
        scale: least and most area of the two, as fractions.
        ratio: least and most width / height, drawn log-uniformly.
        seed: any integer.
    """

    scale: tuple[float, float] = (0.5, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    seed: int = 0

    def __call__(self, keys: Sequence[str], epoch: int) -> tuple[Boxes, Boxes, Boxes]:
        """Boxes of the two and of the third.

        Args:
            keys: of the B pictures.
            epoch: of the draw.
        """
        u = torch.from_numpy(uniform(self.seed, [f"crops/{key}" for key in keys], epoch, 12))
        first, second = self._box(u[:, :4]), self._box(u[:, 4:8])
        low, high = torch.minimum(first, second)[:, :2], torch.maximum(first, second)[:, 2:]
        around = torch.cat([low * u[:, 8:10], high + (1 - high) * u[:, 10:]], dim=1)
        return first, second, around

    def _box(self, u: Float[Tensor, "B 4"]) -> Boxes:
        area = self.scale[0] + (self.scale[1] - self.scale[0]) * u[:, 0]
        low, high = np.log(self.ratio[0]), np.log(self.ratio[1])
        ratio = torch.exp(low + (high - low) * u[:, 1])
        size = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], dim=1).clamp(max=1)  # (B, 2): w, h
        corner = (1 - size) * u[:, 2:]
        return torch.cat([corner, corner + size], dim=1)


def _sampled(maps: Float[Tensor, "B C H W"], boxes: Boxes, size: tuple[int, int]) -> Float[Tensor, "B C h w"]:
    """Bilinear values at the centres of a grid of cells laid over each box; beyond the edge its value."""
    lines = [(torch.arange(n, device=maps.device) + 0.5) / n for n in (size[1], size[0])]
    x = boxes[:, :1] + (boxes[:, 2:3] - boxes[:, :1]) * lines[0]  # (B, w)
    y = boxes[:, 1:2] + (boxes[:, 3:] - boxes[:, 1:2]) * lines[1]  # (B, h)
    grid = torch.stack(
        [x[:, None].expand(-1, size[0], -1), y[:, :, None].expand(-1, -1, size[1])], dim=3
    )  # (B, h, w, 2)
    return F.grid_sample(maps, grid.to(maps) * 2 - 1, mode="bilinear", padding_mode="border", align_corners=False)


def crop_resize(images: Float[Tensor, "B C H W"], boxes: Boxes, size: int) -> Float[Tensor, "B C S S"]:
    """Each picture's box as a square picture.

    Args:
        images: of any size; transparent ones premultiplied.
        boxes: fractions of their sides.
        size: side of the result. Pictures more than twice as large are averaged over blocks first.
    """
    least = float((boxes[:, 2:] - boxes[:, :2]).min()) * min(images.shape[-2:])
    factor = int(least / size)
    return _sampled(F.avg_pool2d(images, factor) if factor > 1 else images, boxes, (size, size))


def project_scores(scores: Float[Tensor, "B h w"], around: Boxes, view: Boxes) -> Float[Tensor, "B h w"]:
    """Scores of the patches of one crop, as scores of the patches of a crop within it.

    Args:
        scores: of the enclosing crop's patches.
        around: box of the enclosing crop.
        view: box of the other.
    """
    origin, extent = around[:, :2], around[:, 2:] - around[:, :2]
    inside = (view.view(-1, 2, 2) - origin[:, None]) / extent[:, None]  # corners as fractions of the enclosing crop
    return _sampled(scores[:, None], inside.flatten(1), (scores.shape[1], scores.shape[2]))[:, 0]


@torch.no_grad()
def class_attention(
    tower: Tower, pixels: Float[Tensor, "B 3 H W"]
) -> tuple[Float[Tensor, "B h w"], Float[Tensor, "B D"]]:
    """How much the class token attends to each patch, mean over layers and heads; and the pooled features.

    Args:
        tower: with a class token.
        pixels: normalised.

    Raises:
        UsageError: a tower without class token.
    """
    if not tower.prefix:
        raise UsageError("attentive masks need a tower with a class token")
    recorder = Recorder(Record("attn_sum"), tower.depth)
    tokens = tower.run(tower.embed(pixels), record=recorder)
    total = recorder.values[Site("attn_sum")]  # (B, H, L, L), summed over layers
    scores = total[:, :, 0, tower.prefix :].mean(1) / tower.depth
    assert tokens.grid is not None
    return scores.unflatten(1, tokens.grid), tower.pool(tokens)
