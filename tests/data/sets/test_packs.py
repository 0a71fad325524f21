"""The counts are those of the tables in packs/README.md, which was written with the packs, not with this reader."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from binderclip.data import PACKS, load_packs, pack_hash
from binderclip.errors import UsageError

COUNTS = {
    "openclipart": {"train": 4235, "val": 539, "test": 536},
    "noto-emoji": {"train": 1518, "val": 190, "test": 190},
    "icons": {"train": 8888, "val": 1110, "test": 1064},
    "openmoji": {"shift": 2184},
}


@pytest.mark.parametrize("name", PACKS)
def test_every_split_has_its_pictures_and_splits_share_none(name: str) -> None:
    parts = {split: load_packs(name, split) for split in COUNTS[name]}
    assert {split: len(part) for split, part in parts.items()} == COUNTS[name]
    keys = [key for part in parts.values() for key in part.keys]
    assert sorted(keys) == sorted(load_packs(name).keys)
    assert all(part.attributes["split"] == [split] * len(part) for split, part in parts.items())


def test_groups_never_cross_splits() -> None:
    for name, column in [("openclipart", "series"), ("noto-emoji", "series"), ("icons", "concept")]:
        whole = load_packs(name)
        where: dict[str, set[str]] = {}
        for value, split in zip(whole.attributes[column], whole.attributes["split"], strict=True):
            if value is not None:
                where.setdefault(value, set()).add(split)
        assert all(len(splits) == 1 for splits in where.values()), name


def test_labels_are_top_categories_and_unicode_groups() -> None:
    clipart = load_packs("openclipart", "train")
    # A key begins with the drawing's top category: another column than the one the labels are read from.
    told = [key.rsplit("-", 1)[0].replace("_", " ") for key in clipart.keys]
    assert [clipart.classes[label] for label in clipart.labels] == told
    assert len(load_packs("openclipart").classes) == 22
    emoji = load_packs("noto-emoji")
    assert emoji.classes[emoji.labels[0]] == emoji.attributes["group"][0]
    assert sum(emoji.classes[label] == "Flags" for label in emoji.labels) == 261
    icons = load_packs("icons", "test")
    assert {icons.labels[i] for i, style in enumerate(icons.attributes["style"]) if style == "game-icons"} == {-1}
    assert sum(style == "maki" for style in icons.attributes["style"]) == 18


def test_pictures_keep_their_transparency() -> None:
    sample = load_packs("openclipart", "val")[0]
    assert sample.image.mode == "RGB"
    assert sample.image.size == (64, 64)
    alpha = np.asarray(sample.alpha)
    assert np.asarray(sample.image)[alpha == 0].min() == 255
    black = load_packs("openclipart", "val", background=(0, 0, 0))[0]
    assert np.asarray(black.image)[alpha == 0].max() == 0
    straight = load_packs("openclipart", "val", mode="RGBA")[0]
    assert np.array_equal(np.asarray(straight.image)[..., 3], alpha)
    mono = load_packs("icons", "test", mode="RGBA").where(mono=True)[0]
    assert np.asarray(mono.image)[..., :3][np.asarray(mono.alpha) > 0].max() == 0


def test_packs_join_into_one_set() -> None:
    packs = load_packs("packs", "val")
    assert len(packs) == 539 + 190 + 1110
    assert set(packs.sources) == {"openclipart", "noto-emoji", "icons"}
    assert len(set(packs.keys)) == len(packs)
    assert "animals" in packs.classes
    assert "Animals & Nature" in packs.classes
    pixels, kept = packs.subset(range(0, len(packs), 40)).pixels(64)
    assert pixels.shape == (len(kept), 4, 64, 64)
    assert packs.skipped == []


def test_what_does_not_exist_is_named_with_what_does() -> None:
    with pytest.raises(UsageError, match="openclipart, noto-emoji, icons, openmoji"):
        load_packs("clipart")
    with pytest.raises(UsageError, match=r"train, val, test"):
        load_packs("openclipart", "dev")
    with pytest.raises(UsageError, match="openmoji is kept out of training"):
        load_packs("openmoji", "train")


def test_hashes_and_pickling() -> None:
    assert len({pack_hash(name) for name in PACKS}) == len(PACKS)
    assert load_packs("openmoji").subset([1, 2]).data_hash == load_packs("openmoji").subset([1, 2]).data_hash
    view = load_packs("openmoji").subset([5])
    again = pickle.loads(pickle.dumps(view))
    assert np.array_equal(np.asarray(again[0].image), np.asarray(view[0].image))
    with pytest.raises(UsageError, match="no pack"):
        pack_hash("x")
