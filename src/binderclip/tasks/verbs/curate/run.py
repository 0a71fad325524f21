"""The work of `binderclip curate`: open the pool, run the recipe, write what was decided."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

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
    read_recipe,
    write_decisions,
    write_kept_shards,
)
from binderclip.data.storage import is_object, join_place, upload
from binderclip.display import number_of
from binderclip.errors import DataError
from binderclip.models.files.registry import DEFAULT
from binderclip.tasks.cluster import shard_runner
from binderclip.tasks.events import Counted, emit, skip, start
from binderclip.tasks.files.outputs import output_folder, outside_pool, writable_paths
from binderclip.tasks.files.writing import write_json
from binderclip.tasks.models import image_text_model
from binderclip.tasks.request import VerbResult
from binderclip.tasks.verbs.curate.report import write_report
from binderclip.tasks.verbs.curate.request import CurateRequest

if TYPE_CHECKING:
    from binderclip.curate import CurationReport
    from binderclip.data import ShardRunner


FOLDER = "curated"
REPORT = "report.json"


@dataclass(frozen=True)
class CurationDone(VerbResult):
    """What was found, and the files that tell of it.

    Attributes:
        report: what each stage kept.
        folder: of files or objects.
        files: in it.
    """

    request: CurateRequest
    report: CurationReport
    folder: str
    files: list[str]

    @property
    def title(self) -> str:
        report = self.report
        share = report.kept / max(report.entered, 1)
        return f"{self.request.data}: {report.kept:,} of {number_of(report.entered, 'sample')} kept ({share:.1%})"

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Columns, and a row a stage."""
        rows = [(name, entered, kept, part) for name, _, entered, kept, part in self.report.rows()]
        return ("stage", "in", "out", "share"), rows

    def conclusion(self) -> list[str]:
        """The files."""
        return self.files

    def remarks(self) -> list[str]:
        """Whether nothing is kept."""
        if self.report.kept or not self.report.entered:
            return []
        return ["nothing is kept: the first stage whose `out` is 0 says where it went"]

    def as_dict(self) -> dict[str, Any]:
        return {
            "data": self.request.data, "recipe": self.request.recipe, "out": self.folder, **self.report.as_dict(),
            "files": self.files, "request": self.request.as_document(),
        }  # fmt: skip


def run(request: CurateRequest) -> CurationDone:
    """Curate a pool and write the folder, of files or objects.

    Args:
        request: with a pool and a recipe.

    Raises:
        UsageError: as of the recipe's rules, or a result that would replace what is none of ours.
        DataError: the pool holds nothing usable, or cannot be written out.
    """
    assert request.data is not None
    assert request.recipe is not None
    out = request.out or FOLDER
    outside_pool(out, request.data)
    if not is_object(out):
        folder = output_folder(out, make=False)
        writable_paths([folder / REPORT, folder / "report.html"])
        writable_paths([folder / "selection.npy", folder / "samples.parquet"], beside=folder / REPORT)
    recipe = read_recipe(request.recipe, request.set)
    start("opening the pool")
    with shard_runner(request.ray, request.workers, request.device) as runner:
        curated, table = _curated(request, recipe, out, runner)
    start("writing")
    files = _saved(curated, table, request, recipe, out)
    skip(curated.report.skipped)
    return CurationDone(request, curated.report, out, files)


def _curated(
    request: CurateRequest, recipe: CurationRecipe, out: str, runner: ShardRunner | None
) -> tuple[Curated, SampleTable]:
    """Run the stages over the pool."""
    assert request.data is not None
    store = ColumnStore(join_place(out if is_object(out) else Path(out).absolute(), "columns"))
    name = request.model or recipe.model or DEFAULT
    scorer = partial(image_text_model, name, device=request.device, dtype=request.dtype)
    late = LateModel(scorer, lambda: start("loading the model"))
    signals = model_signals(late, cleaner=CLEANERS[recipe.cleaner])
    texts = CurationPipeline(list(recipe.stages), signals).reads_text
    table = open_table(request.data, request.split, store=store, allow_pipe=request.allow_pipe, texts=texts)
    if request.shards and not is_object(out):
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
    curated = pipeline.run(
        table, seed=recipe.seed, workers=request.workers or 1, store=store, scores=True, progress=progress,
        runner=runner,
    )  # fmt: skip
    if not curated.report.entered:
        why = f": {curated.report.skipped[0][0]}: {curated.report.skipped[0][1]}" if curated.report.skipped else ""
        raise DataError(f"{request.data} holds no sample that can be used{why}")
    return curated, table


def _saved(curated: Curated, table: SampleTable, request: CurateRequest, recipe: CurationRecipe, out: str) -> list[str]:
    """Write what was decided into a folder of files or objects."""
    assert request.data is not None
    if not is_object(out):
        return [
            str(path) for path in _write(curated, table, request.data, recipe.seed, output_folder(out), request.shards)
        ]
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        files = _write(curated, table, request.data, recipe.seed, folder, request.shards)
        return [upload(path, str(join_place(out, path.relative_to(folder).as_posix()))) for path in files]


def _write(curated: Curated, table: SampleTable, data: str, seed: int, folder: Path, shards: bool) -> list[Path]:
    """Write what was decided into a folder; gives the files."""
    # First what says whose the folder is: the next two files have no place for it.
    write_json({"data": data, "seed": seed, **curated.report.as_dict()}, folder / REPORT)
    files = [curated.selection.save(folder / "selection.npy")]
    files.append(write_decisions(curated, table, folder / "samples.parquet"))
    files.append(write_report(curated, table, data, folder / "report.html"))
    files.append(folder / REPORT)
    return files + (write_kept_shards(curated, table, folder / "shards") if shards else [])
