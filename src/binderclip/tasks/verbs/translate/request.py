"""What `translate` is asked."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from binderclip.errors import UsageError
from binderclip.tasks.fields import MOST_SEED, Device
from binderclip.tasks.request import Option, Request


class TranslateRequest(Request):
    """Learn to make pictures of folder A look like those of folder B, without pairs; then translate others.

    Examples:

        binderclip translate photos/ drawings/ --out drawn/ --steps 400

        binderclip translate holiday/ --model drawn/ --out holiday-drawn/

    CUT trains one small network that keeps what is where (FastCUT is lighter; SinCUT has one picture on each side).
    The sheet samples.png is written again as it learns, and a run that is stopped keeps the network so far; the same
    command goes on. After a few dozen steps results are blurred: look at the sheet for how many it takes.
    """

    task: ClassVar[str] = "translate"

    images: Annotated[
        list[str],
        Field(min_length=1),
        Option("Folders A and B to learn from; with --model the pictures to translate.", positional=True),
    ]
    out: Annotated[str, Option("Folder of the network, or of the results.", ("--out", "-o"), output=True)]
    model: Annotated[
        str | None, Option("Translate with the network of this folder, of an earlier run.", ("--model", "-m"))
    ] = None
    method: Annotated[
        Literal["auto", "fastcut", "cut", "sincut"],
        Option("`auto`: sincut where each folder has one picture, else fastcut."),
    ] = "auto"
    steps: Annotated[
        int,
        Field(ge=1, le=10**6),
        Option("Of the training: more take longer, and the network learns more.", label="Training steps"),
    ] = 400
    side: Annotated[int, Field(ge=16, le=1024), Option("Training pictures become squares of this side.")] = 64
    width: Annotated[
        int, Field(ge=2, le=512), Option("Channels of the network's first layer.", label="Width of the network")
    ] = 16
    blocks: Annotated[
        int, Field(ge=3, le=64), Option("Residual blocks in the middle of the network.", label="Depth of the network")
    ] = 4
    batch_size: Annotated[int, Field(ge=1, le=256), Option("Pictures of each folder a step.")] = 2
    lr: Annotated[float, Field(ge=1e-8, le=1.0), Option("Learning rate.", label="Learning rate")] = 4e-4
    seed: Annotated[
        int, Field(ge=0, le=MOST_SEED), Option("Of the training: the same seed gives the same network.")
    ] = 0
    max_side: Annotated[
        int | None, Field(ge=8, le=8192), Option("Longer side of the results [default: twice the training's].")
    ] = None
    device: Device = "cpu"

    @model_validator(mode="after")
    def _fits(self) -> TranslateRequest:
        if self.model is None and len(self.images) != 2:
            raise UsageError(
                f"two folders are needed to learn from, A and B, got {len(self.images)}; or --model FOLDER to translate"
            )
        return self
