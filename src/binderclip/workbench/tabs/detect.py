"""Detect: which pictures are generated, by the bundled detector or one trained on a folder of the user's own."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from binderclip.display import number_of
from binderclip.errors import DataError, UsageError
from binderclip.tasks.files.writing import write_csv
from binderclip.workbench.commands import (
    PICTURES,
    Arguments,
    Equivalent,
    device_words,
    model_words,
    python_paths,
    shell_line,
)
from binderclip.workbench.look import could_not_be_read, hint, left_out, packed, picture_rows, small_copy, table
from binderclip.workbench.tab import Bench, ChosenPictures, Outcome, Run, Tab
from binderclip.workbench.trained_files import MINE, TrainedFiles

if TYPE_CHECKING:
    from binderclip.evaluate import DetectorSanityCheck
    from binderclip.tasks.verbs.detect.run import Detected

SHOWN = 24
"""Pictures on the page, each beside its map; the table has all."""
BATCH, STEPS, RATE = 16, 200, 1e-3
DETECTOR = TrainedFiles("a detector", bundled=("small-detector",))


def build(bench: Bench) -> None:
    from binderclip.quality import DETECTORS

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
                data = gr.Dropdown(
                    folders, value=folders[0] if folders else None, label="Folder of real and generated pictures",
                    info="with 0_real/ and 1_fake/GENERATOR/ in it, in a folder that the workbench was opened on",
                )  # fmt: skip
                method = gr.Dropdown(list(DETECTORS), value="linear", label="Method")
                hold_out = gr.Textbox(
                    label="Generators to test on only", placeholder="sdxl, stylegan", info="separated by commas",
                )  # fmt: skip
                steps = gr.Slider(10, 2000, value=STEPS, step=10, label="Training steps")
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
            found = gr.HTML()
            results = bench.results()
            figures = gr.HTML()
    bench.connect(controls, work, [*pictures.inputs, detector], [shown, found], results)
    bench.connect(
        train_controls, learn, [data, method, hold_out, steps], [figures, detector], train_results, keep=True
    )  # fmt: skip


def work(run: Run, files: list[str] | None, folder: str | None, detector: str | None) -> Outcome:
    """Look at pictures as the verb does."""
    from binderclip.tasks.verbs.detect.run import detected, places_of_maps, write_maps

    path = DETECTOR.chosen(run, detector)
    chosen = run.pictures(files, folder)
    count = len(chosen.paths)
    # A folder that says which of its pictures are generated is measured as well; uploads say nothing.
    where = str(chosen.folder or run.folder / PICTURES)
    run.say("loading the detector")
    device = run.bench.models.device
    result = detected(
        path, chosen.paths, [where], device=device, batch_size=BATCH,
        progress=lambda done: run.progress(done, count, "looking"),
    )  # fmt: skip
    skipped = [*chosen.skipped, *result.skipped]
    if not result.rows:
        raise DataError(f"none of the pictures could be used: {skipped[0][1]}")
    named = [(chosen.label(Path(key)), logit, chance) for key, logit, chance in result.rows]
    write_csv(("image", "logit", "probability"), named, run.folder / "scores.csv")
    out = run.folder / "maps"
    out.mkdir()
    maps = write_maps(result, places_of_maps(chosen.paths, out), SHOWN)
    return Outcome(
        (_pictures(run, result, named, maps), _tables(result, named, skipped)),
        [run.folder / "scores.csv", packed(out, maps, "maps.zip")],
        _again(run, chosen, path),
        could_not_be_read(len(skipped)),
    )


def learn(run: Run, data: str | None, method: str, hold_out: str, steps: int) -> Outcome:
    """Train and measure a detector as the verb does."""
    from binderclip.tasks.verbs.detect.train import trained

    if not (data or "").strip():
        raise UsageError("open the workbench on a folder with 0_real/ and 1_fake/ in it, and choose it here")
    folder = run.bench.open_folder(str(data))
    held = [name.strip() for name in (hold_out or "").split(",") if name.strip()]
    out = DETECTOR.new(run, method)
    device = run.bench.models.device
    run.say("reading the folder")
    done = trained(
        folder, out, method, held, steps=int(steps), batch_size=BATCH, lr=RATE, seed=0, model=run.tower_model,
        device=device,
    )  # fmt: skip
    figures = _check(done.check, done.title)
    shell = shell_line(
        "binderclip", "detect", "--train", folder, "--out", MINE, ["--method", method] if method != "linear" else None,
        [word for name in held for word in ("--hold-out", name)], ["--steps", int(steps)] if steps != STEPS else None,
        model_words(run.tower_model, device, "small"),
    )  # fmt: skip
    python = (
        "from pathlib import Path; from binderclip.tasks.verbs.detect.train import trained; "
        f"t = trained(Path({str(folder)!r}), Path({MINE!r}), {method!r}, {held!r}, steps={int(steps)}, "
        f"batch_size={BATCH}, lr={RATE}, seed=0, model={run.chosen('small')!r}, device={device!r}); "
        "print(t.check.figures)"
    )
    return Outcome(
        (figures + left_out(done.skipped), gr.update(choices=DETECTOR.choices(run.bench, run), value=str(out))),
        [out],
        Equivalent(python, shell),
        could_not_be_read(len(done.skipped)),
    )


def _pictures(run: Run, result: Detected, named: Sequence[tuple[str, float, float]], maps: Sequence[Path]) -> str:
    """The pictures that look generated most, each beside its map."""
    entries = []
    for number, ((key, *_), (name, logit, chance), drawn) in enumerate(zip(result.rows, named, maps, strict=False)):
        parts = [
            (small_copy(path, run.folder / f"small-{kind}", number), f"{what}{name}")
            for kind, path, what in (
                ("picture", Path(key), ""), ("map", drawn, "which patches speak for generated: ")
            )
        ]  # fmt: skip
        entries.append((name, f"{'fake' if logit > 0 else 'real'}, probability of fake {chance:.2f}", parts))
    return picture_rows(entries, "pictures, most likely generated first")


def _tables(result: Detected, named: Sequence[tuple[str, float, float]], skipped: Sequence[tuple[str, str]]) -> str:
    rows = [(label, "fake" if logit > 0 else "real", chance, logit) for label, logit, chance in named]
    caption = f"{number_of(len(rows), 'picture')}, most likely generated first; {result.title}"
    said = table(("Picture", "Said", "Probability", "Logit"), rows, caption)
    said += "<p>Maps: red patches speak for generated, blue ones for real.</p>"
    said += "".join(f"<p>{html.escape(line[:1].upper() + line[1:])}.</p>" for line in result.limits)
    if result.check is not None:
        said += _check(result.check, "By generator")
    return said + left_out(skipped)


def _check(check: DetectorSanityCheck, title: str) -> str:
    """The figures of each generator, of real pictures after processing, and what follows."""
    rows: list[tuple[Any, ...]] = [
        (
            f.generator, "yes" if f.seen else "no", f.real_accuracy, f.fake_accuracy, f.average_precision,
            f.oracle_accuracy, f.n_real, f.n_fake,
        )
        for f in check.figures
    ]  # fmt: skip
    columns = ("Generator", "Seen", "Real right", "Fake found", "AP", "Best threshold", "Real", "Fake")
    said = table(columns, rows, title)
    if check.controls:
        changed = [
            (c.processing, c.after, c.before, c.p_value, "a shortcut" if c.shortcut else "could be chance")
            for c in check.controls
        ]
        columns_of_controls = ("Real pictures after", "Called fake", "Before", "p", "Finding")
        said += table(columns_of_controls, changed, "Real pictures after processing, which makes nothing fake")
    return said + "".join(f"<p>{html.escape(line[:1].upper() + line[1:])}.</p>" for line in check.findings)


def _again(run: Run, chosen: ChosenPictures, path: str | Path) -> Equivalent:
    device = run.bench.models.device
    called_detector = DETECTOR.called(run, path)
    shell = shell_line(
        "binderclip", "detect", Arguments(chosen.names()), "--detector", called_detector, "--maps", "maps",
        device_words(device),
    )  # fmt: skip
    pictures, needed = python_paths(chosen)
    arguments = [str(chosen.folder)] if chosen.folder else chosen.names()
    python = (
        f"{needed}from binderclip.tasks.verbs.detect.run import detected; "
        f"d = detected(Path({called_detector!r}), {pictures}, {arguments!r}, device={device!r}, batch_size={BATCH}, "
        "progress=lambda done: None); print(d.rows)"
    )
    return Equivalent(python, shell)


TAB = Tab(
    "Detect", "Which pictures are generated, by a bundled detector or one that learned from yours.", build, order=47
)
