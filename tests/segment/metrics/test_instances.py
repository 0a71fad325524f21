"""Instance metrics against loops over pairs of masks, torchmetrics, and what must not change."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torchmetrics.detection import PanopticQuality

from binderclip.errors import UsageError
from binderclip.segment.metrics import (
    InstanceMatcher,
    aggregated_jaccard,
    coco_average_precision,
    instance_average_precision,
    instance_scores,
    match,
    mean_instance_average_precision,
    overlaps,
    panoptic_quality,
    sorted_ap,
    symmetric_best_dice,
)

SEEDS = range(5)


def best_matching(iou: np.ndarray, threshold: float) -> list[float]:
    """IoU of the pairs of the best assignment, by trying all of them (few instances only)."""
    table = np.where(iou > threshold, iou, 0)
    if table.shape[0] > table.shape[1]:
        table = table.T
    best: tuple[float, list[float]] = (-1.0, [])
    for columns in itertools.permutations(range(table.shape[1]), table.shape[0]):
        values = [table[r, c] for r, c in enumerate(columns)]
        best = max(best, (sum(values), values), key=lambda b: b[0])
    return [v for v in best[1] if v > 0]


def pairwise(ours: np.ndarray, true: np.ndarray) -> np.ndarray:
    return np.array([[(a & b).sum() / (a | b).sum() for b in true] for a in ours])


def labelled(stack: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Masks of the labels of a map that occur."""
    return np.array([labels == k for k in range(1, len(stack) + 1) if (labels == k).any()])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", ["maps", "stacks", "mixed"])
def test_intersections_equal_loops_over_pairs(seed: int, kind: str, make_discs, flatten) -> None:
    ours, true = make_discs(seed)
    given = [ours, true]
    if kind != "stacks":
        given[0] = flatten(ours)
        ours = labelled(ours, given[0])
    if kind == "maps":
        given[1] = flatten(true)
        true = labelled(true, given[1])
    found = overlaps(torch.from_numpy(given[0]), given[1])
    assert found.disjoint == (kind == "maps")
    assert np.allclose(found.matrix(), pairwise(ours, true))
    assert found.matrix(found.areas).tolist() == [[(a & b).sum() for b in true] for a in ours]
    assert found.predicted.tolist() == [a.sum() for a in ours]


@pytest.mark.parametrize("share", [0.002, 0.01, 0.2, 0.7])
@pytest.mark.parametrize("mixed", [True, False])
def test_sparse_and_dense_stacks_are_counted_alike(share: float, mixed: bool, flatten) -> None:
    rng = np.random.default_rng(0)
    ours, true = rng.uniform(size=(30, 50, 50)) < share, rng.uniform(size=(20, 50, 50)) < share
    true[3] = False
    given = flatten(true) if mixed else true
    kept = labelled(true, given) if mixed else true[true.any(axis=(1, 2))]
    found = overlaps(ours, given)
    ours = ours[ours.any(axis=(1, 2))]
    want = np.array([[(a & b).sum() for b in kept] for a in ours])
    assert np.array_equal(found.matrix(found.areas), want)
    assert np.array_equal(found.predicted, ours.sum(axis=(1, 2)))
    pairs = list(zip(found.rows.tolist(), found.columns.tolist(), strict=True))
    assert pairs == sorted(pairs)
    assert len(pairs) == np.count_nonzero(want)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("side", [45, 150])
def test_matches_are_the_best_assignment_of_the_whole_table(seed: int, side: int, make_discs) -> None:
    ours, true = make_discs(seed, n=25, side=side)
    iou = pairwise(ours, true)
    table = np.where(iou > 0.05, iou, 0)
    rows, columns = linear_sum_assignment(table, maximize=True)
    found = match(overlaps(ours, true), 0.05)
    assert sorted(found.iou) == pytest.approx(sorted(v for v in table[rows, columns] if v > 0))
    assert found.iou == pytest.approx(iou[found.rows, found.columns])
    assert len(set(found.rows)) == len(set(found.columns)) == len(found.iou)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("disjoint", [True, False])
