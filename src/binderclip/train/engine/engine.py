"""`run`: a recipe becomes a run directory."""

from __future__ import annotations

import json
import shutil
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from binderclip.documents import parse_json
from binderclip.errors import CheckpointError, NotSupported, UsageError
from binderclip.files import write_whole
from binderclip.optim import ClipHistory, read_clip_log
from binderclip.settings import build_part, part_name, write_toml
from binderclip.train.distributed import Parallel, World, check_parallel, join_world
from binderclip.train.engine.context import StageContext, StageOutcome
from binderclip.train.engine.disk import explain_full_disk, lack_of_space, usual_space
from binderclip.train.engine.environment import describe_environment
from binderclip.train.engine.monitor import ProgressOption
from binderclip.train.engine.plots import plot_run
from binderclip.train.engine.surgery import training_view
from binderclip.train.feed.length import planned_samples
from binderclip.train.feed.pictures import open_sources
from binderclip.train.recipe.architecture import build_model, reopen
from binderclip.train.recipe.check import check_processes
from binderclip.train.recipe.cost import Cost
from binderclip.train.recipe.recipe import DataSpec, Recipe, load_recipe
from binderclip.train.recipe.registry import DEMANDS, SOURCES, STAGES, Demands

__all__ = ["RunResult", "run"]


@dataclass
class RunResult:
    """Outcome of a run.

    Args:
        out: the run directory; `load(out)` opens the model (`load_vision`, `load_promptable` where it is one of those).
        recipe: as it was carried out.
        figures: last measurement on the held-out data.
        stages: what each stage left.
        seconds: wall time of this call.
        leads: whether this is the leading process.
        cost: what the recipe was expected to take, printed before the run.
        summary: content of `summary.json`.
    """

    out: Path
    recipe: Recipe
    figures: dict[str, float]
    stages: list[StageOutcome]
    seconds: float
    leads: bool = True
    cost: Cost | None = None
    summary: dict[str, Any] = field(default_factory=dict)

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """(key, reason) of every training picture that could not be read."""
        return list(dict(entry for stage in self.stages for entry in stage.skipped).items())


def run(
    recipe: Recipe | str | Path,
    *,
    out: str | Path,
    resume: bool = False,
    device: str = "cpu",
    parallel: Parallel = "ddp",
    progress: ProgressOption = True,
    allow_pipe: bool = False,
    set: Sequence[str] = (),
    **overrides: Any,
) -> RunResult:
    """Train by a recipe and leave everything in a run directory.

    `train.run("scratch-64", out="runs/a", clip="norm", lr=3e-4)`. Under `torchrun` the processes share
    the work; the leading one writes.

    Args:
        recipe: a recipe, the path of one, or the name of a packaged one.
        out: the directory; gets `recipe.toml`, `environment.json`, `metrics.jsonl`, `plots/`, `clipping/` (what the
            clip did), `tensorboard/` (where it is installed), `checkpoints/`, `stages/`, `model/` and `summary.json`.
        resume: go on where an earlier call stopped, at whatever point; a directory without anything starts afresh.
        device: where the model runs.
        parallel: `ddp` or `fsdp`, for several processes.
        progress: show a progress display on stderr; or a function that gives another display for a stage's name, with
            the methods of `ProgressDisplay`.
        allow_pipe: whether shards named `pipe:COMMAND` may run that command in a shell; a recipe from somebody else
            must not, so no recipe can say it.
        set: `KEY=VALUE` overrides, as on the command line.
        overrides: entries by name; one of a stage reaches every stage.

    Raises:
        UsageError: a wrong recipe, `pipe:` in it without `allow_pipe`, or a directory that holds a run already.
        DataError: training data that cannot be read.
        CheckpointError: what is there belongs to another recipe, or the disk is full.
        NotSupported: several processes, and a stage that runs in one.
        Diverged: the loss became NaN or infinite.
    """
    began = time.perf_counter()
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    if set or overrides:
        recipe = recipe.overridden(set, **overrides)
    for spec in _specs(recipe):
        spec._allow_pipe = allow_pipe
    out = Path(out)
    check_parallel(parallel)
    with join_world(device) as world:
        # Whatever can be wrong is found before the directory is touched.
        check_processes(recipe.stage, world.size, parallel)
        _refuse(out, world, resume)
        _open_data(recipe)
        model = _start(out, recipe, world, resume)
        cost = recipe.cost(model, samples=[planned_samples(stage) for stage in recipe.stage])
        fresh = not (out / "recipe.toml").exists()
        if problem := world.agree(lack_of_space(out, recipe, model) if world.leads and fresh else ""):
            raise CheckpointError(problem)
        with explain_full_disk(out, usual_space(recipe, model)):
            if world.leads:
                _open(out, recipe, world, model)
                if callable(progress):
                    progress(recipe.name).say(str(cost))
                elif progress:
                    print(cost, file=sys.stderr)
            world.wait()
            outcomes, model = _stages(recipe, model.to(world.device), out, world, parallel, resume, progress)
            result = RunResult(out, recipe, _last_figures(outcomes), outcomes, time.perf_counter() - began, world.leads)
            result.cost = cost
            if world.leads:
                _close(result, model, world)
            world.wait()
        result.summary = parse_json((out / "summary.json").read_text(encoding="utf-8"))
    return result


