"""The cumulative spectral gradient (p078): limits in closed form, a loop over its definition, SciPy's Laplacian."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse.csgraph import laplacian
from scipy.spatial.distance import braycurtis

from binderclip.errors import UsageError
from binderclip.evaluate import class_overlap_matrix, cumulative_spectral_gradient, reduce_dataset
from binderclip.evaluate.spectral import laplacian_spectrum, spectral_gradient


def clouds(
    distance: float, n: int = 60, classes: int = 3, dim: int = 3, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(classes), n)
    return distance * np.eye(classes, dim)[y] + rng.normal(size=(len(y), dim)), y


def loop_overlap(x: np.ndarray, y: np.ndarray, k: int, parzen: bool) -> np.ndarray:
    """The overlap as the paper defines it, of all members, one at a time."""
    classes = sorted(set(y.tolist()))
    s = np.zeros((len(classes), len(classes)))
    for u in range(len(x)):
        others = sorted((i for i in range(len(x)) if i != u), key=lambda i: float(((x[i] - x[u]) ** 2).sum()))[:k]
        size = 1.0
        for axis in range(x.shape[1] if parzen else 0):
            size *= 2 * max(abs(x[i, axis] - x[u, axis]) for i in others)
        for i in others:
            s[classes.index(y[u]), classes.index(y[i])] += 1 / k / (max(size, 1e-4) if parzen else 1)
    s /= s.sum(1, keepdims=True)
    return np.array([[1 - braycurtis(a, b) for b in s] for a in s])


@pytest.mark.parametrize("volume", ["parzen", "none"])
def test_overlaps_are_those_of_the_definition(volume: str) -> None:
    x, y = clouds(1.0, n=15)
    w = class_overlap_matrix(x, y * 7, k=4, volume=volume)
    assert np.allclose(w, loop_overlap(x, y, 4, volume == "parzen"), atol=1e-12)
    assert np.allclose(laplacian_spectrum(w), np.linalg.eigvalsh(laplacian(w)), atol=1e-12)
    default = class_overlap_matrix(x, y, k=4)
    assert np.array_equal(default, class_overlap_matrix(x, y, k=4, volume="parzen"))


def test_the_sum_of_running_maxima() -> None:
    # Gaps 1/3 and 1/2 of 0, 1, 2; of 0, 2, 2.5 they are 2/3 and 1/4, whose running maximum is 2/3 twice.
    assert spectral_gradient(np.array([0.0, 1.0, 2.0])) == pytest.approx(1 / 3 + 1 / 2)
    assert spectral_gradient(np.array([0.0, 2.0, 2.5])) == pytest.approx(4 / 3)


def test_classes_apart_and_labels_at_random() -> None:
    x, y = clouds(100.0)
    apart = cumulative_spectral_gradient(x, y)
    assert apart.value == 0
    assert np.array_equal(apart.overlap, np.eye(3))
    # All classes alike: W of ones, eigenvalues 0 and K, so K - 1.
    assert spectral_gradient(laplacian_spectrum(np.ones((5, 5)))) == pytest.approx(4)
    mixed = np.random.default_rng(1).integers(0, 3, 3000)
    x = np.random.default_rng(2).normal(size=(3000, 2))
    found = cumulative_spectral_gradient(x, mixed, samples_per_class=1000, k=20, volume="none", repeats=2)
    assert 1.85 < found.value <= 2


def test_nearer_clouds_are_harder_and_the_interval_is_students() -> None:
    values = [cumulative_spectral_gradient(*clouds(d), samples_per_class=40).value for d in (6.0, 3.0, 1.5, 0.5)]
    assert values == sorted(values)
    assert values[0] < 0.2 < 1 < values[-1] <= 2
    x, y = clouds(1.5)
    some = cumulative_spectral_gradient(x, y, samples_per_class=30, repeats=3, seed=4)
    drawn = [class_overlap_matrix(x, y, samples_per_class=30, seed=(4, repeat)) for repeat in range(3)]
    each = [spectral_gradient(laplacian_spectrum(w)) for w in drawn]
    assert some.value == pytest.approx(np.mean(each))
    half = 4.302652729911275 * np.std(each, ddof=1) / 3**0.5  # Student's t of two degrees of freedom, 97.5 %
    assert some.interval == pytest.approx((some.value - half, some.value + half))
    assert np.allclose(some.hardness, some.overlap.sum(1) - 1)


def test_what_does_not_matter() -> None:
    x, y = clouds(1.0)
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    options = {"samples_per_class": 1000, "volume": "none", "repeats": 1}
    want = cumulative_spectral_gradient(x, y, **options).value
    assert cumulative_spectral_gradient(x @ turn + 5, y, **options).value == pytest.approx(want)
    assert cumulative_spectral_gradient(x, np.array([7, 0, 3])[y], **options).value == pytest.approx(want)


def test_equal_rows_are_neighbours_of_each_other() -> None:
    x = np.repeat(np.array([[0.0, 0], [9, 9]]), 8, axis=0)
    y = np.tile([0, 1], 8)  # both classes on each spot, more equal rows than neighbours
    w = class_overlap_matrix(x, y, k=3)
    assert w[0, 1] > 0.3
    assert cumulative_spectral_gradient(x, np.repeat([0, 1], 8)).value == 0


def test_reduction_keeps_the_complexity() -> None:
    x, y = clouds(3.0, n=400, seed=2)
    options = {"samples_per_class": 60, "volume": "none"}
    found = reduce_dataset(x, y, sizes=[5, 50, 100, 200, 300, 400], **options)
    low, high = found.whole.interval
    assert found.whole.interval == cumulative_spectral_gradient(x, y, **options).interval
    assert 5 < found.size < 400
    sizes = [size for size, _ in found.curve]
    assert sizes == [400, 300, 200, 100, 50, 5][: len(sizes)]
    inside = [low <= value <= high for _, value in found.curve]
    # The first size that leaves the interval ends it, and the one before is the answer.
    assert inside == [True] * (len(sizes) - 1) + [False]
    assert found.size == sizes[-2]
    assert found.curve[0] == (400, pytest.approx(found.whole.value, abs=high - low))  # other draws of all samples
    assert reduce_dataset(x, y, sizes=[200, 400], **options).size == 200


def test_mistakes_are_named() -> None:
    x, y = clouds(1.0, n=4)
    for wrong, said in (
        (lambda: class_overlap_matrix(x, y[:3]), "without NaN"),
        (lambda: class_overlap_matrix(x, np.zeros_like(y)), "two classes"),
        (lambda: class_overlap_matrix(x, y, k=12), "k from 1 to 11"),
        (lambda: cumulative_spectral_gradient(x, y, repeats=0), "at least 1"),
        (lambda: reduce_dataset(x, y, sizes=[2], samples_per_class=3), "above k"),
        (lambda: reduce_dataset(x, y), "samples_per_class is 250 and the largest class has 4"),
        (lambda: reduce_dataset(x, y, samples_per_class=4), "every draw is the whole"),
    ):
        with pytest.raises(UsageError, match=said):
            wrong()