def test_metrics_equal_loops(seed: int, disjoint: bool, make_discs, flatten) -> None:
    ours, true = make_discs(seed, n=5)
    if disjoint:
        ours, true = labelled(ours, flatten(ours)), labelled(true, flatten(true))
    iou = pairwise(ours, true)
    n, m = iou.shape

    def ap(threshold: float) -> float:
        hits = len(best_matching(iou, threshold))
        return hits / (n + m - hits)

    for threshold in (0.3, 0.5, 0.75):
        assert instance_average_precision(ours, true, threshold=threshold) == pytest.approx(ap(threshold))
    mean = np.mean([ap(t) for t in np.arange(0.5, 0.96, 0.05)])
    assert mean_instance_average_precision(ours, true) == pytest.approx(mean)
    pairs = best_matching(iou, 0.5)
    quality = panoptic_quality(ours, true)
    assert quality.sq == pytest.approx(np.mean(pairs) if pairs else 0)
    assert quality.rq == pytest.approx(2 * len(pairs) / (n + m))
    assert quality.pq == pytest.approx(quality.sq * quality.rq)
    assert quality.counts.tolist() == [[len(pairs), n - len(pairs), m - len(pairs)]]
    dice = np.array([[2 * (a & b).sum() / (a.sum() + b.sum()) for b in true] for a in ours])
    assert symmetric_best_dice(ours, true) == pytest.approx(min(dice.max(axis=1).mean(), dice.max(axis=0).mean()))
    inside = outside = 0
    used = set()
    for b in true:
        shared = [(a & b).sum() for a in ours]
        k = int(np.argmax(shared))
        if shared[k]:
            used.add(k)
            inside, outside = inside + shared[k], outside + (ours[k] | b).sum()
        else:
            outside += b.sum()
    outside += sum(a.sum() for k, a in enumerate(ours) if k not in used)
    assert aggregated_jaccard(ours, true) == pytest.approx(inside / outside)
    everything = instance_scores(ours, true)
    assert everything.precision == pytest.approx(len(pairs) / n)
    assert everything.recall == pytest.approx(len(pairs) / m)
    assert everything.sorted_ap == sorted_ap(ours, true)


def test_an_untouched_true_instance_does_not_hide_the_first_wrong_prediction() -> None:
    true = np.array([[1, 1, 0, 0, 2, 2]])
    ours = np.array([[0, 0, 5, 5, 6, 6]])  # prediction 5 is wrong, instance 1 is missed
    assert aggregated_jaccard(ours, true) == pytest.approx(2 / (2 + 2 + 2))


@pytest.mark.parametrize("seed", SEEDS)
def test_panoptic_quality_equals_torchmetrics_class_by_class(seed: int, make_discs, flatten) -> None:
    reference = PanopticQuality(things={1, 2, 3}, stuffs={9}, return_per_class=True, return_sq_and_rq=True)
    matcher = InstanceMatcher()
    rng = np.random.default_rng(seed)
    for part in range(2):
        sides = [flatten(stack) for stack in make_discs(10 * seed + part, n=8, side=60)]
        chosen = [rng.integers(1, 4, labels.max() + 1) for labels in sides]
        maps = [
            torch.tensor(np.stack([np.where(m > 0, c[m], 9), m], axis=-1)) for m, c in zip(sides, chosen, strict=True)
        ]
        reference.update(maps[0][None], maps[1][None])
        classes = [c[np.unique(m)[1:]] for c, m in zip(chosen, sides, strict=True)]
        matcher.update(*sides, classes=classes[0], target_classes=classes[1])
    want = reference.compute()[:3].numpy()
    score = matcher.panoptic_quality()
    assert score.classes == (1, 2, 3)
    assert np.allclose(np.stack([score.pq_per_class, score.sq_per_class, score.rq_per_class], axis=1), want)
    assert score.pq == pytest.approx(want[:, 0].mean())


def test_ignored_pixels_follow_torchmetrics_void(make_discs, flatten) -> None:
    pairs = []
    for seed in range(8):
        ours, true = (flatten(stack) for stack in make_discs(seed, n=7))
        void = np.zeros_like(true, dtype=bool)
        void[:, :12] = True
        reference = PanopticQuality(things={1}, stuffs={9}, return_per_class=True)
        # Void is what the target gives a category that nobody knows.
        category = np.where(void, 77, np.where(true > 0, 1, 9))
        target = np.stack([category, np.where(void, 0, true)], axis=-1)
        prediction = np.stack([np.where(ours > 0, 1, 9), ours], axis=-1)
        reference.update(torch.tensor(prediction)[None], torch.tensor(target)[None])
        want = float(reference.compute().flatten()[0])
        pairs.append((panoptic_quality(ours, true, ignore=void).pq, want))
    assert [a for a, _ in pairs] == pytest.approx([b for _, b in pairs])
    assert len({round(a, 6) for a, _ in pairs}) > 3


