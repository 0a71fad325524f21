"""What `train` is asked."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from binderclip.errors import UsageError
from binderclip.tasks.fields import AllowPipe, Device
from binderclip.tasks.plan import PlannedRequest, plan_option
from binderclip.tasks.request import Option


class TrainRequest(PlannedRequest):
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

    task: ClassVar[str] = "train"

    recipe: Annotated[
        str | None,
        Option(
            "A TOML file, or the name of a packaged recipe, such as `scratch-64` [with --data: finetune].",
            positional=True,
            label="Recipe",
        ),
    ] = None
    data: Annotated[
        str | None,
        Option(
            "Your own pictures instead of the recipe's: a folder with captions or with one sub-folder a class, or "
            "whatever else `evaluate --data` reads. Of a folder without splits a tenth is held out and measured.",
            label="Pictures with captions",
        ),
    ] = None
    out: Annotated[
        str | None,
        Option(
            "Folder of the run: model, plots, metrics, checkpoints [default: runs/RECIPE].",
            ("--out", "-o"),
            output=True,
        ),
    ] = None
    resume: Annotated[bool, Option("Go on where a run in this folder stopped, however it stopped.", ("--resume",))] = (
        False
    )
    set: Annotated[
        list[str],
        Option(
            "Change an entry: `stage.lr=3e-4` (every stage), `stage.0.lr=3e-4`, `seed=1`, `clip.max_norm=2`. Can be "
            "given several times.",
            ("--set", "-s"),
            metavar="KEY=VALUE",
            label="Other settings, one a line",
        ),
    ] = []
    clip: Annotated[
        str | None,
        Option(
            "Gradient clipping by name, `norm`, `value`, `zclip`, `autoclip`, `adagc`, `agc` or `coordinate`, or a "
            "table, `{name = 'zclip', z_thresh = 3}`; short for --set clip=...",
            label="Gradient clipping",
        ),
    ] = None
    grid: Annotated[
        str | None,
        Option(
            "Instead of a recipe a TOML file that says which recipes to train: every combination of some entries, with "
            "several seeds. Leaves a table of errors against operations, a frontier and power laws."
        ),
    ] = None
    parallel: Annotated[
        str | None,
        Option("Under `torchrun`: `ddp` (a copy in each process) or `fsdp` (weights in shards) [default: ddp]."),
    ] = None
    check: Annotated[bool, Option("Only check the recipe and show it with every default.", ("--check",))] = False
    as_: Annotated[
        str | None,
        Option(
            "Train nothing: print the nearest command of another program, `open_clip`, and what it cannot say.",
            ("--as",),
        ),
    ] = None
    allow_pipe: AllowPipe = False
    device: Device = "cpu"
    flops: Annotated[
        float | None,
        Field(ge=1, le=1e24),
        plan_option(
            "Floating-point operations a second that a machine (a process, such as a GPU) reaches in training "
            "[default: its cores like the one that was measured]."
        ),
    ] = None

    @property
    def overrides(self) -> list[str]:
        """Changed entries of the recipe."""
        return [*self.set, *([] if self.clip is None else [f"clip={self.clip}"])]

    @model_validator(mode="after")
    def _fits(self) -> TrainRequest:
        if self.as_ not in (None, "open_clip"):
            raise UsageError(f"--as {self.as_}: the only program that is known is open_clip")
        if self.parallel not in (None, "ddp", "fsdp"):
            raise UsageError(f"--parallel is ddp or fsdp, got {self.parallel!r}")
        if self.grid is not None:
            self._fits_grid()
        elif self.plan:
            others = {"--as": self.as_, "--check": self.check, "--resume": self.resume}
            if wrong := next((option for option, value in others.items() if value), None):
                raise UsageError(f"{wrong} does not go with --plan, which runs nothing")
            if self.recipe is None or self.data is not None:
                raise UsageError(
                    "a plan needs a recipe and no data, only their size: `train scratch-64 --plan --samples 1e6`"
                )
        elif self.recipe is None and self.data is None:
            raise UsageError("give a recipe, such as `train scratch-64`, or your own pictures: `train --data photos/`")
        return self

    def _fits_grid(self) -> None:
        if self.plan:
            raise UsageError("--plan: name one recipe, not a grid")
        if self.as_ is not None:
            raise UsageError("--as: a grid is no command; name one recipe")
        if self.recipe is not None or self.data is not None:
            raise UsageError("--grid names its recipe and data itself: leave RECIPE and --data out")
        if self.parallel is not None:
            raise UsageError("--parallel: a grid trains its runs one after the other in one process; leave it out")
