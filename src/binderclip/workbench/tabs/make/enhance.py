"""Enhance: backlit and dark pictures with more even light, by an enhancer that learned from the user's two folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr

from binderclip.errors import UsageError
from binderclip.tasks import enhance
from binderclip.tasks.files.writing import write_csv
from binderclip.tasks.verbs.enhance.request import EnhanceRequest
from binderclip.workbench.commands import Equivalent
from binderclip.workbench.fields import control
from binderclip.workbench.look import (
    could_not_be_read,
    hint,
    left_out,
    packed,
    picture_rows,
    table,
)
from binderclip.workbench.tab import MAKE, Bench, ChosenPictures, Outcome, Run, Tab
from binderclip.workbench.trained.trained_files import TrainedFiles

if TYPE_CHECKING:
    from binderclip.tasks.verbs.enhance.run import EnhancedPicture

SHOWN = 12
"""Pictures on the page, each before and after; the table and the files have all."""
ENHANCER = TrainedFiles("an enhancer")
OUT = "enhanced"
ABOUT = {
    "rave": "rave: by the difference of both folders",
    "clip-lit": "clip-lit: by prompts that are learned in turn",
    "clip-lit-latent": "clip-lit-latent: by vectors that are learned in turn",
    "words": "words: by two texts",
}


def build(bench: Bench) -> None:
    folders = [str(folder) for folder in bench.below()]
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            enhancer = gr.Dropdown(
                ENHANCER.choices(bench), value=None, label="Enhancer", allow_custom_value=True,
                info="one trained below, or a file in a folder that the workbench was opened on",
            )  # fmt: skip
            pictures = bench.pictures("Pictures that lack light")
            controls = bench.controls("Enhance")
            with gr.Accordion("Train an enhancer", open=False):
                dark = control(EnhanceRequest, "dark", choices=folders)
                bright = control(
                    EnhanceRequest, "bright", choices=folders,
                    info="of the same kinds of things; both in folders that the workbench was opened on",
                )  # fmt: skip
                method = control(EnhanceRequest, "method", about=ABOUT)
                steps = control(EnhanceRequest, "steps", minimum=10, maximum=3000, step=10)
                content = control(EnhanceRequest, "content", maximum=200)
                train_controls = bench.controls("Train an enhancer")
                train_results = bench.results()
        with gr.Column(scale=3, min_width=320):
            summary = gr.HTML()
            shown = gr.HTML(
                hint(
                    "Train an enhancer on a folder of pictures that lack light and one of pictures that do not, or "
                    "choose its file; drop pictures and press Enhance: each appears before and after."
                )
            )
            figures = gr.HTML()
            results = bench.results()
    bench.connect(controls, work, [*pictures.inputs, enhancer], [shown, figures], results)
    bench.connect(
        train_controls, learn, [dark, bright, method, steps, content], [summary, enhancer], train_results, keep=True
    )  # fmt: skip


def work(run: Run, files: list[str] | None, folder: str | None, enhancer: str | None) -> Outcome:
    """Enhance pictures as the verb does."""
    path = ENHANCER.chosen(run, enhancer)
    chosen = run.pictures(files, folder)
    request = EnhanceRequest(
        images=chosen.arguments, enhancer=str(path), out=str(run.folder / OUT), device=run.bench.models.device
    )
    result = enhance.run(request)
    skipped = [*chosen.skipped, *result.skipped]
    columns, rows = result.table()
    rows = [(chosen.label(Path(each.image)), *row[1:]) for each, row in zip(result.rows, rows, strict=True)]
    write_csv(columns, rows, run.folder / "tones.csv")
    shown = table(columns, rows, result.title)
    return Outcome(
        (_pictures(run, chosen, result.rows), shown + left_out(skipped)),
        [
            run.folder / "tones.csv",
            result.sheet,
            packed(run.folder / OUT, [Path(row.result) for row in result.rows], "enhanced.zip"),
        ],
        Equivalent.of(request.replaced(images=chosen.names(), enhancer=ENHANCER.called(run, path), out=OUT)),
        could_not_be_read(len(skipped)),
    )


def learn(run: Run, dark: str | None, bright: str | None, method: str, steps: int, content: float) -> Outcome:
    """Train an enhancer as the verb does; its pictures are enhanced when they are asked for."""
    from binderclip.tasks.verbs.enhance.train import FILE, trained

    folders = []
    for given, what in ((dark, "backlit or dark"), (bright, "well-lit")):
        if not (given or "").strip():
            raise UsageError(f"open the workbench on a folder of {what} pictures, and choose it here")
        folders.append(str(run.bench.open_folder(str(given))))
    request = EnhanceRequest(
        images=folders[:1], dark=folders[0], bright=folders[1], method=method, steps=int(steps), content=content,
        model=run.tower_model, out=str(run.folder / OUT), device=run.bench.models.device,
    )  # fmt: skip
    _, card, skipped = trained(request)
    file = ENHANCER.new(run, method)
    os.replace(run.folder / OUT / FILE, file)
    about = (
        f"<p>{method} on {request.model} learned from {card['dark']} pictures that lack light and {card['bright']} "
        "others. Nobody but you can say whether its results please: look at some.</p>"
    )
    return Outcome(
        (about + left_out(skipped), gr.update(choices=ENHANCER.choices(run.bench, run), value=str(file))),
        [file],
        Equivalent.of(request.replaced(out=OUT)),
        could_not_be_read(len(skipped)),
    )


def _pictures(run: Run, chosen: ChosenPictures, rows: Sequence[EnhancedPicture]) -> str:
    """Each picture and what was made of it."""
    entries = []
    for row in rows[:SHOWN]:
        name = chosen.label(Path(row.image))
        parts = [(row.image, f"{name}, as it was"), (row.result, f"{name}, enhanced")]
        entries.append((name, f"mean brightness {row.mean:.2f}, after {row.mean_after:.2f}", parts))
    return picture_rows(entries, "pictures before and after", run.folder / "small")


TAB = Tab(
    "Enhance",
    "More even light in backlit and dark pictures, as two folders of yours have it.",
    build,
    order=56,
    group=MAKE,
)
