"""Boundary bands and edges against scikit-image, SciPy, and loops over all pairs of pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation, laplace
from skimage.morphology import disk
from skimage.segmentation import find_boundaries

from binderclip.errors import UsageError
from binderclip.segment.metrics import (
    BoundaryErrors,
    BoundaryF,
    boundary_band,
    boundary_errors,
    boundary_f,
    boundary_tolerance,
    label_edges,
)


def blobs(seed: int, classes: int = 4, n: int = 2, side: int = 40) -> torch.Tensor:
    """Label maps of a few large regions."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(n, classes, 5, 5, generator=generator)
    return torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").argmax(dim=1)


def test_edges_are_scikit_images_and_cover_the_laplacians() -> None:
    labels = blobs(0)
    for one in labels.numpy():
        ours = label_edges(torch.tensor(one)).numpy()
        assert (ours == find_boundaries(one, connectivity=1, mode="thick")).all()
        assert (ours | (laplace(one, mode="mirror") == 0)).all()
        band = boundary_band(torch.tensor(one), width=7).numpy()
        assert (band == binary_dilation(ours, np.ones((7, 7)))).all()
        # With two labels the Laplacian's edges are exactly these.
        two = one > 1
        assert (label_edges(torch.tensor(two)).numpy() == (laplace(two.astype(int), mode="mirror") != 0)).all()


def test_edges_do_not_depend_on_the_numbers_of_the_classes() -> None:
    labels = torch.tensor([[0, 1, 2]]).expand(3, 3)
    assert laplace(labels.numpy(), mode="mirror")[1, 1] == 0
    assert bool(label_edges(labels).all())


def test_boundary_errors_equal_loops_over_pixels() -> None:
    predictions, targets = [blobs(1), blobs(2)], [blobs(3), blobs(4)]
    targets[0][0, :6] = 255
    accumulator = BoundaryErrors(4, width=5)
    cells: dict[str, list[tuple[int, int]]] = {name: [] for name in ("prediction", "target", "both", "either")}
    for prediction, target in zip(predictions, targets, strict=True):
        accumulator.update(prediction, target)
        for p, t in zip(prediction.numpy(), target.numpy(), strict=True):
            near_p, near_t = (
                binary_dilation(find_boundaries(m, connectivity=1, mode="thick"), np.ones((5, 5))) for m in (p, t)
            )
            for y, x in np.argwhere(t != 255):
                one, other = near_p[y, x], near_t[y, x]
                inside = {"prediction": one, "target": other, "both": one and other, "either": one or other}
                for name, there in inside.items():
                    if there:
                        cells[name].append((p[y, x], t[y, x]))

    def accuracy(name: str) -> float:
        rates = []
        for c in range(4):
            of_class = [p == t for p, t in cells[name] if t == c]
            if of_class:
                rates.append(sum(of_class) / len(of_class))
        return sum(rates) / len(rates)

    ious = []
    for c in range(4):
        either = sum(p == c or t == c for p, t in cells["either"])
        if either:
            ious.append(sum(p == c == t for p, t in cells["either"]) / either)
    score = accumulator.compute()
    assert score.ferr == pytest.approx(1 - accuracy("prediction"))
    assert score.merr == pytest.approx(1 - accuracy("target"))
    assert score.derr == pytest.approx(1 - accuracy("both"))
    assert score.bacc == pytest.approx(accuracy("either"))
    assert score.biou == pytest.approx(sum(ious) / len(ious))
    assert len({round(v, 6) for v in (score.ferr, score.merr, score.derr, 1 - score.bacc)}) == 4


def test_any_value_can_be_the_one_that_is_left_out() -> None:
    prediction, target = blobs(1), blobs(3)
    target[:, :9, 5:30] = 255
    own = torch.where(target == 255, 9, target)
    found = boundary_errors(prediction, own, classes=4, width=5, ignore=9)
    expected = boundary_errors(prediction, target, classes=4, width=5)
    for name in ("ferr", "merr", "derr", "biou", "bacc"):
        assert getattr(found, name) == getattr(expected, name)
    scores = []
    for value, labels in ((9, own), (-1, target)):
        metric = BoundaryF(4, ignore=value)
        metric.update(prediction, labels)
        scores.append(metric.compute())
    assert str(scores[0]) == str(scores[1])


