"""128-bit keys of samples, and random numbers that are a hash of (seed, key).

A key is what DataComp calls a uid: 32 hexadecimal digits, held as two 64-bit words. Where the data have no uid it is a
hash of the sample's name. Everything random in curation is `hash_uniform` of keys, so that a result depends neither on
the order of samples or shards, nor on workers, nor on interruptions.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Int

from binderclip.data.uniform import GOLDEN, mix64
from binderclip.errors import UsageError

KEY = np.dtype("u8,u8")
"""Structured dtype of a key: the high and the low word, `f0` and `f1`, as in DataComp's files."""
Keys: TypeAlias = np.ndarray
"""(n,) array of dtype `KEY`."""

_UID = re.compile(r"[0-9a-fA-F]{32}")


def keys_of(names: Sequence[str]) -> Keys:
    """The key of each name: the name itself where it is 32 hexadecimal digits, else its 128-bit BLAKE2 hash.

    Args:
        names: uids, or any texts that name samples.
    """
    words = [
        bytes.fromhex(name)
        if _UID.fullmatch(name)
        else hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=16).digest()
        for name in names
    ]
    pairs = np.frombuffer(b"".join(words), ">u8").reshape(-1, 2)
    keys = np.empty(len(pairs), KEY)
    keys["f0"], keys["f1"] = pairs[:, 0], pairs[:, 1]
    return keys


def uids_of(keys: Keys) -> list[str]:
    """Keys as 32 hexadecimal digits, as DataComp's tables write them."""
    return [f"{high:016x}{low:016x}" for high, low in zip(keys["f0"].tolist(), keys["f1"].tolist(), strict=True)]


def key_order(keys: Keys, *before: np.ndarray) -> Int[np.ndarray, "n"]:
    """Positions that sort by the arrays `before`, the first of them first, and last by key."""
    return _order([*before, keys["f0"], keys["f1"]])


def _order(columns: Sequence[np.ndarray]) -> Int[np.ndarray, "n"]:
    """What `np.lexsort` of the reversed columns gives; NaN comes last.

    A hash or a score hardly ever stands twice, so the first column is sorted by itself, as fast as numbers can be, and
    the others are looked at only for the rows that it leaves tied.
    """
    first, rest = np.ascontiguousarray(columns[0]), columns[1:]
    if not rest:
        return np.argsort(first, kind="stable")
    if len(first) and (first == first[0]).all():
        return _order(rest)
    order = np.argsort(first)
    ordered = first[order]
    same = ordered[1:] == ordered[:-1]
    if ordered.dtype.kind == "f":
        same |= np.isnan(ordered[:-1])  # and so all after it
    if not same.any():
        return order
    tied = np.flatnonzero(np.append(False, same) | np.append(same, False))
    run = np.cumsum(np.append(True, ~same))[tied]  # the number of the value of each tied row
    rows = np.sort(order[tied])  # equal rows stay in the order they came in
    runs = np.empty(len(first), run.dtype)
    runs[order[tied]] = run
    rows = rows[_order([column[rows] for column in rest])]
    order[tied] = rows[np.argsort(runs[rows], kind="stable")]
    return order


def smallest(values: np.ndarray, count: int) -> Int[np.ndarray, "k"]:
    """Positions, rising, of all values that are no larger than the `count`-th smallest; at least `count` of them."""
    if len(values) <= count:
        return np.arange(len(values))
    return np.flatnonzero(values <= np.partition(values, count - 1)[count - 1])


def search_keys(table: Keys, keys: Keys) -> Int[np.ndarray, "n"]:
    """Position of each key in a sorted table, -1 for those that are not there.

    Only what it compares with is read, so that a table of any size may be a memory map, and asking for the keys of a
    shard costs the same whatever the table holds.
    """
    if not len(table):
        return np.full(len(keys), -1, np.int64)
    # NumPy's own search would copy one word of the whole table at every call.
    low, high = np.zeros(len(keys), np.int64), np.full(len(keys), len(table), np.int64)
    for _ in range(len(table).bit_length()):
        middle = np.minimum((low + high) // 2, len(table) - 1)
        there, open_ = table[middle], low < high
        before = (there["f0"] < keys["f0"]) | ((there["f0"] == keys["f0"]) & (there["f1"] < keys["f1"]))
        low, high = np.where(open_ & before, middle + 1, low), np.where(open_ & ~before, middle, high)
    place = np.minimum(low, len(table) - 1)
    return np.where(table[place] == keys, place, -1)


def hash_uniform(
    seed: int, keys: Keys, entries: Int[np.ndarray, "n"] | None = None, *, purpose: int = 0
) -> Float[np.ndarray, "n"]:
    """A number in [0, 1) for each key, float64 with 53 bits: a hash of (seed, purpose, key, entry) and nothing else.

    Args:
        seed: 0 to 2^64 - 1.
        keys: (n,) keys.
        entries: a further number of each, such as the concept that is drawn for; default none.
        purpose: two rules of a pipeline that take different numbers draw independently.

    Raises:
        UsageError: a seed that is no such number.
    """
    if not 0 <= seed < 2**64:
        raise UsageError(f"seed is {seed}; it is 0 to 2^64 - 1")
    word = mix64(np.array([seed], np.uint64) + GOLDEN)
    parts = [np.array([purpose], np.uint64), keys["f0"], keys["f1"]]
    for part in [*parts, *([] if entries is None else [np.asarray(entries).astype(np.uint64)])]:
        word = mix64((word ^ part) + GOLDEN)
    return np.broadcast_to(word >> np.uint64(11), keys.shape) * 2.0**-53
