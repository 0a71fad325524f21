"""A recipe becomes a run folder with a trained model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from binderclip.tasks.events import skip, start, warn
from binderclip.tasks.request import VerbResult
from binderclip.tasks.verbs.train.held_out import few_pictures, heads_table, held_out_table
from binderclip.tasks.verbs.train.own_data import FINETUNE, recipe_of

if TYPE_CHECKING:
    from binderclip.tasks.verbs.train.request import TrainRequest
    from binderclip.train import RunResult


@dataclass(frozen=True)
class TrainedRun(VerbResult):
    """A run.

    Attributes:
        result: of `train.run`; `out`, `figures` and `summary` are in it.
    """

    request: TrainRequest
    result: RunResult

    @property
    def leads(self) -> bool:
        """Whether this is the process that wrote the folder."""
        return self.result.leads

    @property
    def title(self) -> str:
        return str(self.result.recipe.name)

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Columns, and a row a stage."""
        rows = [
            (
                stage["name"], stage["steps"], "" if stage["final_loss"] is None else f"{stage['final_loss']:.3f}",
                stage["images_per_second"],
            )
            for stage in self.result.summary["stages"]
        ]  # fmt: skip
        return ("stage", "steps", "loss at the end", "images/s"), rows

    def more_tables(self) -> list[tuple[str, tuple[str, ...], list[tuple[Any, ...]]]]:
        """Title, columns and rows of what was measured on held-out pictures."""
        return [*heads_table(self.result.summary["stages"]), *held_out_table(self.result.figures)]

    def remarks(self) -> list[str]:
        """What to know of the figures, and of parameters without a gradient."""
        idle = [
            f"warning: stage {stage.name!r}: {len(names)} parameters had exactly zero gradient in the first steps, "
            f"such as {names[0]}; summary.json lists them"
            for stage in self.result.stages
            if (names := stage.zero_gradients)
        ]
        return [*few_pictures(self.result.figures), *idle]

    def places(self) -> list[str]:
        """Where model, plots and curves are."""
        out = self.result.out
        return [f"model: {out / 'model'}   plots: {out / 'plots'}   curves: tensorboard --logdir {out / 'tensorboard'}"]

    def as_dict(self) -> dict[str, Any]:
        result = self.result
        own = {"out": result.out, "seconds": result.seconds}
        return {**own, **result.summary, "request": self.request.as_document()}


def run(request: TrainRequest) -> TrainedRun:
    """Train by a recipe.

    Args:
        request: what is asked, with a recipe or data.

    Raises:
        Others: as `train.run`.
    """
    from binderclip import train
    from binderclip.tasks.verbs.train.events import StageEvents

    start("opening the data")
    recipe = recipe_of(request)
    out = Path(request.out or Path("runs", Path(request.recipe or FINETUNE).stem))
    try:
        result = train.run(
            recipe, out=out, resume=request.resume, device=request.device, progress=StageEvents,
            parallel="fsdp" if request.parallel == "fsdp" else "ddp", allow_pipe=request.allow_pipe,
        )  # fmt: skip
    except KeyboardInterrupt:
        if (out / "recipe.toml").is_file():
            warn(f"interrupted: the same command with --resume goes on from the last checkpoint in {out}")
        raise
    if result.leads:
        skip(result.skipped)
    return TrainedRun(request, result)
