"""Accuracy by group: what the average hides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from binderclip.errors import UsageError


@dataclass(frozen=True)
class GroupAccuracy:
    """Accuracy of each non-empty group.

    Attributes:
        average: over all samples.
        worst: the smallest over groups.
        worst_group: the group it is reached in.
        by_group: accuracy of each group. counts: its samples.
    """

    average: float
    worst: float
    worst_group: tuple[Any, ...]
    by_group: dict[tuple[Any, ...], float]
    counts: dict[tuple[Any, ...], int]


def worst_group_accuracy(
    y_true: Any, y_pred: Any, groups: Any | Mapping[str, Any], *, with_class: bool = True
) -> GroupAccuracy:
    """Accuracy over all samples and in the worst group.

    Paper: More Context, Less Distraction: Visual Classification by Inferring and Conditioning on Contextual Attributes
    (arXiv 2308.01313).

    Args:
        y_true, y_pred: labels (N,) of any kind.
        groups: a label (N,) such as the background, or several by name, whose combinations are the groups.
        with_class: groups are combinations with the true class, as in group-robustness work.

    Raises:
        UsageError: columns of unequal length, or no sample.
    """
    columns = [np.asarray(c) for c in (groups.values() if isinstance(groups, Mapping) else [groups])]
    truth, answer = np.asarray(y_true), np.asarray(y_pred)
    lengths = [len(column) for column in (truth, answer, *columns)]
    if len(set(lengths)) > 1 or not lengths[0]:
        raise UsageError(f"y_true, y_pred and groups must have one value a sample, at least one; got {lengths}")
    named: Sequence[np.ndarray] = [*columns, truth] if with_class else columns
    keys = list(zip(*(column.tolist() for column in named), strict=True))
    hit = truth == answer
    place: dict[tuple[Any, ...], list[int]] = {}
    for row, key in enumerate(keys):
        place.setdefault(key, []).append(row)
    by_group = {key: float(hit[rows].mean()) for key, rows in sorted(place.items(), key=lambda item: str(item[0]))}
    worst = min(by_group, key=lambda key: by_group[key])
    counts = {key: len(place[key]) for key in by_group}
    return GroupAccuracy(float(hit.mean()), by_group[worst], worst, by_group, counts)