def test_each_boundary_error_sees_its_own_mistake() -> None:
    target = torch.zeros(60, 60, dtype=torch.long)
    target[10:30, 10:30] = 1
    perfect = boundary_errors(target, target, classes=2, width=5)
    assert (perfect.ferr, perfect.merr, perfect.derr, perfect.biou, perfect.bacc) == (0, 0, 0, 1, 1)
    # An invented object far away: the target's band is right everywhere.
    invented = target.clone()
    invented[45:55, 45:55] = 1
    score = boundary_errors(invented, target, classes=2, width=5)
    assert score.ferr > 0
    assert score.merr == score.derr == 0
    # The object merged into the ground: the prediction has no boundary.
    merged = boundary_errors(torch.zeros_like(target), target, classes=2, width=5)
    assert merged.merr == pytest.approx(0.5)
    assert math.isnan(merged.ferr)
    assert math.isnan(merged.derr)
    # Moved by a pixel: all of it is displacement.
    moved = boundary_errors(target.roll(1, dims=1), target, classes=2, width=5)
    assert moved.derr > moved.ferr > 0


def test_boundary_f_equals_distances_of_all_pairs_of_edge_pixels() -> None:
    prediction, target = blobs(5), blobs(6)
    accumulator = BoundaryF(5, tolerance=2)
    accumulator.update(prediction, target)
    score = accumulator.compute()
    for c in range(4):
        hits = totals = found = there = 0
        for p, t in zip(prediction.numpy(), target.numpy(), strict=True):
            a, b = (np.argwhere(find_boundaries(m == c, connectivity=1, mode="inner")) for m in (p, t))
            totals, there = totals + len(a), there + len(b)
            if len(a) and len(b):
                distance = np.linalg.norm(a[:, None] - b[None], axis=-1)
                hits += int((distance.min(axis=1) <= 2).sum())
                found += int((distance.min(axis=0) <= 2).sum())
        assert float(score.precision[c]) == pytest.approx(hits / totals)
        assert float(score.recall[c]) == pytest.approx(found / there)
        assert float(score.per_class[c]) == pytest.approx(2 * hits * found / (hits * there + found * totals))
    assert math.isnan(float(score.per_class[4]))
    assert score.mean == pytest.approx(float(score.per_class[:4].mean()))


@pytest.mark.parametrize("limit", [0, 1, 5, 13, 200])
def test_a_distance_of_just_the_tolerance_is_near_and_the_next_larger_one_is_not(limit: int) -> None:
    side = 2 * limit + 8
    # The smallest whole squared distance beyond the tolerance that two pixels can have.
    beyond = next(
        (y, x)
        for square in range(limit**2 + 1, limit**2 + 2 * limit + 3)
        for y in range(limit + 2)
        for x in range(y + 1)
        if y * y + x * x == square
    )
    one, other = torch.zeros(2, side, side, dtype=torch.bool)
    one[2, 2] = True
    other[2 + limit, 2] = True
    assert float(boundary_f(one, other, tolerance=limit)) == 1
    other[:] = False
    other[2 + beyond[0], 2 + beyond[1]] = True
    assert float(boundary_f(one, other, tolerance=limit)) == 0


