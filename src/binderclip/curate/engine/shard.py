"""`Shard`: some samples of a pool as columns; `SampleTable`: a pool, shard by shard."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from binderclip.curate.engine.columns import ColumnValues, take_rows
from binderclip.curate.engine.keys import Keys

Pictures = Callable[[Int[np.ndarray, "k"]], Iterator[Any]]
"""Rows of a shard in rising order -> their pictures one by one, as `data.open_image` takes them."""


@dataclass
class Shard:
    """Samples as columns; their pictures are read only when a signal asks for them.

    Attributes:
        id: names the shard in its pool.
        keys: (n,) 128-bit keys.
        columns: name -> column of length n: `text`, `texts` and `name`, and whatever the data say (`width`,
            `clip_l14_similarity_score`, ...); signals add theirs.
        pictures: reads pictures by row; None where the data have none (DataComp's tables of metadata).
        stamp: changes whenever the samples, their texts or their pictures do.
        late: further columns by name, of all samples of the shard, that are read when they are asked for.
        lasting: whether the stamp does what it should; not of remote files, of which nothing is known before they are
            read. What is computed of them is kept for one run.
        wider: rows of the whole shard that earlier stages worked on, each set holding this shard's samples: what was
            stored of those need not be computed again.
    """

    id: str
    keys: Keys
    columns: dict[str, ColumnValues]
    pictures: Pictures | None = None
    stamp: str = ""
    late: Mapping[str, Callable[[], ColumnValues]] = field(default_factory=dict)
    lasting: bool = True
    wider: Sequence[Int[np.ndarray, "_"]] = ()
    _rows: Int[np.ndarray, "n"] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.keys)

    def column(self, name: str) -> ColumnValues | None:
        """A column, read now if it is a late one; None where there is none of this name."""
        if name not in self.columns and name in self.late:
            whole = self.late[name]()
            self.columns[name] = whole if self._rows is None else take_rows(whole, self._rows)
        return self.columns.get(name)

    def open_pictures(self) -> Iterator[Any]:
        """The picture of each sample, one by one; only if `pictures` is there."""
        assert self.pictures is not None
        return self.pictures(np.arange(len(self)) if self._rows is None else self._rows)

    def take(self, rows: Int[np.ndarray, "k"]) -> Shard:
        """The samples at `rows`, which rise."""
        if len(rows) == len(self):
            return self
        own = rows if self._rows is None else self._rows[rows]
        columns = {name: take_rows(column, rows) for name, column in self.columns.items()}
        return replace(self, keys=self.keys[rows], columns=columns, stamp=self._stamp_at(own), _rows=own)

    def wider_cuts(self) -> Iterator[tuple[str, Int[np.ndarray, "n"]]]:
        """The stamp of each of `wider`, the latest first, and the places of this shard's samples among its rows."""
        own = np.arange(len(self)) if self._rows is None else self._rows
        for rows in reversed(self.wider):
            yield self._stamp_at(rows), np.searchsorted(rows, own)
        if self._rows is not None:
            yield self.stamp.partition("@")[0], own

    def _stamp_at(self, rows: Int[np.ndarray, "_"]) -> str:
        mark = hashlib.blake2b(np.asarray(rows, np.int64).tobytes(), digest_size=8).hexdigest()
        return f"{self.stamp.partition('@')[0]}@{mark}"


@runtime_checkable
class SampleTable(Protocol):
    """A pool of samples: `open_table` makes one of any data set, and anything with these members is one.

    Attributes:
        ids: names of the shards.
    """

    ids: Sequence[str]

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """(key, reason) of what could not be read."""
        ...

    def load(self, id: str) -> Shard:
        """The samples of one shard; called again in every pass."""
        ...