def brute_coco(images: list[tuple], thresholds: np.ndarray) -> np.ndarray:
    """(C, T) average precision, one detection after another."""
    labels = sorted({int(c) for _, _, _, _, classes in images for c in classes})
    table = np.zeros((len(labels), len(thresholds)))
    for row, label in enumerate(labels):
        for column, threshold in enumerate(thresholds):
            marks: list[tuple[float, bool]] = []
            total = 0
            for ours, own, scores, true, classes in images:
                free = [b for b, c in zip(true, classes, strict=True) if c == label]
                total += len(free)
                mine = sorted(((s, k) for k, s in enumerate(scores) if own[k] == label), reverse=True)
                for s, k in mine:
                    ious = [(ours[k] & b).sum() / (ours[k] | b).sum() for b in free]
                    hit = bool(ious) and max(ious) >= threshold
                    if hit:
                        free.pop(int(np.argmax(ious)))
                    marks.append((s, hit))
            marks.sort(key=lambda m: -m[0])
            points = [(sum(h for _, h in marks[: i + 1]) / total, sum(h for _, h in marks[: i + 1]) / (i + 1))
                      for i in range(len(marks))]  # fmt: skip
            reads = [max([p for r, p in points if r >= level], default=0) for level in np.linspace(0, 1, 101)]
            table[row, column] = np.mean(reads)
    return table


def test_coco_average_precision_equals_loops_over_detections(make_discs) -> None:
    rng = np.random.default_rng(0)
    images, matcher = [], InstanceMatcher()
    for seed in range(4):
        ours, true = make_discs(seed, n=8)
        own, classes = rng.integers(0, 2, len(ours)), rng.integers(0, 2, len(true))
        scores = rng.permutation(len(ours)) / 10 + 0.01 * seed
        images.append((ours, own, scores, true, classes))
        matcher.update(ours, true, classes=own, target_classes=classes, scores=scores)
    found = matcher.coco_average_precision()
    want = brute_coco(images, np.array([0.5 + 0.05 * k for k in range(10)]))
    assert found.classes == (0, 1)
    assert np.allclose(found.per_class, want)
    assert found.map == pytest.approx(want.mean())
    assert (found.map_50, found.map_75) == pytest.approx((want[:, 0].mean(), want[:, 5].mean()))
    assert 0 < found.map < found.map_50 < 1
    # Only the best detection of each class in each picture is left.
    few = matcher.coco_average_precision(max_detections=1)
    assert few.mar < found.mar
    assert math.isnan(coco_average_precision(matcher.images, thresholds=[0.6]).map_50)


def test_scores_are_a_perfect_order_only_if_they_are(make_discs) -> None:
    _, true = make_discs(0)
    spurious = np.zeros_like(true[:2])
    spurious[0, 0, 0] = spurious[1, 39, 39] = True
    ours = np.concatenate([true, spurious])
    n = len(true)
    good = np.concatenate([np.full(n, 0.9), [0.1, 0.2]])
    matcher, worse = InstanceMatcher(), InstanceMatcher()
    matcher.update(ours, true, scores=good)
    worse.update(ours, true, scores=1 - good)
    assert matcher.coco_average_precision().map == 1
    assert worse.coco_average_precision().map == pytest.approx(n / (n + 2))


def test_perfect_and_empty_predictions(make_discs, flatten) -> None:
    true = flatten(make_discs(1)[1])
    nothing = np.zeros_like(true)
    assert set(vars(instance_scores(true, true)).values()) == {1}
    assert set(vars(instance_scores(nothing, nothing)).values()) == {1}
    missed = vars(instance_scores(nothing, true))
    assert missed.pop("precision") == 1  # nothing was claimed
    assert set(missed.values()) == {0}
    invented = vars(instance_scores(true, nothing))
    assert invented.pop("recall") == 1
    assert set(invented.values()) == {0}
    no_masks = np.zeros((0, *true.shape), dtype=bool)
    assert instance_scores(no_masks, true) == instance_scores(nothing, true)


