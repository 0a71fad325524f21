"""Enhance: backlit and dark pictures with more even light, by an enhancer that learned from the user's two folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

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
from binderclip.workbench.trained_files import TrainedFiles

if TYPE_CHECKING:
    from binderclip.tasks.verbs.enhance.run import EnhancedPicture

SHOWN = 12
"""Pictures on the page, each before and after; the table and the files have all."""
STEPS, CONTENT, LONGEST = 300, 30.0, 512
ENHANCER = TrainedFiles("an enhancer")
OUT = "enhanced"
ABOUT = {
    "rave": "rave: by the difference of both folders",
    "clip-lit": "clip-lit: by prompts that are learned in turn",
    "clip-lit-latent": "clip-lit-latent: by vectors that are learned in turn",
    "words": "words: by two texts",
}


def build(bench: Bench) -> None:
    from binderclip.quality import ENHANCERS

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
                dark = gr.Dropdown(folders, value=None, label="Folder of backlit or dark pictures")
                bright = gr.Dropdown(
                    folders, value=None, label="Folder of well-lit pictures",
                    info="of the same kinds of things; both in folders that the workbench was opened on",
                )  # fmt: skip
                method = gr.Dropdown(
                    [(ABOUT.get(name, name), name) for name in ENHANCERS], value="rave", label="Method"
                )  # fmt: skip
                steps = gr.Slider(
                    10, 3000, value=STEPS, step=10, label="Training steps, in each of clip-lit's two rounds"
                )
                content = gr.Slider(
                    0, 200, value=CONTENT, step=1, label="How much a result has to keep of its picture"
                )  # fmt: skip
                train_controls = bench.controls("Train an enhancer")
                train_results = bench.results()
        with gr.Column(scale=3, min_width=320):
            said = gr.HTML()
            shown = gr.HTML(
                hint(
                    "Train an enhancer on a folder of pictures that lack light and one of pictures that do not, or "
                    "choose its file; drop pictures and press Enhance: each appears before and after."
                )
            )
            found = gr.HTML()
            results = bench.results()
    bench.connect(controls, work, [*pictures.inputs, enhancer], [shown, found], results)
    bench.connect(
        train_controls, learn, [dark, bright, method, steps, content], [said, enhancer], train_results, keep=True
    )  # fmt: skip


def work(run: Run, files: list[str] | None, folder: str | None, enhancer: str | None) -> Outcome:
    """Enhance pictures as the verb does."""
    from binderclip.quality import load_enhancer
    from binderclip.tasks.verbs.enhance.run import enhanced

    path = ENHANCER.chosen(run, enhancer)
    chosen = run.pictures(files, folder)
    run.say("loading the enhancer")
    device = run.bench.models.device
    network, _ = load_enhancer(path, device=device)
    out = run.folder / OUT
    where = str(chosen.folder or run.folder / PICTURES)
    done = enhanced(network, chosen.paths, [where], out, longest=LONGEST, device=device)
    skipped = [*chosen.skipped, *done.skipped]
    if not done.rows:
        raise DataError(f"none of the pictures could be used: {skipped[0][1]}")
    rows = [
        (chosen.label(Path(row.image)), row.mean, row.mean_after, row.white, row.white_after) for row in done.rows
    ]  # fmt: skip
    write_csv(("image", "mean", "after", "white", "white after"), rows, run.folder / "tones.csv")
    caption = f"{number_of(len(rows), 'picture')}: mean brightness and share of white pixels, before and after"
    said = table(("Picture", "Mean", "After", "White", "White after"), rows, caption)
    assert done.sheet is not None
    made = [Path(row.result) for row in done.rows]
    return Outcome(
        (_pictures(run, chosen, done.rows), said + left_out(skipped)),
        [run.folder / "tones.csv", done.sheet, packed(out, made, "enhanced.zip")],
        _again(run, chosen, path),
        could_not_be_read(len(skipped)),
    )


def learn(run: Run, dark: str | None, bright: str | None, method: str, steps: int, content: float) -> Outcome:
    """Train an enhancer as the verb does."""
    from binderclip.tasks.verbs.enhance.train import FILE, EnhancerTraining, trained

    folders = []
    for given, what in ((dark, "backlit or dark"), (bright, "well-lit")):
        if not (given or "").strip():
            raise UsageError(f"open the workbench on a folder of {what} pictures, and choose it here")
        folders.append(run.bench.open_folder(str(given)))
    training = EnhancerTraining(
        method, run.tower_model, int(steps), rounds=2, prompt_steps=200, batch_size=8, lr=5e-4, content=float(content),
        side=128, seed=0,
    )  # fmt: skip
    device, made = run.bench.models.device, run.folder / OUT
    _, card, skipped = trained(training, folders[0], folders[1], made, device=device)
    out = ENHANCER.new(run, method)
    os.replace(made / FILE, out)
    shell = shell_line(
        "binderclip", "enhance", Arguments([str(folders[0])]), "--dark", folders[0], "--bright", folders[1],
        "--out", OUT, ["--method", method] if method != "rave" else None,
        ["--steps", int(steps)] if steps != STEPS else None,
        ["--content", f"{content:g}"] if content != CONTENT else None,
        model_words(run.tower_model, device, "small"),
    )  # fmt: skip
    python = (
        "from pathlib import Path; from binderclip.tasks.verbs.enhance.train import EnhancerTraining, trained; "
        f"network, card, skipped = trained({training!r}, Path({str(folders[0])!r}), Path({str(folders[1])!r}), "
        f"Path({OUT!r}), device={device!r}); print(card)"
    )
    said = (
        f"<p>{method} on {run.tower_model} learned from {card['dark']} pictures that lack light and {card['bright']} "
        "others. Nobody but you can say whether its results please: look at some.</p>"
    )
    return Outcome(
        (said + left_out(skipped), gr.update(choices=ENHANCER.choices(run.bench, run), value=str(out))),
        [out],
        Equivalent(python, shell),
        could_not_be_read(len(skipped)),
    )


def _pictures(run: Run, chosen: ChosenPictures, rows: Sequence[EnhancedPicture]) -> str:
    """Each picture and what was made of it."""
    entries = []
    for number, row in enumerate(rows[:SHOWN]):
        name = chosen.label(Path(row.image))
        parts = [
            (small_copy(path, run.folder / f"small-{kind}", number), f"{name}, {what}")
            for kind, path, what in (("before", row.image, "as it was"), ("after", row.result, "enhanced"))
        ]
        entries.append((name, f"mean brightness {row.mean:.2f}, after {row.mean_after:.2f}", parts))
    return picture_rows(entries, "pictures before and after")


def _again(run: Run, chosen: ChosenPictures, path: str | Path) -> Equivalent:
    device, named = run.bench.models.device, ENHANCER.called(run, path)
    shell = shell_line(
        "binderclip", "enhance", Arguments(chosen.names()), "--enhancer", named, "--out", OUT, device_words(device)
    )  # fmt: skip
    pictures, needed = python_paths(chosen)
    arguments = [str(chosen.folder)] if chosen.folder else chosen.names()
    python = (
        f"{needed}from binderclip.quality import load_enhancer; "
        "from binderclip.tasks.verbs.enhance.run import enhanced; "
        f"network, card = load_enhancer({named!r}, device={device!r}); "
        f"d = enhanced(network, {pictures}, {arguments!r}, Path({OUT!r}), longest={LONGEST}, device={device!r}, "
        "print([(r.image, r.mean, r.mean_after) for r in d.rows])"
    )
    return Equivalent(python, shell)


TAB = Tab("Enhance", "More even light in backlit and dark pictures, as two folders of yours have it.", build, order=56)
