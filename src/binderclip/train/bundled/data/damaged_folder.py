"""A folder of photographs with ten damaged ones, and where a metric puts them: for measuring, never for training.

The ten faults are written with Pillow, NumPy and SciPy alone, apart from `data.distort`, which metrics learn from.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageFilter
from scipy.ndimage import convolve

from binderclip.errors import UsageError

Fault = Callable[[Image.Image, int, np.random.Generator], Image.Image]
"""(picture, severity 0 or 1, draws) -> the damaged picture."""


def _picture(values: Float[np.ndarray, "h w 3"]) -> Image.Image:
    return Image.fromarray(np.clip(np.round(values), 0, 255).astype(np.uint8))


def _values(picture: Image.Image) -> Float[np.ndarray, "h w 3"]:
    return np.asarray(picture, dtype=float)


def _filtered(picture: Image.Image, kernel: Float[np.ndarray, "k k"]) -> Image.Image:
    weights, values = kernel / kernel.sum(), _values(picture)
    return _picture(np.stack([convolve(values[..., c], weights, mode="nearest") for c in range(3)], axis=-1))


def _blurred(picture: Image.Image, severity: int, rng: np.random.Generator) -> Image.Image:
    return picture.filter(ImageFilter.GaussianBlur((0.009, 0.02)[severity] * min(picture.size)))


def _out_of_focus(picture: Image.Image, severity: int, rng: np.random.Generator) -> Image.Image:
    radius = (0.012, 0.025)[severity] * min(picture.size)
    reach = math.ceil(radius)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return _filtered(picture, (x**2 + y**2 <= radius**2).astype(float))


def _moved(picture: Image.Image, severity: int, rng: np.random.Generator) -> Image.Image:
    length, angle = (0.05, 0.1)[severity] * min(picture.size), rng.uniform(0, math.pi)
    reach = math.ceil(length / 2) + 1
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    for at in np.linspace(-length / 2, length / 2, 8 * reach):
        kernel[round(reach + at * math.sin(angle)), round(reach + at * math.cos(angle))] += 1
    return _filtered(picture, kernel)


def _jpeg(picture: Image.Image, severity: int, rng: np.random.Generator) -> Image.Image:
    held = io.BytesIO()
    picture.save(held, "JPEG", quality=(8, 3)[severity])
    return Image.open(held, formats=["JPEG"]).convert("RGB")


def _noisy(picture: Image.Image, severity: int, rng: np.random.Generator) -> Image.Image:
    values = _values(picture)
    return _picture(values + (30, 55)[severity] * rng.standard_normal(values.shape))


def _specks(picture: Image.Image, severity: int, rng: np.random.Generator) -> Image.Image:
    values, fraction = _values(picture).copy(), (0.04, 0.1)[severity]
    draws = rng.random(values.shape[:2])
    values[draws < fraction / 2], values[draws > 1 - fraction / 2] = 0, 255
    return _picture(values)


def _stops(picture: Image.Image, stops: float) -> Image.Image:
    """Linear light times 2^stops, clipped."""
    values = _values(picture) / 255
    light = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4) * 2.0**stops
    light = np.clip(light, 0, 1)
    return _picture(255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055))


def _too_dark(picture: Image.Image, severity: int, rng: np.random.Generator) -> Image.Image:
    return _stops(picture, (-3.5, -5.0)[severity])


def _overexposed(picture: Image.Image, severity: int, rng: np.random.Generator) -> Image.Image:
    return _stops(picture, (2.5, 3.5)[severity])


def _enlarged(picture: Image.Image, severity: int, rng: np.random.Generator) -> Image.Image:
    ratio = (96, 56)[severity] / max(picture.size)
    small = picture.resize([max(1, round(side * ratio)) for side in picture.size], Image.Resampling.BICUBIC)
    return small.resize(picture.size, Image.Resampling.BICUBIC)


def _washed_out(picture: Image.Image, severity: int, rng: np.random.Generator) -> Image.Image:
    fraction = (0.3, 0.18)[severity]
    return _picture(fraction * _values(picture) + (1 - fraction) * 200)


TEN_FAULTS: dict[str, Fault] = {
    "blurred": _blurred,
    "out of focus": _out_of_focus,
    "moved": _moved,
    "JPEG": _jpeg,
    "noisy": _noisy,
    "specks": _specks,
    "too dark": _too_dark,
    "overexposed": _overexposed,
    "enlarged": _enlarged,
    "washed out": _washed_out,
}
"""Faults that a person calls bad at once, at two severities; lengths go by the shorter side."""


@dataclass(frozen=True)
class DamagedPicture:
    """One of the ten.

    Attributes:
        row: of the photograph that it replaces.
        fault: a name of `TEN_FAULTS`.
        severity: 0 or 1.
        picture: what it looks like.
    """

    row: int
    fault: str
    severity: int
    picture: Image.Image


def ten_damaged(photographs: Sequence[Image.Image], seed: int) -> list[DamagedPicture]:
    """Ten photographs drawn at random, each with another fault at a random severity.

    Raises:
        UsageError: fewer than ten.
    """
    if len(photographs) < len(TEN_FAULTS):
        raise UsageError(f"{len(TEN_FAULTS)} photographs at least are needed, these are {len(photographs)}")
    rng = np.random.default_rng([18, seed])
    rows = rng.choice(len(photographs), len(TEN_FAULTS), replace=False).tolist()
    damaged = []
    for row, (name, fault) in zip(rows, TEN_FAULTS.items(), strict=True):
        severity = int(rng.integers(2))
        damaged.append(DamagedPicture(row, name, severity, fault(photographs[row].convert("RGB"), severity, rng)))
    return damaged


def places_from_last(scores: Sequence[float], rows: Sequence[int]) -> list[int]:
    """The places of some rows, counted from the worst score, which is 1; of equal scores the earlier row is worse."""
    order = np.argsort(np.asarray(scores, dtype=float), kind="stable").tolist()
    place = {row: number for number, row in enumerate(order, 1)}
    return [place[row] for row in rows]
