"""Small windows of a picture through the whole image tower, and what they say spread back over the patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from binderclip.data.windows import WindowGrid
from binderclip.errors import UsageError
from binderclip.models import Tokens, gather_patches
from binderclip.models.checks import refuse_bare_module

TOKENS_AT_ONCE = 8192
"""Most tokens that go through the blocks together."""


@dataclass(frozen=True)
class WindowLevels:
    """Embeddings of B pictures at every level.

    Attributes:
        image: (B, E) of the whole picture.
        windows: window side k in patches -> (B, W, E), windows row by row.
        patches: (B, N, D) tokens after the last block and its norm, before the projection.
        grid: (h, w) patches.
    """

    image: Float[Tensor, "B E"]
    windows: dict[int, Float[Tensor, "B W E"]]
    patches: Float[Tensor, "B N D"]
    grid: tuple[int, int]

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, rows: Any) -> WindowLevels:
        """The pictures at `rows` (a slice, a list or an index tensor)."""
        return WindowLevels(
            self.image[rows], {k: v[rows] for k, v in self.windows.items()}, self.patches[rows], self.grid
        )


def join_levels(parts: Sequence[WindowLevels]) -> WindowLevels:
    """Batches one after the other.

    Raises:
        UsageError: none at all, or batches of different grids or windows.
    """
    if not parts:
        raise UsageError("no pictures to join")
    if len({(part.grid, tuple(part.windows)) for part in parts}) > 1:
        raise UsageError("pictures of different grids or windows cannot be joined")
    windows = {k: torch.cat([part.windows[k] for part in parts]) for k in parts[0].windows}
    image, patches = torch.cat([part.image for part in parts]), torch.cat([part.patches for part in parts])
    return WindowLevels(image, windows, patches, parts[0].grid)


def window_patches(grid: tuple[int, int], scale: int) -> Int[Tensor, "W K"]:
    """Which patches each window of `scale` x `scale` holds, stride 1, row by row.

    Args:
        grid: (h, w) patches.
        scale: side of a window; along an axis with fewer patches the window is as long as the axis.

    Raises:
        UsageError: a side below 1.
    """
    layout = _layout(grid, scale)
    numbers = torch.arange(grid[0] * grid[1]).view(grid)
    return torch.stack([numbers[y0:y1, x0:x1].flatten() for x0, y0, x1, y1 in layout.boxes])


def _layout(grid: tuple[int, int], scale: int) -> WindowGrid:
    if not isinstance(scale, int) or scale < 1:
        raise UsageError(f"a window is at least 1 patch wide, not {scale!r}")
    return WindowGrid.over(grid, scale, 1)


@torch.no_grad()
def token_windows(tower: Any, tokens: Tokens, scale: int) -> Float[Tensor, "B W E"]:
    """The embedding of every window: its patch tokens and the prefix alone go through all blocks, pool and projection.

    The tokens keep their own positions, and nothing outside the window is attended to. A norm between embedding and
    blocks acts on single tokens, so it makes no difference whether windows are cut before or after it.

    Args:
        tower: an image tower of `models`.
        tokens: `tower.embed(pixels)`, nothing dropped.
        scale: side of a window in patches.

    Raises:
        UsageError: a side below 1, or tokens without their whole grid.
    """
    grid = tokens.grid
    if grid is None or tokens.patches.shape[1] != grid[0] * grid[1] or not tokens.whole:
        raise UsageError("windows are cut from the whole grid of patches; some of these tokens were dropped")
    index = window_patches(grid, scale).to(tokens.x.device)
    batch, length = len(tokens.x), tokens.prefix + index.shape[1]
    at_once = max(1, TOKENS_AT_ONCE // (batch * length))
    windows = []
    for some in index.split(at_once):
        # Windows of all pictures as one batch; each window is gathered by itself, so the grid is never repeated.
        parts = [gather_patches(tokens, window) for window in some]
        positions = torch.cat([part.positions.expand(batch, -1) for part in parts])
        cut = replace(parts[0], x=torch.cat([part.x for part in parts]), positions=positions)
        out = tower.project(tower.pool(tower.run(cut)))
        windows.append(out.view(len(some), batch, -1).float())
    return torch.cat(windows).transpose(0, 1)


@torch.no_grad()
def encode_levels(model: Any, pixels: Float[Tensor, "B 3 H W"], scales: Sequence[int]) -> WindowLevels:
    """Image, window and patch embeddings; the embedding of the patches is computed once for all.

    Args:
        model: an `ImageTextModel` whose image tower opens.
        pixels: normalised, as `model.preprocess` makes them.
        scales: sides of the windows in patches.

    Raises:
        UsageError: a window below 1 patch, or pixels that the tower does not take.
        NotSupported: the tower cannot be opened.
    """
    refuse_bare_module(model, "encode_levels")
    tower = model.image_tower
    tokens = tower.embed(pixels.to(model.device, model.dtype))
    last = tower.run(tokens)
    windows = {scale: token_windows(tower, tokens, scale) for scale in scales}
    image = tower.project(tower.pool(last)).float()
    assert tokens.grid is not None
    return WindowLevels(image, windows, tower.norm(last.patches).float(), tokens.grid)


def spread_harmonic(scores: Float[Tensor, "B W"], grid: tuple[int, int], scale: int) -> Float[Tensor, "B h w"]:
    """Window scores as a map: every patch gets the harmonic mean of the windows that cover it.

    One confident low score vetoes: where a window says 0, so does the map.

    Args:
        scores: >= 0, windows row by row as in `token_windows`.
        grid: (h, w) patches.
        scale: side of the windows.

    Raises:
        UsageError: another number of windows, or a negative score.
    """
    layout = _layout(grid, scale)
    if scores.ndim != 2 or scores.shape[1] != len(layout):
        raise UsageError(f"{tuple(scores.shape)} scores do not fit (B, {len(layout)}) windows of {scale} over {grid}")
    if bool((scores < 0).any()):
        raise UsageError("a harmonic mean needs scores of at least 0")
    inverse = 1 / scores.float()
    total = inverse.new_zeros(len(scores), *grid)
    for number, (x0, y0, x1, y1) in enumerate(layout.boxes):
        total[:, y0:y1, x0:x1] += inverse[:, number, None, None]
    return layout.count(device=scores.device) / total


def harmonic_mean(maps: Sequence[Float[Tensor, "B h w"]]) -> Float[Tensor, "B h w"]:
    """The harmonic mean of several maps (0 where one is 0)."""
    stacked = torch.stack(list(maps))
    return len(stacked) / (1 / stacked).sum(dim=0)
