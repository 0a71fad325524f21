"""Groups of pictures in which every one is a copy of every other."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from binderclip.search.duplicates.alignment import AlikePairs

__all__ = ["complete_groups"]


def complete_groups(pairs: AlikePairs, count: int, *, least: float) -> list[Int[np.ndarray, "m"]]:
    """Groups in which all pairs agree: complete linkage, so that a chain of neighbours does not become one group.

    Frames of a film agree each with the next one, and the first not with the last: by single linkage all would be one.

    Args:
        pairs: that agree; all others are taken not to. count: pictures.
        least: agreement that all pairs of a group have.

    Returns:
        Rows of each group of two or more, rising; groups in the order of their first rows.
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    graph = coo_matrix((pairs.agreement, (pairs.first, pairs.second)), shape=(count, count))
    _, component = connected_components(graph, directed=False)
    groups: list[np.ndarray] = []
    for rows in _members(component):
        if len(rows) == 2:
            groups.append(rows)
            continue
        inside = np.isin(pairs.first, rows)
        first, second = np.searchsorted(rows, pairs.first[inside]), np.searchsorted(rows, pairs.second[inside])
        # 2 is further than any that agree: a group never holds a pair that is not in `pairs`.
        distances = np.full(len(rows) * (len(rows) - 1) // 2, 2.0)
        distances[_condensed(first, second, len(rows))] = 1 - pairs.agreement[inside]
        labels = fcluster(linkage(distances, method="complete"), 1 - least + 1e-9, criterion="distance")
        groups += [rows[inner] for inner in _members(labels)]
    return sorted(groups, key=lambda rows: int(rows[0]))


def _members(labels: Int[np.ndarray, "n"]) -> list[Int[np.ndarray, "m"]]:
    """Rows of each label that two or more share."""
    order = np.argsort(labels, kind="stable")
    return [rows for rows in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1) if len(rows) > 1]


def _condensed(first: Int[np.ndarray, "p"], second: Int[np.ndarray, "p"], count: int) -> Int[np.ndarray, "p"]:
    """Places of pairs, first < second, in the upper triangle row by row."""
    return count * first - first * (first + 1) // 2 + second - first - 1
