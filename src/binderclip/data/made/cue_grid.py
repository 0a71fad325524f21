"""Pictures in which several cues tell the class equally well: which one does a network use?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError

CUES = ("colour", "shape", "scale", "orientation")
PAINTS = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.5, 0.5, 0.0), (0.0, 0.5, 0.5))
"""One sum of the three channels for all, so that no colour is brighter."""
SHAPES = ("rectangle", "triangle", "cross", "ellipse", "rhombus")
SMALLEST, LARGEST, SAMPLES = 0.03, 0.09, 3
"""Shares of the picture that the smallest and the largest shape cover; points a side of each pixel."""


@dataclass(frozen=True)
class CueSet:
    """Pictures and the value of every cue in each.

    Attributes:
        images: in [0, 1].
        cues: (N, C) values from 0, in the order of the grid's cues.
        names: of the cues.
    """

    images: Float[Tensor, "N 3 S S"]
    cues: Int[Tensor, "N C"]
    names: tuple[str, ...]

    def labels(self, cue: str) -> Int[Tensor, "N"]:
        """The value of one cue: the class, where that cue is what counts.

        Raises:
            UsageError: there is no such cue.
        """
        if cue not in self.names:
            raise UsageError(f"there is no cue {cue!r}: one of {', '.join(self.names)}")
        return self.cues[:, self.names.index(cue)]


@dataclass(frozen=True)
class CueGrid:
    """Draw one shape a picture, whose colour, shape, scale and orientation are set one by one.

    Its place is random and says nothing. All shapes of a scale cover the same area in every orientation, and all
    colours are equally bright, so that no cue can be read from another one. Orientations are K steps of a half turn,
    which is what an ellipse, a rectangle and a rhombus return to after; all shapes are about twice as long as wide.

    Paper: Scimeca et al., Which Shortcut Cues Will DNNs Choose? A Study from the Parameter-Space Perspective (arXiv
    2110.03095), its coloured dSprites, with shapes of our own.

    Args:
        values: K of each cue, and of classes; 2 to 5.
        size: side in pixels, at least 16.
        cues: which of `CUES` vary; the others keep their first value.

    Raises:
        UsageError: values or size outside, or cues that are unknown, twice, or fewer than two.

    Examples:
        >>> grid = CueGrid(size=16)
        >>> both = grid.diagonal(2, seed=0)
        >>> both.images.shape, both.cues[:3].tolist()
        (torch.Size([6, 3, 16, 16]), [[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
    """

    values: int = 3
    size: int = 32
    cues: Sequence[str] = CUES

    def __post_init__(self) -> None:
        if not 2 <= self.values <= len(PAINTS) or self.size < 16:
            raise UsageError(f"values is {self.values}, 2 to {len(PAINTS)}; size is {self.size}, at least 16")
        if len(self.cues) < 2 or len(set(self.cues)) != len(self.cues) or not set(self.cues) <= set(CUES):
            raise UsageError(f"cues {list(self.cues)} must be two or more of {', '.join(CUES)}, each once")

    def diagonal(self, each: int, seed: int) -> CueSet:
        """Pictures in which every cue has the value of the class: what a network is trained on.

        Args:
            each: pictures of each class, one class after the other.
            seed: of the places.
        """
        y = torch.arange(self.values).repeat_interleave(each)
        return self.drawn(y[:, None].expand(-1, len(self.cues)), seed)

    def off_diagonal(self, n: int, seed: int) -> CueSet:
        """Pictures whose cues are drawn uniformly and each on its own: what tells which of them a network uses.

        Args:
            n: pictures. seed: of values and places.
        """
        rng = np.random.default_rng([seed, 1])
        return self.drawn(torch.from_numpy(rng.integers(self.values, size=(n, len(self.cues)))), seed)

    def drawn(self, cues: Int[Tensor, "N C"], seed: int) -> CueSet:
        """Pictures of given values.

        Args:
            cues: values from 0, in the order of `self.cues`.
            seed: of the places.

        Raises:
            UsageError: another number of cues, or a value outside.
        """
        fits = cues.ndim == 2 and cues.shape[1] == len(self.cues)
        if not fits or not bool(((cues >= 0) & (cues < self.values)).all()):
            raise UsageError(
                f"cues must be (N, {len(self.cues)}), values from 0 to {self.values - 1}; got {tuple(cues.shape)}"
            )
        held = dict.fromkeys(CUES, torch.zeros(len(cues), dtype=torch.long))
        held |= {name: cues[:, column].long() for column, name in enumerate(self.cues)}
        places = torch.from_numpy(np.random.default_rng([seed, 0]).random((len(cues), 2)))
        parts = [self._painted({name: own[rows] for name, own in held.items()}, places[rows])
                 for rows in torch.arange(len(cues)).split(256)]  # fmt: skip
        images = torch.cat(parts) if parts else torch.zeros(0, 3, self.size, self.size)
        return CueSet(images, cues.long().clone(), tuple(self.cues))

    def _painted(self, held: dict[str, Int[Tensor, "n"]], places: Float[Tensor, "n 2"]) -> Float[Tensor, "n 3 S S"]:
        steps = torch.linspace(0, 1, self.values, dtype=torch.float64)[held["scale"]]
        area = SMALLEST * (LARGEST / SMALLEST) ** steps  # (n,)
        reach = 4 / 3 * math.sqrt(LARGEST)  # of the longest shape, the triangle, so that none leaves the picture
        centre = reach + (1 - 2 * reach) * places
        angle = math.pi * held["orientation"] / self.values
        grid = (torch.arange(self.size * SAMPLES, dtype=torch.float64) + 0.5) / (self.size * SAMPLES)
        y, x = grid[:, None] - centre[:, :1, None], grid[None, :] - centre[:, 1:, None]  # (n, s, 1) and (n, 1, s)
        cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
        unit = area.sqrt()[:, None, None]
        u, v = (x * cos + y * sin) / unit, (y * cos - x * sin) / unit
        inside = torch.zeros(u.shape, dtype=torch.bool)
        for number, name in enumerate(SHAPES[: self.values]):
            rows = held["shape"] == number
            inside[rows] = _inside(name, u[rows], v[rows])
        cover = F.avg_pool2d(inside[:, None].float(), SAMPLES)  # (n, 1, S, S)
        return cover * torch.tensor(PAINTS)[held["colour"]][:, :, None, None]


def _inside(name: str, u: Float[Tensor, "n s s"], v: Float[Tensor, "n s s"]) -> Bool[Tensor, "n s s"]:
    """Points of a shape of area 1, about twice as long (along u) as wide, around its centre of mass."""
    if name == "ellipse":
        return (u**2 / 2 + 2 * v**2) * math.pi <= 1
    if name == "rectangle":
        return (u.abs() <= math.sqrt(2) / 2) & (v.abs() <= math.sqrt(2) / 4)
    if name == "rhombus":
        return u.abs() / 2 + v.abs() <= 0.5
    if name == "triangle":  # isosceles, height 2 along u, base 1: its centre of mass is a third up
        height = 2.0
        return (u >= -height / 3) & (u <= 2 * height / 3) & (v.abs() <= (2 * height / 3 - u) / (2 * height))
    long, short = (u.abs() <= 0.8) & (v.abs() <= 0.25), (u.abs() <= 0.25) & (v.abs() <= 0.45)
    return long | short  # cross: 1.6 x 0.5 + 2 x 0.5 x 0.2 = 1
