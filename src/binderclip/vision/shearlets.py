"""Shearlets: a picture split by scale and by direction, with an exact inverse."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.numeric import check_number
from binderclip.vision.representation import picture_size

# The finest scale peaks at half of the highest frequency and keeps everything above.
FINEST = 0.5
# Coefficients in one block, a megabyte in float32.
BLOCK = 2**18


@dataclass(frozen=True)
class ShearletTransform:
    """A Parseval frame of directional band-pass filters, applied in the Fourier domain.

    Filter k answers to details of one size that run in one direction; the last direction of a scale meets the first
    one, so that all directions are treated alike. Windows are of Meyer's kind, an octave wide in `max(|fx|, |fy|)` and
    one step wide in slope: band-limited, real, even. Their squares sum to 1, so that coefficients have the energy of
    the picture and the adjoint is the inverse, to rounding, at any size. It is redundant: K coefficients a pixel.

    Coefficients are (..., K, H, W): the coarse picture, then the scales from coarse to fine, each with its directions.

    Args:
        scales: number of scales J, each half as fine as the next.
        directions: of each scale, coarse to fine; default 8, 8, 16, 16, 32, ...: parabolic scaling.

    Raises:
        UsageError: no scale, not one number of directions a scale, fewer than 2; when called, a picture too small, or
            another dtype than float32 and float64.

    Examples:
        >>> transform = ShearletTransform(scales=3)
        >>> coefficients = transform.analysis(torch.rand(2, 64, 64))
        >>> coefficients.shape
        torch.Size([2, 33, 64, 64])
        >>> transform.synthesis(coefficients, (64, 64)).shape
        torch.Size([2, 64, 64])

    Paper: Explaining Image Classifiers with Multiscale Directional Image Representation (arXiv 2211.12857), which uses
    compactly supported shearlets; these are band-limited ones with as many directions.
    """

    scales: int = 4
    directions: Sequence[int] | None = None

    def __post_init__(self) -> None:
        check_number("scales", self.scales, least=1)
        if self.directions is None:
            object.__setattr__(
                self, "directions", tuple(2 ** (math.ceil(j / 2) + 2) for j in range(1, self.scales + 1))
            )
        counts = tuple(int(count) for count in self.directions or ())
        if len(counts) != self.scales or min(counts) < 2:
            raise UsageError(f"directions must be {self.scales} numbers of at least 2, one a scale, not {counts}")
        object.__setattr__(self, "directions", counts)

    def __len__(self) -> int:
        return 1 + sum(self._directions)

    @property
    def _directions(self) -> tuple[int, ...]:
        return tuple(self.directions or ())

    @property
    def angles(self) -> tuple[tuple[int, float] | None, ...]:
        """For each filter its scale (0 is the coarsest) and the direction of the lines it answers to.

        In degrees, counter-clockwise from the horizontal, in [0, 180); None for the coarse picture.
        """
        angles: list[tuple[int, float] | None] = [None]
        for scale, count in enumerate(self._directions):
            for k in range(count):
                slope = (4 * k / count + 1) % 4 - 1
                frequency = math.atan(slope) if slope <= 1 else math.pi / 2 - math.atan(2 - slope)
                angles.append((scale, (math.degrees(frequency) + 90) % 180))
        return tuple(angles)

    def analysis(self, images: Float[Tensor, "*batch H W"]) -> Float[Tensor, "*batch K H W"]:
        """The coefficients of each picture."""
        return _Analysis.apply(images, _half(self._directions, *picture_size(images), images.dtype, images.device))

    def synthesis(
        self, coefficients: Float[Tensor, "*batch K H W"], size: tuple[int, int] | None = None
    ) -> Float[Tensor, "*batch H W"]:
        """Pictures from coefficients.

        Args:
            coefficients: of `analysis`, changed at will.
            size: (H, W); the coefficients have it already.

        Raises:
            UsageError: coefficients of another transform or size.
        """
        picture = picture_size(coefficients)
        if coefficients.ndim < 3 or coefficients.shape[-3] != len(self) or (size and tuple(size) != picture):
            expected = (len(self), *(size or ("H", "W")))
            raise UsageError(f"coefficients must be (..., {', '.join(map(str, expected))}), not {coefficients.shape}")
        half = _half(self._directions, *picture, coefficients.dtype, coefficients.device)
        return _Synthesis.apply(coefficients, half)

    def bands(self, size: tuple[int, int]) -> tuple[int, ...]:
        """Every filter is a band of H x W coefficients."""
        return (size[0] * size[1],) * len(self)

    def filters(self, size: tuple[int, int]) -> Float[Tensor, "K H W"]:
        """The frequency responses in float64, zero frequency first as `torch.fft.fft2` orders them."""
        return _responses(self._directions, *size)


class _Analysis(torch.autograd.Function):
    """All filters at once. Its adjoint is the synthesis: autograd's own backward would use transforms of full width."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, half: Tensor) -> Tensor:
        ctx.save_for_backward(half)
        size = images.shape[-2:]
        spectrum = torch.fft.rfft2(images.reshape(-1, 1, *size))
        out = images.new_empty(len(spectrum), len(half), *size)
        for rows, filters in _blocks(out):
            out[rows, filters] = torch.fft.irfft2(spectrum[rows] * half[filters], s=size)
        return out.reshape(*images.shape[:-2], *out.shape[1:])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return _Synthesis.apply(gradient, *ctx.saved_tensors), None


