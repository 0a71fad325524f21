"""What `detect` is asked."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from binderclip.errors import UsageError
from binderclip.tasks.fields import MOST_SEED, Device
from binderclip.tasks.request import Option, Request


def _methods() -> tuple[str, ...]:
    from binderclip.quality import DETECTORS

    return tuple(DETECTORS)


class DetectRequest(Request):
    """Say which pictures are generated, by a detector that was trained on real and generated pictures of yours.

    Without one the bundled small-detector looks: it shows how the verb works, and knows no generator of today.

    Examples:

        binderclip detect --train pictures/ --method panoptic --hold-out sdxl --out mine.safetensors

        binderclip detect inbox/ --detector mine.safetensors --csv scores.csv --maps maps/

    A quarter of the pictures is held out from training and measured, generator by generator, and real pictures are
    measured again after mere processing. Training that was stopped goes on with --resume. A detector knows what it was
    trained on: other generators may pass as real.
    """

    task: ClassVar[str] = "detect"

    images: Annotated[
        list[str],
        Option(
            "Pictures, or folders of them; one folder with 0_real/ and 1_fake/ is measured as well.", positional=True
        ),
    ] = []
    detector: Annotated[
        str | None,
        Option(
            "File of a detector that --train has written. Default: small-detector, which knows copies by small "
            "autoencoders and no more."
        ),
    ] = None
    train: Annotated[
        str | None,
        Option(
            "Train a detector instead, on a folder with 0_real/ and 1_fake/GENERATOR/, or GENERATOR/ of both.",
            label="Folder of real and generated pictures",
        ),
    ] = None
    out: Annotated[str | None, Option("File of the trained detector.", ("--out", "-o"), output=True)] = None
    method: Annotated[
        str,
        Option(
            "`linear`: a line on the embedding; `panoptic`: patches exchanged with aligned copies; `aide`: noise of "
            "windows beside the embedding; `deeclip`: tokens of many layers; `noise`: noise of windows alone.",
            choices=_methods,
        ),
    ] = "linear"
    resume: Annotated[
        bool, Option("Go on where a training of this --out stopped, however it stopped.", ("--resume",))
    ] = False
    hold_out: Annotated[
        list[str],
        Option(
            "A generator to test on only, not to learn from. Repeat for several.", label="Generators to test on only"
        ),
    ] = []
    steps: Annotated[int, Field(ge=1, le=10**6), Option("Training steps.", label="Training steps")] = 200
    batch_size: Annotated[int, Field(ge=2, le=4096), Option("Pictures a step, or at once.")] = 16
    lr: Annotated[float, Field(ge=1e-8, le=10.0), Option("Learning rate.")] = 1e-3
    seed: Annotated[int, Field(ge=0, le=MOST_SEED), Option("Of training, and of what is held out.")] = 0
    model: Annotated[
        str, Option("That a new detector looks through: small, small-dino, timm:..., ...", ("--model", "-m"))
    ] = "small"
    csv: Annotated[str | None, Option("All pictures as a table, most likely generated first.", output=True)] = None
    maps: Annotated[
        str | None,
        Option("Folder for pictures of which patches speak for generated (red) or real (blue).", output=True),
    ] = None
    most: Annotated[int, Field(ge=1, le=10**5), Option("Most maps, most likely generated first.")] = 12
    device: Device = "cpu"

    @model_validator(mode="after")
    def _fits(self) -> DetectRequest:
        if self.train is None:
            if not self.images:
                raise UsageError(
                    "give pictures, with --detector FILE for one of yours, or --train DATA --out FILE to make it"
                )
            if wrong := _first({"--out": self.out, "--hold-out": self.hold_out, "--resume": self.resume}):
                raise UsageError(f"{wrong} belongs to --train")
            return self
        if self.out is None:
            raise UsageError(
                f"--train {self.train}: say with --out FILE where the detector goes, such as mine.safetensors"
            )
        looking = {"--detector": self.detector, "the pictures": self.images, "--csv": self.csv, "--maps": self.maps}
        if wrong := _first(looking):
            raise UsageError(
                f"--train does not go with {wrong}: train first, then look at pictures with --detector {self.out}"
            )
        return self


def _first(options: dict[str, Any]) -> str | None:
    """The first option that was given."""
    return next((name for name, value in options.items() if value), None)
