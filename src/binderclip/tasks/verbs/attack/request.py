"""What `attack` is asked."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, model_validator

from binderclip.errors import UsageError
from binderclip.tasks.fields import MODEL_HELP, MOST_SEED, Device, Dtype, Images, Labels
from binderclip.tasks.request import Option, Request

LEVELS = 255


def parse_eps(value: Any) -> Any:
    """The radius of `--eps`: a fraction or a number, above 0 and at most 1.

    Raises:
        UsageError: neither, or out of range.
    """
    text = str(value)
    try:
        parts = [float(part) for part in text.split("/")]
        eps = parts[0] if len(parts) == 1 else parts[0] / parts[1]
        if len(parts) > 2 or math.isnan(eps):
            raise ValueError
    except (ValueError, ZeroDivisionError) as error:
        raise UsageError(f"--eps {text!r} is neither a fraction such as 4/255 nor a number") from error
    if not 0 < eps <= 1:
        raise UsageError(f"--eps {text!r} must be above 0 and at most 1: pixels run from 0 to 1, so 4 levels are 4/255")
    return eps


def eps_text(eps: float) -> str:
    """A radius as people write it: whole grey levels as a fraction."""
    levels = eps * LEVELS
    return f"{round(levels)}/{LEVELS}" if abs(levels - round(levels)) < 1e-9 else repr(eps)


def _methods() -> tuple[str, ...]:
    from binderclip.robust import METHODS

    return tuple(METHODS)


class AttackRequest(Request):
    """Change pictures so little that nobody sees it, and so that the model takes them for something else.

    Examples:

        binderclip attack small photos/ --labels "a cat,a dog,a car" --eps 4/255

        binderclip attack small cat.jpg -l "a cat,a dog" --method cw --steps 40 --target "a dog" --out as-dog

    The folder gets an attacked picture each (8-bit PNG), its change, ten times as strong on grey, and `table.csv`. A
    success in 8 bits is one of the file as it was written and read again.
    """

    task: ClassVar[str] = "attack"

    model: Annotated[str, Option(MODEL_HELP, positional=True)]
    images: Images
    labels: Labels
    method: Annotated[
        str,
        Option(
            "`pgd`, `fgsm` (one step), `cw` (the margin to the next label), `mi-fgsm` (momentum) or `di-fgsm` (input "
            "diversity), which fool other models more often.",
            choices=_methods,
            label="Method",
        ),
    ] = "pgd"
    eps: Annotated[
        float,
        BeforeValidator(parse_eps),
        Option(
            "The most that a pixel may change, of 1: a fraction such as `4/255`, or a number.",
            parse=parse_eps,
            write=eps_text,
            default="4/255",
        ),
    ] = 4 / LEVELS
    steps: Annotated[
        int | None, Field(ge=1, le=10_000), Option("Of all but `fgsm` [default: 10].", label="Steps of all but fgsm")
    ] = None
    target: Annotated[
        str | None,
        Option(
            "The label that is to be reached [default: any but the one of the picture].", label="The label to reach"
        ),
    ] = None
    templates: Annotated[str, Option("Sentences around a label.", ("--templates", "-t"))] = "simple"
    max_side: Annotated[
        int,
        Field(ge=32, le=16_384),
        Option("Larger pictures are reduced to this first.", label="Side that larger pictures are reduced to"),
    ] = 512
    seed: Annotated[int, Field(ge=0, le=MOST_SEED), Option("Of the random start.")] = 0
    out: Annotated[str, Option("Folder of the pictures and the table.", ("--out", "-o"), output=True)] = "attack"
    device: Device = "cpu"
    dtype: Dtype = "float32"

    @model_validator(mode="after")
    def _fits(self) -> AttackRequest:
        if len(self.labels) < 2:
            raise UsageError(f"--labels names {self.labels[0]!r} alone: an attack needs another label to end at")
        if self.target is not None and self.target not in self.labels:
            raise UsageError(f"--target {self.target!r} is none of --labels: {', '.join(self.labels)}")
        if self.method == "fgsm" and self.steps is not None:
            raise UsageError("--steps does not go with --method fgsm, which has one step")
        return self