def davis(mask: np.ndarray, truth: np.ndarray) -> float:
    """F of DAVIS by its definition: contours offset towards the origin, dilated by a disk, precision and recall."""
    radius = math.ceil(0.008 * math.sqrt(mask.shape[0] ** 2 + mask.shape[1] ** 2))
    contours = []
    for each in (mask, truth):
        height, width = each.shape
        contour = np.zeros_like(each)
        for y in range(height):
            for x in range(width):
                others = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
                contour[y, x] = any(each[b, a] != each[y, x] for b, a in others if b < height and a < width)
        contours.append(contour)
    near = [binary_dilation(contour, disk(radius)) for contour in contours]
    counts = [int(contour.sum()) for contour in contours]
    if not counts[0] or not counts[1]:
        return float(counts[0] == counts[1])
    precision = (contours[0] & near[1]).sum() / counts[0]
    recall = (contours[1] & near[0]).sum() / counts[1]
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@pytest.mark.parametrize("size", [(40, 40), (70, 131), (150, 90)])
def test_the_f_of_davis_equals_its_definition(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(size[0])
    coarse = torch.randn(8, 1, 6, 6, generator=generator)
    masks = torch.nn.functional.interpolate(coarse, size, mode="bicubic")[:, 0] > 0
    targets = torch.stack([mask.roll((k, 2 - k), (0, 1)) for k, mask in enumerate(masks)])
    targets[7] = False
    found = boundary_f(masks, targets, edges="davis")
    want = [davis(p.numpy(), t.numpy()) for p, t in zip(masks, targets, strict=True)]
    assert found.tolist() == pytest.approx(want)
    assert len({round(v, 6) for v in want}) > 5
    # Other edges, another rounding: another number.
    assert not torch.allclose(found, boundary_f(masks, targets, tolerance=0.008))
    empty, full = torch.zeros(2, *size, dtype=torch.bool), torch.ones(2, *size, dtype=torch.bool)
    assert boundary_f(empty, full, edges="davis").tolist() == [1, 1]


@pytest.mark.parametrize("two", [np.int64(2), np.uint8(2), 2.0, np.float32(2), torch.tensor(2), np.array(2)])
def test_two_pixels_are_two_pixels_of_any_type(two) -> None:
    mask = torch.zeros(1, 60, 60, dtype=torch.bool)
    mask[:, 20:40, 20:40] = True
    moved = torch.cat([mask.roll(d, dims=2) for d in (1, 2, 3, 4)])
    want = boundary_f(moved, mask.expand(4, -1, -1), tolerance=2)
    assert want.tolist()[:2] == [1, 1]
    assert float(want[2]) < 1
    assert boundary_f(moved, mask.expand(4, -1, -1), tolerance=two).tolist() == want.tolist()
    accumulators = [BoundaryF(2, tolerance=t) for t in (2, two)]
    for accumulator in accumulators:
        accumulator.update(moved.long(), mask.expand(4, -1, -1).long())
    accumulators[0].merge(accumulators[1])
    assert repr(accumulators[0].compute()) == repr(accumulators[1].compute())


def test_boundary_f_of_a_moved_square_and_of_nothing() -> None:
    mask = torch.zeros(100, 100, dtype=torch.bool)
    mask[20:60, 20:60] = True
    assert boundary_tolerance(100, 100) == round(0.02 * math.hypot(100, 100)) == 3
    moved = torch.stack([mask.roll(d, dims=1) for d in (0, 3, 4)])
    found = boundary_f(moved, mask.expand(3, -1, -1))
    assert found[:2].tolist() == [1, 1]
    # Moved by 4: two of four sides are beyond 3 px, but for the pixels near the horizontal sides.
    assert 0.5 < float(found[2]) < 0.65
    empty, full = torch.zeros_like(mask), torch.ones_like(mask)
    scores = boundary_f(torch.stack([empty, full, empty, mask]), torch.stack([empty, empty, mask, empty]))
    assert scores.tolist() == [1, 0, 0, 0]


def test_a_class_that_only_one_side_has_scores_zero_and_ignored_edges_do_not_count() -> None:
    target = torch.zeros(30, 30, dtype=torch.long)
    target[5:15, 5:15] = 1
    accumulator = BoundaryF(3, tolerance=1)
    accumulator.update(torch.where(target == 1, 2, 0), target)
    score = accumulator.compute()
    assert score.per_class.tolist() == [1, 0, 0]
    assert score.mean == 0.5
    hidden = target.clone()
    hidden[3:17, 3:17] = 255
    accumulator = BoundaryF(3, tolerance=1)
    accumulator.update(target, hidden)
    with pytest.raises(UsageError, match="the targets had no edge"):
        accumulator.compute()


@pytest.mark.parametrize("make", [lambda: BoundaryErrors(4, width=5), lambda: BoundaryF(4, tolerance=2)])
def test_merging_equals_one_pass(make) -> None:
    first, second, both = make(), make(), make()
    first.update(blobs(7), blobs(8))
    second.update(blobs(9), blobs(10))
    for seeds in ((7, 8), (9, 10)):
        both.update(*(blobs(s) for s in seeds))
    first.merge(second)
    assert repr(first.compute()) == repr(both.compute())
    first.reset()
    with pytest.raises(UsageError, match="no boundary to score"):
        first.compute()


def test_bad_input_is_named() -> None:
    with pytest.raises(UsageError, match="width must be odd and at least 1, not 4"):
        BoundaryErrors(2, width=4)
    with pytest.raises(UsageError, match="width must be odd"):
        boundary_band(torch.zeros(3, 3), width=0)
    with pytest.raises(UsageError, match="of one shape"):
        BoundaryErrors(2).update(torch.zeros(2, 2), torch.zeros(2, 3))
    with pytest.raises(UsageError, match="width=5 and 7"):
        BoundaryErrors(2, width=5).merge(BoundaryErrors(2, width=7))
    for wrong in (-1, -0.1, 2.5, float("nan"), float("inf"), "2", None):
        with pytest.raises(UsageError, match="tolerance must be whole pixels"):
            BoundaryF(2, tolerance=wrong)  # type: ignore[arg-type]
        if wrong is not None:
            with pytest.raises(UsageError, match="tolerance must be whole pixels"):
                boundary_f(torch.zeros(2, 2), torch.zeros(2, 2), tolerance=wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="edges must be inner or davis, not 'outer'"):
        boundary_f(torch.zeros(2, 2), torch.zeros(2, 2), edges="outer")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="cannot merge BoundaryF of tolerance=3 and 2"):
        BoundaryF(2, tolerance=3).merge(BoundaryF(2, tolerance=2))
    with pytest.raises(UsageError, match="differ in shape"):
        boundary_f(torch.zeros(2, 2), torch.zeros(3, 2))
