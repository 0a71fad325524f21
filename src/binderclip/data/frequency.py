"""The least and the most complex windows of a picture, by a weighted count of their cosine coefficients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from binderclip.errors import DataError, UsageError

CHUNK = 2**24
"""Most pixels of windows that are transformed at once."""
FOLDED = 4
"""Channels whose coefficients are multiplied before one logarithm is taken: as many as float32 holds at any window."""


@dataclass(frozen=True)
class DCTPatches:
    """The k windows with the lowest and the k with the highest grade of each picture.

    Attributes:
        low, high: (B, k, C, w, w) pixels; the lowest and the highest grade first.
        low_at, high_at: (B, k, 2) row and column of the upper left pixel.
        grades: (B, L) of all windows, row by row.
    """

    low: Float[Tensor, "B k C w w"]
    high: Float[Tensor, "B k C w w"]
    low_at: Int[Tensor, "B k 2"]
    high_at: Int[Tensor, "B k 2"]
    grades: Float[Tensor, "B L"]


@lru_cache(maxsize=8)
def dct_matrix(size: int) -> Float[Tensor, "n n"]:
    """The orthonormal DCT-II D: D x gives the coefficients of x, D.T D is the identity."""
    place = (torch.arange(size, dtype=torch.float64) + 0.5) * math.pi / size
    rows = torch.cos(torch.arange(size, dtype=torch.float64)[:, None] * place) * math.sqrt(2 / size)
    rows[0] = math.sqrt(1 / size)
    return rows.float()


@lru_cache(maxsize=8)
def grade_weights(size: int, bands: int) -> Float[Tensor, "n n"]:
    """Weight of each coefficient in the grade: sum over bands k of 2^k / (size of band k) where it lies in the band.

    Band k holds the coefficients with size * 2k / bands <= i + j <= size * 2(k + 1) / bands; both ends belong to it, so
    neighbouring bands overlap where these are whole numbers, as in the released program.
    """
    diagonal = torch.arange(size)[:, None] + torch.arange(size)
    total = torch.zeros(size, size)
    for k in range(bands):
        band = (diagonal >= size * 2.0 / bands * k) & (diagonal <= size * 2.0 / bands * (k + 1))
        if band.any():
            total += 2.0**k * band / band.sum()
    return total


def dct_grades(windows: Float[Tensor, "*L C w w"], *, bands: int = 6) -> Float[Tensor, "*L"]:
    """The grade of windows: higher with more, and with finer, structure.

    G = sum_k 2^k / |band k| * sum over channels and coefficients of band k of log(1 + |X|), X = D P D.T. The sum over
    bands is one weight a coefficient, so a grade is two matrix products and a weighted sum. As in the released program
    the count of a band is that of one channel while the sum runs over all.

    Args:
        windows: in [0, 1].
        bands: along the diagonals of the coefficients.
    """
    d = dct_matrix(windows.shape[-1]).to(windows)
    return _graded(d @ windows @ d.T, bands)


def _graded(coefficients: Float[Tensor, "*L C w w"], bands: int) -> Float[Tensor, "*L"]:
    """The weighted sum of the logarithms; those of channels by one logarithm of a product."""
    logs: list[Tensor] = []
    for channels in coefficients.split(FOLDED, -3):
        first, *others = channels.unbind(-3)
        product = first.abs() + 1
        for channel in others:
            product = torch.addcmul(product, product, channel.abs())  # times 1 + |X|
        logs.append(product.log())
    weights = grade_weights(coefficients.shape[-1], bands).to(coefficients)
    return torch.stack([log.flatten(-2) @ weights.flatten() for log in logs]).sum(0)


def _times(x: Float[Tensor, "*L n"], matrix: Float[Tensor, "n m"]) -> Float[Tensor, "*L m"]:
    """x @ matrix as one product: of a view with overlaps `@` makes one small product a window."""
    return (x.reshape(-1, x.shape[-1]) @ matrix).view(*x.shape[:-1], -1)


@torch.no_grad()
def dct_patches(
    images: Float[Tensor, "B C H W"], *, window: int = 32, stride: int = 16, k: int = 2, bands: int = 6
) -> DCTPatches:
    """Choose the windows with the lowest and the highest frequency content, at the picture's own resolution.

    All windows of a batch are graded at once (`dct_grades`). Equal grades are taken in row order for the lowest, in
    reverse for the highest; where there are fewer than k windows the last one is repeated. Windows are returned as they
    are: the paper's inverse transform behind an all-pass filter changes nothing.

    Args:
        images: in [0, 1], at their own size: resizing first would remove the traces that are looked for.
        window: side of a window in pixels.
        stride: pixels from one window to the next; a rest at the right and lower edge is not looked at.
        k: windows of each kind.
        bands: see `dct_grades`.

    Raises:
        DataError: pictures smaller than a window.
        UsageError: a setting below 1.

    Paper: A Sanity Check for AI-generated Image Detection (arXiv 2406.19435).

    Examples:
        >>> image = torch.zeros(1, 3, 64, 64)
        >>> image[..., 32:, 32:] = torch.rand(3, 32, 32)
        >>> dct_patches(image, k=1).high_at.tolist()
        [[[32, 32]]]
    """
    if min(window, stride, k, bands) < 1:
        raise UsageError(f"window {window}, stride {stride}, k {k} and bands {bands} must be at least 1")
    height, width = images.shape[-2:]
    if min(height, width) < window:
        raise DataError(f"{height} x {width} pixels: smaller than a window of {window}")
    cut = images.unfold(2, window, stride).unfold(3, window, stride)  # (B, C, rows, columns, w, w), a view
    columns = cut.shape[3]
    flat = cut.permute(0, 2, 3, 1, 4, 5)  # (B, rows, columns, C, w, w)
    step = max(1, CHUNK // max(1, len(images) * columns * images.shape[1] * window**2))
    # Down the columns first, once for all windows of a row: they share what overlaps.
    d = dct_matrix(window).to(images)
    down = _times(images.unfold(2, window, stride), d.T)  # (B, C, rows, W, w)
    parts_of_rows = [
        _graded(_times(part.unfold(3, window, stride), d.T).movedim(1, 3), bands)  # of (B, rows, columns, C, w, w)
        for part in down.split(step, 2)
    ]
    grades = torch.cat(parts_of_rows, 1).flatten(1)
    order = grades.argsort(dim=1, stable=True)
    count = torch.arange(k).clamp(max=order.shape[1] - 1)
    picked = [order[:, count], order.flip(1)[:, count]]
    parts, places = [], []
    batch = torch.arange(len(images))[:, None]
    for chosen in picked:
        row, column = chosen // columns, chosen % columns
        parts.append(flat[batch, row, column])
        places.append(torch.stack([row * stride, column * stride], -1))
    return DCTPatches(parts[0], parts[1], places[0], places[1], grades)
