"""Adapt: the best classifier for a folder of class-named folders; the table fills while methods are judged."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import gradio as gr

from binderclip.errors import UsageError
from binderclip.files import write_whole
from binderclip.tasks import adapt
from binderclip.tasks.events import Event, PartialResult
from binderclip.tasks.verbs.adapt.request import GROUPS, AdaptRequest
from binderclip.tasks.verbs.adapt.wording import COLUMNS, score_row
from binderclip.workbench.commands import Equivalent
from binderclip.workbench.fields import control
from binderclip.workbench.forms import data_control
from binderclip.workbench.labels.labelling import ARCHIVE, saved_labels
from binderclip.workbench.look import could_not_be_read, hint, packed, report_frame, sentences, table
from binderclip.workbench.tab import HEAD, LEARN, Bench, Outcome, Run, Tab

if TYPE_CHECKING:
    from binderclip.adapt.selection import MethodScore

SETS = ("digits", "fashion-mnist")
"""Named sets that are offered; the others are taken as well."""
OUT = HEAD
"""Folder of a page's head, beside those of its runs: what is finished there is not done again."""
CLASSIFY = "Classify can use it now: tick it there below Ways to look, side by side."
SAVED = "the labels saved in Classify"
"""What the list calls the pictures that this page has saved with their labels."""
NO_HEAD = ("report.html", "figures.json", "head.zip")
"""Files there that are not of the head."""


def build(bench: Bench) -> None:
    from binderclip.adapt.selection.candidate_heads import catalogue

    groups = [("auto: all that fit the budget, but those trained on images", "auto"), ("all", "all")]
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            data = data_control(
                bench, AdaptRequest, (*SETS, SAVED), "a folder with one for each class (dogs, cats ...)"
            )
            shots = control(AdaptRequest, "shots", maximum=64)
            methods = control(
                AdaptRequest, "methods", choices=[*groups, *((name, name) for name in sorted(catalogue()))],
                multiselect=True,
            )  # fmt: skip
            draws = control(AdaptRequest, "seeds", maximum=10)
            budget = gr.Slider(1, 120, value=9, step=1, label="Budget, in minutes")
            goes_on = gr.Checkbox(
                label="Go on with what is finished", value=False, interactive=False,
                info="a run that was stopped, or has other methods or a larger budget, repeats nothing",
            )  # fmt: skip
            controls = bench.controls("Adapt")
        with gr.Column(scale=3, min_width=320):
            verdict = gr.HTML(
                hint(
                    "Choose a folder with a folder for each class, or digits; press Adapt: the table of methods fills."
                )
            )
            scores = gr.HTML()
            report = gr.HTML(padding=False)
            results = bench.results()
    inputs = [data, shots, methods, draws, budget, goes_on]
    outputs = [verdict, scores, report, goes_on]
    bench.connect(controls, work, inputs, outputs, results, keep=True, makes_head=True)


def work(
    run: Run, data: str | None, shots: int, methods: list[str] | None, draws: int, budget: float, goes_on: bool
) -> Outcome:
    """Judge the methods, choose, and test once."""
    from binderclip.adapt.selection.candidate_heads import candidates, catalogue

    names = list(methods or [])
    if not names:
        raise UsageError("choose methods: auto, all, or some by name")
    out = run.folder.parent / OUT
    labels = str(saved_labels(run.folder.parent)) if data == SAVED else ""
    request = AdaptRequest(
        data=labels or run.data(data), shots=int(shots), methods=names, seeds=int(draws), budget=60.0 * float(budget),
        out=out, model=run.model_name, device=run.bench.models.device,
    )  # fmt: skip
    count = len(candidates(names[0] if names[0] in GROUPS else names, None, None, catalogue()))
    if not goes_on:
        shutil.rmtree(out, ignore_errors=True)
    run.show("", "", "", gr.skip())
    result = adapt.run(request, progress=_TableWatcher(run, count))
    columns, rows = result.table()
    title = result.title
    if labels:
        # Where the page keeps them is no use to anybody: they are called as what it lets one download.
        title = title.replace(labels, SAVED)
        for path in (out / "report.html", out / "figures.json"):
            write_whole(path, path.read_text(encoding="utf-8").replace(labels, ARCHIVE))
    head = [path for path in sorted(out.iterdir()) if path.is_file() and path.name not in NO_HEAD]
    return Outcome(
        (
            sentences([*result.conclusion(), *result.remarks()], type(result.request)),
            table(columns, rows, title) if rows else "",
            report_frame(out / "report.html", "The report: curves, confusion, calibration, mistakes"),
            gr.update(value=True, interactive=True),
        ),
        [out / "report.html", packed(out, head, "head.zip"), out / "figures.json"],
        Equivalent.of(request.replaced(out=OUT, data=ARCHIVE if labels else request.data)),
        f"{could_not_be_read(len(result.selection.encoded.skipped))} {CLASSIFY}".strip(),
    )


@dataclass
class _TableWatcher:
    """Shows the rows of the table as they come, and what is being done."""

    run: Run
    total: int
    scores: list[MethodScore] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        if not isinstance(event, PartialResult):
            self.run.hear(event)
            return
        if isinstance(event.outcome, str):
            self.left_out.append((event.name, event.outcome))
        else:
            self.scores.append(event.outcome)
        done = len(self.scores) + len(self.left_out)
        ordered = sorted(self.scores, key=lambda score: (-round(score.accuracy.value, 9), round(score.loss, 6)))
        shown = table(COLUMNS, map(score_row, ordered), f"{done} of {self.total} methods judged so far")
        notes = sentences(
            [
                "the choice, and the one look at the test part, come when all methods are judged",
                "what is finished is kept: after a stop, Adapt goes on from here",
                *(f"left out {name}: {why}" for name, why in self.left_out),
            ]
        )
        self.run.show(notes, shown, "", gr.update(value=True, interactive=True))


TAB = Tab(
    "Adapt", "The best classifier for your labelled pictures among all methods, and how far to trust it.", build,
    order=60, group=LEARN,
)  # fmt: skip
