"""Fewer image tokens in training (CLIPA, arXiv 2305.07017; FLIP, arXiv 2212.00794).

A reduction either makes the picture smaller, so that all patches of a smaller grid are kept (`Resize`), or keeps some
patches of the full grid after positions were added to them. The class token always stays, and so does the order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from binderclip.errors import UsageError

__all__ = ["TOKENS", "BlockPatches", "GridPatches", "PatchSelection", "RandomPatches", "Resize", "TokenReduction"]


@dataclass(frozen=True, kw_only=True)
class TokenReduction:
    """Base of the reductions.

    `grid` is always (h, w), the patches of the picture before reduction.

    Paper: Li et al., "An Inverse Scaling Law for CLIP Training", arXiv 2305.07017.
    """

    def side(self, side: int) -> int:
        """Patches a side of the picture that the tower is given, of `side` before."""
        return side

    def count(self, grid: tuple[int, int]) -> int:
        """How many patches of each picture are left."""
        return grid[0] * grid[1]

    def select(
        self, batch: int, grid: tuple[int, int], *, device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "B k"] | None:  # fmt: skip
        """Which patches of each picture are kept, in order; None keeps all.

        Args:
            batch: pictures, B.
            grid: (h, w) patches of the picture that the tower is given.
            device: of the result.
            generator: randomness on that device; None = torch's own.
        """
        return None


def _check_share(name: str, keep: float) -> None:
    if not 0 < keep <= 1:
        raise UsageError(f"image_tokens {name!r}: keep is {keep}; it is the share of the patches that stay, in (0, 1]")


def _edge(keep: float, side: int) -> int:
    """Side of a square with about `keep` of the patches of a larger one."""
    return max(1, round(math.sqrt(keep) * side))


@dataclass(frozen=True, kw_only=True)
class Resize(TokenReduction):
    """A smaller picture, all of whose patches are kept: what CLIPA trains with.

    Args:
        keep: share of the patches that the smaller grid has, in (0, 1]; its side is rounded to whole patches.
    """

    keep: float

    def __post_init__(self) -> None:
        _check_share("resize", self.keep)

    def side(self, side: int) -> int:
        return _edge(self.keep, side)

    def count(self, grid: tuple[int, int]) -> int:
        return _edge(self.keep, grid[0]) * _edge(self.keep, grid[1])


@dataclass(frozen=True, kw_only=True)
class RandomPatches(TokenReduction):
    """A random subset of each picture's patches (patch dropout, FLIP; while tuned as well: CLIPA-v2).

    Args:
        keep: share that stays, in (0, 1]; int(N keep) patches, at least one.

    Raises:
        UsageError: a share out of range.

    Paper: Li et al., "Scaling Language-Image Pre-training via Masking", arXiv 2212.00794; CLIPA-v2, arXiv 2306.15658.
    """

    keep: float

    def __post_init__(self) -> None:
        _check_share("random", self.keep)

    def count(self, grid: tuple[int, int]) -> int:
        return max(1, int(grid[0] * grid[1] * self.keep))

    def select(
        self, batch: int, grid: tuple[int, int], *, device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "B k"]:  # fmt: skip
        noise = torch.rand(batch, grid[0] * grid[1], device=device, generator=generator)
        return noise.topk(self.count(grid), dim=1).indices.sort(dim=1).values


@dataclass(frozen=True, kw_only=True)
class GridPatches(TokenReduction):
    """One random patch of every window of patches, so that what is kept is spread evenly.

    Args:
        window: patches a side of a window; 2 keeps a quarter. It must divide the grid.
    """

    window: int = 2

    def __post_init__(self) -> None:
        if self.window < 1:
            raise UsageError(f"image_tokens 'grid': window is {self.window}; it is a number of patches a side")

    def _windows(self, grid: tuple[int, int]) -> tuple[int, int]:
        if grid[0] % self.window or grid[1] % self.window:
            raise UsageError(
                f"image_tokens 'grid': windows of {self.window} x {self.window} do not divide a grid of {grid[0]} x "
                f"{grid[1]} patches"
            )
        return grid[0] // self.window, grid[1] // self.window

    def count(self, grid: tuple[int, int]) -> int:
        return math.prod(self._windows(grid))

    def select(
        self, batch: int, grid: tuple[int, int], *, device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "B k"]:  # fmt: skip
        rows, columns = self._windows(grid)
        draws = torch.rand(batch, rows, columns, 2, device=device, generator=generator).mul(self.window).long()
        y = torch.arange(rows, device=device)[:, None] * self.window + draws[..., 0]
        x = torch.arange(columns, device=device) * self.window + draws[..., 1]
        return (y * grid[1] + x).flatten(1).sort(dim=1).values


@dataclass(frozen=True, kw_only=True)
class BlockPatches(TokenReduction):
    """One rectangle of patches at a random place.

    Args:
        keep: share of the patches in it, in (0, 1]; each side is rounded to whole patches.
    """

    keep: float

    def __post_init__(self) -> None:
        _check_share("block", self.keep)

    def count(self, grid: tuple[int, int]) -> int:
        return _edge(self.keep, grid[0]) * _edge(self.keep, grid[1])

    def select(
        self, batch: int, grid: tuple[int, int], *, device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "B k"]:  # fmt: skip
        h, w = _edge(self.keep, grid[0]), _edge(self.keep, grid[1])
        free = torch.tensor([grid[0] - h + 1, grid[1] - w + 1], device=device)
        corner = (torch.rand(batch, 2, device=device, generator=generator) * free).long()  # (B, 2)
        inside = torch.arange(h, device=device)[:, None] * grid[1] + torch.arange(w, device=device)  # (h, w)
        return (corner[:, :1] * grid[1] + corner[:, 1:]) + inside.flatten()


TOKENS: dict[str, Callable[..., TokenReduction]] = {
    "resize": Resize,
    "random": RandomPatches,
    "grid": GridPatches,
    "block": BlockPatches,
}


class PatchSelection(nn.Module):
    """Takes the place of a ViT's own patch dropout: after positions, before the first block, in training only.

    Pictures are square, as those of a recipe are.

    Args:
        reduction: which patches are kept.
        prefix: leading tokens that are not patches and always stay.

    Raises:
        UsageError: at the call, a number of patches that is no square.
    """

    def __init__(self, reduction: TokenReduction, prefix: int = 1) -> None:
        super().__init__()
        self.reduction, self.prefix = reduction, prefix

    def forward(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B K D"]:
        if not self.training:
            return x
        side = math.isqrt(x.shape[1] - self.prefix)
        if side * side != x.shape[1] - self.prefix:
            raise UsageError(f"image_tokens: {x.shape[1] - self.prefix} patches are no square grid")
        index = self.reduction.select(x.shape[0], (side, side), device=x.device)
        if index is None:
            return x
        patches = x[:, self.prefix :].gather(1, index.unsqueeze(2).expand(-1, -1, x.shape[2]))  # (B, k, D)
        return torch.cat([x[:, : self.prefix], patches], dim=1)
