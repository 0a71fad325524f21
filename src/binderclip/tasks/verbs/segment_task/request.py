"""What `segment-task` is asked."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import model_validator

from binderclip.errors import UsageError
from binderclip.tasks.fields import Device, Dtype, Images, Labels, Model
from binderclip.tasks.request import Option, Request


def _methods() -> tuple[str, ...]:
    from binderclip.segment.task import TASK_METHODS

    return tuple(TASK_METHODS)


class SegmentTaskRequest(Request):
    """Segment what one sentence means in each picture, such as `the hidden animal` in a folder of animals.

    Examples:

        binderclip segment-task photos/ --task "the hidden animal" --coco animals.json

        binderclip segment-task photos/ --task "every animal" --labels owl,fox,snake --method zip

    What it means is chosen among those of --labels (or of a bundled vocabulary) that it may mean, and printed. Writes
    NAME-mask.png, an overlay and NAME.json; a folder can be gone on with.
    """

    task: ClassVar[str] = "segment-task"

    images: Images
    sentence: Annotated[str, Option("One sentence for all pictures, such as `the hidden animal`.", ("--task",))]
    labels: Labels | None = None
    method: Annotated[
        str,
        Option(
            "`gensam` (words, heatmap, points, rounds), `int` (names tested by erasing), `slip` (of all masks the one "
            "most like the sentence), `zip` (instances of the words a picture shows, each with class and score).",
            choices=_methods,
        ),
    ] = "gensam"
    set: Annotated[
        list[str],
        Option("A setting of the method, such as `rounds=3`.", ("--set", "-s"), metavar="KEY=VALUE"),
    ] = []
    ask: Annotated[
        str | None,
        Option("A language model names the object, at an OpenAI-compatible URL.", metavar="URL"),
    ] = None
    ask_model: Annotated[str | None, Option("The model's name there.", metavar="NAME")] = None
    segmenter: Annotated[str, Option("What makes masks, `small-sam` or any that `click` takes.")] = "small-sam"
    out: Annotated[str, Option("Folder of the results.", ("--out", "-o"), output=True)] = "task"
    coco: Annotated[str | None, Option("Also write all masks as COCO annotations to this JSON.", output=True)] = None
    redo: Annotated[bool, Option("Do images again that are done already.", ("--redo",))] = False
    model: Model = "small"
    device: Device = "cpu"
    dtype: Dtype = "float32"

    @model_validator(mode="after")
    def _fits(self) -> SegmentTaskRequest:
        if (self.ask is None) != (self.ask_model is None):
            raise UsageError("--ask URL and --ask-model NAME go together")
        if self.ask is not None and self.method != "gensam":
            raise UsageError("--ask puts questions for gensam: leave it out, or take --method gensam")
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """What the masks depend on."""
        return {
            "task": self.sentence, "method": self.method, "vocabulary": self.labels or [], "ask": self.ask,
            "ask_model": self.ask_model, "segmenter": self.segmenter, "model": self.model, "dtype": self.dtype,
            "set": self.set,
        }  # fmt: skip
