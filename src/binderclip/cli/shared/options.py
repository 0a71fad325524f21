"""Options that several verbs share, so that one word means one thing everywhere."""

from __future__ import annotations

import math
from typing import Annotated

import typer

from binderclip.models.files import registry
from binderclip.tasks.fields import MODEL_HELP

DEFAULT_MODEL = registry.DEFAULT
"""What a verb that uses words takes where nobody says otherwise."""
Model = Annotated[str, typer.Option("--model", "-m", help=MODEL_HELP)]
Device = Annotated[str, typer.Option(help="Where the model runs: `cpu`, `cuda`, `cuda:1`, `mps`.")]
Dtype = Annotated[str, typer.Option(help="Precision of the towers: `float32`, `bfloat16` or `float16`.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
BatchSize = Annotated[int, typer.Option(min=1, max=65_536, help="Images that go through the model at once.")]


def finite(value: float | None) -> float | None:
    """The callback of every option that is a fraction: a range alone lets NaN through.

    Raises:
        UsageError: it is not a number.
    """
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number")
    return value
