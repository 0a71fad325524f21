"""Options of `classify` that change its texts, pools and views."""

from __future__ import annotations

from typing import Annotated

import typer

Templates = Annotated[
    str | None,
    typer.Option(
        "--templates",
        "-t",
        help="How a label becomes sentences: a set (`simple`, `photo`, `clipart`, ...), or one template with `{}`. "
        "[default: `simple`; sentences of --descriptions as they are; with --context the set's own]",
    ),
]
DescriptionsFile = Annotated[
    str | None,
    typer.Option(
        "--descriptions",
        help="JSON file of label -> sentences (`binderclip descriptions` writes one), or a shipped set: `animals`, "
        "`scenes15`, `fashion-mnist`, `digits`, `textile`, `openmoji`, `openclipart`.",
    ),
]
PoolName = Annotated[
    str | None,
    typer.Option(
        "--pool",
        help="How several sentences of a label become one score: `mean`, `max`, `auto` (each image weighs them: "
        "AutoCLIP), `context` (needs --context). [default: their mean]",
    ),
]
Context = Annotated[
    str | None,
    typer.Option(
        help="Contexts that images are taken in, inferred for each image: a JSON file of factor -> value -> phrasings, "
        "or a shipped set: `pictures`, `waterbirds`, `waterbirds-simple`, `celeba`."
    ),
]
ViewsName = Annotated[
    str,
    typer.Option(
        "--views",
        help="What of each image is looked at: `whole`, `tiles` (and the whole; `tiles=4` for 4 x 4), or `crops` "
        "around the object that the likeliest labels name.",
    ),
]
CropFrom = Annotated[
    str | None,
    typer.Option(
        "--crop-from",
        help="Crop around known boxes instead: JSON of image -> [x0, y0, x1, y1], or CSV with the columns "
        "image,x0,y0,x1,y1, in pixels. Images without a box are seen whole.",
    ),
]
