"""Prompts as maps: where the clicks and the box are, and how like each place is to what was clicked on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

__all__ = ["CORNERS", "DRAWN", "PromptTokens", "draw"]

CORNERS = (2, 3)  # labels of the corners of a box, after outside (0) and inside (1)
WIDTHS = (0.03, 0.12)  # of the spots around a click, as shares of the side
EDGE = 0.02  # of the box, so that gradients reach its corners
DRAWN = 2 * len(WIDTHS) + 1 + 3 + 1 + 2


@dataclass(frozen=True)
class PromptTokens:
    """Prompts in the network's own frame: coordinates (x, y) in [0, 1] of the square input.

    Attributes:
        points: (P, N, 2). labels: (P, N) 1 inside, 0 outside, 2 and 3 the corners of a box, -1 no point.
        mask: (P, 1, H, W) logits from an earlier round, or None.
    """

    points: Float[Tensor, "P N 2"]
    labels: Int[Tensor, "P N"]
    mask: Float[Tensor, "P 1 H W"] | None = None


def draw(keys: Float[Tensor, "#P C h w"], prompts: PromptTokens) -> Float[Tensor, "P M h w"]:
    """The `DRAWN` maps of each prompt on one grid; differentiable in the coordinates.

    Spots of two widths for inside and outside clicks, the box, the likeness to inside clicks, outside clicks and the
    box's content, the earlier mask, and two constant maps that say whether there are a box and a mask.
    """
    count, (height, width) = len(prompts.points), keys.shape[-2:]
    cells = _centres(height, width, keys)
    sides = [prompts.labels == 1, prompts.labels == 0]
    x, y = _lines(height, width, keys)
    across, down = ((prompts.points[..., i, None] - line).square() for i, line in enumerate((x, y)))
    distance = (across[:, :, None] + down[..., None]).flatten(2)  # (P, N, L), squared
    # The spot of the nearest click is the highest at every place: one exponential a place, not one a click.
    nearest = [-_most(-distance, side, -torch.inf) for side in sides]
    spots = [(-least / (2 * w * w)).exp() for w in WIDTHS for least in nearest]
    at = functional.grid_sample(
        keys.expand(count, -1, -1, -1), 2 * prompts.points[:, :, None] - 1, align_corners=False, padding_mode="border"
    )
    alike = functional.normalize(at[..., 0], dim=1).transpose(1, 2) @ keys.flatten(2)
    box, has_box = _box(prompts, cells)
    weights = box / box.sum(1, keepdim=True).clamp(min=1e-6)
    content = functional.normalize((keys.flatten(2) @ weights[..., None])[..., 0], dim=1)
    within = (content[:, None] @ keys.flatten(2))[:, 0]
    within = torch.where(has_box[:, None], within, 0.0)
    mask = keys.new_zeros(count, height * width)
    if prompts.mask is not None:
        mask = (functional.adaptive_avg_pool2d(prompts.mask.to(keys), (height, width)) / 4).tanh().flatten(1)
    flags = torch.stack([has_box.to(keys), torch.full_like(has_box, prompts.mask is not None).to(keys)], 1)
    maps = [*spots, box, _most(alike, sides[0], -1.0), _most(alike, sides[1], -1.0), within, mask]
    drawn = torch.cat([torch.stack([m.to(keys) for m in maps], 1), flags[..., None].expand(-1, -1, height * width)], 1)
    return drawn.unflatten(2, (height, width))


def _lines(height: int, width: int, like: Tensor) -> tuple[Float[Tensor, "w"], Float[Tensor, "h"]]:
    """x of the columns and y of the rows, at their centres."""
    x, y = ((torch.arange(n, device=like.device, dtype=torch.float32) + 0.5) / n for n in (width, height))
    return x, y


def _centres(height: int, width: int, like: Tensor) -> Float[Tensor, "L 2"]:
    return torch.stack(torch.meshgrid(*_lines(height, width, like), indexing="xy"), -1).flatten(0, 1)


def _most(maps: Float[Tensor, "P N L"], kept: Bool[Tensor, "P N"], empty: float) -> Float[Tensor, "P L"]:
    """The largest of the kept maps at each place, `empty` where none is kept."""
    if not maps.shape[1]:
        return maps.new_full((maps.shape[0], maps.shape[2]), empty)
    return torch.where(kept[..., None], maps, empty).amax(1)


def _box(prompts: PromptTokens, cells: Float[Tensor, "L 2"]) -> tuple[Float[Tensor, "P L"], Bool[Tensor, "P"]]:
    """About 1 inside the box and 0 outside, and whether there is one."""
    corners = []
    for label in CORNERS:
        kept = prompts.labels == label
        corners.append((prompts.points * kept[..., None]).sum(1))
    there = (prompts.labels == CORNERS[0]).any(1)
    low, high = (corner[:, None] for corner in corners)
    inside = (((cells - low) / EDGE).sigmoid() * ((high - cells) / EDGE).sigmoid()).prod(-1)
    return torch.where(there[:, None], inside, 0.0), there
