"""What `explain` is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import model_validator

from binderclip.errors import UsageError
from binderclip.models.files.registry import DEFAULT, has_concepts
from binderclip.tasks.fields import MODEL_HELP, Device, Dtype
from binderclip.tasks.request import Option, Request

TOWER = "small"
"""What all methods are compared on: with `everyday` they take three quarters of a minute, and most of them look into
the tower of `small` anyway."""
PAGES = (".html", ".htm")


class ExplainRequest(Request):
    """Draw where images speak for a text or a class, and test the maps.

    Examples:

        binderclip explain photo.jpg --label "a cat" --method smoothgrad

        binderclip explain photo.jpg --label "a cat" --method saliency,smoothgrad --out maps

        binderclip explain photo.jpg --label "a cat" --compare --report methods.html

        binderclip explain pets/ --head adapt --method gradcam --out maps --npy

        binderclip explain --words photo.jpg "a dog on a red sofa"

    --compare deletes and inserts the pixels in the order of each map and says how the score answers; a random map
    stands beside them, for a map that looks good proves nothing.
    """

    task: ClassVar[str] = "explain"

    images: Annotated[
        list[str], Option("Image files or folders; with --words: one image and its caption.", positional=True)
    ]
    label: Annotated[
        str | None,
        Option("The text to explain, such as `a cat`.", ("--label", "--text", "-l"), label="What to look for"),
    ] = None
    method: Annotated[
        str | None,
        Option(
            "`concepts`, `saliency`, `smoothgrad`, `integrated_gradients`, `gradcam`, `fullgrad` or another of "
            "`binderclip.explain.METHODS`; several with commas, or `all`, each drawn by itself or tested by --compare. "
            "[default: concepts with everyday, which points at things; saliency with other models and heads]"
        ),
    ] = None
    compare: Annotated[
        bool,
        Option(
            "Run all methods (or those of --method): a sheet and their numbers. Several pictures leave out those that "
            "optimise a mask, unless `--method all`.",
            ("--compare",),
        ),
    ] = False
    words: Annotated[
        bool, Option("Which words of a caption fit: `explain --words IMAGE 'a red car'`.", ("--words",))
    ] = False
    head: Annotated[
        str | None, Option("Explain a class of a head that `binderclip adapt` left; --label is then a class.")
    ] = None
    layer: Annotated[
        str | None, Option("Where methods on feature maps look: a block such as `-1`, or a submodule's name.")
    ] = None
    set: Annotated[
        list[str],
        Option("A setting of the method, such as `n_samples=25`.", ("--set", "-s"), metavar="KEY=VALUE"),
    ] = []
    out: Annotated[
        str | None,
        Option(
            "PNG of one image [default: NAME-explain.png], or a folder for several images or methods.",
            ("--out", "-o"),
            output=True,
        ),
    ] = None
    npy: Annotated[bool, Option("Also save the raw maps, NAME-METHOD.npy, float32.", ("--npy",))] = False
    report: Annotated[str | None, Option("Also write an HTML page with pictures and numbers.", output=True)] = None
    legend: Annotated[
        bool,
        Option("Whether a strip below says what the colours mean; without it the size is the image's."),
    ] = True
    model: Annotated[str | None, Option(MODEL_HELP, ("--model", "-m"))] = None
    device: Device = "cpu"
    dtype: Dtype = "float32"

    @model_validator(mode="after")
    def _fits(self) -> ExplainRequest:
        if self.words:
            self._check_caption()
        elif self.label is None and self.head is None:
            raise UsageError("give --label, the text to explain, such as --label 'a cat' (or --head FOLDER)")
        elif self.method not in (None, "all") and not self.methods:
            raise UsageError("--method is empty: name one, such as --method smoothgrad")
        return self

    def _check_caption(self) -> None:
        if self.label is not None or len(self.images) != 2:
            raise UsageError("--words takes one image and its caption: explain --words photo.jpg 'a dog on a sofa'")
        if not self.images[1].strip():
            raise UsageError("the caption is empty: give words, such as 'a red car on a road'")
        if self.out is not None and self.report is not None and Path(self.out) != Path(self.report):
            raise UsageError(f"two pages are named, {self.out} and {self.report}: give one")
        path = self.page
        if path is not None and path.suffix.lower() not in PAGES:
            raise UsageError(f"the words' page is HTML: name it {path.with_suffix('.html')}, not {path}")

    @property
    def page(self) -> Path | None:
        """Of --words, whose result --out names as well."""
        named = self.report if self.report is not None else self.out
        return None if named is None else Path(named)

    @property
    def model_name(self) -> str:
        """The model that is explained; with a head the one that it was trained on, where none is named."""
        if self.model is not None:
            return self.model
        return TOWER if self.compare and not self.words else DEFAULT

    @property
    def methods(self) -> list[str]:
        """Their names; empty for all."""
        if self.method is None and not self.compare:
            return ["concepts" if self.head is None and has_concepts(self.model_name) else "saliency"]
        if self.method == "all":
            return []
        names = (name.strip() for name in (self.method or "").split(","))
        return list(dict.fromkeys(name for name in names if name))
