"""What `search index` and `search query` are asked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from binderclip.errors import UsageError
from binderclip.models.files.registry import DEFAULT
from binderclip.tasks.fields import BatchSize, Device, Dtype, Model, Ray, Transform, Workers
from binderclip.tasks.request import Option, Request

INSIDE = ".binderclip"
"""Folder of the index inside the folder that it is of."""
HERE = "."
"""Where an index is looked for if nobody says."""


class SearchIndexRequest(Request):
    """Encode the images of a folder, and its texts with --mixed; a second run encodes only what is new or changed.

    Examples:

        binderclip search index holiday/

        binderclip search index notes/ --mixed --transform gap-removal

        binderclip search index --embeddings embedded/ --index s3://web/photos.index
    """

    task: ClassVar[str] = "search index"

    folder: Annotated[
        Path | None,
        Option("Folder of images; what is below it counts. With --embeddings it may be left out.", positional=True),
    ] = None
    index: Annotated[
        str | None,
        Option("Where the index is kept, a folder or `s3://BUCKET/FOLDER` [default: FOLDER/.binderclip].", output=True),
    ] = None
    embeddings: Annotated[
        str | None,
        Option(
            "Take the pictures' embeddings from the parts that `binderclip embed` left there, by the same model, "
            "instead of encoding them; may be `s3://BUCKET/FOLDER`.",
            metavar="DIR",
        ),
    ] = None
    rebuild: Annotated[bool, Option("Start anew, for another model say.", ("--rebuild",), label="Index anew")] = False
    mixed: Annotated[
        bool,
        Option(
            "Texts too: a caption (of `captions.csv`, or `name.txt` beside `name.jpg`) is one document with its "
            "picture, any other TXT or MD file one of its own. `--transform gap-removal` may help.",
            ("--mixed",),
        ),
    ] = False
    transform: Transform | None = None
    workers: Workers = None
    ray: Ray = None
    model: Model = DEFAULT
    device: Device = "cpu"
    dtype: Dtype = "float32"
    batch_size: BatchSize = 64

    @model_validator(mode="after")
    def _fits(self) -> SearchIndexRequest:
        if self.folder is None and self.embeddings is None:
            raise UsageError("give a folder of images, such as `search index photos/`, or --embeddings DIR")
        for name, given in (("--mixed", self.mixed), ("--ray", self.ray is not None)):
            if given and self.embeddings is not None:
                raise UsageError(f"{name} does not go with --embeddings, where pictures are encoded already")
        return self


class SearchQueryRequest(Request):
    """Find images by words, or those that look like an image, itself left out.

    Examples:

        binderclip search query "a red bicycle" --index holiday/

        binderclip search query street.jpg -i holiday/ --picture found.png

        binderclip search query "a dog" --minus "grass" -i holiday/

    With --minus what is asked is the text's unit embedding less --minus-weight times the other's.
    """

    task: ClassVar[str] = "search query"

    text_or_image: Annotated[
        str, Option("Words, or the path of an image file.", positional=True, metavar="TEXT_OR_IMAGE")
    ]
    index: Annotated[
        str,
        Option(
            "A folder of images, indexed first where it is not yet; or the place given to `search index --index`.",
            ("--index", "-i"),
        ),
    ] = HERE
    text: Annotated[bool, Option("TEXT_OR_IMAGE is words, even where there is a file of that name.", ("--text",))] = (
        False
    )
    minus: Annotated[
        str | None, Option("Words that are taken away from the others: what they fit comes later.", label="But not")
    ] = None
    minus_weight: Annotated[float, Field(ge=0, le=1), Option("Weight of --minus.", label="How much that counts")] = 0.5
    top: Annotated[int, Field(ge=1, le=10_000), Option("Images to show.", label="Pictures to show")] = 10
    picture: Annotated[str | None, Option("Also save a sheet of what was found as PNG.", output=True)] = None
    model: Annotated[
        str | None, Option("The model the index was made with [default: read from it].", ("--model", "-m"))
    ] = None
    device: Device = "cpu"
    dtype: Dtype = "float32"
