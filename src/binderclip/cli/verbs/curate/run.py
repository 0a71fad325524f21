"""The work of `binderclip curate`: open the pool, run the recipe, write what was decided."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from binderclip.cli.shared.inputs import output_folder
from binderclip.cli.shared.output import write_json
from binderclip.cli.verbs.curate.report import write_report
from binderclip.curate import (
    CLEANERS,
    ColumnStore,
    Curated,
    CurationPipeline,
    CurationRecipe,
    LateModel,
    check_kept_folder,
    computed_columns,
    model_signals,
    open_table,
    write_decisions,
    write_kept_shards,
)
from binderclip.errors import DataError, UsageError

if TYPE_CHECKING:
    from binderclip.models import ImageTextModel

Say = Callable[[str], None]


@dataclass(frozen=True)
class CurationDone:
    """What was found, and the files that tell of it."""

    curated: Curated
    folder: Path
    files: list[Path]


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
    say: Say,
    counted: Callable[[Say, str], Callable[[int, int], None]],
) -> CurationDone:
    """Curate a pool and write the folder `out`; the options are those of the verb.

    Raises:
        UsageError: as of the recipe's rules; the folder lies in the pool.
        DataError: the pool holds nothing usable, or cannot be written out.
    """
    folder = Path(out)
    _outside(folder, Path(data))
    store = ColumnStore(folder / "columns")
    table = open_table(data, split, store=store, allow_pipe=allow_pipe)
    if shards:
        check_kept_folder(table, folder / "shards")

    def loaded() -> ImageTextModel:
        from binderclip.models import load

        say("loading the model")
        return load(model or recipe.model or "small", device=device, dtype=dtype)

    late = LateModel(loaded)
    signals = model_signals(late, cleaner=CLEANERS[recipe.cleaner])
    asked = [name for id in table.ids[:1] for name in computed_columns(table.load(id), recipe.needs, signals)]
    if any(hasattr(signals[name], "model") for name in asked):
        late.open()  # what is wrong with it is said before the whole pool is read
    steps: dict[str, Callable[[int, int], None]] = {}

    def progress(doing: str, done: int, total: int) -> None:
        steps.setdefault(doing, counted(say, f"{doing}: shard"))(done, total)

    pipeline = CurationPipeline(list(recipe.stages), signals)
    found = pipeline.run(table, seed=recipe.seed, workers=workers, store=store, scores=True, progress=progress)
    if not found.report.entered:
        why = f": {found.report.skipped[0][0]}: {found.report.skipped[0][1]}" if found.report.skipped else ""
        raise DataError(f"{data} holds no sample that can be used{why}")
    output_folder(out)
    say("writing")
    files = [found.selection.save(folder / "selection.npy")]
    files.append(write_decisions(found, table, folder / "samples.parquet"))
    files.append(write_report(found, table, data, folder / "report.html"))
    write_json({"data": data, "seed": recipe.seed, **found.report.as_dict()}, folder / "report.json")
    files.append(folder / "report.json")
    if shards:
        files += write_kept_shards(found, table, folder / "shards")
    return CurationDone(found, folder, files)


def _outside(folder: Path, pool: Path) -> None:
    """Refuse to write into a pool: the next run would read what this one wrote."""
    if pool.is_dir() and folder.resolve().is_relative_to(pool.resolve()):
        raise UsageError(f"--out {folder} lies inside the pool {pool}: give a folder outside of it")
