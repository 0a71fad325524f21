"""Translate: pictures of one folder made to look like those of another, by a network that learned from both."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import gradio as gr

from binderclip.errors import UsageError
from binderclip.tasks import translate
from binderclip.tasks.verbs.translate.request import TranslateRequest
from binderclip.tasks.verbs.translate.run import LIMIT, TrainedTranslator, TranslatedPictures
from binderclip.tasks.verbs.translate.train import CARD, CHECKPOINTS, SAMPLES
from binderclip.workbench.commands import Equivalent
from binderclip.workbench.forms import Form
from binderclip.workbench.look import (
    could_not_be_read,
    hint,
    left_out,
    packed,
    picture_rows,
    remarks_html,
    sentences,
    table,
)
from binderclip.workbench.tab import MAKE, Bench, Outcome, Run, Tab
from binderclip.workbench.trained.trained_files import TrainedNetworks

SHOWN = 12
"""Pictures on the page, each before and after; the files have all."""
OUT, NETWORK = "translated", "network"
TRANSLATOR = TrainedNetworks("a translator", kinds=("translator",))
FORM = Form(
    TranslateRequest,
    first=("steps", "side", "method"),
    without=("images", "model", "max_side"),
    own={
        "steps": {"minimum": 10, "maximum": 5000, "step": 10},
        "side": {"minimum": 16, "maximum": 256, "step": 16},
        "width": {"maximum": 64},
        "blocks": {"maximum": 16},
    },
)


def build(bench: Bench) -> None:
    folders = [str(folder) for folder in bench.below()]
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            where = "in a folder that the workbench was opened on"
            translator = gr.Dropdown(
                TRANSLATOR.choices(bench), value=None, label="Translator", info=f"one trained below, or {where}"
            )
            pictures = bench.pictures("Pictures to translate")
            controls = bench.controls("Translate")
            with gr.Accordion("Train a translator", open=not TRANSLATOR.choices(bench)):
                before = gr.Dropdown(folders, value=None, label="Folder A: pictures as they are", info=where)
                after = gr.Dropdown(folders, value=None, label="Folder B: pictures as they should look", info=where)
                inputs = FORM.build(bench)
                train_controls = bench.controls("Train a translator")
                train_results = bench.results()
        with gr.Column(scale=3, min_width=320):
            samples = gr.Image(label="Samples, while it learns", interactive=False, buttons=["fullscreen"])
            about = gr.HTML()
            shown = gr.HTML(
                hint(
                    "Train a translator on two folders, which need no pairs, or choose one; drop pictures and press "
                    "Translate: each appears before and after."
                )
            )
            figures = gr.HTML()
            results = bench.results()
    bench.connect(controls, work, [*pictures.inputs, translator], [shown, figures], results)
    bench.connect(
        train_controls, learn, [before, after, *inputs], [samples, about, translator], train_results, keep=True
    )


def work(run: Run, files: list[str] | None, folder: str | None, translator: str | None) -> Outcome:
    """Translate pictures as the verb does."""
    model = TRANSLATOR.chosen(run, translator)
    chosen = run.pictures(files, folder)
    out = run.folder / OUT
    request = TranslateRequest(images=chosen.arguments, model=str(model), out=str(out), device=run.bench.models.device)
    again = Equivalent.of(request.replaced(images=chosen.names(), model=TRANSLATOR.called(run, model), out=OUT))
    try:
        result = translate.run(request)
    except KeyboardInterrupt:
        if made := sorted(out.glob("*.png")):
            message = "What was translated so far can be downloaded."
            run.leave(Outcome(("", ""), [packed(out, made, "translated.zip", into=run.folder)], again, message))
        raise
    assert isinstance(result, TranslatedPictures)
    skipped = [*chosen.skipped, *result.skipped]
    entries = []
    for row in result.rows[:SHOWN]:
        name = chosen.label(Path(row.image))
        parts = [(row.image, f"{name}, as it was"), (row.result, f"{name}, translated")]
        entries.append((name, f"{row.width} x {row.height}", parts))
    return Outcome(
        (
            picture_rows(entries, "pictures before and after", run.folder / "small"),
            remarks_html(result) + left_out(skipped),
        ),
        [result.sheet, packed(out, [Path(row.result) for row in result.rows], "translated.zip")],
        again,
        could_not_be_read(len(skipped)),
    )


def learn(run: Run, before: str | None, after: str | None, *values: object) -> Outcome:
    """Train a translator as the verb does; where it is stopped, the network so far can be used and taken along."""
    folders = []
    for given, what in ((before, "pictures as they are"), (after, "pictures as they should look")):
        if not (given or "").strip():
            raise UsageError(f"open the workbench on a folder of {what}, and choose it here")
        folders.append(str(run.bench.open_folder(str(given))))
    out = run.folder / NETWORK
    with FORM.labelled():
        request = FORM.asked(run, values, images=folders, out=str(out))
        run.preview(lambda paths: run.show(paths[0], gr.skip(), gr.skip()))
        again = Equivalent.of(request.replaced(out=NETWORK))
        try:
            result = translate.run(request)
        except KeyboardInterrupt:
            if (out / CARD).is_file():
                message = "The network so far can be downloaded, and chosen above; its training does not go on here."
                run.leave(_kept(run, request.method, "", again, message))
            raise
    assert isinstance(result, TrainedTranslator)
    columns, rows = result.table()
    about = table(columns, rows, result.title) + sentences([LIMIT.format(**result.card)]) + left_out(result.skipped)
    return _kept(run, result.card["method"], about, again, could_not_be_read(len(result.skipped)))


def _kept(run: Run, method: str, about: str, again: Equivalent, message: str) -> Outcome:
    """The network where it stays as long as its page, and what the page shows and offers of it."""
    place = TRANSLATOR.new(run, method)
    os.replace(run.folder / NETWORK, place)
    shutil.rmtree(place / CHECKPOINTS, ignore_errors=True)
    archive = packed(place.parent, sorted(place.iterdir()), f"{place.name}.zip", into=run.folder)
    sheet = Path(shutil.copy(place / SAMPLES, run.folder)) if (place / SAMPLES).is_file() else None
    return Outcome(
        (
            gr.skip() if sheet is None else str(sheet),
            about,
            gr.update(choices=TRANSLATOR.choices(run.bench, run), value=str(place)),
        ),
        [archive, *([] if sheet is None else [sheet])],
        again,
        message,
    )


TAB = Tab(
    "Translate", "Pictures of one folder made to look like those of another, without pairs.", build, order=58,
    group=MAKE,
    offered=lambda bench: bool(bench.folders),  # it learns from folders, and reads networks in them
)  # fmt: skip
