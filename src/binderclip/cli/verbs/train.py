"""`binderclip train`: a recipe becomes a run folder with a trained model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from binderclip.cli.shared.options import AllowPipe, Device, Json
from binderclip.cli.shared.output import note, print_json, print_table, warn_skipped
from binderclip.cli.shared.plan import (
    Bandwidth,
    Cores,
    MachineCount,
    Memory,
    PictureBytes,
    Plan,
    PlanOptions,
    Price,
    Samples,
    bounded,
    show_plan,
)
from binderclip.display import number_of
from binderclip.errors import BinderclipError, UsageError
from binderclip.tasks.files.outputs import OUTPUT
from binderclip.tasks.verbs.train import FEW_HELD_OUT, own_data

WAYS = ("image_to_text", "text_to_image")


def train(
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="A TOML file, or the name of a packaged recipe, such as `scratch-64` [with --data: finetune]."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Your own pictures instead of the recipe's: a folder with captions or with one sub-folder a class, or "
            "whatever else `evaluate --data` reads. Of a folder without splits a tenth is held out and measured."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder of the run: model, plots, metrics, checkpoints [default: runs/RECIPE].",
        ),
        OUTPUT,
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where a run in this folder stopped, however it stopped.")
    ] = False,
    set: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            "-s",
            metavar="KEY=VALUE",
            help="Change an entry: `stage.lr=3e-4` (every stage), `stage.0.lr=3e-4`, `seed=1`, `clip.max_norm=2`. "
            "Can be given several times.",
        ),
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option(
            "--clip",
            help="Gradient clipping by name, `norm`, `value`, `zclip`, `autoclip`, `adagc`, `agc` or `coordinate`, or "
            "a table, `{name = 'zclip', z_thresh = 3}`; short for --set clip=...",
        ),
    ] = None,
    grid: Annotated[
        Path | None,
        typer.Option(
            "--grid",
            help="Instead of a recipe a TOML file that says which recipes to train: every combination of some entries, "
            "with several seeds. Leaves a table of errors against operations, a frontier and power laws.",
        ),
    ] = None,
    parallel: Annotated[
        str | None,
        typer.Option(
            help="Under `torchrun`: `ddp` (a copy in each process) or `fsdp` (weights in shards) [default: ddp]."
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only check the recipe and show it with every default.")
    ] = False,
    as_: Annotated[
        str | None,
        typer.Option(
            "--as",
            help="Train nothing: print the nearest command of another program, `open_clip`, and what it cannot say.",
        ),
    ] = None,
    allow_pipe: AllowPipe = False,
    device: Device = "cpu",
    json: Json = False,
    plan: Plan = False,
    samples: Samples = None,
    machines: MachineCount = None,
    cores: Cores = None,
    memory: Memory = None,
    price: Price = None,
    bandwidth: Bandwidth = None,
    picture_bytes: PictureBytes = None,
    flops: Annotated[
        float | None,
        bounded(
            "--flops",
            "Floating-point operations a second that a machine (a process, such as a GPU) reaches in training "
            "[default: its cores like the one that was measured].",
            1,
            1e24,
        ),
    ] = None,
) -> None:
    """Train an image-text model by a recipe.

    Examples:

        binderclip train --data photos/ --out runs/mine

        binderclip train scratch-64 --out runs/a

        binderclip train scratch-64 --out runs/b --set stage.lr=3e-4 --clip norm

        torchrun --nproc-per-node 2 --no-python binderclip train scratch-64 --out runs/c

        binderclip train --grid GRID.toml --out runs/grid

        binderclip train clipa --plan --samples 1e9 --machines 64 --flops 2e14 --memory 80

    What it will cost, in pairs, tokens and operations, is shown before it starts. The folder then holds `model/`
    (`binderclip classify --model runs/a ...`), `plots/`, `summary.json`, `metrics.jsonl`, TensorBoard curves, and the
    recipe as it was carried out. A run that was killed goes on with `--resume` and ends with the same weights.
    `binderclip spikes runs/a` shows where its gradient stood out.
    """
    from binderclip import train as training

    overrides = [*(set or []), *([f"clip={clip}"] if clip is not None else [])]
    if as_ not in (None, "open_clip"):
        raise UsageError(f"--as {as_}: the only program that is known is open_clip")
    if parallel not in (None, "ddp", "fsdp"):
        raise UsageError(f"--parallel is ddp or fsdp, got {parallel!r}")
    way: Literal["ddp", "fsdp"] = "fsdp" if parallel == "fsdp" else "ddp"
    asked = PlanOptions(samples, machines, cores, memory, price, bandwidth, picture_bytes, {"--flops": flops})
    asked.refuse_without(plan)
    if grid is not None:
        if plan:
            raise UsageError("--plan: name one recipe, not a grid")
        if as_ is not None:
            raise UsageError("--as: a grid is no command; name one recipe")
        if recipe is not None or data is not None:
            raise UsageError("--grid names its recipe and data itself: leave RECIPE and --data out")
        if parallel is not None:
            raise UsageError("--parallel: a grid trains its runs one after the other in one process; leave it out")
        out = out or Path("runs", grid.stem)
        _train_grid(
            grid, overrides, out, resume=resume, check=check, device=device, json=json, allow_pipe=allow_pipe
        )  # fmt: skip
        return
    if plan:
        if wrong := next(
            (o for o, given in {"--as": as_, "--check": check, "--resume": resume}.items() if given), None
        ):
            raise UsageError(f"{wrong} does not go with --plan, which runs nothing")
        if recipe is None or data is not None:
            raise UsageError(
                "a plan needs a recipe and no data, only their size: `train scratch-64 --plan --samples 1e6`"
            )
        found = training.plan_training(
            training.load_recipe(recipe, set=overrides), asked.needed_samples, asked.counted_machines(flops),
            parallel=way, **asked.bytes_of_picture,  # type: ignore[arg-type]
        )  # fmt: skip
        show_plan(found, recipe, out, json=json)
        return
    if recipe is None and data is None:
        raise UsageError("give a recipe, such as `train scratch-64`, or your own pictures: `train --data photos/`")
    recipe = recipe or "finetune"
    own = [] if data is None else own_data(data, recipe, overrides)
    checked = training.load_recipe(recipe, set=[*own, *overrides])
    if as_ is not None:
        commands = training.open_clip_commands(checked)
        print_json([vars(command) for command in commands]) if json else typer.echo("\n".join(map(str, commands)))
        return
    if check:
        from binderclip.settings import write_toml

        print_json(checked.document()) if json else typer.echo(write_toml(checked.document()), nl=False)
        note(str(checked.cost(samples=[_length(stage) for stage in checked.stage])))  # without being built or fetched
        return
    out = out or Path("runs", Path(recipe).stem)
    try:
        result = training.run(
            checked,
            out=out,
            resume=resume,
            device=device,
            parallel=way,
            progress=not json,
            allow_pipe=allow_pipe,
        )
    except KeyboardInterrupt:
        if (out / "recipe.toml").is_file():
            note(f"interrupted: the same command with --resume goes on from the last checkpoint in {out}")
        raise
    if not result.leads:
        return
    if json:
        print_json({"out": out, "seconds": result.seconds, **result.summary})
        return
    _show(result)
    warn_skipped(result.skipped)
    for stage in result.stages:
        if names := stage.zero_gradients:
            note(
                f"warning: stage {stage.name!r}: {len(names)} parameters had exactly zero gradient in the first steps, "
                f"such as {names[0]}; summary.json lists them"
            )
    note(f"model: {out / 'model'}   plots: {out / 'plots'}   curves: tensorboard --logdir {out / 'tensorboard'}")


def _length(stage: Any) -> int | None:
    """Pairs of a stage; None where its data cannot be opened here, which a check does not need."""
    from binderclip.train.feed.length import planned_samples

    try:
        return planned_samples(stage)
    except BinderclipError:
        return None


def _train_grid(
    grid: Path, overrides: Sequence[str], out: Path, *, resume: bool, check: bool, device: str, json: bool,
    allow_pipe: bool,
) -> None:  # fmt: skip
    """Train every run of a grid, or only show what there would be."""
    from binderclip.train import load_grid

    study = load_grid(grid, set=overrides)
    if check:
        costs = study.costs(allow_pipe=allow_pipe)
        if json:
            print_json([{"folder": run.folder, "levels": run.levels, "seed": run.seed,
                         "flops": costs[run.folder].flops} for run in study.runs])  # fmt: skip
        else:
            rows = [[folder, "?" if cost.flops is None else f"{cost.flops:.3g}"] for folder, cost in costs.items()]
            print_table(study.name, ["run", "FLOPs"], rows)
            for remark in dict.fromkeys(remark for cost in costs.values() for remark in cost.remarks):
                note(remark)
        return
    try:
        table = study.run(out, resume=resume, device=device, progress=not json, allow_pipe=allow_pipe)
    except KeyboardInterrupt:
        if (out / "runs").is_dir():
            note(f"interrupted: the same command with --resume goes on with the runs in {out}")
        raise
    if json:
        print_json({"out": out, **table.document()})
        return
    print_table(study.name, *table.rows())
    for name, law in table.laws(resamples=500).items():
        note(f"{name}: error = {law}, x in {table.x}")
    for name, why in table.without_law().items():
        note(f"{name}: no power law: {why}")
    note(f"table: {out / 'table.json'}   picture: {out / 'frontier.png'}   runs: {out / 'runs'}")


def _show(result: object) -> None:
    """One table of the stages, one of the held-out figures."""
    stages = [
        [s["name"], s["steps"], f"{s['final_loss']:.3f}" if s["final_loss"] is not None else "", s["images_per_second"]]
        for s in result.summary["stages"]  # type: ignore[attr-defined]
    ]
    print_table(f"{result.recipe.name}", ["stage", "steps", "loss at the end", "images/s"], stages)  # type: ignore[attr-defined]
    _show_heads(result.summary["stages"])  # type: ignore[attr-defined]
    from binderclip.train.engine.evaluator import short_names, split_figure

    found: dict[str, dict[str, float]] = {}
    for name, value in result.figures.items():  # type: ignore[attr-defined]
        data, measure = split_figure(name)
        found.setdefault(data, {})[measure] = value
    wanted = {f"{way.replace('_', ' ')} R@{k}": f"{way}/R@{k}" for way in WAYS for k in (1, 5, 10)}
    wanted |= {"zero-shot accuracy": "zero_shot/accuracy", "commonest class": "zero_shot/majority"}
    rows = [
        [label, *[f"{figures[measure]:.3f}" if measure in figures else "" for figures in found.values()]]
        for label, measure in wanted.items()
        if any(measure in figures for figures in found.values())
    ]
    if rows:
        rows.append(["pictures", *[_count(figures) for figures in found.values()]])
        print_table(
            "held out (an equal caption counts as found; of several, the picture's own)",
            ["share", *short_names(found).values()],
            rows,
        )
    names = short_names(found)
    for data, figures in found.items():
        _warn_of_few(names[data], figures)


def _show_heads(stages: Sequence[Mapping[str, Any]]) -> None:
    """What stages say that trained a head beside the model: its figures on pictures that were held out."""
    rows = []
    for stage in stages:
        held = stage["notes"].get("held out")
        for measure, value in (held or {}).items():
            rows += [] if measure == "pictures" else [[stage["name"], measure, f"{value:.3f}", str(held["pictures"])]]
        own = stage["notes"].get("accuracy")
        rows += [[stage["name"], f"accuracy, {data}", f"{value:.3f}", ""] for data, value in (own or {}).items()]
    if rows:
        print_table("held out", ["head", "measure", "value", "pictures"], rows)


def _count(figures: Mapping[str, float]) -> str:
    count = _pictures(figures)
    return "" if count is None else str(count)


def _pictures(figures: Mapping[str, float]) -> int | None:
    """How many pictures stand behind the figures of a set."""
    count = figures.get("zero_shot/count", figures.get("count"))
    return None if count is None else int(count)


def _warn_of_few(name: str, figures: Mapping[str, float]) -> None:
    """Say between which limits a share lies that few pictures gave."""
    count = _pictures(figures)
    measure = next((m for m in ("zero_shot/accuracy", "image_to_text/R@1") if m in figures), None)
    if count is None or count >= FEW_HELD_OUT or measure is None:
        return
    from binderclip.evaluate.probes import wilson

    low, high = (float(limit) for limit in wilson(figures[measure] * count, count))
    note(
        f"warning: {number_of(count, 'picture')} of {name} measure little: {measure.replace('_', ' ')} "
        f"{figures[measure]:.3f} says that it lies between {low:.2f} and {high:.2f} (95 %)"
    )


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command()(train)