def _stages(
    recipe: Recipe, model: Any, out: Path, world: World, parallel: Parallel, resume: bool, progress: ProgressOption
) -> tuple[list[StageOutcome], Any]:
    """Carry the stages out, or take over those that an earlier call finished; what they left, and the last model."""
    outcomes: list[StageOutcome] = []
    for index in range(len(recipe.stage)):
        context = StageContext(
            recipe, recipe.stage[index], index, model, out, world, parallel, resume=resume, progress=progress
        )
        outcomes.append(_finished(context) or _carry_out(context))
        model = context.model
    return outcomes, model


def _refuse(out: Path, world: World, resume: bool) -> None:
    """Stop where the directory is somebody else's."""
    problem = ""
    if world.leads:
        if out.exists() and not out.is_dir():
            problem = f"{out} is a file; name a folder for the run"
        elif (out / "recipe.toml").exists() and not resume:
            problem = f"{out} holds a run already: go on with it (--resume), or name another folder"
        elif out.is_dir() and any(map(_foreign, out.iterdir())) and not (out / "recipe.toml").exists():
            problem = f"{out} is not empty and holds no run; name another folder"
    problem = world.agree(problem)
    if problem:
        raise UsageError(problem)


def _foreign(path: Path) -> bool:
    """Whether a file is none of the drafts that `write_whole` leaves where its process is killed."""
    return not (path.name.startswith(".") and path.name.endswith(".tmp"))


def _open_data(recipe: Recipe) -> None:
    """Open every named data set once, for its errors."""
    open_sources([spec for spec in _specs(recipe) if spec.name not in SOURCES])


def _specs(recipe: Recipe) -> list[DataSpec]:
    """Every data set of a recipe."""
    return [spec for stage in recipe.stage for spec in stage.data] + recipe.evaluation.data


def _start(out: Path, recipe: Recipe, world: World, resume: bool) -> Any:
    """The model before the first stage; a new one is kept in the run, and a resume starts from what was kept."""
    folder = out / "stages" / "start"
    if resume and (folder / "READY").exists():
        return reopen(folder)

    def captions() -> list[str]:
        sets, _ = open_sources([spec for stage in recipe.stage for spec in stage.data])
        if any(not hasattr(dataset, "all_captions") for dataset in sets):
            raise NotSupported(
                "tokenizer = 'captions' learns from captions that are known as a whole, and shards are a stream; take "
                "over another model's vocabulary: tokenizer = 'small'"
            )
        return [caption for dataset in sets for texts in dataset.all_captions for caption in texts]

    return build_model(recipe.model, seed=recipe.seed, captions=captions)


