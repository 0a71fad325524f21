"""Edges: a map of the edges of each picture, by derivatives or a network of the user's."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from binderclip.errors import UsageError
from binderclip.tasks import edges
from binderclip.tasks.files.writing import write_csv
from binderclip.tasks.verbs.edges.request import EdgesRequest
from binderclip.tasks.verbs.edges.result import FolderEdges
from binderclip.workbench.commands import Equivalent
from binderclip.workbench.forms import Form
from binderclip.workbench.look import could_not_be_read, hint, left_out, packed, picture_rows, remarks_html, table
from binderclip.workbench.tab import CUT, Bench, ChosenPictures, Outcome, Run, Tab

SHOWN = 24
"""Pictures on the page, each beside its map; the table and the files have all."""
OUT = "edges"
FORM = Form(
    EdgesRequest,
    first=("method", "thin"),
    without=("images", "model", "truth", "tolerance"),
    own={
        "method": {"info": "sobel: the slope; canny: the share of twelve thresholds; network: the one chosen below"},
        "sigma": {"maximum": 5},
        "window": {"maximum": 2048},
        "threshold": {"minimum": 0, "maximum": 1},
    },
)


def build(bench: Bench) -> None:
    networks = [str(folder) for folder in bench.below() if (folder / "config.json").is_file()]
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            pictures = bench.pictures("Pictures")
            inputs = FORM.build(bench)
            network = gr.Dropdown(
                networks, value=None, label="Edge network", allow_custom_value=True,
                info="for the method network: a folder with one, in a folder that the workbench was opened on",
            )  # fmt: skip
            controls = bench.controls("Find edges")
        with gr.Column(scale=3, min_width=320):
            shown = gr.HTML(hint("Drop pictures and press Find edges: each appears beside its edges."))
            summary = gr.HTML()
            results = bench.results()
    bench.connect(controls, work, [*pictures.inputs, network, *inputs], [shown, summary], results)


def work(run: Run, files: list[str] | None, folder: str | None, network: str | None, *values: object) -> Outcome:
    """Find edges as the verb does."""
    chosen = run.pictures(files, folder)
    with FORM.labelled():
        method = dict(zip(FORM.names, values, strict=True))["method"]
        model = {"model": _network(run, network)} if method == "network" else {}
        request = FORM.asked(run, values, images=chosen.arguments, out=str(run.folder / OUT), **model)
        result = edges.run(request)
    skipped = [*chosen.skipped, *result.skipped]
    columns, rows = result.table()
    rows = [(chosen.label(Path(each.image)), *row[2:]) for each, row in zip(result.rows, rows, strict=True)]
    columns = (columns[0], *columns[2:])
    write_csv(columns, rows, run.folder / "edges.csv")
    about = table(columns, rows, result.title) + remarks_html(result) + left_out(skipped)
    return Outcome(
        (_pictures(run, chosen, result), about),
        [
            run.folder / "edges.csv",
            *([] if result.sheet is None else [result.sheet]),
            packed(run.folder / OUT, [Path(row.result) for row in result.rows], "edges.zip"),
        ],
        Equivalent.of(request.replaced(images=chosen.names(), out=OUT)),
        could_not_be_read(len(skipped)),
    )


def _network(run: Run, network: str | None) -> str:
    """The folder of a network, if this page may read it."""
    if not (network or "").strip():
        raise UsageError("choose an Edge network, or another method")
    folder = run.bench.open_folder(str(network).strip())
    if not (folder / "config.json").is_file():
        raise UsageError(f"{folder.name} holds no edge network: a folder of vision.save_edge_network does")
    return str(folder)


def _pictures(run: Run, chosen: ChosenPictures, result: FolderEdges) -> str:
    entries = []
    for row in result.rows[:SHOWN]:
        name = chosen.label(Path(row.image))
        parts = [(row.image, name), (row.result, f"edges of {name}")]
        entries.append((name, f"{row.share:.1%} of the pixels are edges", parts))
    return picture_rows(entries, "pictures and their edges", run.folder / "small")


TAB = Tab(
    "Edges", "Where in a picture one thing ends and another begins: a map of every picture.", build, order=44, group=CUT
)