def test_pooled_and_averaged_are_different_numbers_and_merge_is_one_pass(make_discs) -> None:
    pictures = [make_discs(0, n=3), make_discs(1, n=9), make_discs(2, n=5)]
    both, first, second = InstanceMatcher(), InstanceMatcher(), InstanceMatcher()
    for number, picture in enumerate(pictures):
        both.update(*picture)
        (first if number < 2 else second).update(*picture)
    first.merge(second)
    assert first.compute() == both.compute()
    averaged = both.compute(image_average=True)
    singles = [instance_scores(*picture) for picture in pictures]
    for name, value in vars(averaged).items():
        assert value == pytest.approx(np.mean([getattr(s, name) for s in singles]))
    assert averaged.pq != both.compute().pq
    first.reset()
    with pytest.raises(UsageError, match="update was not called"):
        first.compute()


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), shuffle=st.randoms(use_true_random=False), data=st.data())
def test_order_labels_and_pictures_do_not_matter(seed: int, shuffle, data, make_discs) -> None:
    ours, true = make_discs(seed % 1000, n=4)
    order, other = list(range(len(ours))), list(range(len(true)))
    shuffle.shuffle(order)
    shuffle.shuffle(other)
    a, b = instance_scores(ours, true), instance_scores(ours[order], true[other])
    for name, value in vars(a).items():
        if name != "aji":  # its choice among equal intersections is the first
            assert getattr(b, name) == pytest.approx(value), name
    assert all(0 <= value <= 1 for value in vars(a).values())
    # Label maps: any distinct positive numbers, also huge ones.
    labels = np.zeros(ours.shape[1:], dtype=np.int64)
    for number, mask in enumerate(ours, 1):
        labels[mask] = number
    names = data.draw(st.lists(st.integers(1, 10**9), min_size=len(ours), max_size=len(ours), unique=True))
    renamed = np.array([0, *names])[labels]
    assert instance_scores(renamed, true).pq == pytest.approx(instance_scores(labels, true).pq)
    assert set(overlaps(renamed, true).predicted_ids) == set(np.unique(renamed)) - {0}


def test_many_small_labels_are_counted_without_a_full_table() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.permutation(10_000).reshape(100, 100), rng.permutation(10_000).reshape(100, 100)
    found = overlaps(a, b)
    assert len(found.predicted) == len(found.true) == 9999
    assert (found.areas == 1).all()
    assert len(match(found).iou) == len(found.areas)


def test_volumes_and_uint8(make_discs) -> None:
    ours, true = make_discs(3)
    volume = np.stack([ours, ours], axis=1), np.stack([true, true], axis=1)
    assert sorted_ap(*volume) == pytest.approx(sorted_ap(ours, true))
    labels = torch.tensor([[200, 200, 0], [100, 0, 0]], dtype=torch.uint8)
    assert overlaps(labels, labels).predicted_ids.tolist() == [100, 200]


def test_bad_input_is_named() -> None:
    labels = np.zeros((4, 4), dtype=np.int64)
    with pytest.raises(UsageError, match=r"prediction is over \(4, 4\) and target over \(4, 5\)"):
        overlaps(labels, np.zeros((4, 5), dtype=np.int64))
    with pytest.raises(UsageError, match="float64; give an integer label map or a boolean stack"):
        overlaps(labels.astype(float), labels)
    with pytest.raises(UsageError, match="label -1"):
        overlaps(labels - 1, labels)
    with pytest.raises(UsageError, match=r"shape \(4,\); it is \(N, \*S\)"):
        overlaps(np.ones(4, dtype=bool), labels)
    with pytest.raises(UsageError, match="ignore is over"):
        overlaps(labels, labels, ignore=np.ones(4, dtype=bool))
    with pytest.raises(UsageError, match="both classes and target_classes"):
        overlaps(labels, labels, classes=[])
    with pytest.raises(UsageError, match=r"scores has shape \(2,\) for 1 instances"):
        overlaps(labels + 1, labels, scores=[1.0, 2.0])
    with pytest.raises(UsageError, match="class -1"):
        overlaps(labels + 1, labels + 1, classes=[-1], target_classes=[0])
