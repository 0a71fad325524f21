"""Honest splits: near-duplicates stay together, the test part is fixed before anything is fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt8
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from binderclip.numeric import check_number

SIMILAR = 0.995
"""Correlation of two 16 x 16 grey thumbnails from which on they count as the same picture."""


def near_duplicates(
    thumbnails: UInt8[np.ndarray, "N 16 16"], *, similar: float = SIMILAR, chunk: int = 1024
) -> Int[np.ndarray, "N"]:
    """A group number for every picture; pictures that look the same share it.

    Compared are grey thumbnails less their mean, at unit length: re-encoding, resizing and a change of brightness keep
    a picture in its group. Flat pictures match only equal ones.

    Args:
        thumbnails: 8-bit grey.
        similar: least correlation.
        chunk: rows compared at once; memory is chunk x N.
    """
    flat = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    centred = flat - flat.mean(axis=1, keepdims=True)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    # Less than a grey level of spread: there is no pattern to compare, the level itself decides.
    patterned = length[:, 0] > flat.shape[1] ** 0.5
    unit = np.where(patterned[:, None], centred / np.maximum(length, 1e-6), 0)
    rows, columns = [], []
    for start in range(0, len(unit), chunk):
        similar_pairs = np.argwhere(unit[start : start + chunk] @ unit.T >= similar)
        similar_pairs[:, 0] += start
        rows.append(similar_pairs[:, 0])
        columns.append(similar_pairs[:, 1])
    plain = np.flatnonzero(~patterned)
    if len(plain):
        _, first, back = np.unique(np.rint(flat[plain].mean(axis=1)), return_index=True, return_inverse=True)
        rows.append(plain)
        columns.append(plain[first[back.reshape(-1)]])
    pairs = (np.concatenate(rows), np.concatenate(columns)) if rows else (np.empty(0, int), np.empty(0, int))
    graph = coo_matrix((np.ones(len(pairs[0]), np.int8), pairs), shape=(len(flat), len(flat)))
    return connected_components(graph, directed=False)[1]


@dataclass(frozen=True)
class DataSplit:
    """Which pictures shots may be drawn from and which are the test; both are rows of the data.

    Attributes:
        pool: for training and choosing.
        test: touched once, at the end.
        duplicates: pictures that look like an earlier one.
        conflicts: pairs of rows that look the same and are labelled differently.
        dropped: pool rows left out because they look like a test picture of a given split.
        untested: classes without a test picture.
    """

    pool: Int[np.ndarray, "P"]
    test: Int[np.ndarray, "T"]
    duplicates: int
    conflicts: list[tuple[int, int]]
    dropped: int
    untested: list[int]


def split_parts(
    labels: Int[np.ndarray, "N"],
    groups: Int[np.ndarray, "N"],
    *,
    shots: int,
    given: Sequence[object] | None = None,
    seed: int = 0,
) -> DataSplit:
    """Fix the pool and the test part.

    A split named `test` in the data is kept, and pool pictures that look like one of its pictures are dropped. Else a
    class with n pictures gives n - max(shots, n // 2) of them to the test, a quarter where that leaves none, and none
    if it has only one; whole groups of look-alikes at a time.

    Args:
        labels: class index of every picture.
        groups: as `near_duplicates` gives them.
        shots: examples a class that will be drawn from the pool.
        given: the data's own split of every picture, or None.
        seed: of the draw.
    """
    duplicates = len(groups) - len(np.unique(groups))
    conflicts = _conflicts(labels, groups)
    own = None if given is None else np.array([str(name) == "test" for name in given])
    dropped = 0
    if own is not None and own.any() and not own.all():
        leaking = ~own & np.isin(groups, groups[own])
        dropped = int(leaking.sum())
        pool, test = np.flatnonzero(~own & ~leaking), np.flatnonzero(own)
    else:
        test = np.sort(np.concatenate([_test_rows(labels, groups, c, shots, seed) for c in np.unique(labels).tolist()]))
        pool = np.setdiff1d(np.arange(len(labels)), test)
    untested = sorted(set(labels[pool].tolist()) - set(labels[test].tolist()))
    return DataSplit(pool, test.astype(int), duplicates, conflicts, dropped, untested)


def _conflicts(labels: np.ndarray, groups: np.ndarray) -> list[tuple[int, int]]:
    first: dict[int, int] = {}
    conflicts = []
    for row, group in enumerate(groups.tolist()):
        other = first.setdefault(group, row)
        if labels[other] != labels[row]:
            conflicts.append((other, row))
    return conflicts


def _test_rows(labels: np.ndarray, groups: np.ndarray, c: int, shots: int, seed: int) -> np.ndarray:
    rows = np.flatnonzero(labels == c)
    count = len(rows) - max(shots, len(rows) // 2)
    if count < 1:
        count = max(1, len(rows) // 4) if len(rows) > 1 else 0
    # Look-alikes across classes stay in the pool: a test picture must not have been trained on under another name.
    shared = {g for g in np.unique(groups[rows]) if len(np.unique(labels[groups == g])) > 1}
    order = np.random.default_rng([seed, 2, c]).permutation([g for g in np.unique(groups[rows]) if g not in shared])
    taken: list[int] = []
    for group in order:
        members = rows[groups[rows] == group]
        if len(taken) + len(members) <= count:
            taken += members.tolist()
    return np.array(taken, dtype=int)


def draw_up_to(labels: Int[np.ndarray, "P"], shots: int, seed: int) -> Int[np.ndarray, "S"]:
    """Positions of `shots` pictures of every class, or of all that a class has, sorted.

    Raises:
        UsageError: shots below 1.
    """
    check_number("shots", shots, least=1)
    drawn = [
        np.random.default_rng([seed, int(c)]).permutation(np.flatnonzero(labels == c))[:shots]
        for c in np.unique(labels)
    ]
    return np.sort(np.concatenate(drawn))


def folds_of(labels: Int[np.ndarray, "S"], groups: Int[np.ndarray, "S"], folds: int, seed: int) -> Int[np.ndarray, "S"]:
    """A fold number for every picture, balanced by class, look-alikes together; -1 where a class has one picture only.

    A picture of fold -1 is always trained on: held out, its class would be unknown.
    """
    fold = np.full(len(labels), -1)
    for c in np.unique(labels):
        rows = np.flatnonzero(labels == c)
        kinds = np.unique(groups[rows])
        if len(kinds) < 2:
            continue
        order = np.random.default_rng([seed, 3, int(c)]).permutation(kinds)
        place = {group: number % folds for number, group in enumerate(order.tolist())}
        fold[rows] = [place[group] for group in groups[rows].tolist()]
    return fold
