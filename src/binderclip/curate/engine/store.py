"""Columns on disk: what was computed for a shard is there when a run goes on after an interruption."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable
from pathlib import Path

from binderclip.curate.engine.columns import ColumnValues, from_arrow, to_arrow
from binderclip.data.cache.shards import write_whole


class ColumnStore:
    """Tables of columns by name and stamp, one Arrow file each, written whole or not at all.

    Args:
        folder: where they are kept; None keeps them in memory, for one run.

    A stamp says everything that a table was computed from: the samples, and the version of what computed it. Another
    stamp is another file, so nothing outdated is ever read. A damaged file is warned about and computed again.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = None if folder is None else Path(folder)
        self._held: dict[Path, dict[str, ColumnValues]] = {}

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
        label = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:60]
        place = Path(f"{label}-{hashlib.blake2b(stamp.encode(), digest_size=12).hexdigest()}.arrow")
        if self.folder is None or not lasting:
            if place not in self._held:
                self._held[place] = compute()
            return self._held[place]
        path = self.folder / place
        found = _read(path) if path.is_file() else None
        if found is None:
            found = compute()
            write_whole(path, _packed(found))
        return found


def _packed(columns: dict[str, ColumnValues]) -> bytes:
    import pyarrow as pa

    table = pa.table({name: to_arrow(column) for name, column in columns.items()})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def _read(path: Path) -> dict[str, ColumnValues] | None:
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
            return {name: from_arrow(table.column(name)) for name in table.column_names}
    except (pa.ArrowException, OSError) as error:
        warnings.warn(f"{path} is damaged; its columns are computed again ({error})", RuntimeWarning, stacklevel=3)
        return None
