"""`PredictionTable`: what a predictor said about a data set, kept once, from which every measure is computed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import expit, softmax

from binderclip.documents import parse_json
from binderclip.errors import DataError, UsageError
from binderclip.files import write_whole
from binderclip.settings import check_choice
from binderclip.similarity.arrays import as_features, as_indices

Scalar: TypeAlias = "str | bool | int | float"
MOST_GROUPS = 200
"""Groups that a column may make: more are no groups but a measurement, which should be binned first."""
_SCORE, _ATTRIBUTE, _ABOUT = "score:", "attribute:", b"binderclip.predictions"


@dataclass(frozen=True)
class Grouping:
    """Which group every row of a table is in.

    Attributes:
        names: the attributes whose combinations are the groups.
        values: the values of each of the G groups, sorted by their text.
        index: (N,) group of each row, -1 where an attribute has no value.
    """

    names: tuple[str, ...]
    values: tuple[tuple[Scalar, ...], ...]
    index: Int[np.ndarray, "N"]

    @property
    def counts(self) -> Int[np.ndarray, "G"]:
        """Rows of each group."""
        return np.bincount(self.index[self.index >= 0], minlength=len(self.values))

    @property
    def labels(self) -> list[str]:
        """Each group as a text: its values joined by " / "."""
        return [" / ".join(map(str, values)) for values in self.values]


def group_rows(columns: Mapping[str, Iterable[Any]]) -> Grouping:
    """Group rows by the combinations of values that occur; None and NaN are no value.

    Args:
        columns: attribute -> one value a row.

    Raises:
        UsageError: no column, columns of unequal length, or more than 200 groups.
    """
    held = {name: [_scalar(value) for value in column] for name, column in columns.items()}
    if not held or len({len(column) for column in held.values()}) != 1:
        raise UsageError(f"groups need columns of one length, got { {name: len(c) for name, c in held.items()} }")
    rows = list(zip(*held.values(), strict=True))
    known = [row for row in dict.fromkeys(rows) if None not in row]
    if len(known) > MOST_GROUPS:
        raise UsageError(
            f"{', '.join(held)} has {len(known)} different values, more than {MOST_GROUPS} groups: bin it, or name a "
            "column with few values"
        )
    values = tuple(sorted(known, key=lambda row: tuple(map(_order, row))))
    place = {row: number for number, row in enumerate(values)}
    return Grouping(tuple(held), values, np.array([place.get(row, -1) for row in rows], dtype=np.int64))


@dataclass(frozen=True, eq=False)
class PredictionTable:
    """What a predictor said about N items, one score column a class, with the items' labels and attributes.

    Measures, gaps and intervals read this and never the model; another label space is `with_classes`.

    Args:
        keys: N unique names.
        target: (N,) index of the right class, -1 where it is not known.
        scores: (N, C) logits; a row with NaN is no prediction.
        classes: names of the C columns.
        attributes: name -> N values of one kind (text, whole number, fraction or truth value), None for none.
        activation: what makes probabilities of the scores, `softmax` or `sigmoid`.
        model, source: what predicted, and on what.

    Raises:
        UsageError: columns of unequal length, keys or classes that occur twice, a target that no column has, or an
            attribute whose values are of several kinds.
    """

    keys: tuple[str, ...]
    target: Int[np.ndarray, "N"]
    scores: Float[np.ndarray, "N C"]
    classes: tuple[str, ...]
    attributes: Mapping[str, tuple[Scalar | None, ...]] = field(default_factory=dict)
    activation: Literal["softmax", "sigmoid"] = "softmax"
    model: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "keys", tuple(map(str, self.keys)))
        put(self, "classes", tuple(map(str, self.classes)))
        put(self, "target", np.asarray(self.target, dtype=np.int64))
        put(self, "scores", np.asarray(self.scores, dtype=np.float64))
        put(self, "attributes", {name: _column(name, values) for name, values in self.attributes.items()})
        count, wide = len(self.keys), len(self.classes)
        if self.scores.shape != (count, wide) or self.target.shape != (count,):
            raise UsageError(
                f"{count} keys and {wide} classes need scores ({count}, {wide}) and targets ({count},), got "
                f"{self.scores.shape} and {self.target.shape}"
            )
        wrong = {name: len(values) for name, values in self.attributes.items() if len(values) != count}
        if wrong:
            raise UsageError(f"attributes must have one value a key, {count}; got {wrong}")
        for what, names in (("key", self.keys), ("class", self.classes)):
            if len(set(names)) != len(names):
                raise UsageError(f"the {what} {_twice(names)!r} occurs more than once")
        if count and not -1 <= self.target.min() <= self.target.max() < wide:
            raise UsageError(
                f"targets run from {self.target.min()} to {self.target.max()}, of {wide} classes (-1: none)"
            )
        check_choice("activation", self.activation, ("softmax", "sigmoid"))

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def known(self) -> Bool[np.ndarray, "N"]:
        """Which rows have a target."""
        return self.target >= 0

    @property
    def predicted(self) -> Int[np.ndarray, "N"]:
        """The class with the largest score, the first of equals; -1 where a score is NaN."""
        if not self.classes:
            return np.full(len(self), -1)
        return np.where(np.isnan(self.scores).any(axis=1), -1, np.nan_to_num(self.scores, nan=-np.inf).argmax(axis=1))

    @property
    def correct(self) -> Bool[np.ndarray, "N"]:
        """Whether the predicted class is the target; never where there is no target."""
        return self.known & (self.predicted == self.target)

    def probabilities(self, temperature: float = 1.0) -> Float[np.ndarray, "N C"]:
        """Softmax, or sigmoid, of the scores divided by a temperature."""
        scaled = self.scores / temperature
        return softmax(scaled, axis=1) if self.activation == "softmax" else expit(scaled)

    def confidence(self, temperature: float = 1.0) -> Float[np.ndarray, "N"]:
        """Probability of the predicted class; NaN where a score is NaN."""
        return self.probabilities(temperature).max(axis=1, initial=0.0)

    def class_index(self, name: str) -> int:
        """The column of a class.

        Raises:
            UsageError: there is none.
        """
        if name not in self.classes:
            raise UsageError(f"there is no class {name!r}: one of {', '.join(self.classes[:20])}")
        return self.classes.index(name)

    def groups(self, *names: str) -> Grouping:
        """The groups that some attributes make together; `label` is the target's name.

        Raises:
            UsageError: no name, an attribute that is not there, or more than 200 groups.
        """
        return group_rows({name: self.column(name) for name in names})

    def column(self, name: str) -> tuple[Scalar | None, ...]:
        """One attribute of every row; `label` is the target's name.

        Raises:
            UsageError: there is none of that name.
        """
        if name in self.attributes:
            return self.attributes[name]
        if name == "label":
            return tuple(self.classes[i] if i >= 0 else None for i in self.target)
        raise UsageError(f"no attribute {name!r}: there are {', '.join([*self.attributes, 'label'])}")

    def take(self, rows: Sequence[int] | np.ndarray) -> PredictionTable:
        """The table of some rows, by index or by a mask."""
        chosen = np.asarray(rows)
        chosen = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(np.int64)
        kept = {name: tuple(values[i] for i in chosen) for name, values in self.attributes.items()}
        return replace(self, keys=tuple(self.keys[i] for i in chosen), target=self.target[chosen],
                       scores=self.scores[chosen], attributes=kept)  # fmt: skip

    def with_classes(self, names: Sequence[str]) -> PredictionTable:
        """The same predictions in another label space: these classes alone; targets outside it become -1.

        Raises:
            UsageError: a class that has no column.
        """
        columns = [self.class_index(name) for name in names]
        place = np.full(len(self.classes) + 1, -1)  # the last one is for -1
        place[columns] = np.arange(len(columns))
        return replace(self, classes=tuple(names), scores=self.scores[:, columns], target=place[self.target])

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the table as Parquet: `key`, `target`, `score:CLASS` and `attribute:NAME`, readable by anything.

        Raises:
            OutputError: it cannot be written.
        """
        import pyarrow as pa
        import pyarrow.parquet as parquet

        columns: dict[str, Any] = {"key": pa.array(self.keys, pa.string()), "target": pa.array(self.target)}
        columns |= {_SCORE + name: pa.array(self.scores[:, c]) for c, name in enumerate(self.classes)}
        columns |= {_ATTRIBUTE + name: pa.array(values) for name, values in self.attributes.items()}
        about = {"activation": self.activation, "model": self.model, "source": self.source}
        table = pa.table(columns).replace_schema_metadata({_ABOUT: json.dumps(about).encode()})
        return write_whole(path, lambda draft: parquet.write_table(table, draft))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PredictionTable:
        """Read what `save` wrote; nothing is unpickled.

        Raises:
            DataError: not there, damaged, or not such a table.
        """
        import pyarrow as pa
        import pyarrow.parquet as parquet

        try:
            table = parquet.read_table(path, partitioning=None)
            about = parse_json((table.schema.metadata or {})[_ABOUT])
            scores = [name for name in table.column_names if name.startswith(_SCORE)]
            held = {name: table.column(name) for name in table.column_names}
            matrix = [held[name].to_numpy().astype(np.float64) for name in scores]
            return cls(
                keys=tuple(held["key"].to_pylist()),
                target=held["target"].to_numpy(),
                scores=np.stack(matrix, axis=1) if matrix else np.empty((table.num_rows, 0)),
                classes=tuple(name.removeprefix(_SCORE) for name in scores),
                attributes={
                    name.removeprefix(_ATTRIBUTE): tuple(column.to_pylist())
                    for name, column in held.items()
                    if name.startswith(_ATTRIBUTE)
                },
                activation=about["activation"], model=str(about["model"]), source=str(about["source"]),
            )  # fmt: skip
        except FileNotFoundError as error:
            raise DataError(f"{path}: no such file") from error
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{path}: not a table of predictions that `PredictionTable.save` wrote ({error})"
            ) from error


