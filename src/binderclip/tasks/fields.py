"""Fields that several requests share, so that one word means one thing everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from binderclip.tasks.arguments.labels import parse_labels
from binderclip.tasks.request import Option

MOST_SEED = 2**32 - 1
"""Largest seed: NumPy takes no larger one."""
MODEL_HELP = (
    "A bundled model (`binderclip info` lists them), `open_clip:ARCH/PRETRAINED`, `hf:REPO_OR_FOLDER`, or a run "
    "folder of `binderclip train`."
)


def _texts(value: Any) -> Any:
    """Paths as text: requests are plain values."""
    return [str(each) if isinstance(each, Path) else each for each in value] if isinstance(value, list) else value


Images = Annotated[
    list[str],
    BeforeValidator(_texts),
    Field(min_length=1),
    Option("Image files, or folders (searched for images, with what is below them).", positional=True),
]
Labels = Annotated[
    list[str],
    Option(
        "Labels, separated by commas: `cat,dog,a red car`; or `@FILE`, one a line.",
        ("--labels", "-l"),
        parse=parse_labels,
        write=",".join,
        label="Labels, separated by commas",
    ),
]
Device = Annotated[str, Option("Where the model runs: `cpu`, `cuda`, `cuda:1`, `mps`.")]
Dtype = Annotated[str, Option("Precision of the towers: `float32`, `bfloat16` or `float16`.")]
