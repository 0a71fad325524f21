"""An orthonormal wavelet pyramid of pictures of any size."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import comb, prod

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.numeric import check_number
from binderclip.vision.representation import picture_size

Details = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class WaveletTransform:
    """Daubechies wavelets: each level splits the coarse picture into a coarser one and three kinds of detail.

    The picture is continued periodically, so the transform of a picture whose sides are divisible by `2^levels` is
    orthonormal (as many coefficients as pixels, the same energy). An odd side is first continued by its last row or
    column; the inverse is exact all the same. Coefficients are one vector: the coarse picture, then the details from
    coarse to fine, each horizontal, vertical, diagonal; `split` gives them as pictures, as PyWavelets orders them.

    Args:
        vanishing: vanishing moments N of the wavelet, 1 (Haar) to 10; the filters have 2N taps.
        levels: of the pyramid, at least 1.

    Raises:
        UsageError: a setting out of range; when called, a side too short for the levels.

    Examples:
        >>> image = torch.rand(3, 64, 64)
        >>> transform = WaveletTransform(vanishing=2, levels=3)
        >>> transform.analysis(image).shape
        torch.Size([3, 4096])
    """

    vanishing: int = 3
    levels: int = 4

    def __post_init__(self) -> None:
        if not 1 <= self.vanishing <= 10:
            raise UsageError(f"vanishing must be from 1 to 10 moments, not {self.vanishing}")
        check_number("levels", self.levels, least=1)

    def analysis(self, images: Float[Tensor, "*batch H W"]) -> Float[Tensor, "*batch N"]:
        """The coefficients of each picture, as one vector."""
        self._sizes(picture_size(images))
        parts: list[Tensor] = []
        coarse = images
        for _ in range(self.levels):
            rows, columns = (_matrix(self.vanishing, side, images) for side in coarse.shape[-2:])
            coarse_part = rows @ coarse @ columns.mT
            low, high = coarse_part.tensor_split([(coarse.shape[-2] + 1) // 2], dim=-2)
            cut = (coarse.shape[-1] + 1) // 2
            (coarse, vertical), (horizontal, diagonal) = (part.tensor_split([cut], dim=-1) for part in (low, high))
            parts = [horizontal.flatten(-2), vertical.flatten(-2), diagonal.flatten(-2), *parts]
        return torch.cat([coarse.flatten(-2), *parts], dim=-1)

    def synthesis(self, coefficients: Float[Tensor, "*batch N"], size: tuple[int, int]) -> Float[Tensor, "*batch H W"]:
        """Pictures of `size` from their coefficients."""
        sizes = self._sizes(size)
        coarse, details = self.split(coefficients, size)
        for (height, width), (horizontal, vertical, diagonal) in zip(sizes[-2::-1], details, strict=True):
            bands = torch.cat(
                [torch.cat([coarse, vertical], dim=-1), torch.cat([horizontal, diagonal], dim=-1)], dim=-2
            )
            # The rows of the inverse that belong to a repeated last sample are dropped.
            rows = _matrix(self.vanishing, height + height % 2, coefficients).mT[:height]
            columns = _matrix(self.vanishing, width + width % 2, coefficients)[:, :width]
            coarse = rows @ bands @ columns
        return coarse

    def split(self, coefficients: Float[Tensor, "*batch N"], size: tuple[int, int]) -> tuple[Tensor, list[Details]]:
        """The coarse picture, and (horizontal, vertical, diagonal) details of each level, coarse to fine.

        Args:
            coefficients: of pictures of `size`.
            size: (H, W) of the pictures.

        Raises:
            UsageError: not as many coefficients as such pictures have.
        """
        sizes = self._sizes(size)
        shapes = [sizes[-1], *(shape for shape in reversed(sizes[1:]) for _ in range(3))]
        counts = [prod(shape) for shape in shapes]
        if coefficients.shape[-1] != sum(counts):
            raise UsageError(
                f"{coefficients.shape[-1]} coefficients: pictures of size {tuple(size)} have {sum(counts)} at "
                f"{self.levels} levels"
            )
        split = coefficients.split(counts, dim=-1)
        parts = [part.unflatten(-1, shape) for part, shape in zip(split, shapes, strict=True)]
        return parts[0], [(parts[i], parts[i + 1], parts[i + 2]) for i in range(1, len(parts), 3)]

    def bands(self, size: tuple[int, int]) -> tuple[int, ...]:
        """The coarse picture, then one band a level: its three kinds of detail together."""
        sizes = self._sizes(size)
        return (prod(sizes[-1]), *(3 * prod(shape) for shape in reversed(sizes[1:])))

    def _sizes(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        """(h, w) of the coarse pictures from the picture itself to the coarsest."""
        if min(size) < 2**self.levels:
            raise UsageError(
                f"a picture of {size[0]} x {size[1]} has no {self.levels} levels: it needs sides of {2**self.levels}"
            )
        sizes = [(int(size[0]), int(size[1]))]
        for _ in range(self.levels):
            sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
        return sizes


@lru_cache(maxsize=10)
def daubechies(vanishing: int) -> Float[np.ndarray, "taps"]:
    """The low-pass filter (2N taps, sum sqrt(2)) of Daubechies' wavelet with N vanishing moments and minimal phase.

    By spectral factorisation: `|m(w)|^2 = cos^2N(w/2) P(sin^2(w/2))` with the N - 1 degree polynomial P of binomial
    coefficients; of each pair of roots the one inside the unit circle is kept.

    Args:
        vanishing: N, 1 to 10; above, the roots lose too many digits.

    Raises:
        UsageError: N out of range.

    Examples:
        >>> daubechies(1).round(4).tolist()
        [0.7071, 0.7071]
    """
    if not 1 <= vanishing <= 10:
        raise UsageError(f"vanishing must be from 1 to 10 moments, not {vanishing}")
    taps: np.ndarray = np.ones(1)
    for _ in range(vanishing):
        taps = np.convolve(taps, [0.5, 0.5])
    binomials = [comb(vanishing - 1 + k, k) for k in range(vanishing)]
    for root in np.roots(binomials[::-1]) if vanishing > 1 else ():
        # z + 1/z = 2 - 4 y, of which one solution lies inside the circle.
        pair = np.roots([1, 4 * root - 2, 1])
        inside = pair[np.abs(pair).argmin()]
        taps = np.convolve(taps, np.array([1, -inside]) / (1 - inside))
    return taps.real * np.sqrt(2)


@lru_cache(maxsize=64)
def _steps(vanishing: int, side: int) -> Float[Tensor, "even side"]:
    """One level along one axis as a matrix: first the low-pass rows, then the high-pass ones."""
    low = daubechies(vanishing)
    length, even = len(low), side + side % 2
    high = low[::-1] * (-1.0) ** np.arange(length)
    full = np.zeros((even, even))
    rows, taps = np.arange(even // 2)[:, None], np.arange(length)[None]
    columns = (2 * rows + taps - length // 2 + 1) % even
    np.add.at(full, (np.broadcast_to(rows, columns.shape), columns), low[None])
    np.add.at(full, (np.broadcast_to(rows + even // 2, columns.shape), columns), high[None])
    if side % 2:
        full[:, -2] += full[:, -1]
        full = full[:, :-1]
    return torch.from_numpy(full)


@lru_cache(maxsize=128)
def _on(vanishing: int, side: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return _steps(vanishing, side).to(device=device, dtype=dtype)


def _matrix(vanishing: int, side: int, like: Tensor) -> Tensor:
    return _on(vanishing, side, like.dtype, like.device)
