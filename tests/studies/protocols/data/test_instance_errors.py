"""Made errors of instance segmentations: each step is what it says it is."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import kendalltau

from binderclip.studies.papers.p031_sorted_ap import kendall
from binderclip.studies.protocols.data.instance_errors import (
    LADDERS,
    Scene,
    error_chain,
    invented,
    ladder,
    peeled_all,
    scene_of,
    shifted,
)


@pytest.fixture(scope="module")
def scene() -> Scene:
    """Three rectangles and an empty mask, which is left out."""
    masks = np.zeros((4, 60, 60), dtype=bool)
    masks[0, 2:30, 2:30] = masks[1, 35:55, 5:45] = masks[2, 5:25, 34:58] = True
    return scene_of(masks, np.random.default_rng(0))


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def test_peeling_takes_the_rim_first_and_hits_the_iou(scene: Scene) -> None:
    assert len(scene.masks) == 3
    for keep in (0.05, 0.5, 0.9):
        mask = scene.peeled(0, keep)
        assert iou(mask, scene.masks[0]) == pytest.approx(keep, abs=0.001)
        assert not (mask & ~scene.masks[0]).any()
    # 20 x 40 without its rim of one pixel is 18 x 38.
    core = scene.peeled(1, 18 * 38 / 800)
    assert core[36:54, 6:44].all()
    assert core.sum() == 18 * 38
    low, high = 0.3, 0.4
    for mask, true in zip(peeled_all(scene, (low, high), np.random.default_rng(1)), scene.masks, strict=True):
        assert low - 0.01 < iou(mask, true) < high + 0.01


@pytest.mark.parametrize("kind", LADDERS)
def test_ladders_start_perfect_and_change_one_object(kind, scene: Scene) -> None:
    steps = ladder(kind, scene, np.random.default_rng(3))
    assert len(steps) == 100 if kind == LADDERS[0] else 10 <= len(steps) <= 11
    assert all(np.array_equal(a, b) for a, b in zip(steps[0], scene.masks, strict=True))
    for before, after in pairwise(steps):
        changed = [not np.array_equal(a, b) for a, b in zip(before, after, strict=True)]
        assert sum(changed) == 1
        k = changed.index(True)
        assert iou(after[k], scene.masks[k]) < iou(before[k], scene.masks[k])
        if kind != LADDERS[2]:
            assert not (after[k] & ~before[k]).any()


def test_a_shift_loses_what_leaves_the_picture() -> None:
    mask = np.zeros((4, 5), dtype=bool)
    mask[0, 1:3] = mask[3, 4] = True
    assert np.argwhere(shifted(mask, 1, -1)).tolist() == [[1, 0], [1, 1]]
    assert np.array_equal(shifted(mask, 0, 0), mask)


def test_chains_add_one_error_at_a_time(scene: Scene) -> None:
    chain = error_chain(scene, 12, np.random.default_rng(0))
    assert len(chain) == 13
    sizes = [len(masks) for masks in chain]
    assert [sizes[k + 1] - sizes[k] for k in range(12)] == [0, 0, 0, 0, -1, 0, 0, 0, 0, 1, 0, 0]
    disc = chain[10][-1]
    assert disc.any()
    assert not (disc & np.any([*chain[9], *scene.masks], axis=0)).any()
    assert 50 < invented(scene.masks, scene, np.random.default_rng(2)).sum() < np.pi * 49 + 30


def test_tau_is_scipys_without_ties_and_lower_with_them() -> None:
    values = np.random.default_rng(0).permutation(9) / 9
    assert kendall(values) == pytest.approx(-kendalltau(range(9), values).statistic)
    assert kendall(np.array([3.0, 2.0, 1.0])) == 1
    assert kendall(np.array([3.0, 2.0, 2.0])) == pytest.approx(2 / 3)
    assert kendall(np.ones(4)) == 0
