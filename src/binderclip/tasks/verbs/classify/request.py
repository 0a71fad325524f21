"""What `classify` is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from binderclip.errors import UsageError
from binderclip.models.files.registry import DEFAULT
from binderclip.tasks.arguments.everyday_words import EVERYDAY
from binderclip.tasks.fields import BatchSize, Device, Dtype, Images, Labels, Model, Transform
from binderclip.tasks.request import Option, Request


class ClassifyRequest(Request):
    """Say which of your labels fits each image: zero-shot by --labels, or by a --head that learned them.

    Without either the labels are everyday words, which say what there is; your own are more to the point.

    Examples:

        binderclip classify holiday/

        binderclip classify photo.jpg --labels "cat,dog,a cup of coffee"

        binderclip classify holiday/ -l beach,mountain,city --picture sheet.png

        binderclip classify pets/ -l cat,dog,horse --descriptions animals --pool auto

        binderclip classify street/ -l car,bicycle,bus --views crops

        binderclip classify shelf.jpg -l apple,clock,cat --mark blur --box 20,10,120,90

        binderclip classify pets/ -l cat,dog,horse --transform gap-removal

        binderclip classify new/ --head adapt

        binderclip classify photos/ -l cat,dog --review 10

        binderclip classify photos/ -l cat,dog --corrected labels.csv

        binderclip classify photos/ -l cat,dog --model everyday --against small

    A file that cannot be read is left out and named; the others are done.
    """

    task: ClassVar[str] = "classify"

    images: Images
    labels: Labels | None = None
    head: Annotated[
        Path | None, Option("Instead of --labels: a folder that `binderclip adapt` left, with its classes.")
    ] = None
    templates: Annotated[
        str | None,
        Option(
            "How a label becomes sentences: a set (`simple`, `photo`, `clipart`, ...), or one template with `{}`. "
            "[default: `simple`; sentences of --descriptions as they are; with --context the set's own]",
            ("--templates", "-t"),
            label="Sentences a label is put in",
        ),
    ] = None
    descriptions: Annotated[
        str | None,
        Option(
            "JSON file of label -> sentences (`binderclip descriptions` writes one), or a shipped set: `animals`, "
            "`scenes15`, `fashion-mnist`, `digits`, `textile`, `openmoji`, `openclipart`.",
            label="Shipped sentences about the labels",
        ),
    ] = None
    pool: Annotated[
        str | None,
        Option(
            "How several sentences of a label become one score: `mean`, `max`, `auto` (each image weighs them: "
            "AutoCLIP), `context` (needs --context). [default: their mean]"
        ),
    ] = None
    context: Annotated[
        str | None,
        Option(
            "Contexts that images are taken in, inferred for each image: a JSON file of factor -> value -> phrasings, "
            "or a shipped set: `pictures`, `waterbirds`, `waterbirds-simple`, `celeba`."
        ),
    ] = None
    views: Annotated[
        str,
        Option(
            "What of each image is looked at: `whole`, `tiles` (and the whole; `tiles=4` for 4 x 4), or `crops` "
            "around the object that the likeliest labels name."
        ),
    ] = "whole"
    crop_from: Annotated[
        str | None,
        Option(
            "Crop around known boxes instead: JSON of image -> [x0, y0, x1, y1], or CSV with the columns "
            "image,x0,y0,x1,y1, in pixels. Images without a box are seen whole."
        ),
    ] = None
    transform: Transform | None = None
    mark: Annotated[
        str | None,
        Option(
            "Point at a part of each image first: `crop`, `blur`, `gray` or `tint` (outside the box), `circle`, `box`, "
            "`arrow`, `fill`, `keypoint`, `cross`; needs --box."
        ),
    ] = None
    box: Annotated[str | None, Option("The part, `x0,y0,x1,y1` in pixels, the same for every image.")] = None
    corrected: Annotated[
        Path | None,
        Option(
            "Table with the columns file,label of pictures whose label you know, as the workbench saves it: a head "
            "learns from them, and all pictures are classified again."
        ),
    ] = None
    review: Annotated[
        int,
        Field(ge=0, le=10_000),
        Option("Also list so many pictures that are worth a look: unsure, or unlike those most like them."),
    ] = 0
    against: Annotated[
        str | None,
        Option(
            "Ask a second model as well, as of --model, and list the pictures that it calls otherwise.",
            label="Compare with a second model",
        ),
    ] = None
    top: Annotated[int, Field(ge=1, le=10_000), Option("Labels to show for each image.")] = 3
    picture: Annotated[
        str | None, Option("Also save a sheet of the images with their labels to this PNG.", output=True)
    ] = None
    model: Model | None = None
    device: Device = "cpu"
    dtype: Dtype = "float32"
    batch_size: BatchSize = 64

    @property
    def words(self) -> list[str]:
        """The labels that pictures are compared with: everyday words where none are given."""
        return self.labels or list(EVERYDAY)

    @model_validator(mode="after")
    def _fits(self) -> ClassifyRequest:
        if self.labels is not None and self.head is not None:
            raise UsageError("give --labels cat,dog,... or --head FOLDER, one of them")
        for name, value in {"--descriptions": self.descriptions, "--context": self.context}.items():
            if self.labels is None and self.head is None and value is not None:
                raise UsageError(f"{name} has sentences for certain labels: give them by --labels")
        views = None if self.views == "whole" else self.views
        pools = {"--descriptions": self.descriptions, "--pool": self.pool, "--context": self.context}
        of_texts = {"--templates": self.templates, **pools, "--crop-from": self.crop_from, "--views": views}
        for name, value in {**of_texts, "--transform": self.transform}.items():
            if self.head is not None and value is not None:
                raise UsageError(f"{name} is about texts and does not go with --head, which has learned its classes")
        if self.transform is not None and any((*pools.values(), self.crop_from, views)):
            raise UsageError(
                "--transform goes with --labels and --templates: pools, views and contexts take plain cosines"
            )
        if (self.mark or self.box) and any((self.head, views, self.crop_from)):
            raise UsageError(
                "--mark shows one picture of each image to labels: leave out --views, --crop-from and --head"
            )
        if self.against is not None and (self.head is not None or self.corrected is not None):
            raise UsageError("--against compares what two models say of --labels: leave out --head and --corrected")
        if self.against is not None and self.against == (self.model or DEFAULT):
            raise UsageError(f"--against {self.against} is the model itself: name another one")
        return self