def _open(out: Path, recipe: Recipe, world: World, model: Any) -> None:
    """Make the directory and note what is about to happen."""
    out.mkdir(parents=True, exist_ok=True)
    # First the recipe, by which a run is known: a process killed after it can be resumed.
    if not (out / "recipe.toml").exists():
        write_whole(out / "recipe.toml", write_toml(recipe.document()))
    _environment(out, world)
    folder = out / "stages" / "start"
    if isinstance(recipe.model, dict) and not (folder / "READY").exists():
        model.save(folder)
        write_whole(folder / "READY", "")


def _environment(out: Path, world: World) -> dict[str, Any]:
    """What the run was started with; described anew, with a warning, where the file is damaged."""
    path = out / "environment.json"
    try:
        document = parse_json(path.read_text(encoding="utf-8"))
        if isinstance(document, dict) and {"binderclip", "revision", "device"} <= set(document):
            return document
        problem = "not a description of an environment"
    except FileNotFoundError:
        problem = ""
    except (OSError, ValueError, RecursionError) as error:
        problem = str(error)
    if problem:
        warnings.warn(f"{path} is damaged ({problem}): the environment of now is written in its place", stacklevel=2)
    document = describe_environment(world.device, world.size)
    write_whole(path, _json(document))
    return document


def _carry_out(context: StageContext) -> StageOutcome:
    """Run one stage, measure the model, keep both."""
    torch.manual_seed(context.seed + 104_729 * context.world.rank)
    np.random.seed((context.seed + context.world.rank) % (1 << 32))
    kind = context.stage.kind
    part = {"name": kind} if isinstance(kind, str) else dict(kind)
    with training_view(
        context.model.backbone,
        tokens=context.stage.reduction(),
        positions=context.stage.positions,
        image_size=_asked_size(context),
        text_length=context.stage.text_length,
        grad_checkpointing=context.stage.grad_checkpointing,
        channels_last=context.stage.channels_last,
    ):
        notes = build_part(part, STAGES, "kind", context)
    if isinstance(notes, Mapping):
        context.outcome.notes |= notes
    context.model.eval()
    outcome = context.outcome
    demand = DEMANDS.get(STAGES[part_name(part)], Demands())
    figures = {} if demand.keeps_model else context.evaluate()
    if figures and not (outcome.evaluations and outcome.evaluations[-1]["step"] == outcome.steps):
        outcome.evaluations.append({"step": outcome.steps, **figures})
    if context.world.leads:
        _keep(context)
    context.world.wait()
    return outcome


def _asked_size(context: StageContext) -> int | None:
    """Side of the training pictures where the stage asks for another than the model's own."""
    stage = context.stage
    return context.input_size if stage.image_size is not None or stage.image_tokens is not None else None


def _keep(context: StageContext) -> None:
    folder = context.folder("stages")
    outcome = context.outcome
    context.model.save(folder)
    arrays = {name: np.asarray(values).tolist() for name, values in outcome.history.items()}
    document = {**asdict(outcome), "history": arrays, "identity": _identity(context)}
    # The last file: a stage that has it is finished.
    write_whole(folder / "outcome.json", json.dumps(document))
    shutil.rmtree(context.folder("checkpoints"), ignore_errors=True)


def _finished(context: StageContext) -> StageOutcome | None:
    """The outcome of a stage that an earlier call finished, with its model put into the context."""
    path = context.folder("stages") / "outcome.json"
    if not context.resume or not path.exists():
        return None
    try:
        document = parse_json(path.read_text(encoding="utf-8"))
        identity = document.pop("identity")
        document["history"] = {name: np.asarray(values) for name, values in document["history"].items()}
        document["skipped"] = [tuple(entry) for entry in document["skipped"]]
        outcome = StageOutcome(**document)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is damaged ({type(error).__name__}: {error}); remove {path.parent} to train stage "
            f"{context.stage.name!r} again"
        ) from error
    if identity != _identity(context):
        raise CheckpointError(
            f"stage {context.stage.name!r} in {context.out} was trained by other settings; resume with the same "
            "recipe, or name another folder"
        )
    context.model = reopen(path.parent, device=context.world.device)
    return outcome


