"""Fields that all verbs which write label maps share."""

from __future__ import annotations

from typing import Annotated

from binderclip.tasks.request import Option

Out = Annotated[
    str | None,
    Option("Folder of the results [default: segments for several images].", ("--out", "-o"), output=True),
]
Overlay = Annotated[str | None, Option("PNG of the coloured image [default: NAME-overlay.png].", output=True)]
Legend = Annotated[bool, Option("Whether the overlay has a legend below; without it the size is the image's.")]
LabelMap = Annotated[
    str | None,
    Option("PNG of label numbers, 255 = none [default: NAME-labels.png].", ("--map",), output=True),
]
Coco = Annotated[str | None, Option("Also write all regions as COCO annotations to this JSON.", output=True)]
Csv = Annotated[str | None, Option("Also write the area of every class in every image.", output=True)]
Redo = Annotated[bool, Option("Do images again whose label map is already there.", ("--redo",))]
