"""Filling a hole in a picture from its border, by Telea's fast-marching method."""

from __future__ import annotations

import heapq
import math

import numpy as np
from jaxtyping import Bool, Float, Int

from binderclip.errors import UsageError

__all__ = ["inpaint_by_marching"]

_FAR = 1e6
_ACROSS = 1e-2, 1e-6
"""Where the front moves across the direction of a pixel by less than the first, the pixel counts by the second."""
_SIDES = ((-1, 0), (0, -1), (1, 0), (0, 1))


def inpaint_by_marching(
    image: Float[np.ndarray, "H W C"], hole: Bool[np.ndarray, "H W"], *, radius: int = 3
) -> Float[np.ndarray, "H W C"]:
    """Fill the pixels of a hole, from its border inwards; the others stay as they are.

    The pixels are visited in the order of their distance from the border, by fast marching. Each becomes the weighted
    mean of the known pixels around it, with weights that fall with the distance, favour the normal of the front and
    pixels as far inside: order and weights are Telea's (section 2.4) and OpenCV's, but for holes at the picture's edge,
    of which OpenCV leaves the first row and column as they are.

    It is not Telea's method whole. That also continues each known pixel by its slope (equation 2): taken from pixels
    that were just filled, slopes grow from step to step, and on grain the result leaves the range of the picture;
    OpenCV scales the term down to one and a half of 255 grey levels. Here every filled value lies between those around
    it.

    Args:
        image: finite floats of any range; those in the hole are not looked at.
        hole: True where to fill.
        radius: of the neighbourhood, in pixels.

    Raises:
        UsageError: shapes that do not match, a radius below 1, a hole that leaves nothing to fill from, or pixels
            outside of it that are not finite.

    After: An Image Inpainting Technique Based on the Fast Marching Method (Telea, Journal of Graphics Tools 2004).
    """
    if image.ndim != 3 or hole.shape != image.shape[:2]:
        raise UsageError(f"inpaint_by_marching needs (H, W, C) and a hole (H, W), got {image.shape} and {hole.shape}")
    if radius < 1:
        raise UsageError(f"radius must be at least 1 pixel, got {radius}")
    if hole.all():
        raise UsageError("the hole is the whole picture: nothing is left to fill it from")
    if not np.isfinite(image[~hole]).all():
        raise UsageError("inpaint_by_marching: the image has values outside the hole that are not finite")
    filled = image.copy()
    if hole.any():
        # All that counts lies within a radius of the hole.
        part = tuple(
            slice(max(0, int(numbers.min()) - radius - 1), int(numbers.max()) + radius + 2)
            for numbers in hole.nonzero()
        )
        filled[hole] = _filled(np.asarray(image[part], dtype=np.float64), hole[part], radius).astype(image.dtype)
    return filled


def _filled(image: Float[np.ndarray, "H W C"], hole: Bool[np.ndarray, "H W"], radius: int) -> Float[np.ndarray, "N C"]:
    """The values of a hole, in the order of its pixels in memory.

    Each value is a mean of earlier ones, so all of them solve one triangular system: v = W_hole v + W_known u.
    """
    from scipy.sparse import csc_matrix, csr_matrix, eye_array
    from scipy.sparse.linalg import splu

    pad = radius + 1  # a margin that is never known, so that no window leaves the picture
    inside = np.pad(hole, pad, constant_values=False)
    picture = np.pad(np.ones_like(hole), pad, constant_values=False)
    time, order = _march(inside, picture, radius)
    places = np.array(order)  # (N,) into the padded picture, as it is filled
    rank = np.where(picture & ~inside, -1, len(places)).ravel()  # known pixels come before all, the margin after
    rank[places] = np.arange(len(places))
    around, weights = _weights(time.ravel(), rank, places, inside.shape[1], radius)  # (N, K) each
    row, column = np.nonzero(weights)
    value, source = weights[row, column], around[row, column]
    earlier = rank[source] >= 0  # filled before, not known from the start
    own = csc_matrix((value[earlier], (row[earlier], rank[source[earlier]])), shape=(len(places), len(places)))
    other = csr_matrix((value[~earlier], (row[~earlier], source[~earlier])), shape=(len(places), inside.size))
    values = np.pad(np.where(hole[..., None], 0.0, image), ((pad, pad), (pad, pad), (0, 0))).reshape(-1, image.shape[2])
    # Triangular as it stands: without another order and without pivoting nothing is filled in.
    system = splu(csc_matrix(eye_array(len(places))) - own, permc_spec="NATURAL", diag_pivot_thresh=0.0)
    values[places] = system.solve(other @ values)
    return values[inside.ravel()]


