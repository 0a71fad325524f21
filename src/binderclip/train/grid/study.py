"""`ScalingStudy`: a grid of recipes, trained one after the other and put into one table."""

from __future__ import annotations

import itertools
import json
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from binderclip.documents import parse_json
from binderclip.errors import CheckpointError, NotSupported, UsageError
from binderclip.files import write_whole
from binderclip.settings import brief, read_toml
from binderclip.train.engine.engine import run
from binderclip.train.engine.monitor import ProgressOption
from binderclip.train.feed.length import planned_samples
from binderclip.train.grid.table import Cost, StudyRun, StudyTable
from binderclip.train.recipe.cost import Cost as RecipeCost
from binderclip.train.recipe.recipe import Recipe, load_recipe
from binderclip.train.recipe.stage import Strict

__all__ = ["GridRun", "ScalingStudy", "load_grid"]

Levels = Mapping[str, Sequence[str]]
Scalar = str | int | float | bool


class GridDocument(Strict):
    """The entries of a GRID.toml; see `load_grid`."""

    name: str = ""
    recipe: str
    set: list[str] = []
    seeds: list[int] = Field([0, 1, 2], min_length=1)
    metric: str = "text_to_image/R@10"
    x: Cost = "flops"
    curves: str | None = None
    factors: dict[str, Any] = Field(min_length=1)  # `_levels` says more of a mistake in them


@dataclass(frozen=True)
class GridRun:
    """One run of a grid before it is trained: its levels, seed, folder within the grid's, and recipe."""

    levels: dict[str, str]
    seed: int
    folder: str
    recipe: Recipe


