"""SortedAP (p031) against its closed form, the authors' loop, a dense sweep, and its promise: every pixel counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import trapezoid
from scipy.optimize import linear_sum_assignment

from binderclip.errors import UsageError
from binderclip.segment.metrics import InstanceMatcher, SortedAP, instance_average_precision, match, overlaps, sorted_ap
from binderclip.segment.metrics.sorted_precision import area_under_sorted


def authors_score(ours: np.ndarray, true: np.ndarray, *, least: float = 0.001) -> tuple[float, list[float], int]:
    """(score, matched IoU, missed), one pair of masks after another, matched and summed up as the authors do.

    Their code breaks off where nothing is matched and nothing is missed; such pictures are not given to it.
    """
    iou = np.zeros((len(ours), len(true)))
    for i, a in enumerate(ours):
        for j, b in enumerate(true):
            shared = int((a & b).sum())
            iou[i, j] = shared / (int(a.sum()) + int(b.sum()) - shared + 1e-12)
    usable = np.where(iou >= least, iou, 0.0)
    rows, columns = np.flatnonzero(usable.any(axis=1)), np.flatnonzero(usable.any(axis=0))
    chosen = linear_sum_assignment(1 - usable[np.ix_(rows, columns)])
    matched = sorted(float(iou[rows[a], columns[b]]) for a, b in zip(*chosen, strict=True))
    missed = len(true) - len(matched)
    if not matched:
        return 0.0, [], missed
    score, before, height = 0.0, 0.0, len(matched) / (len(ours) + missed)
    for failed, u in enumerate(matched):
        ap = (len(matched) - failed) / (len(ours) + missed + failed)
        score += (u - before) * (ap + height) / 2
        before, height = u, ap
    return score + (1 - before) * height / 2, matched, missed


@pytest.mark.parametrize("crowd", [(4, 60), (8, 40), (14, 30), (25, 30)])
@pytest.mark.parametrize("seed", range(3))
def test_as_published_equals_the_authors_loop_over_pairs(seed: int, crowd: tuple[int, int], make_discs) -> None:
    ours, true = make_discs(seed, n=crowd[0], side=crowd[1], wrong=3)
    want, matched, missed = authors_score(ours, true)
    assert sorted_ap(ours, true, as_published=True) == pytest.approx(want, abs=1e-9)
    metric = SortedAP(as_published=True)
    metric.update(ours, true)
    assert sorted(metric.ious) == pytest.approx(matched, abs=1e-9)
    assert metric.missed == missed
    # Without pairs that share nothing both rules are one.
    if min(matched) > 0:
        assert sorted_ap(ours, true) == pytest.approx(want, abs=1e-9)
    else:
        assert sorted_ap(ours, true) < want


def test_as_published_pools_pictures_as_the_authors_do(make_discs) -> None:
    pictures = [make_discs(seed, n=5 + seed, side=36) for seed in range(3)]
    parts = [authors_score(*picture) for picture in pictures]
    pooled, averaged = SortedAP(as_published=True), SortedAP(as_published=True, image_average=True)
    for picture in pictures:
        pooled.update(*picture)
        averaged.update(*picture)
    assert averaged.compute() == pytest.approx(np.mean([score for score, _, _ in parts]), abs=1e-9)
    matched = np.sort(np.concatenate([ious for _, ious, _ in parts]))
    either = sum(missed for _, _, missed in parts) + sum(len(ours) for ours, _ in pictures)
    heights = [(len(matched) - k) / (either + k) for k in range(len(matched))]
    want = trapezoid([heights[0], *heights, 0.0], [0.0, *matched, 1.0])
    assert pooled.compute() == pytest.approx(want, abs=1e-9)


@pytest.mark.parametrize("pixels", range(1, 11))
def test_one_pair_scores_half_of_one_plus_its_iou(pixels: int) -> None:
    true = np.zeros((4, 5), dtype=np.int64)
    true.flat[:10] = 1
    ours = np.zeros_like(true)
    ours.flat[:pixels] = 3
    assert sorted_ap(ours, true) == pytest.approx((1 + pixels / 10) / 2)


@settings(max_examples=40)
@given(
    ious=st.lists(st.floats(0.01, 0.999), min_size=1, max_size=8),
    missed=st.integers(0, 4),
    invented=st.integers(0, 4),
)
def test_trapezoids_lie_on_the_mean_of_a_dense_sweep_and_its_shift(
    ious: list[float], missed: int, invented: int
) -> None:
    """Between corners the trapezoid is the mean of AP before and after the pair at its end fails."""
    predicted, true = len(ious) + invented, len(ious) + missed
    at = np.sort(ious)

    def steps(above: np.ndarray) -> float:
        grid = (np.arange(100_000) + 0.5) / 100_000
        hits = len(at) - np.searchsorted(above, grid)
        return float((hits / (predicted + true - hits)).mean())

    # The other sides of the trapezoids: each pair fails at the corner after its own, the last one at 1.
    lower, upper = steps(at), steps(np.append(at[1:], 1.0))
    assert lower < upper
    assert area_under_sorted(at, missed, predicted) == pytest.approx((lower + upper) / 2, abs=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_the_curve_is_ap_at_every_threshold_of_the_fixed_matching(seed: int, make_discs, flatten) -> None:
    ours, true = (flatten(stack) for stack in make_discs(seed))
    metric = SortedAP()
    metric.update(ours, true)
    at, ap = metric.curve()
    assert (np.diff(at) >= 0).all()
    # Above one half matches are unique, so that AP just below a corner is AP at that threshold.
    high = at > 0.5
    assert high.any()
    for threshold, value in zip(at[high], ap[high], strict=True):
        assert instance_average_precision(ours, true, threshold=threshold - 1e-9) == pytest.approx(value)
    want = 0.0
    before, height = 0.0, ap[0]
    for u, v in zip([*at, 1.0], [*ap, 0.0], strict=True):
        want += (u - before) * (v + height) / 2
        before, height = u, v
    assert metric.compute() == pytest.approx(want)


def test_every_eroded_pixel_and_every_object_counts(make_discs, flatten) -> None:
    true = flatten(make_discs(2)[1])
    ours = true.copy()
    places = np.flatnonzero(ours == 3)
    scores = [sorted_ap(ours, true)]
    for place in places[:-1]:
        ours.flat[place] = 0
        scores.append(sorted_ap(ours, true))
    assert scores[0] == 1
    assert (np.diff(scores) < 0).all()
    # AP at 0.5 sees one of these steps.
    without = np.where(true == 3, 0, true)
    assert sorted_ap(without, true) < min(scores)
    extra = without.copy()
    extra[0, 0] = 77
    assert (true == 0)[0, 0]
    assert sorted_ap(extra, true) < sorted_ap(without, true)


def test_pairs_that_do_not_overlap_are_no_pairs_unless_as_published() -> None:
    # Prediction 1 covers most of A and a bit of B, prediction 2 only a bit of A: assignment pairs 2 with B.
    true = np.array([[1] * 10 + [2] * 10])
    ours = np.array([[1] * 0 + [2] + [1] * 10 + [0] * 9])
    found = overlaps(ours, true)
    assert len(match(found, 0.001).iou) == 1
    assert sorted(match(found, 0.001, as_assigned=True).iou) == pytest.approx([0, 9 / 11])
    u = 9 / 11
    assert sorted_ap(ours, true) == pytest.approx(u / 3 + (1 - u) / 6)
    assert sorted_ap(ours, true, as_published=True) == pytest.approx(u * (1 + 1 / 3) / 2 + (1 - u) / 6)


def test_empty_sides() -> None:
    one, nothing = np.ones((2, 2), dtype=np.int64), np.zeros((2, 2), dtype=np.int64)
    assert [sorted_ap(a, b) for a, b in ((nothing, nothing), (one, nothing), (nothing, one), (one, one))] == [
        1,
        0,
        0,
        1,
    ]


def test_pooling_averaging_and_merging(make_discs) -> None:
    pictures = [make_discs(0, n=3), make_discs(1, n=9)]
    pooled, averaged, first, second, matcher = (
        SortedAP(), SortedAP(image_average=True), SortedAP(), SortedAP(), InstanceMatcher(),
    )  # fmt: skip
    for picture, part in zip(pictures, (first, second), strict=True):
        for metric in (pooled, averaged, part, matcher):
            metric.update(*picture)
    assert averaged.compute() == pytest.approx(np.mean([sorted_ap(*p) for p in pictures]))
    assert averaged.compute() != pooled.compute()
    assert matcher.sorted_ap() == pooled.compute()
    assert matcher.sorted_ap(image_average=True) == averaged.compute()
    first.merge(second)
    assert first.compute() == pytest.approx(pooled.compute())
    # One curve of all pairs, by hand.
    pairs = [match(overlaps(*p), 0.001) for p in pictures]
    missed = sum(len(p[1]) - len(m.iou) for p, m in zip(pictures, pairs, strict=True))
    predicted = sum(len(p[0]) for p in pictures)
    assert pooled.compute() == area_under_sorted(np.concatenate([m.iou for m in pairs]), missed, predicted)
    first.reset()
    with pytest.raises(UsageError, match="update was not called"):
        first.compute()
    with pytest.raises(UsageError, match="as_published=False and True"):
        pooled.merge(SortedAP(as_published=True))
