"""Vectorise: pictures as few paths with gradient fills, seen while they are added, as SVG and PNG."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from binderclip.tasks import vectorize
from binderclip.tasks.verbs.vectorize.request import VectorizeRequest
from binderclip.tasks.verbs.vectorize.result import TABLE, VectorizedPictures
from binderclip.workbench.commands import Equivalent
from binderclip.workbench.forms import Form
from binderclip.workbench.look import could_not_be_read, hint, left_out, packed, picture_rows, remarks_html, table
from binderclip.workbench.tab import MAKE, Bench, ChosenPictures, Outcome, Run, Tab

OUT = "vectorized"
FEW = 6
"""Drawings whose files are offered one by one; more go into an archive."""
SHOWN = 12
FORM = Form(
    VectorizeRequest,
    first=("paths", "background"),
    without=("images",),
    own={"paths": {"maximum": 256}, "steps": {"maximum": 500}, "side": {"maximum": 512}},
)


def build(bench: Bench) -> None:
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            pictures = bench.pictures("Pictures to draw again")
            inputs = FORM.build(bench)
            controls = bench.controls("Vectorise")
        with gr.Column(scale=3, min_width=320):
            growing = gr.Image(label="The drawing, while it grows", interactive=False, buttons=["fullscreen"])
            shown = gr.HTML(hint("Drop pictures and press Vectorise: each appears beside its drawing, to take as SVG."))
            results = bench.results()
    bench.connect(controls, work, [*pictures.inputs, *inputs], [growing, shown], results)


def work(run: Run, files: list[str] | None, folder: str | None, *values: object) -> Outcome:
    """Draw pictures again as the verb does."""
    chosen = run.pictures(files, folder)
    out = run.folder / OUT
    with FORM.labelled():
        request = FORM.asked(run, values, images=chosen.arguments, out=str(out))
        again = Equivalent.of(request.replaced(images=chosen.names(), out=OUT))
        run.preview(lambda paths: run.show(paths[0], gr.skip()))
        try:
            result = vectorize.run(request)
        except KeyboardInterrupt:
            if made := _offered(run, sorted([*out.glob("*.svg"), *out.glob("*.png")])):
                run.leave(Outcome((gr.skip(), ""), made, again, "What was drawn so far can be downloaded."))
            raise
    skipped = [*chosen.skipped, *result.skipped]
    columns, rows = result.table()
    rows = [(chosen.label(Path(each.image)), *row[1:]) for each, row in zip(result.pictures, rows, strict=True)]
    figures = table(columns, rows, result.title) + remarks_html(result) + left_out(skipped)
    return Outcome(
        (str(result.pictures[-1].png), _pairs(run, chosen, result) + figures),
        [*_offered(run, result.files()), out / TABLE],
        again,
        could_not_be_read(len(skipped)),
    )


def _offered(run: Run, files: list[Path]) -> list[Path]:
    """The files, or one archive of many."""
    return files if len(files) <= 2 * FEW else [packed(run.folder / OUT, files, "vectorized.zip")]


def _pairs(run: Run, chosen: ChosenPictures, result: VectorizedPictures) -> str:
    """Each picture and its drawing."""
    entries = []
    for each in result.pictures[:SHOWN]:
        name = chosen.label(Path(each.image))
        parts = [(each.image, f"{name}, as it was"), (each.png, f"{name}, drawn again")]
        entries.append((name, f"{each.paths} paths, PSNR {each.psnr:.1f} dB", parts))
    return picture_rows(entries, "pictures and their drawings", run.folder / "small")


TAB = Tab("Vectorise", "Pictures as few paths with gradient fills, to take as SVG.", build, order=58, group=MAKE)
