"""Columns on disk: what was computed for a shard is there when a run goes on after an interruption."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from binderclip.curate.engine.columns import ColumnValues, from_arrow, to_arrow
from binderclip.data.storage import is_object, join_place, open_place, write_place


class ColumnStore:
    """Tables of columns by name and stamp, one Arrow file each, written whole or not at all.

    Args:
        folder: where they are kept, a path or `s3://bucket/folder`; None keeps them in memory, for one run.

    A stamp says everything that a table was computed from: the samples, and the version of what computed it. Another
    stamp is another file, so nothing outdated is ever read. A damaged file is warned about and computed again.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = folder
        self._held: dict[str, dict[str, ColumnValues]] = {}

    def fetch(
        self, name: str, stamp: str, compute: Callable[[], dict[str, ColumnValues]], *, lasting: bool = True
    ) -> dict[str, ColumnValues]:
        """The table of that name and stamp, computed and stored where it is not there.

        Args:
            name: for people who look into the folder.
            stamp: what it was computed from.
            compute: gives the columns, all of one length.
            lasting: keep it on disk; without, it is held in memory as long as this store is, as of data whose stamp
                does not change with them.

        Raises:
            DataError: the folder cannot be written.
        """
        columns = self.find(name, stamp, lasting=lasting)
        if columns is None:
            columns = compute()
            if self.folder is None or not lasting:
                self._held[_file(name, stamp)] = columns
            else:
                write_place(join_place(self.folder, _file(name, stamp)), _packed(columns), setting="write --out to")
        return columns

    def find(self, name: str, stamp: str, *, lasting: bool = True) -> dict[str, ColumnValues] | None:
        """The table of that name and stamp; None where it is not there.

        Args:
            name, stamp, lasting: as of `fetch`.
        """
        if self.folder is None or not lasting:
            return self._held.get(_file(name, stamp))
        return _read(join_place(self.folder, _file(name, stamp)))


def _file(name: str, stamp: str) -> str:
    label = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:60]
    return f"{label}-{hashlib.blake2b(stamp.encode(), digest_size=12).hexdigest()}.arrow"


def _packed(columns: dict[str, ColumnValues]) -> bytes:
    import pyarrow as pa

    table = pa.table({name: to_arrow(column) for name, column in columns.items()})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def _read(place: str | Path) -> dict[str, ColumnValues] | None:
    import pyarrow as pa

    try:
        with _opened(place) as source:
            table = pa.ipc.open_file(source).read_all()
            return {name: from_arrow(table.column(name)) for name in table.column_names}
    except FileNotFoundError:
        return None
    except (pa.ArrowException, OSError) as error:
        warnings.warn(f"{place} is damaged; its columns are computed again ({error})", RuntimeWarning, stacklevel=3)
        return None


def _opened(place: str | Path) -> Any:
    import pyarrow as pa

    return pa.BufferReader(open_place(place).read()) if is_object(place) else pa.memory_map(str(place))
