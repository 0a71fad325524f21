"""Options that several verbs share, so that one word means one thing everywhere."""

from __future__ import annotations

import math
from typing import Annotated

import typer

from binderclip.models.files import registry
from binderclip.tasks.arguments.transform import FITTED_ON, MOST

DEFAULT_MODEL = registry.DEFAULT
"""What a verb that uses words takes where nobody says otherwise."""
MODEL = typer.Option(
    "--model",
    "-m",
    help="A bundled model (`binderclip info` lists them), `open_clip:ARCH/PRETRAINED`, `hf:REPO_OR_FOLDER`, or a run "
    "folder of `binderclip train`.",
)
Model = Annotated[str, MODEL]
Device = Annotated[str, typer.Option(help="Where the model runs: `cpu`, `cuda`, `cuda:1`, `mps`.")]
Dtype = Annotated[str, typer.Option(help="Precision of the towers: `float32`, `bfloat16` or `float16`.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
AllowPipe = Annotated[
    bool,
    typer.Option(
        "--allow-pipe", help="Let shards named `pipe:COMMAND` run that command; only for what you wrote yourself."
    ),
]
BatchSize = Annotated[int, typer.Option(min=1, max=65_536, help="Images that go through the model at once.")]
MOST_SEED = 2**32 - 1
"""Largest seed: NumPy takes no larger one."""
LABELS = typer.Option(
    "--labels", "-l", help="Labels, separated by commas: `cat,dog,a red car`; or `@FILE`, one a line."
)


def finite(value: float | None) -> float | None:
    """The callback of every option that is a fraction: a range alone lets NaN through.

    Raises:
        UsageError: it is not a number.
    """
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number")
    return value


TransformName = Annotated[
    str | None,
    typer.Option(
        "--transform",
        help="Map embeddings first: `gap-removal` (each kind's mean taken away), `mean-shift` or `whitening`, fitted "
        f"on {MOST:,} captioned pictures of {FITTED_ON}, or of yours: `gap-removal=DATA`.",
    ),
]
