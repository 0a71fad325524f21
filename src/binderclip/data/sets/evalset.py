"""`EvalSet`, what evaluation looks at: items with labels and attributes, and views of them by attribute."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Dataset

from binderclip.data.sets.dataset import ImageTextDataset, matches
from binderclip.errors import UsageError
from binderclip.numeric import check_number


class EvalSet(Dataset[Any]):
    """A view of a data set: indices into its items, with one value of each attribute an item.

    Args:
        items: an `ImageTextDataset` (labels, classes and attributes are taken from it), or any sequence: images, texts,
            an array of embeddings.
        indices: which items, in which order; None for all.
        labels: one integer an item of `items`, or a set of integers (several labels); None: there are none.
        classes: names of the labels.
        attributes: further columns, one value an item of `items`.
    """

    def __init__(
        self,
        items: ImageTextDataset | Sequence[Any] | np.ndarray | Tensor,
        indices: Iterable[int] | np.ndarray | None = None,
        *,
        labels: Sequence[Any] | np.ndarray | None = None,
        classes: Sequence[str] | None = None,
        attributes: Mapping[str, Sequence[Any] | np.ndarray] | None = None,
    ) -> None:
        columns: dict[str, Any] = {}
        if isinstance(items, ImageTextDataset):
            columns = {**items.attributes, "source": items.sources, "key": items.keys, "caption": items.captions}
            labels = items.labels if labels is None else labels
            classes = items.classes if classes is None else classes
        columns |= dict(attributes or {})
        for name, column in {**columns, **({} if labels is None else {"labels": labels})}.items():
            if len(column) != len(items):
                raise UsageError(f"EvalSet: {name} has {len(column)} values for {len(items)} items")
        chosen = np.arange(len(items)) if indices is None else np.asarray(list(indices), dtype=np.int64)
        if chosen.size and not 0 <= chosen.min() <= chosen.max() < len(items):
            raise UsageError(f"EvalSet: indices run from {chosen.min()} to {chosen.max()}, but there are {len(items)}")
        self.items, self.indices, self.classes = items, chosen, tuple(classes or ())
        self._labels, self._columns = labels, columns

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.items[int(self.indices[index])]

    @property
    def labels(self) -> Any:
        """One label an item, in order: int64 (N,), or a list of sets; None if there are none."""
        if self._labels is None:
            return None
        chosen = [self._labels[int(i)] for i in self.indices]
        several = any(isinstance(label, (set, frozenset, list, tuple)) for label in chosen)
        return [set(label) for label in chosen] if several else np.asarray(chosen, dtype=np.int64)

    @property
    def attributes(self) -> dict[str, np.ndarray]:
        """Every column, one value an item; object arrays where values are not numbers, None where there is none."""
        return {name: self.column(name) for name in self._columns}

    def column(self, name: str) -> np.ndarray:
        """One attribute of the items of this view."""
        if name not in self._columns:
            raise UsageError(f"EvalSet: no attribute {name!r}; there are {', '.join(self._columns)}")
        values = [self._columns[name][i] for i in self.indices]
        if values and all(isinstance(value, (int, float, bool, np.number, np.bool_)) for value in values):
            return np.asarray(values)
        column = np.empty(len(values), dtype=object)
        column[:] = values
        return column

    def where(self, **conditions: Any) -> EvalSet:
        """The items whose attributes match: a value, a set, list or tuple of values, or a predicate for each name."""
        keep = np.ones(len(self), bool)
        for name, condition in conditions.items():
            keep &= np.array([matches(value, condition) for value in self.column(name)], dtype=bool)
        return self.take(np.flatnonzero(keep))

    def take(self, positions: Iterable[int] | np.ndarray) -> EvalSet:
        """The items at `positions` of this view."""
        chosen = self.indices[np.asarray(list(positions), dtype=np.int64)]
        return EvalSet(self.items, chosen, labels=self._labels, classes=self.classes, attributes=self._columns)

    def groups(self, *names: str) -> Iterator[tuple[tuple[Any, ...], EvalSet]]:
        """(values, view) of every combination of the named attributes that occurs, sorted by its text."""
        if not names:
            raise UsageError("EvalSet.groups needs the name of an attribute")
        rows: dict[tuple[Any, ...], list[int]] = {}
        for position, values in enumerate(zip(*(self.column(name) for name in names), strict=True)):
            rows.setdefault(tuple(v.item() if isinstance(v, np.generic) else v for v in values), []).append(position)
        for values in sorted(rows, key=str):
            yield values, self.take(rows[values])


def few_shot_split(
    y: Sequence[int] | np.ndarray | Tensor, shots: int, seed: int = 0
) -> tuple[Int[np.ndarray, "S"], Int[np.ndarray, "Q"]]:
    """Choose `shots` items of every class at random; return (their indices, all other labelled indices), both sorted.

    The draw of a class depends on the seed, the class and its own items only, so leaving out another class changes
    nothing; and the items drawn for fewer shots are among those drawn for more.

    Args:
        y: one class an item; negative: no label, in neither part.
        shots: items a class.
        seed: any integer >= 0.

    Raises:
        UsageError: a class has fewer than `shots` items.
    """
    labels = np.asarray(y)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise UsageError(f"few_shot_split takes one integer class an item, got {labels.dtype} of shape {labels.shape}")
    check_number("shots", shots, least=1)
    chosen: list[np.ndarray] = []
    for label in np.unique(labels[labels >= 0]):
        rows = np.flatnonzero(labels == label)
        if len(rows) < shots:
            raise UsageError(f"class {label} has {len(rows)} items, fewer than {shots} shots")
        chosen.append(np.random.default_rng([seed, int(label)]).permutation(rows)[:shots])
    support = np.sort(np.concatenate(chosen)) if chosen else np.empty(0, np.int64)
    query = np.setdiff1d(np.flatnonzero(labels >= 0), support)
    return support, query