class _Synthesis(torch.autograd.Function):
    """The sum of all filtered coefficients, the adjoint of the analysis."""

    @staticmethod
    def forward(ctx: Any, coefficients: Tensor, half: Tensor) -> Tensor:
        ctx.save_for_backward(half)
        flat = coefficients.reshape(-1, *coefficients.shape[-3:])
        spectrum = half.new_zeros(len(flat), *half.shape[1:])
        for rows, filters in _blocks(flat):
            spectrum[rows] += torch.fft.rfft2(flat[rows, filters]).mul_(half[filters]).sum(dim=1)
        out = torch.fft.irfft2(spectrum, s=flat.shape[-2:])
        return out.reshape(*coefficients.shape[:-3], *out.shape[1:])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return _Analysis.apply(gradient, *ctx.saved_tensors), None


def _blocks(coefficients: Float[Tensor, "N K H W"]) -> Iterator[tuple[slice, slice]]:
    """Pieces of coefficients that stay in a processor's cache, where they take half the time; all at once elsewhere."""
    count, filters, height, width = coefficients.shape
    if coefficients.device.type != "cpu":
        yield slice(None), slice(None)
        return
    step = max(1, BLOCK // (height * width))
    for row in range(count):
        for first in range(0, filters, step):
            yield slice(row, row + 1), slice(first, first + step)


@lru_cache(maxsize=8)
def _half(
    directions: tuple[int, ...], height: int, width: int, dtype: torch.dtype, device: torch.device
) -> Complex[Tensor, "K H half"]:
    """The responses at the frequencies that a transform of real pictures has; complex, so that no product converts."""
    half = _responses(directions, height, width)[..., : width // 2 + 1]
    return half.to(device=device, dtype=dtype.to_complex()).contiguous()


@lru_cache(maxsize=8)
def _responses(directions: tuple[int, ...], height: int, width: int) -> Float[Tensor, "K H W"]:
    rows = torch.fft.fftfreq(height, dtype=torch.float64)[:, None] * 2
    columns = torch.fft.fftfreq(width, dtype=torch.float64)[None] * 2
    radius = torch.maximum(rows.abs(), columns.abs())
    octaves = torch.log2((radius / FINEST).clamp(min=1e-9))
    scales = len(directions)
    # Slope of the frequency with y pointing up, continued around the square: 0 right, 1 diagonal, 2 up, -1 (or 3) down.
    flat = rows.abs() <= columns.abs()
    slope = torch.where(flat, -rows / torch.where(columns == 0, 1, columns), 2 + columns / torch.where(flat, 1, rows))
    windows = [_window((octaves + scales).clamp(min=0))]
    for scale, count in enumerate(directions):
        place = octaves + (scales - 1 - scale)
        radial = _window(place.clamp(max=0) if scale == scales - 1 else place)
        for k in range(count):
            steps = (slope * count / 4 - k + count / 2) % count - count / 2
            windows.append(radial * _window(steps))
    responses = torch.stack(windows)
    # At the highest frequency w and -w are one sample, whose slope has two signs; without this no filter were even.
    mirrored = responses.flip(-2, -1).roll((1, 1), dims=(-2, -1))
    responses = ((responses.square() + mirrored.square()) / 2).sqrt()
    empty = (responses.amax(dim=(-2, -1)) < 0.1).nonzero().flatten().tolist()
    if empty:
        raise UsageError(
            f"a picture of {height} x {width} is too small for directions={directions}: {len(empty)} of "
            f"{len(responses)} filters would see no frequency; use fewer scales or directions"
        )
    return responses


def _window(u: Tensor) -> Tensor:
    """A bump on [-1, 1], 1 at 0, whose squares at u and 1 - u sum to 1 (Meyer's)."""
    t = u.abs().clamp(max=1)
    return torch.cos(math.pi / 2 * t**4 * (35 - 84 * t + 70 * t**2 - 20 * t**3)).where(t < 1, 0.0)
