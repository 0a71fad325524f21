"""What `quality` is asked."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from binderclip.errors import UsageError
from binderclip.tasks.arguments.labels import labels_text, parse_labels
from binderclip.tasks.fields import BatchSize, Device, Dtype, Images, Model
from binderclip.tasks.request import Option, Request
from binderclip.tasks.verbs.quality.words import AT_FIRST, DISTANCES, QUALITY


class QualityRequest(Request):
    """Rank pictures from the worst to the best by pairs of words, such as "Sharp photo." and "Blurry photo.".

    Examples:

        binderclip quality holiday/ --sheet worst.png --csv scores.csv

        binderclip quality scans/ --pair "A straight page." "A crooked page." -m open_clip:ViT-B-32/openai

        binderclip quality made/ --against real/

        binderclip quality compressed/ --reference originals/

    A score is the chance of the better end of its pair, 0 to 1; all pairs cost one pass of the model. With `small`,
    `small-b` and `everyday` the column `quality` comes from `lite0-quality`, which learned what faults of photographs
    look like; the last column names the strongest one: blur, noise, compression, exposure. A picture that cannot be
    read is left out and named.
    """

    task: ClassVar[str] = "quality"

    images: Images
    scores: Annotated[
        list[str] | None,
        Option(
            f"Columns: `quality`, `sharpness`, ..., separated by commas [default: {','.join(AT_FIRST)}; {QUALITY} "
            "alone where the model does not know the words].",
            parse=partial(parse_labels, option="--scores", files=False),
            write=labels_text,
        ),
    ] = None
    pair: Annotated[
        tuple[str, str] | None,
        Option('Words of your own: `"Sharp photo." "Blurry photo."`.', metavar="BETTER WORSE"),
    ] = None
    pairs: Annotated[Path | None, Option("More of them: a text file, `BETTER | WORSE` in every line.")] = None
    weights: Annotated[
        Path | None,
        Option(
            "What `BlindQuality`, `QualiCLIP` or `CLIPIQAPlus` has fitted: one more column. With --reference of "
            "`LPIPS`, or an authors' file of ST-LPIPS."
        ),
    ] = None
    by: Annotated[
        str | None,
        Option(
            "The column that orders, or a fault that `quality` knows, strongest first: `noise`, `blur`, `compression`, "
            "`resolution`, `exposure`, `contrast`, `colour` [default: your own words, or the first of --scores].",
            label="Order by",
        ),
    ] = None
    against: Annotated[
        Path | None, Option("Compare the whole folder with this one instead: CMMD and Fréchet distance.")
    ] = None
    reference: Annotated[
        Path | None,
        Option("Originals, a folder or a file: rank pictures by how far they are from that of their name."),
    ] = None
    distance: Annotated[
        str,
        Option(
            "With --reference, both on `lite0`: `st-lpips`, or `lpips` without its blur.", choices=lambda: DISTANCES
        ),
    ] = DISTANCES[0]
    sheet: Annotated[str | None, Option("A contact sheet from the worst to the best: `worst.png`.", output=True)] = None
    csv: Annotated[Path | None, Option("All scores as a table, worst first.", output=True)] = None
    max_side: Annotated[
        int,
        Field(ge=32, le=16_384),
        Option(
            "Larger pictures are reduced to this; others stay as they are.",
            label="Side that larger pictures are reduced to",
        ),
    ] = 768
    model: Model = "small"
    device: Device = "cpu"
    dtype: Dtype = "float32"
    batch_size: BatchSize = 64

    @model_validator(mode="after")
    def _fits(self) -> QualityRequest:
        words = {"--pair": self.pair, "--pairs": self.pairs, "--by": self.by}
        if self.against is not None:
            single = {"--reference": self.reference, **words, "--weights": self.weights, "--sheet": self.sheet}
            if name := _first_given({**single, "--csv": self.csv}):
                raise UsageError(
                    f"{name} is about single pictures and does not go with --against, which compares folders"
                )
        if self.reference is not None and (name := _first_given(words)):
            raise UsageError(f"{name} is about words and does not go with --reference, which compares with originals")
        return self


def _first_given(options: Mapping[str, object]) -> str | None:
    return next((name for name, value in options.items() if value is not None), None)
