"""Adapt: the best classifier for a folder of class-named folders; the table fills while methods are judged."""

from __future__ import annotations

import html
import re
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from binderclip.display import number_of
from binderclip.errors import UsageError
from binderclip.tasks.verbs.adapt.run import choose_head
from binderclip.tasks.verbs.adapt.wording import interval_text, labels_verdict, verdict
from binderclip.workbench.commands import Equivalent, model_words, python_load, shell_line
from binderclip.workbench.look import could_not_be_read, hint, packed, report_frame, table
from binderclip.workbench.tab import Bench, Outcome, Run, Tab, short_time

if TYPE_CHECKING:
    from binderclip.adapt.selection import LabelSelection, MethodScore, Selection
    from binderclip.data import ImageTextDataset

SETS = ("digits", "fashion-mnist")
"""Named sets that are offered; the others are taken as well."""
GROUPS = ("auto", "all")
FINISHED = "adapt-finished"
"""Folder of a page's finished cells, beside those of its runs."""
COLUMNS = ("Method", "How", "Accuracy", "95 %", "Macro-F1", "Calibration error", "Fit, s")
_COUNTED = re.compile(r"(?P<text>.*?):? (?P<done>[0-9]+) of (?P<total>[0-9]+)$")


def build(bench: Bench) -> None:
    from binderclip.adapt.selection.candidate_heads import catalogue

    offered = [*((str(folder), str(folder)) for folder in bench.below()), *((name, name) for name in SETS)]
    groups = [("auto: all that fit the budget, but those trained on images", "auto"), ("all", "all")]
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            data = gr.Dropdown(
                offered, value=offered[0][1], label="Pictures with labels", allow_custom_value=True,
                info="a folder of class-named folders, below one that the workbench was opened on; or a named set",
            )  # fmt: skip
            shots = gr.Slider(1, 64, value=16, step=1, label="Shots: pictures a class to learn from")
            methods = gr.Dropdown(
                [*groups, *((name, name) for name in sorted(catalogue()))], value=["auto"], multiselect=True,
                label="Methods",
            )  # fmt: skip
            draws = gr.Slider(1, 10, value=3, step=1, label="Draws of the shots; intervals are over them")
            budget = gr.Slider(1, 120, value=9, step=1, label="Budget, in minutes")
            goes_on = gr.Checkbox(
                label="Go on with what is finished", value=False, interactive=False,
                info="a run that was stopped, or has other methods or a larger budget, repeats nothing",
            )  # fmt: skip
            controls = bench.controls("Adapt")
        with gr.Column(scale=3, min_width=320):
            said = gr.HTML(
                hint(
                    "Choose a folder with a folder for each class, or digits; press Adapt: the table of methods fills."
                )
            )
            scores = gr.HTML()
            report = gr.HTML(padding=False)
            results = bench.results()
    inputs = [data, shots, methods, draws, budget, goes_on]
    bench.connect(controls, work, inputs, [said, scores, report, goes_on], results, keep=True)


def work(
    run: Run, data: str | None, shots: int, methods: list[str] | None, draws: int, budget: float, goes_on: bool
) -> Outcome:
    """Judge the methods, choose, and test once."""
    from binderclip.adapt.selection import LabelSelection
    from binderclip.adapt.selection.candidate_heads import candidates, catalogue
    from binderclip.models import resolve_templates

    names = _methods(methods)
    count = len(candidates(names, None, None, catalogue()))
    samples, called = _opened(run, data)
    finished = run.folder.parent / FINISHED
    if not goes_on:
        shutil.rmtree(finished, ignore_errors=True)
    seconds = 60.0 * float(budget)
    run.show("", "", "", gr.skip())
    clip = run.model()
    watcher = _TableWatcher(run, seconds, count)
    options = {
        "shots": int(shots), "seeds": int(draws), "methods": names, "templates": resolve_templates("simple"),
        "progress": watcher.say,
    }  # fmt: skip
    only_one = {"budget": seconds, "store": finished, "judged": watcher.judged}
    out = run.folder / "adapt"
    out.mkdir()
    found = choose_head(clip, samples, called, out, options, only_one)
    several = isinstance(found, LabelSelection)
    files = [path for path in sorted(out.iterdir()) if path.name not in ("report.html", "figures.json")]
    return Outcome(
        (
            _verdict(found, labels_verdict(found) if several else verdict(found)),
            _label_table(found) if several else _table(found.scores, found.left_out, _caption(found, called)),
            report_frame(out / "report.html", "The report: curves, confusion, calibration, mistakes"),
            gr.update(value=True, interactive=True),
        ),
        [out / "report.html", packed(out, files, "head.zip"), out / "figures.json"],
        _again(run.model_name, run.bench.models.device, called, names, int(shots), int(draws), seconds, several),
        could_not_be_read(len(found.encoded.skipped)),
    )


