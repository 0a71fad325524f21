"""Clean: fences or reflections taken out of pictures, by bundled weights or those that the user has."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from binderclip.errors import UsageError
from binderclip.generate import BUNDLED_CLEANERS, CLEANERS
from binderclip.tasks import clean
from binderclip.tasks.files.writing import write_csv
from binderclip.tasks.verbs.clean.request import CleanRequest
from binderclip.tasks.verbs.clean.run import CleanedPictures
from binderclip.workbench.commands import Equivalent
from binderclip.workbench.forms import Form
from binderclip.workbench.look import could_not_be_read, hint, left_out, packed, picture_rows, remarks_html, table
from binderclip.workbench.tab import MAKE, Bench, ChosenPictures, Outcome, Run, Tab
from binderclip.workbench.trained.trained_files import TrainedNetworks

SHOWN = 12
"""Pictures on the page, each before and after; the table and the files have all."""
OUT = "cleaned"
CLEANER = TrainedNetworks("a cleaner", bundled=tuple(BUNDLED_CLEANERS.values()), kinds=tuple(CLEANERS))
FORM = Form(CleanRequest, first=("shrink",), without=("images", "of", "model"), own={"shrink": {"maximum": 8}})


def build(bench: Bench) -> None:
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            cleaners = CLEANER.choices(bench)
            cleaner = gr.Dropdown(
                cleaners, value=cleaners[0][1], label="Cleaner", info="what it takes out stands beside its name"
            )
            pictures = bench.pictures("Pictures behind a fence or a pane")
            inputs = FORM.build(bench)
            controls = bench.controls("Clean")
        with gr.Column(scale=3, min_width=320):
            shown = gr.HTML(hint("Drop pictures and press Clean: each appears before and after."))
            figures = gr.HTML()
            results = bench.results()
    bench.connect(controls, work, [*pictures.inputs, cleaner, *inputs], [shown, figures], results)


def work(run: Run, files: list[str] | None, folder: str | None, cleaner: str | None, *values: object) -> Outcome:
    """Clean as the verb does, of what the weights are for."""
    if not (cleaner or "").strip():
        raise UsageError("choose a Cleaner")
    model = CLEANER.chosen(run, cleaner)
    chosen = run.pictures(files, folder)
    out = run.folder / OUT
    with FORM.labelled():
        request = FORM.asked(
            run, values, images=chosen.arguments, of=CLEANER.kind(model), model=str(model), out=str(out)
        )
        again = Equivalent.of(request.replaced(images=chosen.names(), out=OUT))
        try:
            result = clean.run(request)
        except KeyboardInterrupt:
            if made := sorted(out.glob("*.png")):
                message = "What was cleaned so far can be downloaded."
                run.leave(Outcome(("", ""), [packed(out, made, "cleaned.zip", into=run.folder)], again, message))
            raise
    skipped = [*chosen.skipped, *result.skipped]
    columns, rows = result.table()
    rows = [(chosen.label(Path(each.image)), *row[1:]) for each, row in zip(result.rows, rows, strict=True)]
    write_csv(columns, rows, run.folder / "cleaned.csv")
    files_made = [Path(place) for row in result.rows for place in (row.result, row.mask) if place is not None]
    return Outcome(
        (
            _pictures(run, chosen, result),
            table(columns, rows, result.title) + remarks_html(result) + left_out(skipped),
        ),
        [run.folder / "cleaned.csv", result.sheet, packed(out, files_made, "cleaned.zip")],
        again,
        could_not_be_read(len(skipped)),
    )


def _pictures(run: Run, chosen: ChosenPictures, result: CleanedPictures) -> str:
    """Each picture, what was made of it, and where."""
    entries = []
    for row in result.rows[:SHOWN]:
        name = chosen.label(Path(row.image))
        parts = [(row.image, f"{name}, as it was"), (row.result, f"{name}, without {result.request.of}")]
        if row.mask is not None:
            parts.append((row.mask, f"{name}: white was painted anew"))
        share = "" if row.painted is None else f"{row.painted:.1%} painted, "
        entries.append((name, f"{share}mean change {row.change:.2f} of 255", parts))
    return picture_rows(entries, "pictures before and after", run.folder / "small")


TAB = Tab("Clean", "Fences or reflections taken out of pictures.", build, order=57, group=MAKE)
