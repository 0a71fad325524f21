"""Intersection over union against loops over pixels and scikit-learn."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import jaccard_score
from torchmetrics import JaccardIndex

from binderclip.errors import UsageError
from binderclip.segment import IoU, mask_iou


def maps(seed: int, classes: int = 5, shape: tuple[int, ...] = (3, 9, 11)) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    prediction = torch.randint(-1, classes - 1, shape, generator=generator)  # class 4 is never predicted
    target = torch.randint(-1, classes - 1, shape, generator=generator)
    return prediction, target


def test_counts_equal_loops_over_sets_of_pixels() -> None:
    accumulator = IoU(5)
    cells: list[tuple[int, int]] = []
    for seed in range(3):
        prediction, target = maps(seed)
        accumulator.update(prediction, target)
        cells += zip(prediction.flatten().tolist(), target.flatten().tolist(), strict=True)
    cells = [(p, t) for p, t in cells if t != -1]
    per_class = []
    for c in range(5):
        both = sum(p == c and t == c for p, t in cells)
        either = sum(p == c or t == c for p, t in cells)
        per_class.append(both / either if either else math.nan)
    score = accumulator.compute()
    assert score.per_class.tolist() == pytest.approx(per_class, nan_ok=True)
    assert math.isnan(per_class[4])
    assert score.miou == pytest.approx(sum(per_class[:4]) / 4)
    assert score.accuracy == pytest.approx(sum(p == t for p, t in cells) / len(cells))
    recall = [sum(p == t == c for p, t in cells) / sum(t == c for _, t in cells) for c in range(4)]
    assert score.class_accuracy == pytest.approx(sum(recall) / 4)
    assert score.pixels == len(cells)


def test_equals_scikit_learn_and_merging_equals_one_accumulator() -> None:
    prediction, target = maps(7)
    keep = target >= 0
    first, second, both = IoU(5), IoU(5), IoU(5)
    first.update(prediction[:1], target[:1])
    second.update(prediction[1:], target[1:])
    both.update(prediction, target)
    first.merge(second)
    assert torch.equal(first.confusion, both.confusion)
    want = jaccard_score(target[keep], prediction[keep], average=None, labels=range(4))
    assert both.compute().per_class[:4].tolist() == pytest.approx(want.tolist())


def test_a_class_is_judged_on_all_its_pixels_not_by_the_mean_of_images() -> None:
    accumulator = IoU(2)
    accumulator.update(torch.tensor([[0, 0, 0, 0]]), torch.tensor([[0, 0, 0, 1]]))
    accumulator.update(torch.tensor([[1, 1, 1, 1]]), torch.tensor([[1, 1, 1, 1]]))
    assert accumulator.compute().per_class.tolist() == pytest.approx([3 / 4, 4 / 5])


def test_mask_iou_and_two_empty_masks() -> None:
    a = torch.tensor([[[1, 1], [0, 0]], [[0, 0], [0, 0]]])
    b = torch.tensor([[[1, 0], [1, 0]], [[0, 0], [0, 0]]])
    assert mask_iou(a, b).tolist() == pytest.approx([1 / 3, 1.0])


def test_bad_input_is_named() -> None:
    accumulator = IoU(3)
    with pytest.raises(UsageError, match="differ in shape"):
        accumulator.update(torch.zeros(2, 2), torch.zeros(2, 3))
    with pytest.raises(UsageError, match="target has labels from 3 to 3; classes are 0 to 2"):
        accumulator.update(torch.zeros(1), torch.full((1,), 3))
    with pytest.raises(UsageError, match="prediction has labels"):
        accumulator.update(torch.full((1,), -2), torch.zeros(1))
    with pytest.raises(UsageError, match="no pixel to score"):
        accumulator.compute()
    with pytest.raises(UsageError, match="at least 1"):
        IoU(0)


def test_a_mask_restricts_the_pixels_and_masks_that_part_them_add_up() -> None:
    prediction, target = maps(3)
    where = torch.rand(prediction.shape, generator=torch.Generator().manual_seed(0)) < 0.3
    inside, by_hand, rest, both = IoU(5), IoU(5), IoU(5), IoU(5)
    inside.update(prediction, target, where=where)
    by_hand.update(prediction[where], target[where])
    assert torch.equal(inside.confusion, by_hand.confusion)
    rest.update(prediction, target, where=~where)
    both.update(prediction, target)
    rest.merge(inside)
    assert torch.equal(rest.confusion, both.confusion)
    with pytest.raises(UsageError, match=r"prediction \(3, 9, 11\) and where \(3,\) differ"):
        both.update(prediction, target, where=torch.ones(3, dtype=torch.bool))


def test_equals_torchmetrics_over_several_updates() -> None:
    ours, theirs = IoU(4), JaccardIndex(task="multiclass", num_classes=4, ignore_index=-1, average=None)
    for seed in (4, 5):
        prediction, target = maps(seed)
        ours.update(prediction.clamp(min=0), target)
        theirs.update(prediction.clamp(min=0), target)
    assert ours.compute().per_class.tolist() == pytest.approx(theirs.compute().tolist())


def test_255_is_a_class_where_there_are_so_many() -> None:
    target = torch.tensor([255, 0, 254, -1])
    few, many = IoU(255), IoU(300)
    for accumulator in (few, many):
        accumulator.update(target.clamp(max=254), target)
    assert (few.compute().pixels, many.compute().pixels) == (2, 3)
    assert few.compute().accuracy == 1
    assert many.compute().accuracy == pytest.approx(2 / 3)
