"""Attack: pictures that the model takes for something else, though hardly a pixel was changed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from binderclip.errors import UsageError
from binderclip.tasks import attack
from binderclip.tasks.arguments.labels import parse_labels
from binderclip.tasks.files.writing import write_csv
from binderclip.tasks.verbs.attack.request import AttackRequest
from binderclip.workbench.commands import Equivalent
from binderclip.workbench.fields import control
from binderclip.workbench.look import (
    could_not_be_read,
    hint,
    left_out,
    packed,
    picture_rows,
    sentences,
    table,
)
from binderclip.workbench.tab import WHY, Bench, ChosenPictures, Outcome, Run, Tab

if TYPE_CHECKING:
    from binderclip.tasks.verbs.attack.run import AttackedPicture, AttackReport

SHOWN = 12
"""Pictures on the page, each before, after and as its change; the table and the files have all."""
STEPS = 10
FOLDED = "How strong, and by which method"
ABOUT = {
    "pgd": "pgd: climbs the loss in steps from a random start",
    "fgsm": "fgsm: one step",
    "cw": "cw: climbs the margin to the next label",
    "mi-fgsm": "mi-fgsm: steps along a running sum of gradients",
    "di-fgsm": "di-fgsm: gradients of resized and padded pictures",
}


def build(bench: Bench) -> None:
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            pictures = bench.pictures("Pictures to change")
            labels = control(AttackRequest, "labels", value="", placeholder="a cat, a dog, a rocket")
            with gr.Accordion(FOLDED, open=False):
                target = control(
                    AttackRequest, "target", placeholder="(any other label)", info="empty: any but the picture's own"
                )
                method = control(AttackRequest, "method", about=ABOUT)
                eps = gr.Slider(1, 32, value=4, step=1, label="Grey levels that a pixel may change, of 255")
                steps = control(AttackRequest, "steps", maximum=100, value=STEPS)
                side = control(AttackRequest, "max_side", minimum=64, maximum=1024, step=32)
            controls = bench.controls("Attack")
        with gr.Column(scale=3, min_width=320):
            shown = gr.HTML(
                hint(
                    "Drop pictures, type labels, press Attack: each appears before and after, with its change made ten "
                    "times as strong."
                )
            )
            summary = gr.HTML()
            results = bench.results()
    inputs = [*pictures.inputs, labels, target, method, eps, steps, side]
    bench.connect(controls, work, inputs, [shown, summary], results, also=[labels.submit])


def work(
    run: Run, files: list[str] | None, folder: str | None, labels: str, target: str, method: str, eps: float,
    steps: int, side: int,
) -> Outcome:  # fmt: skip
    """Attack as the verb does."""
    chosen = run.pictures(files, folder)
    names = parse_labels(labels.strip(), "Labels", files=False) if (labels or "").strip() else []
    aim = (target or "").strip() or None
    if len(names) < 2:
        raise UsageError("type two labels or more, separated by commas, such as: a cat, a dog")
    if aim is not None and aim not in names:
        raise UsageError(f"the label to reach, {aim!r}, is none of the labels: {', '.join(names)}")
    asked: dict[str, Any] = {
        "model": run.model_name,
        "labels": names,
        "target": aim,
        "method": method,
        "eps": f"{int(eps)}/255",
        "steps": None if method == "fgsm" or int(steps) == STEPS else int(steps),
        "max_side": int(side),
        "device": run.bench.models.device,
    }
    # The same without this page is about the pictures by the names that their owner knows.
    again = AttackRequest(images=chosen.names(), **asked)
    out = run.folder / "attack"
    result = attack.run(AttackRequest(images=chosen.arguments, out=str(out), **asked))
    skipped = [*chosen.skipped, *result.skipped]
    run.say("drawing")
    columns, rows = result.table()
    rows = [(chosen.label(Path(each.image)), *row[1:]) for each, row in zip(result.pictures, rows, strict=True)]
    write_csv(columns, rows, run.folder / "table.csv")
    shown = table([name.capitalize() for name in columns], rows, result.title)
    shown += sentences([*result.remarks(), "an attack that fails proves nothing: a stronger one may not"])
    return Outcome(
        (_pictures(run, chosen, result), shown + left_out(skipped)),
        [run.folder / "table.csv", packed(out, result.files(), "attack.zip")],
        Equivalent.of(again),
        could_not_be_read(len(skipped)),
    )


def _pictures(run: Run, chosen: ChosenPictures, result: AttackReport) -> str:
    """Each picture, what became of it, and its change."""
    entries = []
    for each in result.pictures[:SHOWN]:
        name = chosen.label(Path(each.image))
        parts = [
            (each.image, f"{name}, as it was"),
            (each.picture, f"{name}, attacked"),
            (each.difference, f"{name}, its change, ten times as strong"),
        ]
        entries.append((name, _said(each), parts))
    return picture_rows(entries, "pictures before and after", run.folder / "small", kind="triples")


def _said(each: AttackedPicture) -> str:
    before = f"{each.label} {each.probability:.0%}"
    after = f"{each.attacked} {each.attacked_probability:.0%}"
    return f"{before} became {after}" if each.success_8bit else f"{before} stayed {after}"


TAB = Tab(
    "Attack", "How little has to change until the model takes a picture for something else.", build, order=54, group=WHY
)
