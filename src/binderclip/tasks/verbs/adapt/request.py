"""What `adapt` is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from binderclip.errors import UsageError
from binderclip.models.files.registry import DEFAULT
from binderclip.tasks.fields import MOST_SEED, Device, Dtype, Model
from binderclip.tasks.request import Option, Request

GROUPS = ("auto", "all")
"""Words that stand for methods, each alone."""


def parse_methods(text: str) -> list[str]:
    """The names of `--methods`."""
    return [name.strip() for name in text.split(",") if name.strip()]


class AdaptRequest(Request):
    """Find the best classifier for your pictures among all methods, and say how far to trust it.

    Every method learns from the same few pictures a class and is judged by cross-validation inside them; the test
    part is looked at once, by the winner and the second. The winner is saved for `binderclip classify --head`.
    Stopped half-way, the same command goes on where it was.

    Examples:

        binderclip adapt parts/ --shots 16

        binderclip adapt digits --methods gda,linear-probe,zero-shot --out runs/digits

        binderclip classify new/ --head adapt
    """

    task: ClassVar[str] = "adapt"

    data: Annotated[
        str,
        Option(
            "A folder of class-named folders, a CSV (`file,label`, or `file,labels` with `a;b` for several), or a "
            "named set: `digits`, `fashion-mnist`, ...",
            positional=True,
            label="Pictures with labels",
        ),
    ]
    shots: Annotated[
        int,
        Field(ge=1, le=100_000),
        Option("Pictures a class to learn from, validation included.", label="Shots: pictures a class to learn from"),
    ] = 16
    methods: Annotated[
        list[str],
        Option(
            "`auto` (what fits the budget, not those trained on images), `all`, or names: `gda,linear-probe`.",
            parse=parse_methods,
            write=",".join,
        ),
    ] = ["auto"]
    seeds: Annotated[
        int,
        Field(ge=1, le=1000),
        Option(
            "How often the shots are drawn anew; the intervals are over these draws.",
            label="Draws: how often they are drawn anew",
        ),
    ] = 3
    folds: Annotated[int, Field(ge=2, le=1000), Option("Folds of the cross-validation inside the shots.")] = 4
    budget: Annotated[float, Field(ge=0, le=1e7), Option("Seconds it may take; what does not fit is left out.")] = 540.0
    seed: Annotated[int, Field(ge=0, le=MOST_SEED), Option("The same seed gives the same table.")] = 0
    templates: Annotated[
        str, Option("How a class name becomes sentences: a set, or one with `{}`.", ("--templates", "-t"))
    ] = "simple"
    keep: Annotated[
        float, Field(ge=0, le=1), Option("Share of pictures of your classes that 'none of these' must not refuse.")
    ] = 0.95
    limit: Annotated[
        int | None,
        Field(ge=2, le=10**9),
        Option("Most pictures a class that are looked at [default: about 4,000 in all]."),
    ] = None
    out: Annotated[Path, Option("Folder for the head, the report and finished work.", ("--out", "-o"), output=True)] = (
        Path("adapt")
    )
    report: Annotated[bool, Option("Write report.html.")] = True
    model: Model = DEFAULT
    device: Device = "cpu"
    dtype: Dtype = "float32"

    @model_validator(mode="after")
    def _fits(self) -> AdaptRequest:
        if not self.methods:
            raise UsageError("--methods is empty: auto, all, or names such as gda,linear-probe")
        if len(self.methods) > 1 and (group := next((name for name in self.methods if name in GROUPS), None)):
            raise UsageError(f"--methods: {group} stands alone, or methods are named one by one")
        return self
