"""Foveal attention: the class token is drawn towards a region while the image stays as it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from binderclip.adapt.visual_prompts.regions import Region, as_regions
from binderclip.errors import UsageError
from binderclip.models import cls_bias
from binderclip.models.checks import refuse_bare_module
from binderclip.models.towers import Tower

if TYPE_CHECKING:
    from binderclip.models import ImageTextModel


@dataclass(frozen=True)
class FovealBias:
    """A smooth bump added to the attention logits from the class token to the patches of a region.

    In the last blocks `softmax(q k^T / sqrt(d) + M)`, where M is zero but for the class token's row, which holds a
    Gaussian over the region's block of patches, scaled to [0, strength]. No pixel changes and nothing is trained.

    Args:
        strength: height of the bump, in logits.
        sigma: of the Gaussian, in patches; after the scaling only its shape matters, nearly a paraboloid.
        last_blocks: how many blocks get it; None: the last third, at least two.
        shape: "box", or "mask" for regions with one: the patches that are more than half inside, higher the further
            from the mask's border (ours, not the paper's).

    Raises:
        UsageError: strength below 0, sigma not above 0, last_blocks below 1, an unknown shape.

    Examples:
        >>> FovealBias(0.5)(Region((17, 17, 30, 30)), (64, 64), (4, 4))[1].tolist()
        [0.0, 0.5, 0.0, 0.0]

    Paper: FALIP: Visual Prompt as Foveal Attention Boosts CLIP Zero-Shot Performance (arXiv 2407.05578).
    """

    strength: float = 0.2
    sigma: float = 100.0
    last_blocks: int | None = None
    shape: Literal["box", "mask"] = "box"

    def __post_init__(self) -> None:
        if not self.strength >= 0 or not self.sigma > 0:
            raise UsageError(f"FovealBias: strength {self.strength} must be at least 0 and sigma {self.sigma} above 0")
        if self.last_blocks is not None and self.last_blocks < 1:
            raise UsageError(f"FovealBias: last_blocks must be at least 1, not {self.last_blocks}")
        if self.shape not in ("box", "mask"):
            raise UsageError(f"FovealBias: shape must be 'box' or 'mask', not {self.shape!r}")

    def __call__(self, region: Region, image_size: tuple[int, int], grid: tuple[int, int]) -> Float[Tensor, "gh gw"]:
        """What is added to the logits of each patch.

        Args:
            region: in pixels.
            image_size: (h, w) of the image, which the model sees stretched to its grid.
            grid: (gh, gw) patches.

        Raises:
            UsageError: the region lies outside the image.
        """
        (height, width), (rows, columns) = image_size, grid
        region.bounds(height, width)
        if self.shape == "mask" and region.mask is not None:
            return torch.from_numpy(self.strength * _depth(region.inside("mask", height, width), grid)).float()
        x0, y0, x1, y1 = region.box or region.bounds(height, width)
        top, bottom = _block(y0, y1, height, rows)
        left, right = _block(x0, x1, width, columns)
        high, wide = bottom - top + 1, right - left + 1
        y, x = np.mgrid[:high, :wide]
        distance = (y - (high - 1) / 2) ** 2 + (x - (wide - 1) / 2) ** 2
        bump = np.exp(-0.5 * distance / self.sigma**2)
        field = torch.zeros(rows, columns)
        # The small number keeps a block of equal values at full height.
        scaled = self.strength * (bump - bump.min() + 1e-6) / (bump.max() + 1e-6 - bump.min())
        field[top : bottom + 1, left : right + 1] = torch.from_numpy(scaled).float()
        return field

    def first_block(self, depth: int) -> int:
        """Index of the first block with the bias, of a tower of `depth` blocks."""
        last = self.last_blocks or max(2, round(depth / 3))
        return max(depth - last, 0)


def _depth(mask: Bool[np.ndarray, "H W"], grid: tuple[int, int]) -> Float[np.ndarray, "gh gw"]:
    """Distance from the border of the patches that are more than half inside, at most 1; one patch at least."""
    cover = torch.nn.functional.interpolate(torch.from_numpy(mask)[None, None].float(), size=grid, mode="area")
    inside = (cover[0, 0] > 0.5).numpy()
    if not inside.any():
        inside = (cover[0, 0] == cover.max()).numpy()
    depth = distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
    return depth / depth.max()


def _block(low: float, high: float, side: int, cells: int) -> tuple[int, int]:
    """First and last cell (inclusive) by the authors' rule, `max(ceil(x / q), 1) - 1`."""
    low, high = min(max(low, 0.0), side), min(max(high, 0.0), side)
    # Divide last: exact for borders of patches.
    first, last = (max(math.ceil(value * cells / side), 1) - 1 for value in (low, high))
    return first, max(first, last)


def foveal_features(
    model: ImageTextModel | Tower,
    pixels: Float[Tensor, "N 3 h w"],
    fields: Float[Tensor, "N R gh gw"],
    bias: FovealBias,
) -> Float[Tensor, "N R E"]:
    """Features of images with the class token drawn to each of R regions, raw.

    The blocks before the first biased one run once an image; the R regions are one batch after that.

    Args:
        model: a model or its image tower, with a class token.
        pixels: normalised input.
        fields: what `bias` gave for each region.
        bias: strength 0 leaves out the bias altogether.

    Raises:
        UsageError: the tower has no class token.
        NotSupported: the backbone is of a class that cannot be opened.
    """
    refuse_bare_module(model, "foveal_features")
    tower = model if isinstance(model, Tower) else model.image_tower
    count = fields.shape[1]
    first = bias.first_block(tower.depth)
    tokens = tower.run(tower.embed(pixels.to(tower.device, tower.dtype)), stop=first)
    tokens = replace(tokens, x=tokens.x.repeat_interleave(count, dim=0))
    drawn = None
    if bias.strength:
        drawn = cls_bias(fields.flatten(0, 1).to(tower.device, tower.dtype), prefix=tower.prefix)
    out = tower.project(tower.pool(tower.run(tokens, start=first, attn_bias=drawn)))
    out = out.float() if out.dtype in (torch.float16, torch.bfloat16) else out
    return out.unflatten(0, (-1, count))


def foveal_fields(
    bias: FovealBias, regions: Sequence[Region | Sequence[float]], image_size: tuple[int, int], grid: tuple[int, int]
) -> Float[Tensor, "R gh gw"]:
    """The bumps of several regions of one image."""
    return torch.stack([bias(region, image_size, grid) for region in as_regions(regions)])
