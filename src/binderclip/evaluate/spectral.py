"""How hard a labelled set is, without training on it: the cumulative spectral gradient of its class overlaps (p078)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial.distance import cdist
from scipy.stats import t as student_t

from binderclip.errors import UsageError
from binderclip.numeric import check_number

__all__ = ["CSG", "CSGReduction", "class_overlap_matrix", "cumulative_spectral_gradient", "reduce_dataset"]

SMALLEST_VOLUME = 1e-4
MOST_DIMENSIONS = 10
"""Up to here volumes of boxes are taken unless said otherwise: beyond, they under- and overflow."""
Volume = Literal["parzen", "none"]


@dataclass(frozen=True)
class CSG:
    """The complexity of a labelled set.

    Attributes:
        value: mean of the repeats, 0 for classes apart, K - 1 for labels at random.
        interval: 95 % of that mean, by Student's t over the repeats; infinite for one repeat. It covers the draw of
            members alone: not which samples the set happens to hold, and it has no width where all are drawn.
        overlap: (K, K) mean overlap of classes, 1 on the diagonal.
        eigenvalues: (K,) of the Laplacian of `overlap`, rising.
        classes: (K,) the labels, rising.
    """

    value: float
    interval: tuple[float, float]
    overlap: Float[np.ndarray, "K K"]
    eigenvalues: Float[np.ndarray, "K"]
    classes: Int[np.ndarray, "K"]

    @property
    def hardness(self) -> Float[np.ndarray, "K"]:
        """How much each class overlaps with the others: sums of the rows of `overlap` without the diagonal."""
        return self.overlap.sum(1) - np.diag(self.overlap)


def cumulative_spectral_gradient(
    x: Float[np.ndarray, "N d"],
    y: Int[np.ndarray, "N"],
    *,
    samples_per_class: int = 250,
    k: int = 3,
    repeats: int = 10,
    volume: Volume | None = None,
    seed: int = 0,
) -> CSG:
    """Measure how entangled the classes of a set are, by nearest neighbours and the spectrum of their overlaps.

    Of "Spectral Metric for Dataset Complexity Assessment" (arXiv 1905.07299): classes are nodes, W_ij is the overlap of
    two (`class_overlap_matrix`), l_0 <= ... <= l_(K-1) are the eigenvalues of its Laplacian D - W, and the complexity
    is the sum over i of the running maximum of (l_(i+1) - l_i) / (K - i). Sets of different K compare by
    value / (K - 1).

    Args:
        x: features, of few dimensions where volumes count.
        y: labels, two classes or more.
        samples_per_class: members drawn of each class, all where it has fewer.
        k: neighbours, below N.
        repeats: draws of members, at least 1.
        volume: "parzen" weighs a neighbour by the volume of the box around all of them, "none" counts neighbours;
            default "parzen" up to 10 dimensions.
        seed: of the draws.

    Raises:
        UsageError: shapes, labels or settings that do not fit; NaN.

    Examples:
        >>> noise, y = np.random.default_rng(0).normal(size=(40, 2)), np.repeat([0, 1], 20)
        >>> cumulative_spectral_gradient(100 * y[:, None] + noise, y).value
        0.0
    """
    check_number("repeats", repeats, least=1)
    classes = np.unique(y)
    overlaps, values = [], []
    for repeat in range(repeats):
        w = class_overlap_matrix(x, y, samples_per_class=samples_per_class, k=k, volume=volume, seed=(seed, repeat))
        overlaps.append(w)
        values.append(spectral_gradient(laplacian_spectrum(w)))
    mean, overlap = float(np.mean(values)), np.mean(overlaps, axis=0)
    half = float("inf")
    if repeats > 1:
        half = float(student_t.ppf(0.975, repeats - 1) * np.std(values, ddof=1) / repeats**0.5)
    return CSG(mean, (mean - half, mean + half), overlap, laplacian_spectrum(overlap), classes)


def class_overlap_matrix(
    x: Float[np.ndarray, "N d"],
    y: Int[np.ndarray, "N"],
    *,
    samples_per_class: int = 250,
    k: int = 3,
    volume: Volume | None = None,
    seed: int | tuple[int, int] = 0,
) -> Float[np.ndarray, "K K"]:
    """How much classes overlap: 1 - Bray-Curtis distance of their rows of likelihoods.

    Row i of S estimates the mean over members of class i of p(x | class j): the share of class j among the k nearest
    neighbours, the member itself not among them, over the volume of the box around these neighbours.

    Args:
        x, y, samples_per_class, k, volume, seed: as of `cumulative_spectral_gradient`.

    Returns:
        (K, K) in the order of the rising labels, symmetric, 1 on the diagonal, 0 for classes that share no neighbour.

    Raises:
        UsageError: as of `cumulative_spectral_gradient`.
    """
    x, (classes, ids) = np.asarray(x, np.float64), np.unique(y, return_inverse=True)
    _check(x, y, len(classes), samples_per_class, k)
    boxes = (volume or ("parzen" if x.shape[1] <= MOST_DIMENSIONS else "none")) == "parzen"
    generator = np.random.default_rng(seed)
    drawn = []
    for c in range(len(classes)):
        members = np.flatnonzero(ids == c)
        drawn.append(generator.choice(members, min(samples_per_class, len(members)), replace=False))
    rows = np.concatenate(drawn)
    near = _neighbours(x, rows, k)  # (m, k)
    similarity = (ids[near][:, :, None] == np.arange(len(classes))).mean(1)  # (m, K)
    if boxes:
        sides = 2 * np.abs(x[near] - x[rows][:, None]).max(1)  # (m, d)
        similarity = similarity / np.maximum(sides.prod(1), SMALLEST_VOLUME)[:, None]
    s = np.stack([similarity[ids[rows] == c].sum(0) for c in range(len(classes))])
    with np.errstate(invalid="ignore", divide="ignore"):
        s = np.nan_to_num(s / s.sum(1, keepdims=True), nan=0.0, posinf=0.0, neginf=0.0)
    overlap = 1 - np.nan_to_num(cdist(s, s, "braycurtis"), nan=1.0)
    np.fill_diagonal(overlap, 1.0)
    return overlap


def _check(x: np.ndarray, y: np.ndarray, classes: int, samples: int, k: int) -> None:
    if x.ndim != 2 or len(x) != len(y) or not np.isfinite(x).all():
        raise UsageError(f"x is (N, d) without NaN and y (N,), got {x.shape} and {np.shape(y)}")
    if classes < 2:
        raise UsageError(f"overlaps need two classes or more, got {classes}")
    if samples < 1 or not 1 <= k < len(x):
        raise UsageError(f"samples_per_class is at least 1 and k from 1 to {len(x) - 1}, got {samples} and {k}")


def _neighbours(x: Float[np.ndarray, "N d"], rows: Int[np.ndarray, "m"], k: int) -> Int[np.ndarray, "m k"]:
    """The k nearest other rows: of equal ones, too, only the row itself is left out."""
    from sklearn.neighbors import NearestNeighbors

    neighbours = NearestNeighbors(n_neighbors=k + 1).fit(x).kneighbors(x[rows], return_distance=False)
    own = neighbours == rows[:, None]
    own[~own.any(1), -1] = True  # as many equal rows as neighbours: itself is not even among them
    return neighbours[~own].reshape(len(rows), k)


def laplacian_spectrum(overlap: Float[np.ndarray, "K K"]) -> Float[np.ndarray, "K"]:
    """Eigenvalues of D - W, rising; the diagonal of W does not matter."""
    return np.linalg.eigvalsh(np.diag(overlap.sum(1)) - overlap)


def spectral_gradient(eigenvalues: Float[np.ndarray, "K"]) -> float:
    """The sum over i = 0..K-2 of max_{j <= i} (l_(j+1) - l_j) / (K - j)."""
    count = len(eigenvalues)
    gaps = np.diff(eigenvalues) / (count - np.arange(count - 1))
    return float(np.maximum.accumulate(np.maximum(gaps, 0)).sum())


@dataclass(frozen=True)
class CSGReduction:
    """How small a set can be made.

    Attributes:
        size: smallest number of samples a class at which, and at all larger ones tried, the complexity stays in the
            interval of the whole set.
        curve: (size, complexity) of every size tried, the largest first.
        whole: complexity of the whole set.
    """

    size: int
    curve: tuple[tuple[int, float], ...]
    whole: CSG


def reduce_dataset(
    x: Float[np.ndarray, "N d"],
    y: Int[np.ndarray, "N"],
    *,
    sizes: Sequence[int] | None = None,
    k: int = 3,
    samples_per_class: int = 250,
    repeats: int = 10,
    volume: Volume | None = None,
    seed: int = 0,
) -> CSGReduction:
    """Find how few samples a class still have the complexity of the whole set (p078).

    Args:
        x, y, k, samples_per_class, repeats, volume, seed: as of `cumulative_spectral_gradient`.
        sizes: samples a class to try; default a dozen from the largest class down to k + 2.

    Raises:
        UsageError: as of `cumulative_spectral_gradient`; a size below k + 1; or samples_per_class that no class has
            more than, so that every draw is the whole set and its interval a point.
    """
    largest = int(np.unique(y, return_counts=True)[1].max(initial=0))
    if samples_per_class >= largest:
        raise UsageError(
            f"samples_per_class is {samples_per_class} and the largest class has {largest}: every draw is the whole "
            "set, whose interval is a point; take fewer"
        )
    options = {"samples_per_class": samples_per_class, "k": k, "repeats": repeats, "volume": volume, "seed": seed}
    whole = cumulative_spectral_gradient(x, y, **options)  # type: ignore[arg-type]  # of several value types
    tried = np.unique(np.geomspace(k + 2, largest, 12).astype(int)) if sizes is None else np.unique(list(sizes))
    if not len(tried) or tried[0] <= k:
        raise UsageError(f"sizes are whole numbers above k = {k}, got {list(tried)}")
    order = np.random.default_rng([seed, 1]).permutation(len(y))
    curve: list[tuple[int, float]] = []
    size = largest
    for each in tried[::-1].tolist():
        rows = np.concatenate([order[y[order] == c][:each] for c in whole.classes])
        gradient = cumulative_spectral_gradient(x[rows], y[rows], **options)  # type: ignore[arg-type]  # as above
        curve.append((each, gradient.value))
        if not whole.interval[0] <= gradient.value <= whole.interval[1]:
            break
        size = min(size, each)
    return CSGReduction(size, tuple(curve), whole)
