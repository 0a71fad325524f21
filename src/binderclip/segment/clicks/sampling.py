"""Point prompts by rule: where to put n points in a mask, and where beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Num
from scipy import fft, ndimage

from binderclip.errors import UsageError
from binderclip.numeric import check_number
from binderclip.settings import check_choice

__all__ = [
    "EXCLUSION",
    "INCLUSION",
    "corner_points",
    "exclusion_points",
    "medoids",
    "sample_points",
    "spectral_residual",
]

PATCH, SHARE, MOST, LEAST = 9, 0.15, 1800, 3
"""Side of an entropy patch, share of pixels looked at, pixels that are clustered, pixels of a component that counts."""
Pixels = Int[np.ndarray, "N 2"]


def sample_points(
    mask: Bool[np.ndarray, "H W"],
    n: int,
    strategy: str = "k-medoids",
    *,
    image: Any = None,
    seed: int | np.random.Generator = 0,
) -> Float[np.ndarray, "n 2"]:
    """Points inside a mask by one of the strategies of a benchmark.

    - `random`: pixels of the mask, without replacement while they last.
    - `k-medoids`: of at most 1,800 random pixels the n medoids.
    - `shi-tomasi`: corners of the grey picture in the eroded mask, missing ones by k-medoids.
    - `max-entropy`: a random pixel, and of 15 % of the pixels those whose patch differs most in entropy from its.
    - `max-distance`: a random pixel, and of 15 % of the pixels those farthest from it.
    - `saliency`: random pixels where the picture is salient (spectral residual) inside the mask.
    - `per-object`: the points are shared out over connected parts, k-medoids in each.

    Args:
        mask: where the points go.
        n: of points.
        strategy: see above.
        image: the picture, grey or RGB (H, W[, 3]) in [0, 1] or [0, 255], for `shi-tomasi`, `max-entropy`, `saliency`.
        seed: of the random choices, or a generator.

    Returns:
        (x, y) at pixel centres.

    Raises:
        UsageError: an empty mask, fewer than one point, an unknown strategy, or a picture that is missing or of another
            size.

    Paper: Benchmarking Human and Automated Prompting in the Segment Anything Model (arXiv 2410.22048).
    """
    mask = np.asarray(mask, dtype=bool)
    if mask.ndim != 2 or not mask.any():
        raise UsageError("points need a mask (H, W) with at least one pixel")
    check_number("n", n, least=1)
    check_choice("strategy", strategy, INCLUSION)
    grey = None if image is None else grey_picture(image)
    if strategy in NEEDS_IMAGE and grey is None:
        raise UsageError(f"strategy {strategy!r} looks at the picture: give image")
    if grey is not None and grey.shape != mask.shape:
        raise UsageError(f"image is {grey.shape}, mask is {mask.shape}")
    pixels = INCLUSION[strategy](mask, n, grey, np.random.default_rng(seed))
    return pixels[:, ::-1] + 0.5


def exclusion_points(
    mask: Bool[np.ndarray, "H W"],
    n: int,
    strategy: str = "k-medoids",
    *,
    image: Any = None,
    seed: int | np.random.Generator = 0,
) -> Float[np.ndarray, "n 2"]:
    """Points outside a mask: by a strategy of `sample_points` in the rest of the picture, or

    - `boundary`: random pixels just outside the outline.
    - `far-side`: random pixels in a tenth of the picture along the side that is farthest from the object.

    Raises:
        UsageError: as `sample_points`; a mask that is the whole picture.
    """
    mask = np.asarray(mask, dtype=bool)
    if mask.ndim != 2 or mask.all() or not mask.any():
        raise UsageError("points outside need a mask (H, W) with pixels inside and outside")
    if strategy not in EXCLUSION:
        return sample_points(~mask, n, strategy, image=image, seed=seed)
    return sample_points(EXCLUSION[strategy](mask), n, "random", seed=seed)


def grey_picture(image: Any) -> Float[np.ndarray, "H W"]:
    """Luma in [0, 1] of a grey or RGB picture in [0, 1] or [0, 255]."""
    pixels = np.asarray(image, dtype=float)
    if pixels.ndim == 3:
        pixels = pixels[..., :3] @ np.array([0.299, 0.587, 0.114])
    return pixels / 255 if pixels.max(initial=0) > 1 else pixels


def _random(mask: Any, n: int, grey: Any, rng: np.random.Generator) -> Pixels:
    pixels = np.argwhere(mask)
    return pixels[rng.choice(len(pixels), n, replace=len(pixels) < n)]


def _medoids(mask: Any, n: int, grey: Any, rng: np.random.Generator) -> Pixels:
    pixels = np.argwhere(mask)
    if len(pixels) <= n:
        return _random(mask, n, grey, rng)
    pixels = pixels[rng.permutation(len(pixels))[:MOST]]
    return pixels[medoids(pixels, n, rng)]


def medoids(
    points: Num[np.ndarray, "N D"], k: int, rng: np.random.Generator, rounds: int = 100
) -> Int[np.ndarray, "k"]:
    """Indices of k points with a small sum of distances from every point to the nearest of them.

    The first ones are spread out (k-means++ by distance); then assignment and the best centre of each alternate.
    """
    points = np.asarray(points, dtype=float)
    distance = np.sqrt(((points[:, None] - points[None]) ** 2).sum(-1))
    chosen = [int(rng.integers(len(points)))]
    while len(chosen) < k:
        nearest = distance[:, chosen].min(1)
        total = nearest.sum()
        rest = np.setdiff1d(np.arange(len(points)), chosen)
        chosen.append(int(rng.choice(len(points), p=nearest / total)) if total > 0 else int(rest[0]))
    centres = np.array(chosen)
    for _ in range(rounds):
        owner = distance[:, centres].argmin(1)
        moved = centres.copy()
        for i in range(k):
            own = np.flatnonzero(owner == i)
            if len(own):
                moved[i] = own[distance[np.ix_(own, own)].sum(1).argmin()]
        if (moved == centres).all():
            break
        centres = moved
    return centres


def _corners(mask: Any, n: int, grey: Any, rng: np.random.Generator) -> Pixels:
    rows, columns = np.nonzero(mask)
    diameter = float(np.hypot(np.ptp(rows), np.ptp(columns)))
    for erosion in (0.06, 0.02, 0.01):
        side = max(1, int(erosion * diameter))
        inner = ndimage.binary_erosion(mask, np.ones((side, side)))
        if inner.sum() >= 10:
            break
    else:
        inner = mask
    corners = corner_points(grey, inner, n, quality=0.001, distance=diameter / n)
    missing = n - len(corners)
    return corners if not missing else np.concatenate([corners, _medoids(mask, missing, grey, rng)])


def corner_points(
    grey: Float[np.ndarray, "H W"], mask: Bool[np.ndarray, "H W"], most: int, *, quality: float, distance: float
) -> Pixels:
    """Good features to track: maxima of the smaller eigenvalue of the gradients in 3 x 3 pixels, strongest first.

    Args:
        grey: the picture.
        mask: where corners may be.
        most: number of them.
        quality: least strength as a share of the strongest inside the mask.
        distance: least distance between two of them, in pixels.

    Returns:
        (row, column).
    """
    dy, dx = (ndimage.sobel(grey, axis, mode="mirror") for axis in (0, 1))
    xx, yy, xy = (ndimage.uniform_filter(v, 3, mode="mirror") for v in (dx * dx, dy * dy, dx * dy))
    strength = (xx + yy) / 2 - np.sqrt(((xx - yy) / 2) ** 2 + xy**2)
    peak = strength == ndimage.maximum_filter(strength, 3, mode="nearest")
    top = strength[mask].max(initial=0.0)
    rows, columns = np.nonzero(peak & mask & (strength >= quality * top) & (strength > 0))
    kept: list[tuple[int, int]] = []
    for i in np.argsort(-strength[rows, columns], kind="stable"):
        place = (int(rows[i]), int(columns[i]))
        if all(np.hypot(place[0] - r, place[1] - c) >= distance for r, c in kept):
            kept.append(place)
        if len(kept) == most:
            break
    return np.array(kept, dtype=int).reshape(-1, 2)


def _far_from_first(mask: Any, n: int, rng: np.random.Generator, score: Callable[[Pixels, Pixels], Any]) -> Pixels:
    """A random pixel and, of a share of the others, those with the largest score against it."""
    pixels = np.argwhere(mask)
    first = pixels[int(rng.integers(len(pixels)))]
    count = min(len(pixels), max(n, int(SHARE * len(pixels))))
    some = pixels[rng.choice(len(pixels), count, replace=False)]
    some = some[(some != first).any(1)]
    best = some[np.argsort(-score(some, first), kind="stable")[: n - 1]]
    points = np.concatenate([first[None], best])
    return points if len(points) == n else np.concatenate([points, _random(mask, n - len(points), None, rng)])


def _entropy(mask: Any, n: int, grey: Any, rng: np.random.Generator) -> Pixels:
    def score(pixels: Pixels, first: Any) -> Any:
        own = patch_entropy(grey, first)
        return np.abs(np.array([patch_entropy(grey, pixel) for pixel in pixels]) - own)

    return _far_from_first(mask, n, rng, score)


def patch_entropy(grey: Float[np.ndarray, "H W"], pixel: Any) -> float:
    """Bits of the grey levels (256 bins) in the 9 x 9 pixels around one, as far as they are in the picture."""
    row, column = (int(v) for v in pixel)
    half = PATCH // 2
    patch = grey[max(0, row - half) : row + half + 1, max(0, column - half) : column + half + 1]
    counts = np.bincount((patch * 255).round().clip(0, 255).astype(int).ravel())
    probability = counts[counts > 0] / patch.size
    return float(-(probability * np.log2(probability)).sum())


def _distance(mask: Any, n: int, grey: Any, rng: np.random.Generator) -> Pixels:
    return _far_from_first(mask, n, rng, lambda pixels, first: np.hypot(*(pixels - first).T))


def _salient(mask: Any, n: int, grey: Any, rng: np.random.Generator) -> Pixels:
    salient = spectral_residual(grey)
    inside = mask & (salient >= np.median(salient[mask]))
    return _random(inside, n, grey, rng)


def spectral_residual(grey: Float[np.ndarray, "H W"]) -> Float[np.ndarray, "H W"]:
    """Saliency: what is unusual in the log amplitude spectrum (Hou & Zhang, CVPR 2007), smoothed by 2 % of a side."""
    spectrum = fft.fft2(grey)
    amplitude = np.log(np.abs(spectrum) + 1e-8)
    residual = amplitude - ndimage.uniform_filter(amplitude, 3, mode="wrap")
    map_ = np.abs(fft.ifft2(np.exp(residual + 1j * np.angle(spectrum)))) ** 2
    return ndimage.gaussian_filter(map_, max(1.0, 0.02 * max(grey.shape)))


def _per_object(mask: Any, n: int, grey: Any, rng: np.random.Generator) -> Pixels:
    numbers, count = ndimage.label(mask, np.ones((3, 3)))
    sizes = np.bincount(numbers.ravel(), minlength=count + 1)[1:]
    order = [int(i) for i in np.argsort(-sizes, kind="stable") if sizes[i] > LEAST]
    order = (order or [int(sizes.argmax())])[:n]
    shares = [n // len(order)] * len(order)
    shares[0] += n - sum(shares)
    parts = [_medoids(numbers == i + 1, clicks, grey, rng) for i, clicks in zip(order, shares, strict=True)]
    return np.concatenate(parts)


def _ring(mask: Any) -> Bool[np.ndarray, "H W"]:
    ring = ndimage.binary_dilation(mask, ndimage.generate_binary_structure(2, 1)) & ~mask
    return ring


def _far_side(mask: Any) -> Bool[np.ndarray, "H W"]:
    """The strip along the side that is farthest from the object; its part outside the object."""
    height, width = mask.shape
    rows, columns = np.nonzero(mask)
    gaps = {"top": rows.min() / height, "bottom": 1 - (rows.max() + 1) / height,
            "left": columns.min() / width, "right": 1 - (columns.max() + 1) / width}  # fmt: skip
    strip = np.zeros_like(mask)
    h, w = max(1, height // 10), max(1, width // 10)
    places = {"top": np.s_[:h], "bottom": np.s_[-h:], "left": np.s_[:, :w], "right": np.s_[:, -w:]}
    strip[places[max(gaps, key=lambda side: gaps[side])]] = True
    return strip & ~mask if (strip & ~mask).any() else ~mask


Strategy = Callable[[Any, int, Any, np.random.Generator], Pixels]
INCLUSION: dict[str, Strategy] = {
    "random": _random,
    "k-medoids": _medoids,
    "shi-tomasi": _corners,
    "max-entropy": _entropy,
    "max-distance": _distance,
    "saliency": _salient,
    "per-object": _per_object,
}
NEEDS_IMAGE = ("shi-tomasi", "max-entropy", "saliency")
EXCLUSION: dict[str, Callable[[Any], Any]] = {"boundary": _ring, "far-side": _far_side}
