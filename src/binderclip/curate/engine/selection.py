"""`KeySelection`: which samples are kept, as a sorted set of keys that any loader can apply."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from binderclip.curate.engine.arrays import read_npy
from binderclip.curate.engine.keys import KEY, Keys, key_order, keys_of, search_keys, uids_of
from binderclip.display import number_of
from binderclip.errors import DataError, UsageError
from binderclip.files import write_whole

_BLOCK = 1 << 22  # keys of a file that are looked at at once


class KeySelection:
    """A set of samples: their 128-bit keys, sorted; `&`, `|`, `-` and `==` are those of sets.

    Args:
        keys: (n,) keys in any order, also twice; or names and uids of samples (see `keys_of`).

    Raises:
        UsageError: an array of another dtype.

    Examples:
        >>> kept = KeySelection(["a.png", "b.png"]) - KeySelection(["b.png"])
        >>> len(kept), "a.png" in kept
        (1, True)
    """

    def __init__(self, keys: Keys | Sequence[str] = ()) -> None:
        array = keys if isinstance(keys, np.ndarray) else keys_of(list(keys))
        if array.dtype != KEY or array.ndim != 1:
            raise UsageError(f"keys are a one-dimensional array of dtype u8,u8, got {array.dtype} {array.shape}")
        self.keys: Keys = array if _is_sorted(array) else _sorted_unique(array)

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"KeySelection({number_of(len(self), 'key')})"

    def __contains__(self, name: str) -> bool:
        return bool(self.mask(keys_of([name]))[0])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KeySelection) and np.array_equal(self.keys, other.keys)

    __hash__ = None  # type: ignore[assignment]  # an array's set is not hashable

    def __and__(self, other: KeySelection) -> KeySelection:
        return KeySelection(self.keys[other.mask(self.keys)])

    def __sub__(self, other: KeySelection) -> KeySelection:
        return KeySelection(self.keys[~other.mask(self.keys)])

    def __or__(self, other: KeySelection) -> KeySelection:
        return KeySelection(np.concatenate([self.keys, other.keys]))

    def mask(self, keys: Keys) -> Bool[np.ndarray, "n"]:
        """Which of the keys are in the selection, by binary search."""
        return search_keys(self.keys, keys) >= 0

    @property
    def uids(self) -> list[str]:
        """Every key as 32 hexadecimal digits."""
        return uids_of(self.keys)

    def jaccard(self, other: KeySelection) -> float:
        """Shared keys over all keys of both; 1 for two empty ones."""
        shared = int(other.mask(self.keys).sum())
        every = len(self) + len(other) - shared
        return shared / every if every else 1.0

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the keys as DataComp's tools read them: a sorted `.npy` file of dtype u8,u8.

        Raises:
            OutputError: it cannot be written.
        """

        def write(draft: Path) -> None:
            with draft.open("wb") as file:  # given a name, NumPy would put `.npy` behind it
                np.save(file, self.keys, allow_pickle=False)

        return write_whole(path, write)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> KeySelection:
        """Open what `save` or DataComp's baselines wrote; the file stays on disk and is searched there.

        Raises:
            DataError: no such file, no array of dtype u8,u8, or keys that are not sorted.
        """
        keys = read_npy(path, mapped=True)
        if keys.dtype != KEY or keys.ndim != 1:
            raise DataError(f"{path}: holds {keys.dtype}, but a selection has dtype u8,u8")
        if not _is_sorted(keys, strictly=False):
            raise DataError(f"{path}: its keys are not sorted: sort them first (`numpy.sort`)")
        return cls(keys)

    @classmethod
    def union(cls, parts: Iterable[KeySelection]) -> KeySelection:
        """Everything that is in any of several selections."""
        return cls(np.concatenate([np.empty(0, KEY), *(part.keys for part in parts)]))


def _is_sorted(keys: Keys, *, strictly: bool = True) -> bool:
    """Whether keys rise, looked at block by block so that a file need not fit into memory."""
    for start in range(0, max(len(keys) - 1, 0), _BLOCK):
        part = keys[start : start + _BLOCK + 1]
        high, low = part["f0"], part["f1"]
        same = high[1:] == high[:-1]
        rises = (high[1:] > high[:-1]) | (same & ((low[1:] > low[:-1]) if strictly else (low[1:] >= low[:-1])))
        if not rises.all():
            return False
    return True


def _sorted_unique(keys: Keys) -> Keys:
    ordered = keys[key_order(keys)]
    return ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])] if len(ordered) else ordered
