"""What `enhance` is asked."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from binderclip.errors import UsageError
from binderclip.tasks.fields import MOST_SEED, Device, Images, Model
from binderclip.tasks.request import Option, Request


def _methods() -> tuple[str, ...]:
    from binderclip.quality import ENHANCERS

    return tuple(ENHANCERS)


class EnhanceRequest(Request):
    """Make the light of backlit and dark pictures more even, by an enhancer that learned from two folders of yours.

    Examples:

        binderclip enhance holiday/ --dark backlit/ --bright well-lit/ --out enhanced/

        binderclip enhance more/ --enhancer enhanced/enhancer.safetensors --out more-enhanced/

    The two folders need not show the same. Results keep their size; before-after.png shows pairs. Started again with
    the same settings it goes on where it stopped. Nobody but you can say whether a result pleases: look at the sheet.
    """

    task: ClassVar[str] = "enhance"

    images: Images
    out: Annotated[str, Option("Folder of the results, the sheet and the enhancer.", ("--out", "-o"), output=True)]
    enhancer: Annotated[str | None, Option("File of an enhancer of an earlier run, or CLIP-LIT's `.pth`.")] = None
    dark: Annotated[
        str | None,
        Option(
            "Train on this folder of backlit or dark pictures; needs --bright.",
            label="Folder of backlit or dark pictures",
        ),
    ] = None
    bright: Annotated[
        str | None,
        Option(
            "Folder of other pictures, of the same kinds of things, that are well lit.",
            label="Folder of well-lit pictures",
        ),
    ] = None
    method: Annotated[
        str,
        Option(
            "`rave`: by the difference of both folders; `clip-lit`: by prompts learned in turn; `clip-lit-latent`: by "
            "vectors; `words`: by two texts.",
            choices=_methods,
        ),
    ] = "rave"
    steps: Annotated[
        int,
        Field(ge=1, le=10**6),
        Option(
            "Training steps of the network, in each round.", label="Training steps, in each of clip-lit's two rounds"
        ),
    ] = 300
    rounds: Annotated[int, Field(ge=1, le=100), Option("Of network and prompts in turn; `rave` has one.")] = 2
    prompt_steps: Annotated[int, Field(ge=1, le=10**6), Option("Steps of what guides, in each round.")] = 200
    batch_size: Annotated[int, Field(ge=1, le=4096), Option("Pictures a training step.")] = 8
    lr: Annotated[float, Field(ge=1e-8, le=1.0), Option("Of the network.")] = 5e-4
    content: Annotated[
        float,
        Field(ge=0, le=1e6),
        Option("Weight of what holds a result to its picture.", label="How much a result has to keep of its picture"),
    ] = 30.0
    side: Annotated[int, Field(ge=16, le=2048), Option("Training pictures become squares of this side.")] = 128
    seed: Annotated[int, Field(ge=0, le=MOST_SEED), Option("Of the training.")] = 0
    model: Model = "small"
    max_side: Annotated[
        int, Field(ge=16, le=8192), Option("Light of larger pictures is estimated at this longer side.")
    ] = 512
    device: Device = "cpu"

    @model_validator(mode="after")
    def _fits(self) -> EnhanceRequest:
        if (self.enhancer is None) == (self.dark is None and self.bright is None):
            raise UsageError("give --enhancer FILE, or --dark FOLDER and --bright FOLDER to train one")
        if self.enhancer is None and (self.dark is None or self.bright is None):
            missing = "dark" if self.dark is None else "bright"
            raise UsageError(f"--{missing} FOLDER is missing: training needs both")
        return self