def _identity(context: StageContext) -> str:
    document = {**context.stage.model_dump(), "model": context.recipe.model, "seed": context.recipe.seed}
    document.pop("checkpoint_every")
    return json.dumps(document, sort_keys=True)


def _last_figures(outcomes: Sequence[StageOutcome]) -> dict[str, float]:
    for outcome in reversed(outcomes):
        if outcome.evaluations:
            return {name: value for name, value in outcome.evaluations[-1].items() if name != "step"}
    return {}


def _close(result: RunResult, model: Any, world: World) -> None:
    """Model, plots and summary."""
    out, recipe = result.out, result.recipe
    history, evaluations, boundaries = _joined(result.stages)
    plots = []
    if "loss" in history:
        clipping = [(start, log) for (start, _), log in zip(boundaries, _clip_logs(result), strict=True) if log]
        plots = plot_run(history, evaluations, out / "plots", boundaries=boundaries, clipping=clipping)
    environment = _environment(out, world)
    summary = {
        "recipe": recipe.name,
        "scaling": recipe.scaling,
        "figures": result.figures,
        "stages": [_stage_summary(stage) for stage in result.stages],
        "cost": {name: getattr(result.cost, name) for name in ("flops", "samples", "tokens")} if result.cost else {},
        "skipped": result.skipped,
        "parameters": sum(p.numel() for p in model.parameters()),
        "revision": environment["revision"],
        "device": environment["device"],
        "model": "model",
        "plots": [str(path.relative_to(out)) for path in plots],
    }
    model.card = {
        **model.card,
        "summary": f"trained by binderclip train, recipe {recipe.name}",
        "recipe": recipe.document(),
        "data_hash": [stage.data_hash for stage in result.stages],
        "revision": environment["revision"],
        "binderclip": environment["binderclip"],
        "figures": result.figures,
    }
    model.name = recipe.name
    model.save(out / "model", dtype=recipe.save_dtype)
    write_whole(out / "summary.json", _json(summary))


def _clip_logs(result: RunResult) -> list[ClipHistory | None]:
    """What the clip of each stage noted; None for a stage that took no gradient steps."""
    folders = [result.out / "clipping" / f"{index:02d}-{stage.name}" for index, stage in enumerate(result.stages)]
    return [read_clip_log(folder) if folder.is_dir() else None for folder in folders]


def _stage_summary(stage: StageOutcome) -> dict[str, Any]:
    document = asdict(stage)
    history = document.pop("history")
    losses = np.asarray(history.get("loss", ()), dtype=float)
    tail = losses[-max(1, len(losses) // 20) :]
    document["final_loss"] = float(tail.mean()) if len(tail) else None
    document["skipped"] = len(stage.skipped)
    for row in document["evaluations"]:
        row.update({name: round(value, 6) for name, value in row.items() if isinstance(value, float)})
    return document


def _joined(
    stages: Sequence[StageOutcome],
) -> tuple[dict[str, np.ndarray], list[dict[str, Any]], list[tuple[int, str]]]:
    """History and measurements of all stages one after the other."""
    names = list(dict.fromkeys(name for stage in stages for name in stage.history))
    length = [max((len(v) for v in stage.history.values()), default=0) for stage in stages]
    parts = {
        n: [np.asarray(s.history.get(n, np.full(k, np.nan))) for s, k in zip(stages, length, strict=True)]
        for n in names
    }
    history = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    evaluations, boundaries, start = [], [], 0
    for stage, count in zip(stages, length, strict=True):
        boundaries.append((start, stage.name))
        evaluations += [{**row, "step": row["step"] + start} for row in stage.evaluations]
        start += count
    return history, evaluations, boundaries


def _json(document: Any) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False, default=str) + "\n"
