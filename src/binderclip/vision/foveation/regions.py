"""Log-polar pooling regions around a fixation, and statistics inside all of them by one sparse product."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.numeric import check_number, check_whole
from binderclip.settings import check_choice

__all__ = ["PoolingRegions", "RegionStatistics", "texture_strength"]

WindowKind = Literal["smooth", "hard", "overwrite"]
FINE, MEMBER, EPSILON, NONE = 512, 1e-3, 1e-5, 1e-12
"""Side at which areas are counted, the least window of a member, and what is added to variances, as in the release;
windows below the last are rounding."""
SLOPE = 1.281
"""Of the texture coefficients, per degree: fitted to the authors' observers, 26 degrees over 512 pixels."""
MOST_SIDE = 8192


def texture_strength(radius_deg: Float[Tensor, "*shape"], slope: float = SLOPE) -> Float[Tensor, "*shape"]:
    """How much of a region of this radius becomes texture: -1 + 2 / (1 + exp(-slope r)), which is tanh(slope r / 2).

    Args:
        radius_deg: radii of regions, the root of area / pi, in degrees of visual angle.
        slope: per degree, in [0, 100].

    Raises:
        UsageError: a slope out of range.

    Paper: Towards Metamerism via Foveated Style Transfer (arXiv 1705.10041).
    """
    check_number("slope", slope, least=0, most=100)
    return (radius_deg * (slope / 2)).tanh()


@dataclass(frozen=True)
class RegionStatistics:
    """Mean and standard deviation of every channel in every region.

    Attributes:
        mean: weighted by the windows; the mean of the map in a region without pixels.
        std: root of the unbiased variance plus 1e-5, for windows as weights: sum(w) - sum(w^2) / sum(w) in the place of
            n - 1. A region that is one pixel or less has the root of 1e-5.
    """

    mean: Float[Tensor, "B R C"]
    std: Float[Tensor, "B R C"]


