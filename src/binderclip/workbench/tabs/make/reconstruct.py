"""Reconstruct: a solid out of pictures of its cross-sections, as a mesh, with a picture of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gradio as gr

from binderclip.errors import UsageError
from binderclip.tasks import reconstruct
from binderclip.tasks.files.writing import write_csv
from binderclip.tasks.verbs.reconstruct.request import ReconstructRequest, parse_spacing
from binderclip.tasks.verbs.reconstruct.slices import natural_key
from binderclip.workbench.commands import Equivalent
from binderclip.workbench.forms import Form
from binderclip.workbench.look import could_not_be_read, hint, result_html
from binderclip.workbench.tab import MAKE, Bench, ChosenPictures, Outcome, Run, Tab

MESH, PICTURE = "solid", "solid.png"
FORMATS = (".ply", ".obj")
FORM = Form(
    ReconstructRequest,
    first=("spacing", "invert", "method"),
    without=("slices",),
    own={
        "spacing": {"value": [4.0], "info": "such as 4, or a height for each slice, such as 0,3,7.5; not for a JSON"},
        "method": {
            "value": "distances",
            "about": {"distances": "distances: interpolated", "field": "field: a network"},
        },
        "epochs": {"maximum": 500},
        "rounds": {"maximum": 20},
        "width": {"maximum": 256},
    },
)


def build(bench: Bench) -> None:
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            pictures = bench.pictures("Slices, numbered from the lowest")
            document = gr.File(
                label="Or one JSON with polygons, in the place of pictures", file_types=[".json"], height=130,
                elem_classes=["drop", "document"],
            )  # fmt: skip
            inputs = FORM.build(bench)
            kind = gr.Radio(FORMATS, value=FORMATS[0], label="Format of the mesh")
            controls = bench.controls("Reconstruct")
        with gr.Column(scale=3, min_width=320):
            shown = gr.Image(label="The solid from two sides", interactive=False, buttons=["fullscreen"])
            figures = gr.HTML(
                hint(
                    "Drop pictures of cross-sections in which the solid is white, or opaque, and press Reconstruct: "
                    "the mesh can be downloaded, and each slice says how much of it the mesh keeps."
                )
            )
            results = bench.results()
    bench.connect(controls, work, [*pictures.inputs, document, kind, *inputs], [shown, figures], results)


def work(
    run: Run, files: list[str] | None, folder: str | None, document: str | None, kind: str, *values: object
) -> Outcome:
    """Reconstruct as the verb does; uploads are taken in the order of their numbers, as those of a folder are."""
    if kind not in FORMATS:
        raise UsageError(f"the format of the mesh is {' or '.join(FORMATS)}, not {kind}")
    asked = dict(zip(FORM.names, values, strict=True))
    if document is not None:  # it says itself where its slices lie
        chosen, asked["spacing"], asked["invert"] = ChosenPictures([Path(document)]), "", False
    else:
        chosen = run.pictures(sorted(files or [], key=lambda path: natural_key(Path(Path(path).name))), folder)
    mesh = run.folder / f"{MESH}{kind}"
    with FORM.labelled():
        if spacing := str(asked["spacing"] or "").strip():
            asked["spacing"] = parse_spacing(spacing)
        request = FORM.asked(run, list(asked.values()), slices=chosen.arguments, out=str(mesh))
        again = Equivalent.of(request.replaced(slices=chosen.names(), out=mesh.name))
        try:
            result = reconstruct.run(request)
        except KeyboardInterrupt:
            if mesh.is_file():
                run.leave(Outcome((None, ""), [mesh], again, "The mesh as far as it was fitted can be downloaded."))
            raise
    skipped = [*chosen.skipped, *result.skipped]
    if document is None:
        result = replace(result, rows=[row._replace(name=chosen.label(Path(row.name))) for row in result.rows])
    write_csv(*result.table(), run.folder / "slices.csv")
    return Outcome(
        (str(result.picture), result_html(result, skipped)),
        [result.mesh, result.picture, run.folder / "slices.csv"],
        again,
        could_not_be_read(len(skipped)),
    )


TAB = Tab(
    "Reconstruct", "A solid out of pictures of its cross-sections: a mesh to take along.", build, order=59, group=MAKE
)
