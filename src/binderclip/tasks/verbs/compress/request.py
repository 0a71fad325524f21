"""What `compress` is asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from binderclip.errors import UsageError
from binderclip.tasks.fields import MOST_SEED, BatchSize, Device, HeldOutSplit, ModelArgument, SpreadPictures
from binderclip.tasks.request import Option, Request

SIDES = ("image", "text")
"""Towers of a model."""
PARTS = ("heads", "neurons", "blocks")
"""What can go of a tower."""
HALF = 0.5
"""The fraction that goes where none is given."""


def parse_sides(value: Any) -> tuple[str, ...]:
    """The towers of --sides: text with commas, or one by one.

    Raises:
        UsageError: none, or another word.
    """
    sides = _words(value)
    if not sides or not set(sides) <= set(SIDES):
        raise UsageError(f"--sides {value!r}: image, text, or image,text")
    return sides


def parse_parts(value: Any) -> tuple[str, ...]:
    """What goes, of --parts: text with commas, or one by one.

    Raises:
        UsageError: nothing, or another word.
    """
    parts = _words(value)
    if not parts or not set(parts) <= set(PARTS):
        raise UsageError(f"--parts {value!r}: some of {', '.join(PARTS)}, with commas between them")
    return tuple(part for part in PARTS if part in parts)


def _words(value: Any) -> tuple[str, ...]:
    """Text with commas, or words, each once."""
    words = value.split(",") if isinstance(value, str) else value
    return tuple(dict.fromkeys(str(word).strip() for word in words)) if isinstance(words, Sequence) else ()


def check_bits(value: int | None) -> int | None:
    """The bits of --bits.

    Raises:
        UsageError: another number.
    """
    if value not in (None, 8, 4):
        raise UsageError(f"--bits {value}: 8 or 4")
    return value


class CompressRequest(Request):
    """Take heads, neurons and channels out of an image-text model, or bits of its weights, and measure what is left.

    Examples:

        binderclip compress small --data pets/ --out smaller

        binderclip compress small --data pets/ --bits 8 --out smaller

        binderclip compress small --data pets/ --bits 4 --steps 100 --out smaller

        binderclip compress runs/mine --data pairs/ --target 0.4 --channels --steps 200 --out smaller

    One half of the pictures says what each head and each neuron is worth; the other half measures the model before and
    after. With --steps the smaller model is then trained to follow the whole one, on the first half; with --bits 4 its
    weights are rounded meanwhile, with --bits 8 afterwards. With --bits alone nothing is taken out. Ctrl-C during the
    steps leaves the model so far. The folder is opened by every verb, as any other model; with --bits 8 by those that
    need no gradients, on the CPU.
    """

    task: ClassVar[str] = "compress"

    model: ModelArgument
    data: Annotated[str, Option("Pictures with captions or class-named folders, or a named set.")]
    out: Annotated[str, Option("Folder of the smaller model, new or empty.", ("--out", "-o"), output=True)]
    target: Annotated[
        float | None,
        Field(ge=0.01, le=0.99),
        Option("Fraction that goes: of the heads and neurons of every block [default: 0.5; with --bits nothing]."),
    ] = None
    bits: Annotated[
        int | None,
        Field(ge=4, le=8),
        AfterValidator(check_bits),
        Option(
            "Of a weight: `8`, which CPUs compute in and which passes no gradient, or `4`, which makes the folder "
            "smaller and nothing faster.",
            metavar="8|4",
        ),
    ] = None
    method: Annotated[
        Literal["mope", "gradient", "hap", "magnitude", "random"],
        Option(
            "What a head is worth: `mope`, the quality lost without it; `gradient`, the loss to first order; `hap`, "
            "curvature times the size of its weights; `magnitude`, its weights; `random`, chance."
        ),
    ] = "mope"
    onnx: Annotated[
        bool, Option("Also write `image.onnx` and `text.onnx`, checked in onnxruntime on held-out pictures and texts.")
    ] = False
    sides: Annotated[
        tuple[str, ...],
        BeforeValidator(parse_sides),
        Option("Towers that become smaller.", parse=parse_sides, write=",".join, default="image,text"),
    ] = SIDES
    parts: Annotated[
        tuple[str, ...],
        BeforeValidator(parse_parts),
        Option(
            "What goes of a tower: `heads`, `neurons`, `blocks`. Where all heads stay, open_clip opens the folder of "
            "its own towers as well.",
            parse=parse_parts,
            write=",".join,
            default="heads,neurons",
        ),
    ] = PARTS[:2]
    channels: Annotated[
        bool,
        Option("Also take channels out of the convolutions of the image tower; with `mope` by the gradient."),
    ] = False
    steps: Annotated[
        int,
        Field(ge=0, le=10**6),
        Option("Steps of recovery by distillation; before `--bits 8` rounds, with `--bits 4` while rounded."),
    ] = 0
    lr: Annotated[float, Field(ge=1e-9, le=1), Option("Learning rate of the recovery.")] = 1e-4
    neuron_sets: Annotated[
        int, Field(ge=2, le=4096), Option("With `mope`: sets that the neurons of a block are judged in.")
    ] = 16
    split: HeldOutSplit = None
    named_by: Annotated[
        Literal["classes", "captions"] | None,
        Option("How pictures are called [default: by captions where most have one of their own, else by classes]."),
    ] = None
    template: Annotated[str, Option("Sentence around a class name, such as `a photo of a {}`.")] = "{}"
    limit: SpreadPictures = 256
    seed: Annotated[int, Field(ge=0, le=MOST_SEED), Option("Of `random`, and of the order of the recovery.")] = 0
    device: Device = "cpu"
    batch_size: BatchSize = 64

    @property
    def amount(self) -> float | None:
        """The fraction that goes; None where nothing is taken out."""
        return HALF if self.target is None and self.bits is None else self.target

    @model_validator(mode="after")
    def _fits(self) -> CompressRequest:
        if self.amount is None and self.channels:
            raise UsageError(f"--channels goes with --target: --bits {self.bits} alone takes nothing out")
        if self.amount is None and self.steps and self.bits == 8:
            raise UsageError(
                "--steps goes with --target or --bits 4: what --bits 8 rounds is trained before that, and without "
                "--target it is then the very model that it would be trained to follow"
            )
        if self.bits is not None and self.device != "cpu":
            raise UsageError(f"--bits {self.bits} works on the CPU: leave --device {self.device} out")
        if self.onnx and self.bits == 8:
            raise UsageError("--onnx does not go with --bits 8: torch's exporter cannot write its int8 kernels")
        return self