def _march(
    inside: Bool[np.ndarray, "P Q"], picture: Bool[np.ndarray, "P Q"], radius: int
) -> tuple[Float[np.ndarray, "P Q"], list[int]]:
    """When the front reaches each pixel of the hole, and in which order; minus the distance of those around it."""
    from scipy.ndimage import binary_dilation

    cross = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], bool)
    band = binary_dilation(inside, cross) & ~inside & picture
    near = binary_dilation(inside, np.ones((2 * radius + 1, 2 * radius + 1), bool)) & ~inside & ~band & picture
    away, _ = _arrivals(band, near)
    time, order = _arrivals(band, inside)
    return np.where(near, -away, time), order


def _arrivals(start: Bool[np.ndarray, "P Q"], free: Bool[np.ndarray, "P Q"]) -> tuple[np.ndarray, list[int]]:
    """March from pixels at time 0 over free ones: times, far elsewhere, and free pixels in the order of their turn.

    A pixel gets its time when the first beside it is done, as in OpenCV; equal times go by who came first.
    """
    width = free.shape[1]
    steps = [row * width + column for row, column in _SIDES]
    time = np.where(start, 0.0, _FAR).ravel().tolist()
    known, waits = start.ravel().tolist(), free.ravel().tolist()
    order: list[int] = []
    front = [(0.0, number, place) for number, place in enumerate(np.flatnonzero(start).tolist())]
    count = len(front)  # sorted as it stands: all times are 0
    while front:
        _, _, place = heapq.heappop(front)
        for step in steps:
            other = place + step
            if not waits[other]:
                continue
            times = [
                time[near] if known[near] else _FAR for near in (other - width, other + width, other - 1, other + 1)
            ]
            time[other] = arrival = _arrival(min(times[:2]), min(times[2:]))
            waits[other], known[other] = False, True
            order.append(other)
            heapq.heappush(front, (arrival, count, other))
            count += 1
    return np.array(time).reshape(free.shape), order


def _arrival(vertical: float, horizontal: float) -> float:
    """When the front arrives: |grad T| = 1 by upwind differences to the known pixels beside; a 32-bit number."""
    low, apart = min(vertical, horizontal), abs(vertical - horizontal)
    exact = low + 1 if apart >= 1 else (vertical + horizontal + math.sqrt(2 - apart**2)) / 2
    return float(np.float32(exact))


def _weights(
    time: Float[np.ndarray, "S"], rank: Int[np.ndarray, "S"], places: Int[np.ndarray, "N"], width: int, radius: int
) -> tuple[Int[np.ndarray, "N K"], Float[np.ndarray, "N K"]]:
    """The pixels in the disc around each pixel, and how much each counts; rows sum to 1."""
    steps = np.arange(-radius, radius + 1)
    rows, columns = (axis.ravel() for axis in np.meshgrid(steps, steps, indexing="ij"))
    disc = (rows**2 + columns**2 <= radius**2) & ((rows != 0) | (columns != 0))
    rows, columns = rows[disc], columns[disc]  # (K,) of q - p
    around = places[:, None] + rows * width + columns  # (N, K)
    known = rank[around] < rank[places][:, None]
    down, right = (_slope(time, rank, places, step) for step in (width, 1))  # (N,) each, of the front
    direction = np.abs(rows * down[:, None] + columns * right[:, None])  # (N, K)
    direction[direction <= _ACROSS[0]] = _ACROSS[1]
    level = 1 / (1 + np.abs(time[around] - time[places][:, None]))
    weights = np.where(known, direction * level / (rows**2 + columns**2) ** 1.5, 0.0)
    return around, weights / weights.sum(1, keepdims=True)


def _slope(
    time: Float[np.ndarray, "S"], rank: Int[np.ndarray, "S"], places: Int[np.ndarray, "N"], step: int
) -> Float[np.ndarray, "N"]:
    """The slope of the times along one axis, between known pixels alone: central, one-sided, or 0."""
    ahead, behind = places + step, places - step
    after, before = rank[ahead] < rank[places], rank[behind] < rank[places]
    forward = np.where(after, time[ahead] - time[places], 0.0)
    backward = np.where(before, time[places] - time[behind], 0.0)
    return (forward + backward) / np.maximum(1, after.astype(int) + before)
