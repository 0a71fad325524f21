"""`binderclip train`: a recipe becomes a run folder with a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from binderclip.cli.shared.options import AllowPipe, Device, Json
from binderclip.cli.shared.output import note, print_json, print_table, warn_skipped

WAYS = ("image_to_text", "text_to_image")


def train(
    recipe: Annotated[str, typer.Argument(help="A TOML file, or the name of a packaged recipe, such as `scratch-64`.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder of the run: model, plots, metrics, checkpoints [default: runs/RECIPE].",
        ),
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
    parallel: Annotated[
        str, typer.Option(help="Under `torchrun`: `ddp` (a copy in each process) or `fsdp` (weights in shards).")
    ] = "ddp",
    check: Annotated[
        bool, typer.Option("--check", help="Only check the recipe and show it with every default.")
    ] = False,
    allow_pipe: AllowPipe = False,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Train an image-text model by a recipe.

    Examples:

        binderclip train scratch-64 --out runs/a

        binderclip train scratch-64 --out runs/b --set stage.lr=3e-4 --clip norm

        torchrun --nproc-per-node 2 --no-python binderclip train scratch-64 --out runs/c

    The folder then holds `model/` (`binderclip classify --model runs/a ...`), `plots/`, `summary.json`,
    `metrics.jsonl`, TensorBoard curves, and the recipe as it was carried out. A run that was killed goes on with
    `--resume` and ends with the same weights. `binderclip spikes runs/a` shows where its gradient stood out.
    """
    from binderclip import train as training

    overrides = [*(set or []), *([f"clip={clip}"] if clip is not None else [])]
    checked = training.load_recipe(recipe, set=overrides)
    if check:
        from binderclip.settings import write_toml

        print_json(checked.document()) if json else typer.echo(write_toml(checked.document()), nl=False)
        return
    out = out or Path("runs", Path(recipe).stem)
    try:
        result = training.run(
            checked,
            out=out,
            resume=resume,
            device=device,
            parallel=parallel,  # type: ignore[arg-type]
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


def _show(result: object) -> None:
    """One table of the stages, one of the held-out figures."""
    stages = [
        [s["name"], s["steps"], f"{s['final_loss']:.3f}" if s["final_loss"] is not None else "", s["images_per_second"]]
        for s in result.summary["stages"]  # type: ignore[attr-defined]
    ]
    print_table(f"{result.recipe.name}", ["stage", "steps", "loss at the end", "images/s"], stages)  # type: ignore[attr-defined]
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
        print_table(
            "held out (an equal caption counts as found; of several, the picture's own)",
            ["share", *short_names(found).values()],
            rows,
        )


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command()(train)
