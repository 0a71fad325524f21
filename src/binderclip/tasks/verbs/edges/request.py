"""What `edges` is asked."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from binderclip.errors import UsageError
from binderclip.tasks.fields import Device, Images
from binderclip.tasks.request import Option, Request

METHODS = ("sobel", "canny", "network")


class EdgesRequest(Request):
    """Find edges: for each picture a map of its size, brighter where an edge is surer.

    Examples:

        binderclip edges drawings/ --out edges/

        binderclip edges photos/ --method canny --sigma 2 --out edges/

        binderclip edges BIPED/imgs --truth BIPED/edge_maps --method network --model 10_model.pth --out edges/

    Edges of photographs are weak steps, so each map is shown lighter, and edges.json says which value is white. No
    network is bundled: --method network takes a released DexiNed by its path, or one of yours. Pictures larger than
    the window are seen in overlapping windows. Transparent pictures are laid on white.
    """

    task: ClassVar[str] = "edges"

    images: Images
    method: Annotated[
        str,
        Option(
            "`sobel`: the slope; `canny`: the share of twelve thresholds; `network`: the one of --model.",
            choices=lambda: METHODS,
        ),
    ] = "sobel"
    model: Annotated[
        str | None,
        Option(
            "A released checkpoint of DexiNed (`10_model.pth`), or a folder of vision.save_edge_network (DexiNed or "
            "boundary attention).",
            ("--model", "-m"),
            label="Edge network",
        ),
    ] = None
    sigma: Annotated[
        float, Field(ge=0, le=20), Option("Blur before `canny` and `sobel`, in pixels.", label="Blur, in pixels")
    ] = 1.0
    thin: Annotated[bool, Option("Keep the ridges of a map alone: lines one pixel wide.", label="Lines, thinned")] = (
        False
    )
    absolute: Annotated[
        bool,
        Option(
            "For programs that read values: white is 1 in every map, and not the 99th percentile of each where that is "
            "above the threshold.",
            label="White is 1 in every map",
        ),
    ] = False
    threshold: Annotated[
        float | None,
        Field(ge=0.01, le=0.99),
        Option(
            "A pixel counts as an edge from this value on [default: the network's own; canny 0.4, sobel 0.1].",
            label="Counts as an edge from",
        ),
    ] = None
    window: Annotated[
        int,
        Field(ge=64, le=4096),
        Option("Of `network`: side of the pieces in which it sees larger pictures, in pixels."),
    ] = 512
    truth: Annotated[
        str | None,
        Option(
            "Folder of true edges, pictures of the same names and sizes, white on black: scores ODS, OIS and AP.",
            label="Folder of true edges",
        ),
    ] = None
    tolerance: Annotated[
        float, Field(ge=0, le=0.1), Option("Of --truth: how far apart edges match, as a part of the diagonal.")
    ] = 0.0075
    out: Annotated[str, Option("Folder of the maps, the sheet and the table.", ("--out", "-o"), output=True)] = "edges"
    device: Device = "cpu"

    @model_validator(mode="after")
    def _fits(self) -> EdgesRequest:
        if self.method != "network" and self.model is not None:
            raise UsageError(f"--model is for --method network and does not go with --method {self.method}")
        if self.method == "network" and self.model is None:
            raise UsageError("--method network needs --model: a released checkpoint of DexiNed, or a folder")
        return self
