"""Fields that several requests share, so that one word means one thing everywhere."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from binderclip.tasks.arguments.labels import checked_labels, labels_text, parse_labels
from binderclip.tasks.arguments.transform import FITTED_ON, MOST
from binderclip.tasks.request import Option

MOST_SEED = 2**32 - 1
"""Largest seed: NumPy takes no larger one."""
MODEL_HELP = (
    "A bundled model (`binderclip info` lists them), `open_clip:ARCH/PRETRAINED`, `hf:REPO_OR_FOLDER`, or a run "
    "folder of `binderclip train`."
)


Images = Annotated[
    list[str],
    Field(min_length=1),
    Option("Image files, or folders (searched for images, with what is below them).", positional=True),
]
Labels = Annotated[
    list[str],
    AfterValidator(checked_labels),
    Option(
        "Labels, separated by commas: `cat,dog,a red car`; or `@FILE`, one a line.",
        ("--labels", "-l"),
        parse=parse_labels,
        write=labels_text,
        label="Labels, separated by commas",
    ),
]
Model = Annotated[str, Option(MODEL_HELP, ("--model", "-m"), label="Model")]
ModelArgument = Annotated[
    str,
    Option("A bundled model, `open_clip:ARCH/PRETRAINED`, `hf:REPO_OR_FOLDER`, or a run folder.", positional=True),
]
SMALL_SAM = "small-sam"
"""The bundled promptable model, whose own edges are coarse."""
SegmenterModel = Annotated[
    str,
    Option("`small-sam`, `hf:facebook/sam-vit-base` or another SAM, or a run folder.", ("--model", "-m")),
]
"""A promptable model, which cuts out what it is pointed at."""
Device = Annotated[str, Option("Where the model runs: `cpu`, `cuda`, `cuda:1`, `mps`.")]
Dtype = Annotated[str, Option("Precision of the towers: `float32`, `bfloat16` or `float16`.")]
BatchSize = Annotated[int, Field(ge=1, le=65_536), Option("Images that go through the model at once.")]
HeldOutSplit = Annotated[
    str | None,
    Option("Which part of a named set, or `all` of it [default: the held-out one].", label="Part of a named set"),
]
SPREAD = Option("Pictures that are used, spread evenly over the data.", label="Most pictures")
SpreadPictures = Annotated[int, Field(ge=4, le=10**5), SPREAD]
NameSentences = Annotated[
    str,
    Option(
        "What is put around a class name: a set of sentences, or one with `{}`; `name` is the name alone.",
        ("--templates", "-t"),
        label="Sentences around a class name",
    ),
]
AllowPipe = Annotated[
    bool,
    Option("Let shards named `pipe:COMMAND` run that command; only for what you wrote yourself.", ("--allow-pipe",)),
]
Ray = Annotated[
    str | None,
    Option(
        "Let the workers of a Ray cluster compute: `local`, `auto`, HOST:PORT or ray://HOST:PORT.", metavar="ADDRESS"
    ),
]
Workers = Annotated[
    int | None,
    Field(ge=1, le=10_000),
    Option("Shards that are worked on at once [default: 1; with --ray one a processor, or GPU]."),
]
Transform = Annotated[
    str,
    Option(
        "Map embeddings first: `gap-removal` (each kind's mean taken away), `mean-shift` or `whitening`, fitted on "
        f"{MOST:,} captioned pictures of {FITTED_ON}, or of yours: `gap-removal=DATA`."
    ),
]
