"""Splits leak nothing: look-alikes stay together, parts are disjoint, a fold never loses a class."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from binderclip.adapt.selection import near_duplicates, split_parts
from binderclip.adapt.selection.splits import draw_up_to, folds_of
from binderclip.data import load_data
from binderclip.errors import UsageError

labels = st.lists(st.integers(0, 4), min_size=2, max_size=60).map(lambda v: np.unique(v, return_inverse=True)[1])


@given(labels, st.integers(1, 8), st.integers(0, 3))
@settings(max_examples=60)
def test_parts_are_disjoint_whole_and_never_share_a_look_alike(y: np.ndarray, shots: int, seed: int) -> None:
    groups = np.random.default_rng(seed).integers(0, max(1, len(y) * 2 // 3), len(y))
    parts = split_parts(y, groups, shots=shots, seed=seed)
    assert sorted([*parts.pool, *parts.test]) == list(range(len(y)))
    assert not set(groups[parts.pool]) & set(groups[parts.test])
    assert set(y[parts.pool]) == set(y)
    assert set(parts.untested) == set(y[parts.pool]) - set(y[parts.test])


@given(labels, st.integers(2, 5), st.integers(0, 3))
@settings(max_examples=60)
def test_every_class_is_left_to_train_on_in_every_fold(y: np.ndarray, folds: int, seed: int) -> None:
    groups = np.arange(len(y))
    fold = folds_of(y, groups, folds, seed)
    for f in range(folds):
        assert set(y[fold != f]) == set(y)
    alone = [c for c in np.unique(y) if (y == c).sum() == 1]
    assert set(np.flatnonzero(fold < 0)) == set(np.flatnonzero(np.isin(y, alone)))


def test_how_much_alike_is_asked_for() -> None:
    rng = np.random.default_rng(0)
    one = rng.integers(40, 200, (16, 16))
    other = np.clip(one + rng.normal(0, 20, one.shape), 0, 255)
    pictures = np.stack([one, other, rng.integers(40, 200, (16, 16))]).astype(np.uint8)
    found = np.corrcoef(pictures.reshape(3, -1))[0, 1]
    assert 0.85 < found < 0.97
    below, above = near_duplicates(pictures, similar=found - 0.01), near_duplicates(pictures, similar=found + 0.01)
    assert below[0] == below[1] != below[2]
    assert len(set(above.tolist())) == 3


def test_a_given_test_split_is_kept_and_its_look_alikes_leave_the_pool() -> None:
    y = np.array([0, 0, 0, 1, 1, 1])
    groups = np.array([0, 1, 2, 3, 3, 5])
    parts = split_parts(y, groups, shots=1, given=["train", "train", "test", "train", "test", "train"])
    assert parts.test.tolist() == [2, 4]
    assert parts.pool.tolist() == [0, 1, 5]
    assert parts.dropped == 1


def test_a_test_part_leaves_the_shots_and_takes_no_more_than_half() -> None:
    y = np.repeat([0, 1, 2, 3], [100, 20, 10, 1])
    parts = split_parts(y, np.arange(len(y)), shots=16)
    counts = np.bincount(y[parts.test], minlength=4)
    assert counts.tolist() == [50, 4, 2, 0]
    assert parts.untested == [3]


def test_the_same_picture_under_two_names_is_told_and_never_tested() -> None:
    y = np.repeat([0, 1], 6)
    groups = np.array([0, 1, 2, 3, 4, 5, 0, 7, 8, 9, 10, 11])
    parts = split_parts(y, groups, shots=2)
    assert parts.conflicts == [(0, 6)]
    assert {0, 6} <= set(parts.pool.tolist())


def test_shots_are_nested_and_a_small_class_gives_all_it_has() -> None:
    y = np.repeat([0, 1], [30, 3])
    four, eight = draw_up_to(y, 4, 0), draw_up_to(y, 8, 0)
    assert set(four) <= set(eight)
    assert np.bincount(y[eight]).tolist() == [8, 3]
    with pytest.raises(UsageError, match="shots must be at least 1, got 0"):
        draw_up_to(y, 0, 0)


def thumbnail(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L").resize((16, 16), Image.Resampling.BOX))


def test_re_encoded_resized_and_brightened_pictures_are_look_alikes_and_others_are_not() -> None:
    pictures = [sample.image.convert("RGB") for sample in load_data("photographs")]
    versions = [*pictures]
    for picture in pictures[:4]:
        smaller = picture.resize((picture.width // 2, picture.height // 2))
        versions.append(Image.eval(smaller, lambda v: min(255, int(v * 0.9 + 8))))
    groups = near_duplicates(np.stack([thumbnail(v) for v in versions]))
    assert len(np.unique(groups)) == len(pictures)
    assert groups[len(pictures) :].tolist() == groups[:4].tolist()


def test_digits_are_not_taken_for_duplicates_of_each_other() -> None:
    digits = load_data("digits")
    thumbnails = np.stack([thumbnail(digits[i].image) for i in range(0, 600)])
    assert len(np.unique(near_duplicates(thumbnails))) == 600


def test_flat_pictures_match_only_their_own_level_and_chunks_change_nothing() -> None:
    rng = np.random.default_rng(0)
    thumbnails = rng.integers(0, 255, (9, 16, 16), dtype=np.uint8)
    thumbnails[3:5] = 200
    thumbnails[7] = 90
    whole = near_duplicates(thumbnails)
    assert len(np.unique(whole)) == 8
    assert whole[3] == whole[4]
    np.testing.assert_array_equal(near_duplicates(thumbnails, chunk=2), whole)
