"""Write what was decided: a table of all samples, and shards of those that are kept."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from binderclip.curate.engine.keys import uids_of
from binderclip.curate.engine.shard import SampleTable
from binderclip.curate.engine.tables import DatasetTable, TarTable
from binderclip.curate.pipeline import KEPT, Curated
from binderclip.data.formats.addresses import is_local, local_path
from binderclip.data.sets.shards import SIZES
from binderclip.data.sets.shards_write import copy_shard, write_shards
from binderclip.documents import parse_json
from binderclip.errors import DataError, OutputError, UsageError
from binderclip.files import replace_folder, write_problem, write_whole

if TYPE_CHECKING:
    import pyarrow as pa

OWN = ("uid", "name", "text", "kept", "dropped_by")
"""The columns of a table of decisions that every one has."""
KEPT_NOTE = "kept.json"
"""Beside kept shards: the list of their names."""


def write_decisions(curated: Curated, table: SampleTable, path: str | os.PathLike[str]) -> Path:
    """Write a Parquet file with a row for every sample of the pool, in the order of the pool.

    Columns: `uid`, `name`, `text`, `kept`, `dropped_by` (name of the stage, or null), and the scores that stages
    decided by, null where a sample did not reach the stage. A score that is called like one of the first five has
    `score_` before its name.

    Args:
        curated: what a pipeline found.
        table: the pool it ran on.
        path: of the file.

    Raises:
        OutputError: it cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = [stage.name for stage in curated.report.stages]
    titles = _titles(dict.fromkeys(name for scores in curated.scores.values() for name in scores))
    own = [(column, pa.bool_() if column == "kept" else pa.string()) for column in OWN]
    schema = pa.schema([*own, *((title, pa.float64()) for title in titles.values())])

    def write(draft: Path) -> None:
        with pq.ParquetWriter(draft, schema) as writer:
            for id in table.ids:
                writer.write_table(pa.table(_rows(curated, table, id, names, titles), schema=schema))

    return write_whole(path, write)


def _titles(columns: Collection[str]) -> dict[str, str]:
    """Each score's column, and what it is called in the table."""
    titles: dict[str, str] = {}
    for column in columns:
        title = column
        while title in OWN or (title != column and title in columns):
            title = f"score_{title}"
        titles[column] = title
    return titles


def _rows(
    curated: Curated, table: SampleTable, id: str, names: list[str], titles: Mapping[str, str]
) -> dict[str, pa.Array | list[Any]]:
    import pyarrow as pa

    shard, dropped = table.load(id), curated.decisions[id]
    scores = curated.scores.get(id, {})
    rows: dict[str, Any] = {
        "uid": uids_of(shard.keys),
        "name": [_unicode(name) for name in shard.column("name")],  # type: ignore[union-attr]  # a list of texts
        "text": [_unicode(text) for text in shard.column("text")],  # type: ignore[union-attr]  # a list of texts
        "kept": dropped == KEPT,
        "dropped_by": [None if number == KEPT else names[number] for number in dropped.tolist()],
    }
    empty = np.full(len(shard), np.nan)
    return rows | {t: pa.array(scores.get(column, empty), from_pandas=True) for column, t in titles.items()}


def _unicode(text: Any) -> str:
    return str(text).encode("utf-8", "backslashreplace").decode()


def write_kept_shards(
    curated: Curated, table: SampleTable, folder: str | os.PathLike[str], *, per_shard: int = 10_000
) -> list[Path]:
    """Write the kept samples as WebDataset shards; encoded pictures and all other parts stay as they are.

    A tar shard becomes a shard of the same name, or none where nothing of it is kept; a data set becomes shards of
    `per_shard` samples. The folder is there only when it is whole; `kept.json` in it lists its shards, and a folder
    that was written so is replaced by the next call.

    Args:
        curated: what a pipeline found.
        table: the pool it ran on.
        folder: made where it is missing.
        per_shard: samples of a shard, for data sets.

    Returns:
        The shards' paths.

    Raises:
        UsageError: the pool has no pictures, or two of its shards have one name; the folder cannot be replaced, see
            `check_kept_folder`.
        DataError: nothing is kept, or the disk cannot be written.
    """
    folder = Path(folder)
    check_kept_folder(table, folder)
    if not len(curated.selection):
        raise DataError("no sample is kept, so that there is nothing to write")
    target = folder.resolve()
    draft = target.with_name(f".writing-{target.name}")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        names = [path.name for path in _kept_shards(curated, table, draft, per_shard)]
        write_whole(draft / KEPT_NOTE, json.dumps(names, indent=1) + "\n")
        replace_folder(draft, target)
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {write_problem(error)}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return [folder / name for name in names]


def check_kept_folder(table: SampleTable, folder: str | os.PathLike[str]) -> None:
    """Refuse what `write_kept_shards` would refuse whatever is kept, before any work.

    Args:
        table: the pool.
        folder: of the shards.

    Raises:
        UsageError: the pool has no pictures, two of its shards have one name, or the folder holds a shard of the pool
            or anything that `write_kept_shards` did not write there.
    """
    folder = Path(folder)
    if not isinstance(table, (TarTable, DatasetTable)):
        raise UsageError("shards of kept samples can be written of tar shards and data sets, whose pictures are there")
    if isinstance(table, TarTable):
        names = [_shard_name(id) for id in table.ids]
        if len(set(names)) != len(names):
            raise UsageError("two shards of the pool have the same name; write those of one folder at a time")
        inside = [id for id in table.ids if is_local(id) and Path(local_path(id)).resolve().parent == folder.resolve()]
        if inside:
            raise UsageError(f"{folder} holds {inside[0]}, which is read: give another folder")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file: give a folder")
    foreign = sorted(set(os.listdir(folder)) - {KEPT_NOTE, SIZES, *_noted(folder)}) if folder.is_dir() else []
    if foreign:
        raise UsageError(f"{folder} holds {foreign[0]}, which is no shard of an earlier run: give another folder")


def _noted(folder: Path) -> list[str]:
    """The shards that `write_kept_shards` wrote to a folder; none where it did not."""
    try:
        document = parse_json((folder / KEPT_NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [name for name in document if isinstance(name, str)] if isinstance(document, list) else []


def _kept_shards(curated: Curated, table: SampleTable, folder: Path, per_shard: int) -> list[Path]:
    if isinstance(table, DatasetTable):
        kept = np.concatenate([curated.decisions[id] == KEPT for id in table.ids])
        return write_shards(table.dataset.subset(kept), folder / "kept-%05d.tar", per_shard=per_shard)
    rows = {id: set(np.flatnonzero(curated.decisions[id] == KEPT).tolist()) for id in table.ids}
    return [copy_shard(id, rows[id], folder / _shard_name(id)) for id in table.ids if rows[id]]


def _shard_name(id: str) -> str:
    return os.path.basename(id.split("?")[0])
