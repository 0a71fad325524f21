"""Attack: pictures that the model takes for something else, though hardly a pixel was changed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from binderclip.cli.shared.options import parse_labels
from binderclip.cli.shared.output import write_csv
from binderclip.cli.verbs.attack.command import COLUMNS, parse_eps, rows_of
from binderclip.display import number_of
from binderclip.errors import DataError, UsageError
from binderclip.workbench.commands import (
    Arguments,
    Equivalent,
    device_words,
    python_paths,
    shell_line,
)
from binderclip.workbench.look import could_not_be_read, hint, left_out, packed, picture_rows, small_copy, table
from binderclip.workbench.tab import Bench, ChosenPictures, Outcome, Run, Tab

if TYPE_CHECKING:
    from binderclip.cli.verbs.attack.run import Attacked, AttackedPicture

SHOWN = 12
"""Pictures on the page, each before, after and as its change; the table and the files have all."""
STEPS, SIDE = 10, 512
ANY = "(any other label)"
ABOUT = {
    "pgd": "pgd: climbs the loss in steps from a random start",
    "fgsm": "fgsm: one step",
    "cw": "cw: climbs the margin to the next label",
    "mi-fgsm": "mi-fgsm: steps along a running sum of gradients",
    "di-fgsm": "di-fgsm: gradients of resized and padded pictures",
}


def build(bench: Bench) -> None:
    from binderclip.robust import METHODS

    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            pictures = bench.pictures("Pictures to change")
            labels = gr.Textbox(label="Labels, separated by commas", placeholder="a cat, a dog, a rocket")
            target = gr.Textbox(label="The label to reach", placeholder=ANY, info="empty: any but the picture's own")
            method = gr.Dropdown([(ABOUT.get(name, name), name) for name in METHODS], value="pgd", label="Method")
            eps = gr.Slider(1, 32, value=4, step=1, label="Grey levels that a pixel may change, of 255")
            steps = gr.Slider(1, 100, value=STEPS, step=1, label="Steps of all but fgsm")
            side = gr.Slider(64, 1024, value=SIDE, step=32, label="Side that larger pictures are reduced to")
            controls = bench.controls("Attack")
        with gr.Column(scale=3, min_width=320):
            shown = gr.HTML(
                hint(
                    "Drop pictures, type labels, press Attack: each appears before and after, with its change made ten "
                    "times as strong."
                )
            )
            found = gr.HTML()
            results = bench.results()
    inputs = [*pictures.inputs, labels, target, method, eps, steps, side]
    bench.connect(controls, work, inputs, [shown, found], results, also=[labels.submit])


def work(
    run: Run,
    files: list[str] | None,
    folder: str | None,
    labels: str,
    target: str,
    method: str,
    eps: float,
    steps: int,
    side: int,
) -> Outcome:
    """Attack as the verb does."""
    from binderclip.cli.verbs.attack.run import attacked

    chosen = run.pictures(files, folder)
    names = parse_labels((labels or "").strip(), "Labels", files=False) if (labels or "").strip() else []
    if len(names) < 2:
        raise UsageError("type two labels or more, separated by commas, such as: a cat, a dog")
    aim = (target or "").strip() or None
    if aim is not None and aim not in names:
        raise UsageError(f"the label to reach, {aim!r}, is none of the labels: {', '.join(names)}")
    radius = f"{int(eps)}/255"
    out = run.folder / "attack"
    out.mkdir()
    run.say(f"loading {run.model_name}")
    done = attacked(
        run.model_name, chosen.paths, names, out, method=method, eps=parse_eps(radius),
        steps=None if method == "fgsm" else int(steps), target=aim, templates="simple", longest=int(side), seed=0,
        device=run.bench.models.device, dtype="float32",
        progress=lambda number: run.progress(number, len(chosen.paths), "attacking"),
    )  # fmt: skip
    skipped = [*chosen.skipped, *done.skipped]
    if not done.pictures:
        raise DataError(f"none of the pictures could be read: {skipped[0][1]}")
    run.say("drawing")
    rows = [(chosen.label(Path(each.image)), *row[1:]) for each, row in zip(done.pictures, rows_of(done), strict=True)]
    write_csv(COLUMNS, rows, run.folder / "table.csv")
    made = [path for each in done.pictures for path in (each.picture, each.difference)]
    return Outcome(
        (_pictures(run, chosen, done), _tables(done, rows, skipped)),
        [run.folder / "table.csv", packed(out, made, "attack.zip")],
        _again(run, chosen, done, radius, int(steps), int(side)),
        could_not_be_read(len(skipped)),
    )


def _pictures(run: Run, chosen: ChosenPictures, done: Attacked) -> str:
    """Each picture, what became of it, and its change."""
    entries = []
    for number, each in enumerate(done.pictures[:SHOWN]):
        name = chosen.label(Path(each.image))
        parts = [
            (small_copy(path, run.folder / f"small-{kind}", number), f"{name}, {what}")
            for kind, path, what in (
                ("before", each.image, "as it was"),
                ("after", each.picture, "attacked"),
                ("change", each.difference, "its change, ten times as strong"),
            )
        ]
        entries.append((name, _said(each), parts))
    return picture_rows(entries, "pictures before and after", kind="triples")


def _said(each: AttackedPicture) -> str:
    before = f"{each.label} {each.probability:.0%}"
    after = f"{each.attacked} {each.attacked_probability:.0%}"
    return f"{before} became {after}" if each.success_8bit else f"{before} stayed {after}"


def _tables(done: Attacked, rows: list[tuple[Any, ...]], skipped: list[tuple[str, str]]) -> str:
    count, aim = len(rows), "another label" if done.target is None else repr(done.target)
    said = table(
        ("Picture", "Label", "Probability", "Attacked", "Its probability", "Success", "In 8 bits", "Levels"),
        rows,
        f"{number_of(count, 'picture')}; {done.method} within {done.eps * 255:.3g} levels of 255, "
        f"towards {aim}; {done.model}",
    )
    said += (
        f"<p>{done.count(eight_bit=True)} of {count} pictures reach the aim as they lie in 8-bit files. An attack that "
        "fails proves nothing: a stronger one may not.</p>"
    )
    if done.reduced:
        said += f"<p>{number_of(done.reduced, 'picture')} reduced to {done.longest} px first.</p>"
    return said + left_out(skipped)


def _again(run: Run, chosen: ChosenPictures, done: Attacked, radius: str, steps: int, side: int) -> Equivalent:
    device = run.bench.models.device
    stepped = None if done.method == "fgsm" else steps
    shell = shell_line(
        "binderclip", "attack", Arguments([run.model_name, *chosen.names()]), "--labels", ",".join(done.labels),
        "--eps", radius, ["--method", done.method] if done.method != "pgd" else None,
        ["--steps", steps] if stepped not in (None, STEPS) else None,
        ["--target", done.target] if done.target is not None else None,
        ["--max-side", side] if side != SIDE else None, device_words(device),
    )  # fmt: skip
    called, needed = python_paths(chosen)
    python = (
        f"{needed}from binderclip.cli.verbs.attack.run import attacked; "
        f"Path('attack').mkdir(exist_ok=True); d = attacked({run.model_name!r}, {called}, {done.labels!r}, "
        f"Path('attack'), method={done.method!r}, eps={radius}, steps={stepped}, target={done.target!r}, "
        f"templates='simple', longest={side}, seed=0, device={device!r}, dtype='float32', progress=lambda n: None); "
        "print([(p.image, p.attacked, p.attacked_probability) for p in d.pictures])"
    )
    return Equivalent(python, shell)


TAB = Tab("Attack", "How little has to change until the model takes a picture for something else.", build, order=54)
