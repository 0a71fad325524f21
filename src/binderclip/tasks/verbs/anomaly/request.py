"""What `anomaly` is asked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, model_validator

from binderclip.errors import UsageError
from binderclip.tasks.fields import MODEL_HELP, MOST_SEED, Device, Dtype
from binderclip.tasks.request import Option, Request

AUTO = "auto"


def parse_threshold(value: Any) -> float | str | None:
    """The threshold of --threshold: a score, `normal`, or None.

    Raises:
        UsageError: something else.
    """
    if value is None or value == "normal":
        return value
    try:
        score = float(value)
    except (TypeError, ValueError):
        score = math.nan
    if not math.isfinite(score):
        raise UsageError(f"--threshold {value!r}: give a score such as 0.4, or normal")
    return score


def parse_scales(value: Any) -> tuple[int, ...] | None:
    """The sides of --scales: numbers of patches, as text with commas or one by one.

    Raises:
        UsageError: something else.
    """
    if value is None:
        return None
    try:
        parts = value.split(",") if isinstance(value, str) else value
        sides = tuple(int(part) for part in parts if str(part).strip())
    except (TypeError, ValueError):
        sides = ()
    if not sides or not all(1 <= side <= 100 for side in sides) or len(sides) > 10:
        raise UsageError(f"--scales {value!r}: up to ten numbers of patches from 1 to 100, such as 2,3")
    return sides


def scales_text(sides: Sequence[int]) -> str:
    """Sides as --scales takes them."""
    return ",".join(map(str, sides))


def _methods() -> tuple[str, ...]:
    from binderclip.segment.anomaly import BASELINES, METHODS

    return (AUTO, *METHODS, *BASELINES)


class AnomalyRequest(Request):
    """Score pictures by how anomalous they are, and show where.

    Examples:

        binderclip anomaly examples/wall

        binderclip anomaly parts/ --normal good-parts/ --threshold normal && echo all pass

        binderclip anomaly mvtec/carpet --name carpet --size 240 --model open_clip:ViT-B-16-plus-240/laion400m_e31

        binderclip anomaly scans/ --method clap --normal sound/ --state cracks --state holes --sound smooth --steps 400

    The first wall is one of the pictures that `binderclip.data.write_examples` writes. Leaves scores.csv, an overlay of
    each of the highest, and report.html. Where `good/` and masks say the truth (MVTec AD's layout), AUROC and region
    overlap are measured. --model is lite0, or small for winclip and clap.
    """

    task: ClassVar[str] = "anomaly"

    folder: Annotated[
        str, Option("Folder of pictures; `good/` beside other folders makes it labelled.", positional=True)
    ]
    name: Annotated[
        str, Option("What the pictures show, for the words.", ("--name", "-n"), label="What the pictures show")
    ] = "object"
    normal: Annotated[
        str | None,
        Option(
            "Folder of a few normal pictures to compare with, or `none` for words alone [default: FOLDER/train/good "
            "where it is there, else none]."
        ),
    ] = None
    shots: Annotated[
        int,
        Field(ge=1, le=100_000),
        Option(
            "Most normal pictures that are used, spread over the folder.", label="Most sound pictures that are used"
        ),
    ] = 16
    method: Annotated[
        str,
        Option(
            "`patchcore`, `padim`: normal pictures alone, on a classifier's features; `winclip`: words, and nearest "
            "normal windows; `clap`: restores hidden regions; `auto`: patchcore where there are normal pictures, "
            "winclip without them and with --state, --sound, --scales or --no-words.",
            choices=_methods,
        ),
    ] = AUTO
    threshold: Annotated[
        float | str | None,
        BeforeValidator(parse_threshold),
        Option(
            "A picture fails whose score is as high: a number, or `normal` for above every normal picture (each "
            "scored without itself). If one fails, the exit code is 3.",
            parse=parse_threshold,
            label="A picture fails from which score",
        ),
    ] = None
    state: Annotated[
        list[str],
        Option(
            "What damaged means, instead of the usual phrases: `{} with a crack`. Repeat for several.",
            label="What damaged means, a phrase a line",
        ),
    ] = []
    sound: Annotated[
        list[str],
        Option(
            "What sound means, instead of the usual phrases. Repeat for several.",
            label="What sound means, a phrase a line",
        ),
    ] = []
    words: Annotated[
        bool,
        Option(
            "Whether winclip's words count beside normal pictures; weak words mislead the maps.",
            label="Words count beside sound pictures",
        ),
    ] = True
    size: Annotated[
        int | None,
        Field(ge=1, le=4096),
        Option("Side at which the model sees a picture, in pixels [default: the model's]."),
    ] = None
    scales: Annotated[
        tuple[int, ...] | None,
        BeforeValidator(parse_scales),
        Option("Sides of winclip's windows in patches [default: 2,3].", parse=parse_scales, write=scales_text),
    ] = None
    out: Annotated[str, Option("Folder for the report and the pictures.", ("--out", "-o"), output=True)] = "anomalies"
    most: Annotated[int, Field(ge=0, le=10**6), Option("Most overlays that are drawn, highest scores first.")] = 60
    npy: Annotated[bool, Option("Also save every map as NAME.npy, float32, at its picture's size.", ("--npy",))] = False
    seed: Annotated[
        int | None, Field(ge=0, le=MOST_SEED), Option("Of what clap, patchcore and padim draw [default: 0].")
    ] = None
    steps: Annotated[
        int | None,
        Field(ge=1, le=10**7),
        Option(
            "Training steps of clap's restorer [default: 1875, the paper's].",
            label="Training steps of clap (the paper's: 1875)",
        ),
    ] = None
    model: Annotated[str | None, Option(MODEL_HELP, ("--model", "-m"))] = None
    device: Device = "cpu"
    dtype: Dtype = "float32"

    @model_validator(mode="after")
    def _fits(self) -> AnomalyRequest:
        """Refuse an option that is another method's; of `auto` when it is known which one that is."""
        method = self.method
        if method == AUTO:
            return self
        from binderclip.segment.anomaly import BASELINES

        if self.threshold == "normal" and method == "clap":
            raise UsageError(
                "--threshold normal scores each normal picture without itself, which clap cannot: give a number"
            )
        if method in BASELINES:
            others = {"--state": self.state, "--sound": self.sound, "--scales": self.scales, "--steps": self.steps,
                      "--no-words": not self.words}  # fmt: skip
            if given := [option for option, value in others.items() if value]:
                raise UsageError(f"{given[0]}: {method} has neither words nor training")
        if method == "winclip" and self.steps is not None:
            raise UsageError("--steps are those of clap's training; winclip trains nothing")
        if method == "winclip" and self.seed is not None:
            raise UsageError("--seed is that of clap's training; winclip draws nothing")
        if method == "clap" and self.scales is not None:
            raise UsageError("--scales are winclip's windows; clap has none")
        if method == "clap" and not self.words:
            raise UsageError("--no-words is winclip's")
        return self