def _scalar(value: Any) -> Scalar | None:
    """A plain value; None for None and NaN."""
    value = value.item() if isinstance(value, np.generic) else value
    return None if value is None or (isinstance(value, float) and value != value) else value


def _order(value: Scalar | None) -> tuple[int, float, str]:
    """Numbers by size, before texts."""
    return (0, float(value), "") if isinstance(value, (bool, int, float)) else (1, 0.0, str(value))


def _column(name: str, values: Iterable[Any]) -> tuple[Scalar | None, ...]:
    scalars = tuple(_scalar(value) for value in values)
    kinds = {type(value) for value in scalars if value is not None}
    if kinds == {int, float}:
        return tuple(None if value is None else float(value) for value in scalars)
    if len(kinds) > 1 or not kinds <= {str, bool, int, float}:
        kinds_text = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise UsageError(
            f"attribute {name!r} has values of type {kinds_text}: give texts, numbers or truth values, one kind"
        )
    return scalars


def _twice(names: Sequence[str]) -> str:
    seen: set[str] = set()
    return next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]


def as_table(table: PredictionTable | Any, target: Any = None) -> PredictionTable:
    """A table as it is, or one of logits (N, C) and class indices (N,) alone.

    Args:
        table: a table, or logits: a tensor or an array.
        target: with logits, (N,) index of the right class, -1 where it is not known; None: none is known.

    Raises:
        UsageError: other shapes, probabilities in the place of logits, or a target beside a table.
    """
    if isinstance(table, PredictionTable):
        if target is not None:
            raise UsageError("a PredictionTable has its targets: give the table alone, or logits and targets")
        return table
    scores = as_features("logits", table).detach().cpu().double().numpy()
    if len(scores) and scores.min() >= 0 and np.allclose(scores.sum(axis=1), 1, atol=1e-3):
        raise UsageError("these rows are probabilities (each sums to 1), not logits: give their logarithms")
    count, wide = scores.shape
    known = np.full(count, -1) if target is None else as_indices("target", target, count).cpu().numpy()
    return PredictionTable(
        keys=tuple(map(str, range(count))), target=known, scores=scores, classes=tuple(map(str, range(wide)))
    )
