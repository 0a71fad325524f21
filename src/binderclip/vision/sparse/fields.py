"""Whitened patches, as the retina hands them on, and how much a learned unit is like a simple cell."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.numeric import check_number, check_whole

__all__ = ["ReceptiveFields", "receptive_field_stats", "sample_patches", "whiten"]

CUTOFF = 200 / 512
"""Cycles a pixel: 200 cycles a picture of 512 pixels, Olshausen and Field 1996."""
ORIENTED, FITTED = 0.5, 0.6
"""Below this circular variance a unit counts as oriented; above this explained variance as a Gabor function."""


@dataclass(frozen=True)
class ReceptiveFields:
    """How the units of a dictionary answer to gratings and Gabor functions.

    Attributes:
        circular_variance: of the responses to gratings of the unit's best frequency over orientations: 0 answers to
            one orientation alone, 1 to all alike. 1 for a unit that answers to none.
        orientation: of the best grating, in radians, in [0, pi).
        frequency: of the best grating, in cycles a pixel.
        explained: variance of the field that the best Gabor function explains; NaN where none was fitted.
    """

    circular_variance: Float[Tensor, "K"]
    orientation: Float[Tensor, "K"]
    frequency: Float[Tensor, "K"]
    explained: Float[Tensor, "K"]

    @property
    def oriented(self) -> Bool[Tensor, "K"]:
        """Units whose circular variance is below 0.5."""
        return self.circular_variance < ORIENTED

    @property
    def well_fitted(self) -> Bool[Tensor, "K"]:
        """Units of which a Gabor function explains more than 0.6 of the variance; a constant unit is none.

        Raises:
            UsageError: no Gabor function was fitted.
        """
        if bool(self.explained.isnan().all()):
            raise UsageError("no Gabor function was fitted: ask receptive_field_stats for gabor=True")
        return self.explained > FITTED


def whiten(image: Float[Tensor, "H W"]) -> Float[Tensor, "H W"]:
    """Flatten the spectrum of a grey picture and cut its noise: the filter f exp(-(f / 0.39)^4), f in cycles a pixel.

    Args:
        image: of any size.

    Raises:
        UsageError: not a plane of finite numbers.

    Paper: Olshausen and Field, Nature 1996, as Beyond l1 sparse coding in V1 (arXiv 2301.10002) uses it.
    """
    if image.ndim != 2 or not bool(image.isfinite().all()):
        raise UsageError(f"a picture to be whitened must be (height, width) and finite, got {tuple(image.shape)}")
    height, width = image.shape
    rows, columns = torch.fft.fftfreq(height), torch.fft.rfftfreq(width)
    frequency = (rows[:, None].square() + columns.square()).sqrt().to(image)
    response = frequency * torch.exp(-((frequency / CUTOFF) ** 4))
    return torch.fft.irfft2(torch.fft.rfft2(image) * response, s=(height, width))


def sample_patches(image: Float[Tensor, "H W"], count: int, side: int, *, seed: int = 0) -> Float[Tensor, "B N"]:
    """Random square patches of a picture as rows of mean 0 and, over all of them, variance 1.

    Args:
        image: whitened.
        count: how many.
        side: in pixels.
        seed: of the places.

    Raises:
        UsageError: a picture smaller than a patch, or one colour.
    """
    check_whole("count", count, least=1)
    check_whole("side", side, least=1)
    if image.ndim != 2 or min(image.shape) < side:
        raise UsageError(f"a picture of shape {tuple(image.shape)} has no patch of {side} by {side} pixels")
    generator = torch.Generator().manual_seed(seed)
    tops = torch.randint(image.shape[0] - side + 1, (count,), generator=generator)
    lefts = torch.randint(image.shape[1] - side + 1, (count,), generator=generator)
    offsets = torch.arange(side)
    patches = image[tops[:, None, None] + offsets[:, None], lefts[:, None, None] + offsets]  # (B, side, side)
    patches = patches.reshape(count, -1)
    patches = patches - patches.mean(1, keepdim=True)
    deviation = patches.std()
    if not bool(deviation > 0):
        raise UsageError("the picture has one colour: its patches say nothing")
    return patches / deviation


def receptive_field_stats(
    dictionary: Float[Tensor, "N K"], *, orientations: int = 24, gabor: bool = False
) -> ReceptiveFields:
    """Tuning of each column of a dictionary, as an electrode would measure it with gratings.

    A response is the amplitude over all phases: |<field, exp(i k x)>|, at the frequency that the unit likes best.

    Args:
        dictionary: columns are square patches.
        orientations: of the gratings, at equal angles in [0, pi).
        gabor: fit a Gabor function to every column as well, from eight orientations: about 0.2 s a unit.

    Raises:
        UsageError: columns that are not square patches, or not finite.

    Paper: Beyond l1 sparse coding in V1 (arXiv 2301.10002).
    """
    check_whole("orientations", orientations, least=2)
    side = math.isqrt(len(dictionary)) if dictionary.ndim == 2 else 0
    if dictionary.ndim != 2 or side * side != len(dictionary) or not bool(dictionary.isfinite().all()):
        raise UsageError(f"columns must be square patches of finite numbers, got shape {tuple(dictionary.shape)}")
    fields = dictionary.double()
    angles = torch.arange(orientations).double() * math.pi / orientations
    # from one cycle a patch up to half a cycle a pixel
    frequencies = torch.linspace(1 / side, 0.5, 2 * side, dtype=torch.float64)
    place = torch.arange(side).double() - (side - 1) / 2
    y, x = torch.meshgrid(place, place, indexing="ij")
    along = angles.cos()[:, None] * x.reshape(-1) + angles.sin()[:, None] * y.reshape(-1)  # (A, N)
    phases = 2 * math.pi * frequencies[:, None, None] * along  # (F, A, N)
    waves = torch.complex(phases.cos(), phases.sin())
    # what a grating and the field share by their means alone is no tuning
    centred = fields - fields.mean(0, keepdim=True)
    responses = (waves @ centred.to(waves.dtype)).abs()  # (F, A, K)
    best = responses.amax(1).argmax(0)  # (K,)
    tuning = responses[best, :, torch.arange(fields.shape[1])]  # (K, A)
    total = tuning.sum(1)
    vector = (tuning * torch.exp(2j * angles)).sum(1).abs()
    variance = torch.where(total > 1e-12, 1 - vector / total.clamp(min=1e-12), torch.ones_like(total))
    explained = torch.full_like(total, math.nan)
    if gabor:
        values = [_gabor_fit(column.reshape(side, side).numpy()) for column in fields.T]
        explained = torch.tensor(values, dtype=torch.float64)
    return ReceptiveFields(variance, angles[tuning.argmax(1)], frequencies[best], explained)


def _gabor_fit(field: np.ndarray, starts: int = 8) -> float:
    """Variance of a field that the best of several fitted Gabor functions explains."""
    from scipy.optimize import least_squares

    side = len(field)
    total = float(np.square(field - field.mean()).sum())
    check_number("the field's variance", total, least=0)
    if total == 0:
        return math.nan
    place = np.arange(side) - (side - 1) / 2
    y, x = np.meshgrid(place, place, indexing="ij")
    top = np.unravel_index(np.abs(field).argmax(), field.shape)

    def waves(p: np.ndarray) -> np.ndarray:
        """Both phases of a Gabor function: centre, angle, log widths, log frequency -> (2, pixels)."""
        along = (x - p[0]) * math.cos(p[2]) + (y - p[1]) * math.sin(p[2])
        across = (y - p[1]) * math.cos(p[2]) - (x - p[0]) * math.sin(p[2])
        envelope = np.exp(-0.5 * (np.square(along / math.exp(p[3])) + np.square(across / math.exp(p[4]))))
        phase = 2 * math.pi * math.exp(p[5]) * along
        return np.stack([envelope * np.cos(phase), envelope * np.sin(phase)]).reshape(2, -1)

    def residual(p: np.ndarray) -> np.ndarray:
        # amplitude and phase are linear, so they are solved for and not searched
        basis = waves(p).T
        return field.reshape(-1) - basis @ np.linalg.lstsq(basis, field.reshape(-1), rcond=None)[0]

    least = math.inf
    low = [-side / 2, -side / 2, -math.inf, math.log(0.5), math.log(0.5), math.log(0.25 / side)]
    high = [side / 2, side / 2, math.inf, math.log(2 * side), math.log(2 * side), math.log(0.5)]
    for number in range(starts):
        start = [place[top[1]], place[top[0]], number * math.pi / starts, math.log(side / 6), math.log(side / 6),
                 math.log(2 / side)]  # fmt: skip
        outcome = least_squares(residual, np.array(start), bounds=(low, high), max_nfev=60)
        least = min(least, 2 * float(outcome.cost))
    return 1 - least / total
