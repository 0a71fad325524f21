"""Options that several verbs share, so that one word means one thing everywhere."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from binderclip.errors import UsageError
from binderclip.models.files import registry

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
Labels = Annotated[str, LABELS]


def finite(value: float | None) -> float | None:
    """The callback of every option that is a fraction: a range alone lets NaN through.

    Raises:
        UsageError: it is not a number.
    """
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number")
    return value


def parse_labels(text: str, option: str = "--labels", *, files: bool = True) -> list[str]:
    """The labels of `--labels`: comma-separated, or `@FILE` with one a line.

    Args:
        text: as the user wrote it.
        option: the option's name, for messages.
        files: whether `@FILE` is read; where it is not, as on a page, a text that begins with `@` is refused, since
            the same text on a command line would name a file.

    Raises:
        UsageError: no label, an empty one, one named twice, or an `@` where no file is read.
    """
    if text.startswith("@"):
        if not files:
            raise UsageError(f"{option} {text}: no file is read here, write the words themselves, such as cat,dog")
        path = Path(text[1:])
        if not path.is_file():
            raise UsageError(f"{option} {text}: there is no file {path}")
        try:
            labels = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        except UnicodeDecodeError as error:
            raise UsageError(f"{option} {text}: {path} is not a text file in UTF-8 ({error.reason})") from error
    else:
        labels = [part.strip() for part in text.split(",")]
    if not labels or not any(labels):
        raise UsageError(f"{option} is empty: give at least one label, such as {option} cat,dog")
    if "" in labels:
        raise UsageError(f"{option} {text!r} has an empty label (two commas in a row, or one at the end)")
    doubled = sorted(label for label, count in Counter(labels).items() if count > 1)
    if doubled:
        raise UsageError(f"{option} names {', '.join(map(repr, doubled))} more than once")
    return labels
