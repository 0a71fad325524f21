"""Columns of samples: arrays, lists of texts, or several numbers a sample; and their form on disk."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from jaxtyping import Int

from binderclip.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, eq=False)
class RaggedColumn:
    """Any number of integers for each of n samples, such as the concepts that its text names.

    Attributes:
        values: (m,) all of them, sample after sample.
        offsets: (n + 1,) sample i has `values[offsets[i]:offsets[i + 1]]`.
    """

    values: Int[np.ndarray, "m"]
    offsets: Int[np.ndarray, "_"]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> Int[np.ndarray, "k"]:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @property
    def owner(self) -> Int[np.ndarray, "m"]:
        """The sample of each value."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    @classmethod
    def of(cls, rows: list[Any]) -> RaggedColumn:
        """Put lists of integers together, one a sample."""
        offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows], dtype=np.int64)]).astype(np.int64)
        values = np.concatenate([np.asarray(row, np.int64) for row in rows]) if rows else np.empty(0, np.int64)
        return cls(values, offsets)


ColumnValues: TypeAlias = "np.ndarray | RaggedColumn | list[Any]"
"""One column: (n,) or (n, d) numbers, a `RaggedColumn`, or a list of n texts (or lists of texts)."""


def take_rows(column: ColumnValues, rows: Int[np.ndarray, "k"]) -> ColumnValues:
    """The values of some samples, in the order of `rows`."""
    if isinstance(column, RaggedColumn):
        counts = np.diff(column.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        places = np.arange(offsets[-1]) + np.repeat(column.offsets[rows] - offsets[:-1], counts)
        return RaggedColumn(column.values[places], offsets)
    return column[rows] if isinstance(column, np.ndarray) else list(map(column.__getitem__, rows.tolist()))


def numbers(column: ColumnValues, name: str) -> np.ndarray:
    """A column as (n,) float64, NaN where there is no value.

    Raises:
        UsageError: it holds something else than one number a sample.
    """
    if isinstance(column, np.ndarray) and column.ndim == 1 and column.dtype.kind in "biuf":
        return column.astype(np.float64)
    if isinstance(column, list):
        try:
            return np.array([np.nan if value is None else float(value) for value in column], np.float64)
        except (TypeError, ValueError):
            pass
    raise UsageError(f"column {name!r} does not hold one number a sample, which a score is")


def in_precision(value: float, column: ColumnValues) -> float:
    """A number as the column would hold it: among float32 values 0.7 is the float32 that is nearest to it.

    Scores are compared in float64, in which that float32 lies below 0.7.

    Args:
        value: to compare the column's values with.
        column: an array of fractions rounds; whole numbers, texts and lists of Python's numbers do not.
    """
    if isinstance(column, np.ndarray) and column.dtype.kind == "f" and math.isfinite(value):
        with np.errstate(over="ignore"):
            return float(column.dtype.type(value))
    return value


def as_column(values: list[Any]) -> ColumnValues:
    """Values as they stand in a table: an array where all that are there are numbers, else the list."""
    there = [value for value in values if value is not None]
    if there and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in there):
        whole = len(there) == len(values) and all(isinstance(value, int) and abs(value) < 2**62 for value in there)
        return np.array([np.nan if v is None else v for v in values], np.int64 if whole else np.float64)
    kinds = {type(value) for value in there}
    if len(kinds) > 1 and not kinds <= {int, float}:  # a table has one kind of value in a column
        return [None if value is None else str(value) for value in values]
    return values


def to_arrow(column: ColumnValues) -> pa.Array:
    """A column as it is written to Arrow and Parquet files."""
    import pyarrow as pa

    if isinstance(column, RaggedColumn):
        return pa.LargeListArray.from_arrays(pa.array(column.offsets, pa.int64()), pa.array(column.values))
    if isinstance(column, list):
        return pa.array(column)
    if column.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(pa.array(column.reshape(-1)), column.shape[1])
    return pa.array(column)


def from_arrow(array: Any) -> ColumnValues:
    """What `to_arrow` was given; also any column of numbers, texts or lists of integers of somebody else's file."""
    import pyarrow as pa

    array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    kind = array.type
    if pa.types.is_fixed_size_list(kind):
        return array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), kind.list_size)
    if (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and pa.types.is_integer(kind.value_type):
        offsets = array.offsets.to_numpy().astype(np.int64)
        return RaggedColumn(array.flatten().to_numpy(zero_copy_only=False).astype(np.int64), offsets - offsets[0])
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return array.to_numpy(zero_copy_only=False)
    return as_column(array.to_pylist())
