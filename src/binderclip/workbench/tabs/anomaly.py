"""Anomaly: which pictures are damaged, most suspicious first, and where."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr

from binderclip.display import number_of
from binderclip.errors import DataError
from binderclip.tasks import anomaly
from binderclip.tasks.files.writing import write_csv
from binderclip.tasks.report.sheet import contact_sheet
from binderclip.tasks.verbs.anomaly.request import AnomalyRequest
from binderclip.workbench.commands import PICTURES, Equivalent
from binderclip.workbench.fields import control
from binderclip.workbench.grid import PictureRow
from binderclip.workbench.look import (
    check_size,
    could_not_be_read,
    gathered,
    hint,
    left_out,
    packed,
    picture_rows,
    report_frame,
    table,
)
from binderclip.workbench.tab import Bench, Outcome, Run, Tab

if TYPE_CHECKING:
    from binderclip.tasks.verbs.anomaly.inspection import Inspection

SHOWN = 24
"""Pictures on the page, and in the sheet; the table and the files have more."""
SOUND = "sound"
"""What a line calls a folder of sound pictures that were uploaded."""
OUT = "anomalies"
ABOUT = {
    "auto": "auto: patchcore with sound pictures, else winclip",
    "winclip": "winclip: words, and the nearest sound windows",
    "clap": "clap: restores hidden regions; learns from sound pictures, minutes",
    "patchcore": "patchcore: the nearest sound patches of a classifier, no words",
    "padim": "padim: how far patches are from those of sound pictures, no words",
}


def build(bench: Bench) -> None:
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            pictures = bench.pictures("Pictures to inspect")
            sound = bench.pictures(
                "Sound pictures, if there are some", folder_label="Or a folder of sound pictures", shared=False
            )
            name = control(AnomalyRequest, "name", value="", placeholder="metal nut", info="for the words")
            method = control(AnomalyRequest, "method", about=ABOUT)
            threshold = control(
                AnomalyRequest, "threshold", placeholder="0.4, or normal",
                info="normal: above every sound picture; empty: nothing is judged",
            )  # fmt: skip
            with gr.Accordion("Words and settings", open=False):
                state = control(
                    AnomalyRequest, "state", value="", lines=2, placeholder="{} with a crack",
                    info="instead of the usual phrases",
                )  # fmt: skip
                fine = control(AnomalyRequest, "sound", value="", lines=2, placeholder="flawless {}")
                words = control(AnomalyRequest, "words", info="winclip; weak words mislead the maps")
                shots = control(AnomalyRequest, "shots", maximum=64)
                steps = control(AnomalyRequest, "steps", minimum=25, maximum=1875, step=25, value=400)
            controls = bench.controls("Inspect")
        with gr.Column(scale=3, min_width=320):
            shown = gr.HTML(
                hint(
                    "Drop the pictures to inspect, and a few that are sound; press Inspect: the most suspicious come "
                    "first, each beside where."
                )
            )
            report = gr.HTML(padding=False)
            results = bench.results()
    inputs = [*pictures.inputs, *sound.inputs, name, method, state, fine, words, shots, steps, threshold]
    bench.connect(controls, work, inputs, [shown, report], results, also=[name.submit])


def work(
    run: Run, files: list[str] | None, folder: str | None, sound_files: list[str] | None, sound_folder: str | None,
    name: str, method: str, state: str, fine: str, words: bool, shots: int, steps: int, threshold: str = "",
) -> Outcome:  # fmt: skip
    """Inspect as the verb does, then show it."""
    chosen = run.pictures(files, folder)
    compared = run.pictures(sound_files, sound_folder) if sound_files or sound_folder else None
    unusable = {} if chosen.folder else _unusable(chosen.paths)
    kept = [path for path in chosen.paths if path not in unusable]
    if not kept:
        raise DataError(next(iter(unusable.values())))
    inspected = chosen.folder or gathered(kept, run.folder / PICTURES)
    normal = None if compared is None else compared.folder or gathered(compared.paths, run.folder / SOUND)
    request = AnomalyRequest(
        folder=str(inspected), name=(name or "").strip() or "object",
        normal=None if normal is None else str(normal), shots=int(shots), method=method,
        state=_phrases(state), sound=_phrases(fine), words=words or method not in ("auto", "winclip"),
        out=str(run.folder / OUT), steps=int(steps) if method == "clap" else None,
        model=run.chosen("") or None, device=run.bench.models.device,
        threshold=(threshold or "").strip() or None,
    )  # fmt: skip
    result = anomaly.run(request)
    result.skipped += [(str(path), why) for path, why in unusable.items()]
    run.say("drawing")
    _name_as_on_the_page(result.out / "scores.csv", inspected)
    again = request.replaced(
        folder=chosen.folder or PICTURES, normal=None if compared is None else compared.folder or SOUND, out=OUT
    )
    return Outcome(
        (
            _shown(result, run.folder) + _tables(result),
            report_frame(
                result.report, "The report: figures, scores of all pictures, the most and the least suspicious"
            ),
        ),
        [*_files(result), result.report],
        Equivalent.of(again),
        could_not_be_read(len(result.skipped)),
    )


def _unusable(paths: Sequence[Path]) -> dict[Path, str]:
    """The uploads that cannot be inspected, and why."""
    reasons = {}
    for path in paths:
        try:
            check_size(path)
        except DataError as error:
            reasons[path] = str(error)
    return reasons


def _phrases(text: str | None) -> list[str]:
    return [line.strip() for line in (text or "").splitlines() if line.strip()]


def _label(done: Inspection, row: int) -> str:
    return str(done.pictures[row].path.relative_to(done.folder.root))


def _said(done: Inspection, row: int) -> str:
    chance, known = done.chance(row), done.label(row)
    parts = [f"score {float(done.found.scores[row]):.3f}"]
    parts += [] if chance is None else [f"p {chance:.2f}"]
    parts += [] if done.threshold is None else ["fails" if done.fails(row) else "passes"]
    return ", ".join([*parts, *([f"is {known}"] if known else [])])


def _shown(done: Inspection, folder: Path) -> str:
    """The most suspicious pictures, each beside its overlay."""
    entries = []
    for number, row in enumerate(done.order()[:SHOWN]):
        name = _label(done, row)
        parts = [(done.pictures[row].path, name), (done.overlays[row], f"where it is anomalous: {name}")]
        entry = PictureRow(f"{number + 1}. {name}", _said(done, row), parts, name=name, label=done.label(row) or "")
        entries.append(entry._replace(score=float(done.found.scores[row])))
    return picture_rows(entries, "pictures, most suspicious first", folder / "small")


def _tables(done: Inspection) -> str:
    columns, rows = done.table()
    ranked = enumerate(zip(done.order(), rows, strict=True), 1)
    rows = [(rank, _label(done, row), *cells[1:]) for rank, (row, cells) in ranked]
    against = f"{len(done.normal)} sound pictures" if done.normal else "words alone"
    method = f"{done.settled.method}, {done.settled.model}"
    caption = f"{number_of(len(rows), 'picture')}, most suspicious first, compared with {against}; {method}"
    shown = table(("rank", "picture", *columns[1:]), rows, caption)
    if done.threshold is not None:
        fail = f"{done.failed()} of {len(rows)} pictures fail: their score is at or above {done.threshold:.4g}."
        shown = f"<p>{fail}</p>{shown}"
    if done.held is not None:
        shown += (
            "<p>p is the share of sound pictures, the picture itself among them, that score as high: small is "
            "suspicious.</p>"
        )
    if values := done.figures():
        shown += table(("measure", "value"), list(values.items()), "against the folder's own labels")
    return shown + left_out(done.skipped)


def _name_as_on_the_page(path: Path, root: Path) -> None:
    """Let a table of scores name pictures below their folder: where uploads lie is no use to anybody."""
    with path.open(newline="", encoding="utf-8") as file:
        head, *rows = list(csv.reader(file))
    write_csv(head, [[str(Path(row[0]).relative_to(root)), *row[1:]] for row in rows], path)


def _files(done: Inspection) -> list[Path]:
    out = done.out
    sheet = [(done.overlays[row], _label(done, row), _said(done, row)) for row in done.order()[:SHOWN]]
    contact_sheet(sheet, out / "sheet.png", title="most suspicious first", columns=4, side=240)
    overlays = [done.overlays[row] for row in done.order() if row in done.overlays]
    return [out / "scores.csv", out / "sheet.png", packed(out, overlays, "overlays.zip")]


TAB = Tab("Anomaly", "Which pictures are damaged, and where, by words and by a few sound ones.", build, order=45)
