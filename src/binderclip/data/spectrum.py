"""How much of a picture's structure is how fine: the radial power spectrum, and copies that are given another's."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.data.frequency import dct_matrix
from binderclip.errors import UsageError

ROUNDS = 3
"""Interpolated gains, and the cut to [0, 1], miss the spectrum a little: what is missing is asked for again."""
LARGEST_GAIN = 16.0
"""An amplitude is made at most so many times larger or smaller: what a copy does not hold cannot be brought back."""


def radial_spectrum(images: Float[Tensor, "B C H W"], *, bins: int = 24) -> Float[Tensor, "B C n"]:
    """Mean power of the cosine coefficients in rings of equal width, from the slowest waves to the finest.

    Ring k holds the frequencies whose radius is nearest to k / (n - 1) of the finest, 0.707 cycles a pixel. A cosine
    transform continues a picture as its mirror image; a Fourier transform would count the jumps from edge to edge as
    fine structure.

    Args:
        images: in [0, 1]; their mean, the zeroth coefficient, is not counted.
        bins: n, rings.

    Raises:
        UsageError: fewer than two rings.

    Examples:
        >>> stripes = (torch.arange(32) % 2).float().expand(1, 1, 32, 32)
        >>> radial_spectrum(stripes, bins=5)[0, 0].argmax().item()  # two pixels a period: 0.5 cycles a pixel
        3
    """
    if bins < 2:
        raise UsageError(f"bins {bins}: a spectrum needs at least 2 rings")
    down, along = _transforms(images)
    power = (down @ images @ along.T).square().flatten(2)  # (B, C, H W)
    ring = (_radius(images) * (bins - 1)).round().long().flatten()
    counts = torch.bincount(ring, minlength=bins).to(power)
    power[..., 0] = 0
    counts[0] -= 1
    return power.new_zeros(*power.shape[:2], bins).index_add_(2, ring, power) / counts.clamp(min=1)


def matched_spectrum(
    images: Float[Tensor, "B C H W"], references: Float[Tensor, "B C H W"], *, bins: int = 24
) -> Float[Tensor, "B C H W"]:
    """Pictures filtered so that their radial spectrum is that of their references; then neither is the sharper one.

    The cosine coefficients of every channel are multiplied by the root of the ratio of the two spectra, interpolated
    between rings: a filter without direction and without shift. Afterwards values are cut to [0, 1].

    Args:
        images: in [0, 1].
        references: of the same size.
        bins: rings, see `radial_spectrum`.

    Raises:
        UsageError: other sizes.

    Examples:
        >>> picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        >>> faint = picture.mean((-2, -1), keepdim=True) * 0.7 + picture * 0.3
        >>> torch.allclose(matched_spectrum(faint, picture), picture, atol=1e-4)
        True
    """
    if images.shape != references.shape:
        raise UsageError(f"pictures {tuple(images.shape)} and references {tuple(references.shape)} differ in size")
    there = radial_spectrum(references, bins=bins)
    place = _radius(images) * (bins - 1)
    low = place.floor().long().clamp(max=bins - 2)
    down, along = _transforms(images)
    coefficients = down @ images @ along.T
    gains, filtered = torch.ones_like(there), images
    for _ in range(ROUNDS):
        here = radial_spectrum(filtered, bins=bins)
        gains = (gains * (there / here.clamp(min=1e-12)).sqrt()).clamp(1 / LARGEST_GAIN, LARGEST_GAIN)  # (B, C, n)
        gains[..., 0], gains[..., -1] = gains[..., 1], gains[..., -2]  # small pictures have nothing in the outer rings
        gain = gains[..., low].lerp(gains[..., low + 1], place - low)  # (B, C, H, W)
        gain[..., 0, 0] = 1  # the mean stays
        filtered = (down.T @ (gain * coefficients) @ along).clamp(0, 1)
    return filtered


def _transforms(images: Float[Tensor, "B C H W"]) -> tuple[Float[Tensor, "H H"], Float[Tensor, "W W"]]:
    return dct_matrix(images.shape[-2]).to(images), dct_matrix(images.shape[-1]).to(images)


def _radius(images: Float[Tensor, "B C H W"]) -> Float[Tensor, "H W"]:
    """Of every coefficient: 0 for the mean, 1 for the finest, which is the diagonal's."""
    down, along = (torch.arange(extent, device=images.device) / extent for extent in images.shape[-2:])
    return ((down[:, None].square() + along.square()) / 2).sqrt()