class ScalingStudy:
    """A grid of training runs: every combination of the levels of some factors, each with several seeds.

    Runs share nothing but the recipe they start from, so the differences are those that the levels say. Strategies are
    to be compared at equal compute, not at equal passes: what a run costs is counted by `Recipe.cost`.

    Args:
        recipe: the recipe that levels change; a recipe, the path of one, or the name of a packaged one.
        factors: factor -> level -> `KEY=VALUE` entries, as `--set` takes them; or factor -> values, where the factor is
            itself the name of an entry (`{"stage.samples": [10_000, 20_000]}`).
        seeds: of the recipe, for each combination.
        metric, x, curves: of the table; see `StudyTable`.
        set: `KEY=VALUE` entries of every run.
        name: of the grid.

    Raises:
        UsageError: a wrong recipe or entry (its message names the level), no factor, level or seed, two levels whose
            names give one folder, runs that differ in nothing but name, or an unknown factor in `curves`.

    Examples:
        >>> study = ScalingStudy("scratch-64", {
        ...     "stage.epochs": [1, 2],
        ...     "tokens": {"whole": [], "half": ["stage.image_tokens={name='random', keep=0.5}"]},
        ... }, seeds=[0], set=["model.vision={image_size=64, layers=2, width=64, patch_size=8}"])
        >>> [run.folder for run in study.runs]
        ['1-whole-seed0', '1-half-seed0', '2-whole-seed0', '2-half-seed0']

    Paper: Li et al., "Scaling (Down) CLIP: A Comprehensive Analysis of Data, Architecture, and Training Strategies",
    arXiv 2404.08197.
    """

    def __init__(
        self,
        recipe: Recipe | str | Path,
        factors: Mapping[str, Levels | Sequence[Scalar]],
        *,
        seeds: Sequence[int] = (0, 1, 2),
        metric: str = "text_to_image/R@10",
        x: Cost = "flops",
        curves: str | None = None,
        set: Sequence[str] = (),
        name: str = "",
    ) -> None:
        base = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
        self.base, self.name = base.overridden(set), name or base.name
        self.metric, self.x, self.curves = metric, x, curves
        self.factors = {factor: _levels(factor, levels) for factor, levels in factors.items()}
        if not self.factors or not seeds or not all(self.factors.values()):
            raise UsageError("a grid needs a factor, a level of each factor and a seed")
        if curves is not None and curves not in self.factors:
            raise UsageError(f"curves: there is no factor {curves!r}: one of {', '.join(self.factors)}")
        self.runs = [self._run(levels, seed) for levels in self._combinations() for seed in seeds]
        folders = [one.folder for one in self.runs]
        if len(dict.fromkeys(folders)) < len(folders):
            twice = next(folder for folder in folders if folders.count(folder) > 1)
            raise UsageError(f"two runs of the grid have one folder, {twice!r}: give seeds once and levels other names")
        self._refuse_equal()

    def _refuse_equal(self) -> None:
        """Stop where two runs would train the same: a factor whose entries change nothing."""
        seen: dict[str, GridRun] = {}
        for one in self.runs:
            document = json.dumps({**one.recipe.document(), "name": ""}, sort_keys=True)
            other = seen.setdefault(document, one)
            if other is not one:
                factors = [factor for factor in self.factors if one.levels[factor] != other.levels[factor]]
                seeds = ": seeds are given as `seeds`" if any("seed" in factor for factor in factors) else ""
                raise UsageError(
                    f"runs {other.folder!r} and {one.folder!r} of the grid are the same but for their names: the "
                    f"levels of {', '.join(factors)} change nothing{seeds}"
                )

    def _combinations(self) -> list[dict[str, str]]:
        return [dict(zip(self.factors, each, strict=True)) for each in itertools.product(*self.factors.values())]

    def _run(self, levels: dict[str, str], seed: int) -> GridRun:
        entries = [entry for factor, level in levels.items() for entry in self.factors[factor][level]]
        folder = re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join([*levels.values(), f"seed{seed}"])).lstrip(".")
        try:
            recipe = self.base.overridden([*entries, f"seed={seed}", f"name={self.name}: {folder}"])
        except UsageError as error:
            shown = ", ".join(f"{factor} = {level}" for factor, level in levels.items())
            raise UsageError(f"grid {self.name!r}, {shown}: {error}") from error
        return GridRun(levels, seed, folder, recipe)

    def run(
        self,
        out: str | Path,
        *,
        resume: bool = False,
        device: str = "cpu",
        progress: ProgressOption = True,
        budget_s: float | None = None,
        allow_pipe: bool = False,
    ) -> StudyTable:
        """Train every run that is not finished, and leave a table and a picture.

        Args:
            out: the grid's folder; gets `runs/` with a run directory each, `table.json` and `frontier.png`.
            resume: go on where an earlier call stopped: finished runs are taken as they are, an unfinished one goes on
                from its checkpoint. Levels and seeds may have been added.
            device: where models run.
            progress: show each run's name and progress display on stderr, or the displays to show, as of `train.run`.
            budget_s: start no further run after so many seconds; the table then has those that are finished.
            allow_pipe: of `train.run`.

        Raises:
            UsageError: a folder that holds a grid already, or costs `x` that cannot be counted, both before anything
                runs; or what `StudyTable` refuses: runs are kept, and a call with `resume` and another metric takes
                them.
            CheckpointError: a run in the folder was trained by other settings.
            NotSupported: several processes.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise NotSupported("a grid runs in one process; train single recipes under torchrun")
        out = Path(out)
        if not resume and (out / "runs").exists():
            raise UsageError(f"{out} holds a grid already: go on with it (--resume), or name another folder")
        self._refuse_uncounted(allow_pipe)
        began = time.perf_counter()
        done: list[StudyRun] = []
        for number, one in enumerate(self.runs):
            folder = out / "runs" / one.folder
            finished = _finished(one, folder)
            if finished is None:
                if budget_s is not None and done and time.perf_counter() - began > budget_s:
                    continue
                name = f"run {number + 1} of {len(self.runs)}: {one.folder}"
                if callable(progress):
                    progress(one.folder).say(name)
                elif progress:
                    print(name, file=sys.stderr)
                run(one.recipe, out=folder, resume=resume, device=device, progress=progress, allow_pipe=allow_pipe)
                finished = _finished(one, folder)
                assert finished is not None
            done.append(finished)
            if len(done) == 1:
                self._table(done)  # a metric that is not measured is told after the first run, not after the last
        table = self._table(done)
        write_whole(out / "table.json", json.dumps(table.document(), indent=2, default=str) + "\n")
        table.plot(out / "frontier.png")
        return table

    def costs(self, *, allow_pipe: bool = False) -> dict[str, RecipeCost]:
        """What each run costs before it is trained, by its folder; for lengths in epochs the data are opened.

        Args:
            allow_pipe: of `train.run`.

        Raises:
            UsageError, DataError: data that cannot be opened.
        """
        known: dict[tuple[str, ...], RecipeCost] = {}  # seeds cost the same
        for one in self.runs:
            if (levels := tuple(one.levels.values())) not in known:
                for spec in (spec for stage in one.recipe.stage for spec in stage.data):
                    spec._allow_pipe = allow_pipe
                samples = [planned_samples(stage) for stage in one.recipe.stage]
                known[levels] = one.recipe.cost(samples=samples)
        return {one.folder: known[tuple(one.levels.values())] for one in self.runs}

    def _refuse_uncounted(self, allow_pipe: bool) -> None:
        """Stop where no count of the costs that the table asks for can be made."""
        for folder, cost in self.costs(allow_pipe=allow_pipe).items():
            unknown = next((stage for stage in cost.stages if getattr(stage, self.x) is None), None)
            if unknown is not None:
                raise UsageError(
                    f"x = {self.x!r} of {folder} is not known, as stage {unknown.name!r} is not counted: "
                    f"{unknown.unknown}; take another, such as x = 'samples'"
                )

    def _table(self, done: Sequence[StudyRun]) -> StudyTable:
        return StudyTable(done, metric=self.metric, x=self.x, curves=self.curves)


def _levels(factor: str, levels: Any) -> dict[str, list[str]]:
    """Level -> entries; of values the factor is the entry."""
    if isinstance(levels, Mapping):
        for level, entries in levels.items():
            if isinstance(entries, str) or not isinstance(entries, Sequence) or not all(map(_is_text, entries)):
                raise UsageError(
                    f"factor {factor!r}, level {str(level)!r}: a level is a list of entries in quotes, such as "
                    f'["stage.lr=0.001"], got {brief(entries)}'
                )
        return {str(level): list(entries) for level, entries in levels.items()}
    if isinstance(levels, str) or not isinstance(levels, Sequence) or not all(isinstance(v, Scalar) for v in levels):
        raise UsageError(
            f"factor {factor!r}: a factor is a list of values, such as [1, 2], or a table of levels with lists of "
            f"entries in quotes; got {brief(levels)}"
        )
    return {str(value): [f"{factor}={json.dumps(value)}"] for value in levels}


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _finished(one: GridRun, folder: Path) -> StudyRun | None:
    """The outcome of a run that is finished, None where it is not.

    Raises:
        CheckpointError: it was trained by other settings, or its files are damaged.
    """
    if not (folder / "recipe.toml").exists():
        return None
    if load_recipe(folder / "recipe.toml").document() != one.recipe.document():
        raise CheckpointError(f"{folder} was trained by other settings; name another folder for the grid, or remove it")
    path = folder / "summary.json"
    if not path.exists():
        return None
    try:
        summary: Any = parse_json(path.read_text(encoding="utf-8"))
        cost = {name: summary["cost"].get(name) for name in ("flops", "samples", "tokens")}
        figures = {name: float(value) for name, value in summary["figures"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); remove {folder} to train it again") from error
    return StudyRun(one.levels, one.seed, cost, figures, one.folder)


def load_grid(path: str | Path, *, set: Sequence[str] = ()) -> ScalingStudy:
    """Read and check a grid.

    Args:
        path: a TOML file with the entries `recipe` (a packaged one's name, or a file beside the grid's), `[factors]`
            (as `ScalingStudy` takes them) and, where wanted, `name`, `set`, `seeds`, `metric`, `x` and `curves`.
        set: further `KEY=VALUE` entries of every run.

    Raises:
        UsageError: no such file, not TOML, an unknown entry or a wrong value.
    """
    document, _ = read_toml(path, "grid")
    try:
        grid = GridDocument.model_validate(document)
    except ValidationError as error:
        problems = error.errors()
        problem = next((one for one in problems if one["type"] == "extra_forbidden"), problems[0])
        entry = ".".join(str(part) for part in problem["loc"])
        known = f"; entries are {', '.join(GridDocument.model_fields)}" if problem["type"] == "extra_forbidden" else ""
        raise UsageError(f"{path}: {entry}: {problem['msg'].removeprefix('Value error, ')}{known}") from error
    beside = Path(path).parent / grid.recipe
    return ScalingStudy(
        beside if beside.is_file() else grid.recipe, grid.factors, seeds=grid.seeds, metric=grid.metric, x=grid.x,
        curves=grid.curves, set=[*grid.set, *set], name=grid.name or Path(path).stem,
    )  # fmt: skip
