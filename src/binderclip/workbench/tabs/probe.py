"""Probe: for which groups of pictures a model is worse, and whether chance alone could be the reason."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import gradio as gr

from binderclip.tasks.arguments.labels import parse_labels
from binderclip.tasks.verbs.probe.report import GAP_COLUMNS, gap_rows
from binderclip.workbench.commands import Equivalent, device_argument, device_words, shell_line
from binderclip.workbench.look import could_not_be_read, hint, left_out, report_frame, table
from binderclip.workbench.tab import Bench, Outcome, Run, Tab

if TYPE_CHECKING:
    from binderclip.tasks.verbs.probe.run import Probe

SETS = ("openmoji", "emoji", "openclipart")
"""Named sets that are offered; the others are taken as well."""
MOST = 500
BATCH, DRAWS = 64, 1000


def build(bench: Bench) -> None:
    offered = [*((str(folder), str(folder)) for folder in bench.below()), *((name, name) for name in SETS)]
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            data = gr.Dropdown(
                offered, value=offered[0][1], label="Pictures with classes", allow_custom_value=True,
                info="a folder of class-named folders, below one that the workbench was opened on, with groups in a "
                "column of its captions.csv or metadata.csv; or a named set",
            )  # fmt: skip
            groups = gr.Textbox(
                label="Columns that make groups", placeholder="place; age, sex",
                info="commas join columns whose combinations are the groups, semicolons part groupings; "
                "empty: every column with 2 to 12 values",
            )  # fmt: skip
            labels = gr.Textbox(
                label="Classes to tell apart", placeholder="gull, heron", info="empty: those of the data"
            )
            positive = gr.Textbox(
                label="A class that is a decision", placeholder="gull",
                info="also compares how often it is said, and how often rightly",
            )  # fmt: skip
            limit = gr.Slider(20, 10_000, value=MOST, step=20, label="Pictures at most")
            controls = bench.controls("Probe")
        with gr.Column(scale=3, min_width=320):
            found = gr.HTML(
                hint("Choose pictures with classes and groups and press Probe: gaps between groups, and chance's own.")
            )
            report = gr.HTML(padding=False)
            results = bench.results()
    inputs = [data, groups, labels, positive, limit]
    bench.connect(
        controls, work, inputs, [found, report], results, also=[groups.submit, labels.submit, positive.submit]
    )


def work(run: Run, data: str | None, groups: str, labels: str, positive: str, limit: float) -> Outcome:
    """Measure as the verb does."""
    from binderclip.tasks.verbs.probe.report import write_results
    from binderclip.tasks.verbs.probe.run import probed

    called = run.data(data)
    groupings = [one.split(",") for one in (groups or "").split(";") if one.strip()]
    chosen = [tuple(part.strip() for part in one if part.strip()) for one in groupings]
    classes = parse_labels(labels, "Labels", files=False) if (labels or "").strip() else None
    decision = (positive or "").strip() or None
    run.say(f"loading {run.model_name}")
    device = run.bench.models.device
    done = probed(
        run.model_name, called, chosen, None, int(limit), labels=classes, positive=decision, draws=DRAWS,
        device=device, batch_size=BATCH,
    )  # fmt: skip
    run.say("writing the page")
    out = run.folder / "probe"
    out.mkdir()
    page = write_results(done, out)
    files = [page, *(out / name for name in ("groups.csv", "probe.json", "predictions.parquet"))]
    return Outcome(
        (_tables(done), report_frame(page, "The report: every group, the surest mistakes, what helps")),
        files,
        _again(run, called, chosen, classes, decision, int(limit)),
        could_not_be_read(len(done.skipped)),
    )


def _tables(done: Probe) -> str:
    said = ""
    for report in done.reports:
        by = " x ".join(report.names)
        caption = f"{done.model} on {done.source}, by {by}: {report.compared} groups of {len(done.table)} pictures"
        said += table([name.capitalize() for name in GAP_COLUMNS], gap_rows(report), caption)
    said += "".join(f"<p>left out: {html.escape(line)}</p>" for line in done.left_out)
    return said + left_out(done.skipped)


def _again(
    run: Run, data: str, groups: list[tuple[str, ...]], labels: list[str] | None, positive: str | None, limit: int
) -> Equivalent:
    device = run.bench.models.device
    shell = shell_line(
        "binderclip", "probe", run.model_name, "--data", data,
        [word for columns in groups for word in ("--groups", ",".join(columns))],
        ["--labels", ",".join(labels)] if labels else None, ["--positive", positive] if positive else None,
        ["--limit", limit], device_words(device),
    )  # fmt: skip
    python = (
        "from binderclip.tasks.verbs.probe.run import probed; "
        f"p = probed({run.model_name!r}, {data!r}, {groups!r}, None, {limit}, labels={labels!r}, "
        f"positive={positive!r}, draws={DRAWS}{device_argument(device)}); "
        "print([(r.names, r.gaps) for r in p.reports])"
    )
    return Equivalent(python, shell)


TAB = Tab(
    "Probe", "For which groups of pictures the model is worse, and whether chance could be the reason.", build, order=55
)
