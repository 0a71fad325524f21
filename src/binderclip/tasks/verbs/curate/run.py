"""The work of `binderclip curate`: open the pool, run the recipe, write what was decided."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from binderclip.curate import (
    CLEANERS,
    ColumnStore,
    Curated,
    CurationPipeline,
    CurationRecipe,
    LateModel,
    SampleTable,
    check_kept_folder,
    computed_columns,
    model_signals,
    open_table,
    write_decisions,
    write_kept_shards,
)
from binderclip.data.storage import is_object, join_place, upload
from binderclip.errors import DataError
from binderclip.models.files.registry import DEFAULT
from binderclip.tasks.events import Counted, emit, start
from binderclip.tasks.files.outputs import output_folder
from binderclip.tasks.files.writing import write_json
from binderclip.tasks.verbs.curate.report import write_report

if TYPE_CHECKING:
    from binderclip.data import ShardRunner
    from binderclip.models import ImageTextModel


@dataclass(frozen=True)
class CurationDone:
    """What was found, and the files that tell of it."""

    curated: Curated
    folder: str
    files: list[str]


def curated(
    data: str,
    recipe: CurationRecipe,
    out: str,
    *,
    split: str | None,
    model: str | None,
    device: str,
    dtype: str,
    workers: int,
    shards: bool,
    allow_pipe: bool,
    runner: ShardRunner | None = None,
) -> CurationDone:
    """Curate a pool and write the folder `out`, of files or objects; the options are those of the verb.

    Raises:
        UsageError: as of the recipe's rules.
        DataError: the pool holds nothing usable, or cannot be written out.
    """
    store = ColumnStore(join_place(out if is_object(out) else Path(out).absolute(), "columns"))
    scorer = partial(_loaded, model or recipe.model or DEFAULT, device=device, dtype=dtype)
    late = LateModel(scorer, lambda: start("loading the model"))
    signals = model_signals(late, cleaner=CLEANERS[recipe.cleaner])
    texts = CurationPipeline(list(recipe.stages), signals).reads_text
    table = open_table(data, split, store=store, allow_pipe=allow_pipe, texts=texts)
    if shards and not is_object(out):
        check_kept_folder(table, Path(out) / "shards")
    asked = [name for id in table.ids[:1] for name in computed_columns(table.load(id), recipe.needs, signals)]
    if any(hasattr(signals[name], "model") for name in asked):
        late.open()  # what is wrong with it is said before the whole pool is read
        if runner is not None:
            version = f"{late.fingerprint}, {recipe.cleaner}"
            signals = model_signals(late, cleaner=CLEANERS[recipe.cleaner], version=version)

    def progress(doing: str, done: int, total: int) -> None:
        emit(Counted(done, total, f"{doing}: shard"))

    pipeline = CurationPipeline(list(recipe.stages), signals)
    found = pipeline.run(
        table, seed=recipe.seed, workers=workers, store=store, scores=True, progress=progress, runner=runner
    )
    if not found.report.entered:
        why = f": {found.report.skipped[0][0]}: {found.report.skipped[0][1]}" if found.report.skipped else ""
        raise DataError(f"{data} holds no sample that can be used{why}")
    start("writing")
    if not is_object(out):
        folder = output_folder(out)
        return CurationDone(found, out, [str(path) for path in _write(found, table, data, recipe.seed, folder, shards)])
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        files = _write(found, table, data, recipe.seed, folder, shards)
        there = [upload(path, str(join_place(out, path.relative_to(folder).as_posix()))) for path in files]
    return CurationDone(found, out, there)


def _write(found: Curated, table: SampleTable, data: str, seed: int, folder: Path, shards: bool) -> list[Path]:
    """Write what was decided into a folder; gives the files."""
    # First what says whose the folder is: the next two files have no place for it.
    write_json({"data": data, "seed": seed, **found.report.as_dict()}, folder / "report.json")
    files = [found.selection.save(folder / "selection.npy")]
    files.append(write_decisions(found, table, folder / "samples.parquet"))
    files.append(write_report(found, table, data, folder / "report.html"))
    files.append(folder / "report.json")
    return files + (write_kept_shards(found, table, folder / "shards") if shards else [])


def _loaded(name: str, device: str, dtype: str) -> ImageTextModel:
    from binderclip.models import load

    return load(name, device=device, dtype=dtype)