class PoolingRegions:
    """Windows around a fixation whose width grows with eccentricity, over a picture or a feature map of any size.

    Rings are equally wide in log eccentricity and sectors in angle, twice as long along the radius as across. Windows
    are flat in the middle and fall as cos^2 over half of their width; neighbouring ones sum to 1. Region 0 is the
    fovea; the outermost ring reaches on to the corners. A pixel lies in four windows at most, so that statistics of all
    regions are one sparse product. Regions without a pixel are left out.

    Args:
        size: (height, width) in pixels, each 1 to 8192.
        scale: width of a ring at half of its height, by its eccentricity, in [0.05, 2]; V1 has about 0.25, V2 0.5.
        fixation: (x, y) as fractions of width and height, in [0, 1].
        field_deg: degrees of visual angle that the longer side spans, in [1, 180].
        fovea_deg: radius at which the fovea's window has fallen to a half, in degrees, in [0.01, 90].
        windows: "smooth": weights that sum to 1 at every pixel; "hard": every pixel belongs to its nearest ring and
            sector; "overwrite": as in the released program, statistics over all pixels where a window is above 0.001,
            written by the last region that has the pixel.

    Raises:
        UsageError: a value out of range, or no (height, width).

    Papers: Towards Metamerism via Foveated Style Transfer (arXiv 1705.10041); the windows are those of Metamers of the
    Ventral Stream (Nature Neuroscience 2011).
    """

    def __init__(
        self, size: tuple[int, int], scale: float = 0.4, *, fixation: tuple[float, float] = (0.5, 0.5),
        field_deg: float = 26.0, fovea_deg: float = 0.25, windows: WindowKind = "smooth",
    ) -> None:  # fmt: skip
        if len(size) != 2 or len(fixation) != 2:
            raise UsageError(f"size is (height, width) and fixation (x, y), got {size} and {fixation}")
        for name, side in zip(("height", "width"), size, strict=True):
            check_whole(name, side, least=1)
            check_number(name, side, most=MOST_SIDE)
        for name, place in zip(("fixation's x", "fixation's y"), fixation, strict=True):
            check_number(name, place, least=0, most=1)
        check_number("scale", scale, least=0.05, most=2)
        check_number("field_deg", field_deg, least=1, most=180)
        check_number("fovea_deg", fovea_deg, least=0.01, most=90)
        check_choice("windows", windows, get_args(WindowKind))
        self.size, self.scale, self.fixation = (int(size[0]), int(size[1])), float(scale), fixation
        self.field_deg, self.fovea_deg, self.windows = float(field_deg), float(fovea_deg), windows
        # At half height a window of width w in ln e spans e (exp(w/2) - exp(-w/2)) = 2 e sinh(w/2), which is scale e.
        self.ring_width = 2 * math.asinh(scale / 2)
        self.sectors = max(2, round(4 * math.pi / scale))  # 2 pi / (scale / 2)
        self._rows, self._pixels, self._weights = self._matrix()

    def __len__(self) -> int:
        """How many regions have a pixel, the fovea among them."""
        return len(self._names)

    def _places(self, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Eccentricity in degrees and angle from the vertical of every pixel [H W], in float64."""
        degrees = self.field_deg / max(size)
        y = ((torch.arange(size[0], dtype=torch.float64) + 0.5) - self.fixation[1] * size[0]) * degrees
        x = ((torch.arange(size[1], dtype=torch.float64) + 0.5) - self.fixation[0] * size[1]) * degrees
        # From the vertical, so that a mirrored fixation has mirrored sectors whatever their number.
        return torch.hypot(y[:, None], x).flatten(), torch.atan2(x.expand(size), y[:, None].expand(size)).flatten()

    def _entries(self, size: tuple[int, int]) -> tuple[Int[Tensor, "4 P"], Float[Tensor, "4 P"]]:
        """Names of the four windows of each pixel (0 is the fovea, then ring by ring) and their heights."""
        eccentricity, angle = self._places(size)
        rings = (eccentricity.clamp(min=1e-9) / self.fovea_deg).log() / self.ring_width - 0.5  # 0 at the first's centre
        sectors = angle * (self.sectors / (2 * math.pi))
        low, left = rings.floor(), sectors.floor()
        falling, turning = _profile(rings - low), _profile(sectors - left)
        names, weights = [], []
        for ring, height in ((low, falling), (low + 1, 1 - falling)):
            for sector, part in ((left, turning), (left + 1, 1 - turning)):
                name = 1 + ring * self.sectors + sector.remainder(self.sectors)
                names.append(torch.where(ring < 0, torch.zeros_like(name), name).long())
                weights.append(height * part)
        return torch.stack(names), torch.stack(weights)

    def _merged(self, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Name, pixel and height of every window at every pixel where it is above 0; the fovea's parts are one."""
        names, weights = self._entries(size)
        # Two rings and two sectors never meet in one window, but in the fovea, which has no sectors.
        fovea = names == 0
        centre = torch.where(fovea, weights, 0.0).sum(0)
        inner, (part, pixel) = (centre > NONE).nonzero()[:, 0], (~fovea & (weights > NONE)).nonzero().T
        kept = (names[part, pixel], pixel, weights[part, pixel])
        own = (torch.zeros_like(inner), inner, centre[inner])
        return tuple(torch.cat(pair) for pair in zip(own, kept, strict=True))  # type: ignore[return-value]

    def _matrix(self) -> tuple[Tensor, Tensor, Tensor]:
        """Region, pixel and weight of the entries that statistics are read with."""
        if self.windows == "hard":
            names, weights = self._entries(self.size)
            # The nearest ring and sector; the largest of the four products.
            chosen = names.gather(0, weights.argmax(0, keepdim=True))[0]
            pixels, heights = torch.arange(len(chosen)), torch.ones(len(chosen), dtype=torch.float64)
        else:
            chosen, pixels, heights = self._merged(self.size)
            if self.windows == "overwrite":
                member = heights > MEMBER
                chosen, pixels, heights = chosen[member], pixels[member], torch.ones(int(member.sum())).double()
        present = torch.zeros(int(chosen.max()) + 1, dtype=torch.bool)
        present[0] = present[chosen] = True  # names are few: no sorting
        self._names = present.nonzero()[:, 0]
        return (present.cumsum(0) - 1)[chosen], pixels, heights

    @cached_property
    def _written(self) -> tuple[Tensor, Tensor, Tensor]:
        """Region, pixel and weight of the entries that values are written back with; weights sum to 1."""
        if self.windows != "overwrite":
            return self._rows, self._pixels, self._weights
        last = torch.zeros(self.size[0] * self.size[1], dtype=torch.long)
        last.scatter_reduce_(0, self._pixels, self._rows, "amax")
        return last, torch.arange(len(last)), torch.ones(len(last), dtype=torch.float64)

    @cached_property
    def radius_deg(self) -> Float[Tensor, "R"]:
        """Root of area / pi of the part of each region that the picture shows, in degrees.

        The area is that of the windows above a half, counted at 512 pixels along the longer side whatever the size, so
        that a picture and its feature map have the same strengths.
        """
        longer = max(self.size)
        names, _, heights = self._merged((*(max(1, round(FINE * side / longer)) for side in self.size),))  # type: ignore[arg-type]
        count = max(int(names.max()), int(self._names.max())) + 1
        area = torch.bincount(names[heights > 0.5], minlength=count)[self._names]
        return (area / math.pi).sqrt() * (self.field_deg / FINE)

    @cached_property
    def eccentricity_deg(self) -> Float[Tensor, "R"]:
        """Mean eccentricity of the pixels of each region, in degrees; 0 for the fovea."""
        places = self._places(self.size)[0][self._pixels] * self._weights
        mean = torch.zeros(len(self), dtype=torch.float64).index_add_(0, self._rows, places) / self._sums[0]
        return torch.where(torch.arange(len(self)) == 0, 0.0, mean).float()

    @cached_property
    def _sums(self) -> tuple[Tensor, Tensor]:
        """Sum of the weights of each region, and of their squares; the fovea may have none."""
        zeros = torch.zeros(2, len(self), dtype=torch.float64)
        first = zeros[0].index_add(0, self._rows, self._weights)
        return first.clamp(min=1e-12), zeros[1].index_add(0, self._rows, self._weights**2)

    @property
    def pixels(self) -> Float[Tensor, "R"]:
        """How many pixels count in each region: the square of the sum of its weights, by the sum of their squares."""
        first, second = self._sums
        return (first.square() / second.clamp(min=1e-24)).float()

    def masks(self) -> Float[Tensor, "R H W"]:
        """The windows as pictures, by which values are written: they sum to 1 at every pixel."""
        rows, pixels, weights = self._written
        dense = torch.zeros(len(self), self.size[0] * self.size[1], dtype=torch.float64)
        dense[rows, pixels] = weights
        return dense.reshape(len(self), *self.size).float()

    def ring_masks(self) -> tuple[Float[Tensor, "K H W"], Float[Tensor, "K"]]:
        """The fovea and the rings as pictures that sum to 1, and the largest radius of each one's regions in degrees.

        Sectors that the border cuts do not count for a ring's radius.
        """
        rows, pixels, weights = self._written
        ring = (self._names + self.sectors - 1).div(self.sectors, rounding_mode="floor")  # [R]: 0 for the fovea
        kept, ring = torch.unique(ring, return_inverse=True)
        dense = torch.zeros(len(kept) * self.size[0] * self.size[1], dtype=torch.float64)
        dense.index_add_(0, ring[rows] * (self.size[0] * self.size[1]) + pixels, weights)
        radius = torch.zeros(len(kept)).scatter_reduce_(0, ring, self.radius_deg, "amax")
        return dense.reshape(len(kept), *self.size).float(), radius

    def statistics(self, features: Float[Tensor, "B C H W"]) -> RegionStatistics:
        """Mean and standard deviation of every channel in every region: one sparse product for all of them.

        Args:
            features: maps of the regions' size.

        Raises:
            UsageError: maps of another size.
        """
        self._check(features)
        centre = features.mean((2, 3), keepdim=True)  # so that squares do not cancel
        flat = (features - centre).flatten(2).flatten(0, 1).T  # [P BC]
        columns = torch.cat([flat, flat.square()], 1)  # [P 2BC]; row by row, or the product takes 40 times as long
        matrix = _sparse(self._rows, self._pixels, self._weights, (len(self), columns.shape[0]), columns)
        first, second = (part.to(columns) for part in self._sums)
        moments = (torch.sparse.mm(matrix, columns) / first[:, None]).reshape(len(self), 2, len(features), -1)
        mean, squares = moments.transpose(0, 2).unbind(1)  # [B R C] each
        correction = first.square() / (first.square() - second).clamp(min=1e-6)
        correction = torch.where(self.pixels.to(first) > 1 + 1e-4, correction, torch.zeros_like(correction))
        variance = (squares - mean.square()).clamp(min=0) * correction[:, None]
        return RegionStatistics(mean + centre[:, None, :, 0, 0], (variance + EPSILON).sqrt())

    def spread(self, values: Float[Tensor, "B R C"]) -> Float[Tensor, "B C H W"]:
        """Values of regions as maps: at every pixel their mean by its windows, by one sparse product.

        Raises:
            UsageError: not one value for each region.
        """
        if values.ndim != 3 or values.shape[1] != len(self):
            raise UsageError(f"values must be (B, {len(self)}, C), one for each region, not {tuple(values.shape)}")
        rows, pixels, weights = self._written
        columns = values.transpose(0, 1).flatten(1)  # [R BC]
        matrix = _sparse(pixels, rows, weights, (self.size[0] * self.size[1], len(self)), columns)
        maps = torch.sparse.mm(matrix, columns)
        return maps.T.reshape(len(values), -1, *self.size)

    def _check(self, features: Tensor) -> None:
        if features.ndim != 4 or tuple(features.shape[2:]) != self.size:
            raise UsageError(f"maps must be (B, C, {self.size[0]}, {self.size[1]}), not {tuple(features.shape)}")


def _profile(x: Tensor) -> Tensor:
    """The falling half of a window at distance x in [0, 1) from its centre: flat to 1/4, then cos^2, 0 from 3/4."""
    return ((x - 0.25).clamp(0, 0.5) * math.pi).cos().square()


def _sparse(rows: Tensor, columns: Tensor, weights: Tensor, shape: tuple[int, int], like: Tensor) -> Tensor:
    places = torch.stack([rows, columns]).to(like.device)
    return torch.sparse_coo_tensor(places, weights.to(like), shape, check_invariants=False)