def _methods(chosen: list[str] | None) -> str | list[str]:
    names = list(chosen or [])
    if not names:
        raise UsageError("choose methods: auto, all, or some by name")
    if not set(names) & set(GROUPS):
        return names
    if len(names) > 1:
        raise UsageError(
            f"{names[0] if names[0] in GROUPS else names[1]} stands alone, or methods are named one by one"
        )
    return names[0]


def _opened(run: Run, data: str | None) -> tuple[ImageTextDataset, str]:
    """The labelled pictures, and what the lines call them.

    Raises:
        UsageError: neither a named set nor a folder that pages may read, or shards.
    """
    from binderclip.data import ImageTextDataset, load_data

    called = run.data(data)
    run.say("opening the pictures")
    samples = load_data(called)
    if not isinstance(samples, ImageTextDataset):
        raise UsageError(f"{called}: shards are streamed, which few-shot draws cannot use")
    return samples, called


@dataclass
class _TableWatcher:
    """Shows the rows of the table as they come, and what is being done."""

    run: Run
    budget: float
    total: int
    scores: list[MethodScore] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def say(self, line: str) -> None:
        counted = _COUNTED.fullmatch(line)
        if counted and counted["text"] == "encoding pictures":
            self.run.progress(int(counted["done"]), int(counted["total"]), counted["text"])
            return
        # Cheap methods come first, so that their pace says nothing of the time left; the budget does.
        left = self.budget - (time.monotonic() - self.began)
        self.run.say(line + (f"; at most {short_time(left)} left" if left > 0 else ""))

    def judged(self, name: str, outcome: MethodScore | str) -> None:
        if isinstance(outcome, str):
            self.left_out.append((name, outcome))
        else:
            self.scores.append(outcome)
        done = len(self.scores) + len(self.left_out)
        caption = f"{done} of {self.total} methods judged so far"
        ordered = sorted(self.scores, key=lambda score: (-round(score.accuracy.value, 9), round(score.loss, 6)))
        said = (
            "<p>The choice, and the one look at the test part, come when all methods are judged. What is finished is "
            "kept: after a stop, Adapt goes on from here.</p>"
        )
        self.run.show(said, _table(ordered, self.left_out, caption), "", gr.update(value=True, interactive=True))


def _table(scores: list[MethodScore], left_out: list[tuple[str, str]], caption: str) -> str:
    rows: list[tuple[Any, ...]] = []
    for s in scores:
        figures = [value if value == value else "" for value in (s.accuracy.value, s.macro_f1, s.calibration)]
        rows.append((s.name, s.cost, figures[0], interval_text(s.accuracy), *figures[1:], s.seconds))
    shown = table(COLUMNS, rows, caption)
    return shown + (table(("Left out", "Why"), left_out, "Left out") if left_out else "")


def _label_table(found: LabelSelection) -> str:
    rows = [
        (s.name, s.mean_average_precision.value, interval_text(s.mean_average_precision), s.macro_f1, s.seconds)
        for s in found.scores
    ]
    caption = f"{len(found.labels)} labels, several a picture, {number_of(found.shots, 'shot')}, {found.seeds} draws"
    return table(("Method", "mAP", "95 %", "Macro-F1", "Fit, s"), rows, caption)


def _caption(found: Selection, called: str) -> str:
    name = called if called in SETS else Path(called).name
    return (
        f"{name}: {len(found.classes)} classes, {number_of(found.shots, 'shot')}, "
        f"cross-validated inside them, {found.seeds} draws, model {found.model}"
    )


def _verdict(found: Any, lines: list[str]) -> str:
    notes = [f"Note: {line}." for line in found.notes]
    return "".join(f"<p>{html.escape(line)}</p>" for line in [*lines, *notes])


def _again(
    model: str, device: str, data: str, names: str | list[str], shots: int, draws: int, seconds: float, several: bool
) -> Equivalent:
    words = names if isinstance(names, str) else ",".join(names)
    shell = shell_line(
        "binderclip", "adapt", data, "--shots", shots, "--methods", words, "--seeds", draws,
        "--budget", f"{seconds:g}", model_words(model, device),
    )  # fmt: skip
    select, budget = ("select_labels", "") if several else ("select_head", f", budget={seconds:g}")
    python = (
        f"from binderclip.adapt.selection import {select}; from binderclip.data import load_data; from "
        f"binderclip.models import load; found = {select}({python_load(model, device)}, load_data({data!r}), "
        f"shots={shots}, methods={names!r}, seeds={draws}{budget}); found.save('adapt'); "
        "print(found.figures()['winner'])"
    )
    return Equivalent(python, shell)


TAB = Tab(
    "Adapt", "The best classifier for your labelled pictures among all methods, and how far to trust it.", build,
    order=60,
)  # fmt: skip
