"""Anomaly: which pictures are damaged, most suspicious first, and where."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from binderclip.display import number_of
from binderclip.errors import DataError
from binderclip.tasks.files.writing import write_csv
from binderclip.tasks.report.sheet import contact_sheet
from binderclip.tasks.verbs.anomaly.inspection import AnomalyRequest, figures
from binderclip.tasks.verbs.anomaly.run import carry_out, default_model, parse_threshold
from binderclip.workbench.commands import PICTURES, Equivalent, model_words, python_load, shell_line
from binderclip.workbench.look import (
    check_size,
    could_not_be_read,
    gathered,
    hint,
    left_out,
    packed,
    picture_rows,
    report_frame,
    small_copy,
    table,
)
from binderclip.workbench.tab import Bench, ChosenPictures, Outcome, Run, Tab

if TYPE_CHECKING:
    from binderclip.tasks.verbs.anomaly.inspection import Inspection

SHOWN = 24
"""Pictures on the page, and in the sheet; the table and the files have more."""
OVERLAYS = 60
SOUND = "sound"
"""What a line calls a folder of sound pictures that were uploaded."""


def build(bench: Bench) -> None:
    from binderclip.segment.anomaly import BASELINES, METHODS

    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            pictures = bench.pictures("Pictures to inspect")
            sound = bench.pictures("Sound pictures, if there are some", folder_label="Or a folder of sound pictures")
            name = gr.Textbox(label="What the pictures show", placeholder="metal nut", info="for the words")
            method = gr.Dropdown(
                [(_about(name), name) for name in ("auto", *BASELINES, *METHODS)], value="auto", label="Method",
            )  # fmt: skip
            threshold = gr.Textbox(
                label="A picture fails from which score", placeholder="0.4, or normal",
                info="normal: above every sound picture; empty: nothing is judged",
            )  # fmt: skip
            with gr.Accordion("Words and settings", open=False):
                state = gr.Textbox(
                    label="What damaged means, a phrase a line", lines=2, placeholder="{} with a crack",
                    info="instead of the usual phrases",
                )  # fmt: skip
                fine = gr.Textbox(label="What sound means, a phrase a line", lines=2, placeholder="flawless {}")
                words = gr.Checkbox(
                    label="Words count beside sound pictures", value=True,
                    info="winclip; weak words mislead the maps",
                )  # fmt: skip
                shots = gr.Slider(1, 64, value=16, step=1, label="Most sound pictures that are used")
                steps = gr.Slider(25, 1875, value=400, step=25, label="Training steps of clap (the paper's: 1875)")
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


def _about(method: str) -> str:
    known = {
        "auto": "patchcore with sound pictures, else winclip",
        "winclip": "words, and the nearest sound windows",
        "clap": "restores hidden regions; learns from sound pictures, minutes",
        "patchcore": "the nearest sound patches of a classifier, no words",
        "padim": "how far patches are from those of sound pictures, no words",
    }
    return f"{method}: {known[method]}" if method in known else method


def work(
    run: Run,
    files: list[str] | None,
    folder: str | None,
    sound_files: list[str] | None,
    sound_folder: str | None,
    name: str,
    method: str,
    state: str,
    fine: str,
    words: bool,
    shots: int,
    steps: int,
    threshold: str = "",
) -> Outcome:
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
        folder=str(inspected), name=(name or "").strip() or "object", normal=None if normal is None else str(normal),
        shots=int(shots), method=method, state=_phrases(state), sound=_phrases(fine),
        words=words or method not in ("auto", "winclip"), size=None, scales=None,
        out=str(run.folder / "anomalies"), most=OVERLAYS,
        npy=False, seed=None, steps=int(steps) if method == "clap" else None,
        model=run.chosen("auto" if method == "auto" else default_model(method)),
        device=run.bench.models.device, dtype="float32", json=False,
        threshold=parse_threshold((threshold or "").strip() or None),
    )  # fmt: skip
    done, out, report = carry_out(request)
    done.skipped += [(str(path), why) for path, why in unusable.items()]
    run.say("drawing")
    _name_as_on_the_page(out / "scores.csv", inspected)
    return Outcome(
        (
            _shown(done, run.folder) + _tables(done, done.request),
            report_frame(report, "The report: figures, scores of all pictures, the most and the least suspicious"),
        ),
        [*_files(done, out), report],
        _again(done.request, chosen, compared, method),
        could_not_be_read(len(done.skipped)),
    )


def _unusable(paths: Sequence[Path]) -> dict[Path, str]:
    """The uploads that cannot be inspected, and why."""
    found = {}
    for path in paths:
        try:
            check_size(path)
        except DataError as error:
            found[path] = str(error)
    return found


def _phrases(text: str | None) -> tuple[str, ...]:
    return tuple(line.strip() for line in (text or "").splitlines() if line.strip())


def _label(done: Inspection, row: int) -> str:
    return str(done.pictures[row].path.relative_to(done.folder.root))


def _said(done: Inspection, row: int) -> str:
    chance, known = done.chance(row), done.label(row)
    said = [f"score {float(done.found.scores[row]):.3f}"]
    said += [] if chance is None else [f"p {chance:.2f}"]
    said += [] if done.threshold is None else ["fails" if done.fails(row) else "passes"]
    return ", ".join([*said, *([f"is {known}"] if known else [])])


def _shown(done: Inspection, folder: Path) -> str:
    """The most suspicious pictures, each beside its overlay."""
    entries = []
    for number, row in enumerate(done.order()[:SHOWN]):
        name = _label(done, row)
        parts = [
            (small_copy(path, folder / f"small-{kind}", number), f"{what}{name}")
            for kind, path, what in (
                ("picture", done.pictures[row].path, ""), ("overlay", done.overlays[row], "where it is anomalous: ")
            )
        ]  # fmt: skip
        entries.append((f"{number + 1}. {name}", _said(done, row), parts))
    return picture_rows(entries, "pictures, most suspicious first")


def _tables(done: Inspection, request: AnomalyRequest) -> str:
    held, labelled, judged = done.held is not None, done.folder.labelled, done.threshold is not None
    columns = ["Rank", "Picture", "Score", *(["p"] * held), *(["Known"] * labelled), *(["Result"] * judged)]
    rows = []
    for rank, row in enumerate(done.order(), 1):
        cells: list[Any] = [rank, _label(done, row), float(done.found.scores[row])]
        rows.append(
            [*cells, *([done.chance(row)] * held), *([done.label(row)] * labelled), *([done.verdict(row)] * judged)]
        )
    against = f"{len(done.normal)} sound pictures" if done.normal else "words alone"
    seen = number_of(len(rows), "picture")
    caption = f"{seen}, most suspicious first, compared with {against}; {request.method}, {request.model}"
    shown = table(columns, rows, caption)
    if done.threshold is not None:
        fail = f"{done.failed()} of {len(rows)} pictures fail: their score is at or above {done.threshold:.4g}."
        shown = f"<p>{fail}</p>{shown}"
    if held:
        shown += (
            "<p>p is the share of sound pictures, the picture itself among them, that score as high: small is "
            "suspicious.</p>"
        )
    if done.score is not None and (values := figures(done.score)):
        shown += table(("Measure", "Value"), list(values.items()), "Against the folder's own labels")
    return shown + left_out(done.skipped)


def _name_as_on_the_page(path: Path, root: Path) -> None:
    """Let a table of scores name pictures below their folder: where uploads lie is no use to anybody."""
    with path.open(newline="", encoding="utf-8") as file:
        head, *rows = list(csv.reader(file))
    write_csv(head, [[str(Path(row[0]).relative_to(root)), *row[1:]] for row in rows], path)


def _files(done: Inspection, out: Path) -> list[Path]:
    sheet = [(done.overlays[row], _label(done, row), _said(done, row)) for row in done.order()[:SHOWN]]
    contact_sheet(sheet, out / "sheet.png", title="most suspicious first", columns=4, side=240)
    overlays = [done.overlays[row] for row in done.order() if row in done.overlays]
    return [out / "scores.csv", out / "sheet.png", packed(out, overlays, "overlays.zip")]


def _again(request: AnomalyRequest, chosen: ChosenPictures, compared: ChosenPictures | None, method: str) -> Equivalent:
    """The run as lines: `request` as it was carried out, `method` as it was chosen."""
    from binderclip.segment.anomaly import BASELINES

    where = str(chosen.folder or PICTURES)
    normal = None if compared is None else str(compared.folder or SOUND)
    words = [word for phrase in request.state for word in ("--state", phrase)]
    words += [word for phrase in request.sound for word in ("--sound", phrase)]
    shell = shell_line(
        "binderclip", "anomaly", where, "--name", request.name, ["--normal", normal] if normal else None,
        ["--shots", request.shots] if request.shots != 16 else None,
        ["--method", method] if method != "auto" else None, words,
        None if request.words else "--no-words", ["--steps", request.steps] if request.steps is not None else None,
        model_words(request.model, request.device, default_model(request.method)),
        None if request.threshold is None else ["--threshold", request.threshold],
    )  # fmt: skip
    options: dict[str, Any] = {"anomalous": request.state, "normal": request.sound, "steps": request.steps}
    given = {key: value for key, value in options.items() if value}
    if not request.words:
        given["words"] = False
    baseline = request.method in BASELINES
    load, methods = ("load_vision", "BASELINES") if baseline else ("load", "METHODS")
    stands_on = python_load(request.model, request.device, load) + ("" if baseline else f", {request.name!r}")
    python = (
        "from binderclip.data import InspectionFolder, list_images; from binderclip.data.labelled.inspection_folder "
        f"import spread_choice; from binderclip.models import {load}; from binderclip.segment.anomaly import {methods}"
        f"; folder = InspectionFolder({where!r}); d = {methods}[{request.method!r}]({stands_on}"
        f"{''.join(f', {key}={value!r}' for key, value in given.items())}); "
    )
    sound = f"list_images({normal!r})" if normal else "folder.normal"
    python += f"normal = spread_choice({sound}, {request.shots}); folder.leave_out(normal); "
    python += "normal and d.fit(normal); "
    python += "found = d([p.path for p in folder.pictures]); print(sorted(zip(found.scores.tolist(), map(str, "
    python += "(p.path for p in folder.pictures))), reverse=True))"
    return Equivalent(python, shell)


TAB = Tab("Anomaly", "Which pictures are damaged, and where, by words and by a few sound ones.", build, order=45)
