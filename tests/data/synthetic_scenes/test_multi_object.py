"""Scenes of several objects for p109 (arXiv 2502.19842): where they stand and how large they are."""

from __future__ import annotations

import numpy as np
import pytest

from binderclip.data import multi_object_scenes, object_slots, vocabulary
from binderclip.errors import UsageError

NAMES = ("flag", "cat", "house", "flower", "car", "tree")


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_slots_are_cells_that_do_not_overlap_and_only_the_biased_one_is_large(count: int) -> None:
    for biased in range(count):
        boxes = np.array(object_slots(count, biased=biased, ratio=2.0))
        sides = boxes[:, 2:] - boxes[:, :2]
        assert sides[:, 0] == pytest.approx(sides[:, 1])
        large = sides[biased, 0]
        assert np.delete(sides[:, 0], biased) == pytest.approx(np.full(count - 1, large / 2))
        assert boxes.min() >= 0
        assert boxes.max() <= 1
        for one in range(count):
            for other in range(one):
                apart = np.maximum(boxes[one, :2], boxes[other, :2]) - np.minimum(boxes[one, 2:], boxes[other, 2:])
                assert apart.max() >= -1e-9
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        plain = np.array(object_slots(count))
        assert centres == pytest.approx((plain[:, :2] + plain[:, 2:]) / 2), "size moves nothing"


def test_the_large_object_covers_four_times_the_area_and_names_are_in_slot_order() -> None:
    words = vocabulary(list(NAMES), split="train")
    ratios = []
    for slot in range(4):
        made = multi_object_scenes(5, 12, 64, classes=words, count=4, biased=slot)
        boxes = object_slots(4, biased=slot)
        for scene in range(12):
            assert len(set(made.names[scene])) == 4
            held = made.boxes[scene][:4] / 64  # of the objects, in slot order
            for place, (x0, y0, x1, y1) in enumerate(held.tolist()):
                left, top, right, bottom = boxes[place]
                assert min(x0 - left, y0 - top, right - x1, bottom - y1) > -0.04
            longest = (held[:, 2:] - held[:, :2]).amax(1)
            ratios.append(float(longest[slot] / longest[[other for other in range(4) if other != slot]].mean()))
            ids = [made.classes.index(name) for name in made.names[scene]]
            assert set(np.unique(made.semantic[scene].numpy())) - {0} == set(ids)
    assert np.mean(ratios) == pytest.approx(2, abs=0.2)


def test_what_is_wrong_is_said() -> None:
    for wrong in ({"count": 6}, {"count": 4, "biased": 4}, {"count": 4, "ratio": 0.5}):
        with pytest.raises(UsageError, match="must be 2 to 5"):
            object_slots(**wrong)
    with pytest.raises(UsageError, match="give more"):
        multi_object_scenes(0, 1, 32, classes=["cat", "dog"], count=2)
