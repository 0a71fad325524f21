"""`KeySelection` against Python's sets, and its file against what DataComp's tools write."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from binderclip.curate import KeySelection, keys_of
from binderclip.errors import DataError, UsageError

NAMES = st.lists(st.sampled_from([f"n{i}" for i in range(12)]), max_size=12)


@given(a=NAMES, b=NAMES)
def test_operations_are_those_of_sets(a: list[str], b: list[str]) -> None:
    x, y = KeySelection(a), KeySelection(b)
    one, two = set(a), set(b)
    for ours, theirs in (
        (x & y, one & two),
        (x | y, one | two),
        (x - y, one - two),
        (KeySelection.union([x, y]), one | two),
    ):
        assert len(ours) == len(theirs)
        assert all(name in ours for name in theirs)
        assert ours == KeySelection(sorted(theirs))
    assert x.jaccard(y) == (len(one & two) / len(one | two) if one | two else 1.0)


def test_the_file_is_datacomps(tmp_path: Path) -> None:
    uids = [f"{i * 7919 % 1000:032x}" for i in range(1000)]
    path = KeySelection(uids).save(tmp_path / "a.npy")
    # baselines/apply_filter.py: the array of pairs, sorted in place, and numpy.save.
    theirs = np.array([(int(uid[:16], 16), int(uid[16:], 16)) for uid in uids], np.dtype("u8,u8"))
    theirs.sort()
    assert np.array_equal(np.load(path), theirs)
    assert np.load(path).dtype == np.dtype("u8,u8")
    np.save(tmp_path / "b.npy", theirs)
    loaded = KeySelection.load(tmp_path / "b.npy")
    assert loaded == KeySelection(uids)
    assert isinstance(loaded.keys, np.memmap)
    assert loaded.uids == sorted(uids)


def test_what_is_no_selection_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        KeySelection.load(tmp_path / "none.npy")
    np.savez(tmp_path / "several.npz", a=np.arange(4))
    with pytest.raises(DataError, match="several arrays"):
        KeySelection.load(tmp_path / "several.npz")
    np.save(tmp_path / "numbers.npy", np.arange(4))
    with pytest.raises(DataError, match="a selection has dtype u8,u8"):
        KeySelection.load(tmp_path / "numbers.npy")
    np.save(tmp_path / "mixed.npy", keys_of(["f" * 32, "0" * 32]))
    with pytest.raises(DataError, match="not sorted"):
        KeySelection.load(tmp_path / "mixed.npy")
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(DataError, match="not a readable NumPy file"):
        KeySelection.load(tmp_path / "objects.npy")
    with pytest.raises(UsageError, match="dtype u8,u8"):
        KeySelection(np.arange(3))
    with pytest.raises(DataError, match="cannot write"):
        KeySelection(["a"]).save(tmp_path / "none" / "x.npy")
