"""Detect: which pictures are generated, by the bundled detector or one trained on a folder of the user's own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from binderclip.errors import UsageError
from binderclip.tasks import detect
from binderclip.tasks.files.writing import write_csv
from binderclip.tasks.verbs.detect.request import DetectRequest
from binderclip.workbench.commands import Equivalent
from binderclip.workbench.fields import control
from binderclip.workbench.grid import PictureRow
from binderclip.workbench.look import (
    could_not_be_read,
    hint,
    left_out,
    packed,
    picture_rows,
    sentences,
    table,
)
from binderclip.workbench.tab import Bench, Outcome, Run, Tab
from binderclip.workbench.trained.trained_files import MINE, TrainedFiles

if TYPE_CHECKING:
    from binderclip.tasks.verbs.detect.run import Detected

SHOWN = 24
"""Pictures on the page, each beside its map; the table has all."""
DETECTOR = TrainedFiles("a detector", bundled=("small-detector",))


def build(bench: Bench) -> None:
    folders = [str(folder) for folder in bench.below()]
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            detector = gr.Dropdown(
                DETECTOR.choices(bench), value="small-detector", label="Detector", allow_custom_value=True,
                info="one trained below, or a file in a folder that the workbench was opened on; small-detector knows "
                "copies by small autoencoders and no more",
            )  # fmt: skip
            pictures = bench.pictures("Pictures to look at")
            controls = bench.controls("Detect")
            with gr.Accordion("Train a detector", open=False):
                data = control(
                    DetectRequest, "train", choices=folders, value=folders[0] if folders else None,
                    info="with 0_real/ and 1_fake/GENERATOR/ in it, in a folder that the workbench was opened on",
                )  # fmt: skip
                method = control(DetectRequest, "method")
                hold_out = control(
                    DetectRequest, "hold_out", value="", placeholder="sdxl, stylegan", info="separated by commas"
                )
                steps = control(DetectRequest, "steps", minimum=10, maximum=2000, step=10)
                train_controls = bench.controls("Train a detector")
                train_results = bench.results()
        with gr.Column(scale=3, min_width=320):
            shown = gr.HTML(
                hint(
                    "Drop pictures and press Detect: those that look generated come first, each beside what speaks for "
                    "it. Train a detector on real and generated pictures of yours, or choose its file, for generators "
                    "of today."
                )
            )
            summary = gr.HTML()
            results = bench.results()
            figures = gr.HTML()
    bench.connect(controls, work, [*pictures.inputs, detector], [shown, summary], results)
    bench.connect(
        train_controls, learn, [data, method, hold_out, steps], [figures, detector], train_results, keep=True
    )  # fmt: skip


def work(run: Run, files: list[str] | None, folder: str | None, detector: str | None) -> Outcome:
    """Look at pictures as the verb does."""
    from binderclip.tasks.verbs.detect.run import Detected

    path = DETECTOR.chosen(run, detector)
    chosen = run.pictures(files, folder)
    out = run.folder / "maps"
    request = DetectRequest(
        images=chosen.arguments, detector=str(path), maps=str(out), most=SHOWN, device=run.bench.models.device
    )  # fmt: skip
    result = detect.run(request)
    assert isinstance(result, Detected)
    skipped = [*chosen.skipped, *result.skipped]
    named = [(chosen.label(Path(key)), logit, probability) for key, logit, probability in result.rows]
    write_csv(("image", "logit", "probability"), named, run.folder / "scores.csv")
    columns, rows = result.table()
    rows = [(label, *row[1:]) for (label, *_), row in zip(named, rows, strict=True)]
    shown = table(columns, rows, result.title)
    shown += "<p>Maps: red patches speak for generated, blue ones for real.</p>"
    return Outcome(
        (_pictures(run, result, named), shown + _tables(result.more_tables(), result.remarks()) + left_out(skipped)),
        [run.folder / "scores.csv", packed(out, result.maps, "maps.zip")],
        Equivalent.of(request.replaced(images=chosen.names(), detector=DETECTOR.called(run, path), maps="maps")),
        could_not_be_read(len(skipped)),
    )


def learn(run: Run, data: str | None, method: str, hold_out: str, steps: int) -> Outcome:
    """Train and measure a detector as the verb does."""
    if not (data or "").strip():
        raise UsageError("open the workbench on a folder with 0_real/ and 1_fake/ in it, and choose it here")
    out = DETECTOR.new(run, method)
    request = DetectRequest(
        train=str(run.bench.open_folder(str(data))), out=str(out), method=method, steps=int(steps),
        hold_out=[name.strip() for name in (hold_out or "").split(",") if name.strip()], model=run.tower_model,
        device=run.bench.models.device,
    )  # fmt: skip
    result = detect.run(request)
    figures = _tables([(result.title, *result.table()), *result.more_tables()], result.remarks())
    return Outcome(
        (figures + left_out(result.skipped), gr.update(choices=DETECTOR.choices(run.bench, run), value=str(out))),
        [out],
        Equivalent.of(request.replaced(out=MINE)),
        could_not_be_read(len(result.skipped)),
    )


def _pictures(run: Run, result: Detected, named: Sequence[tuple[str, float, float]]) -> str:
    """The pictures that look generated most, each beside its map."""
    entries = []
    for (key, *_), (name, logit, probability), drawn in zip(result.rows, named, result.maps, strict=False):
        parts = [(key, name), (drawn, f"which patches speak for generated: {name}")]
        verdict = "fake" if logit > 0 else "real"
        more = f"{verdict}, probability of fake {probability:.2f}"
        entries.append(PictureRow(name, more, parts, score=probability, label=verdict))
    what = "pictures, most likely generated first"
    return picture_rows(entries, what, run.folder / "small", score="probability of fake")


def _tables(tables: Iterable[tuple[str, Sequence[str], Sequence[tuple[Any, ...]]]], remarks: Sequence[str]) -> str:
    """The figures of each generator, of real pictures after processing, and what follows."""
    return "".join(table(columns, rows, title) for title, columns, rows in tables) + sentences(remarks)


TAB = Tab(
    "Detect", "Which pictures are generated, by a bundled detector or one that learned from yours.", build, order=47
)
