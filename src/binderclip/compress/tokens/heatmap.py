"""Where tokens survive, over a data set: a map of the grid, its profile over rows, and the part inside a box."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from binderclip.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["TokenHeatmap", "kept_inside_boxes", "kept_token_heatmap"]


@dataclass(frozen=True)
class TokenHeatmap:
    """Fraction of images in which each grid position survives.

    Attributes:
        fraction: (h, w), in [0, 1].
    """

    fraction: Float[Tensor, "h w"]

    @property
    def rows(self) -> Float[Tensor, "h"]:
        """Mean of each row, top to bottom."""
        return self.fraction.mean(1)

    def row_correlation(self) -> float:
        """Pearson correlation of survival with the row, over the grid's positions; 0 where all survive alike.

        Above 0 tokens at the bottom of the image are kept more often.
        """
        h, w = self.fraction.shape
        row = torch.arange(h, dtype=torch.float64)[:, None].expand(h, w).flatten()
        value = self.fraction.double().flatten().cpu()
        row, value = row - row.mean(), value - value.mean()
        spread = row.norm() * value.norm()
        return float(row @ value / spread) if spread > 1e-9 else 0.0

    def draw(self, ax: Axes) -> None:
        """The map on axes of matplotlib, black 0 and yellow the largest fraction, each cell with its percentage."""
        values = self.fraction.cpu().numpy()
        ax.imshow(values, cmap="inferno", vmin=0.0, vmax=max(float(values.max()), 1e-9))
        for row, column in ((r, c) for r in range(values.shape[0]) for c in range(values.shape[1])):
            bright = values[row, column] > 0.6 * values.max()
            ax.text(
                column, row, f"{100 * values[row, column]:.0f}", ha="center", va="center", fontsize=5,
                color="black" if bright else "white",
            )  # fmt: skip
        ax.set_xticks([])
        ax.set_yticks([])
        ax.grid(visible=False)


def kept_token_heatmap(kept: Bool[Tensor, "M N"], grid: tuple[int, int]) -> TokenHeatmap:
    """How often each place of the grid survives.

    Args:
        kept: masks of M images, such as `PrunedRun.kept[layer]`.
        grid: (h, w), h * w = N.

    Raises:
        UsageError: no image, or a grid of another size.

    Paper: Endo et al., "Feather the Throttle", arXiv 2412.13180.
    """
    if kept.dim() != 2 or not len(kept) or kept.shape[1] != grid[0] * grid[1]:
        raise UsageError(f"kept must be masks (M, {grid[0] * grid[1]}) of the grid {grid}, got {tuple(kept.shape)}")
    return TokenHeatmap(kept.float().mean(0).view(grid))


def kept_inside_boxes(
    kept: Bool[Tensor, "M N"], boxes: Float[Tensor, "M 4"], grid: tuple[int, int]
) -> Float[Tensor, "M"]:
    """Fraction of the kept tokens whose centre lies in the box of the object asked about; 0 where none is kept.

    Args:
        kept: masks of M images.
        boxes: xyxy, as fractions of the sides.
        grid: (h, w), h * w = N.

    Raises:
        UsageError: shapes that do not fit.
    """
    h, w = grid
    if kept.dim() != 2 or kept.shape[1] != h * w or boxes.shape != (len(kept), 4):
        raise UsageError(
            f"kept must be (M, {h * w}) and boxes (M, 4), got {tuple(kept.shape)} and {tuple(boxes.shape)}"
        )
    y = ((torch.arange(h * w, device=kept.device) // w) + 0.5) / h
    x = ((torch.arange(h * w, device=kept.device) % w) + 0.5) / w
    inside = (x >= boxes[:, :1]) & (x < boxes[:, 2:3]) & (y >= boxes[:, 1:2]) & (y < boxes[:, 3:])
    return (kept & inside).sum(1) / kept.sum(1).clamp(min=1)
