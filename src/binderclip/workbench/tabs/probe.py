"""Probe: for which groups of pictures a model is worse, and whether chance alone could be the reason."""

from __future__ import annotations

import gradio as gr

from binderclip.tasks import probe
from binderclip.tasks.arguments.labels import parse_labels
from binderclip.tasks.verbs.probe.request import ProbeRequest
from binderclip.workbench.commands import Equivalent
from binderclip.workbench.fields import control
from binderclip.workbench.forms import data_control
from binderclip.workbench.look import could_not_be_read, hint, report_frame, result_html
from binderclip.workbench.tab import WHY, Bench, Outcome, Run, Tab

SETS = ("openmoji", "emoji", "openclipart")
"""Named sets that are offered; the others are taken as well."""
MOST = 500
OUT = "probe"


def build(bench: Bench) -> None:
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            data = data_control(
                bench, ProbeRequest, SETS,
                "a folder with one for each class, and groups in a column of its captions.csv or metadata.csv",
            )  # fmt: skip
            groups = control(
                ProbeRequest, "groups", value="", placeholder="place; age, sex",
                info="commas join columns whose combinations are the groups, semicolons part groupings; "
                "empty: every column with 2 to 12 values",
            )  # fmt: skip
            labels = control(
                ProbeRequest, "labels", label="Classes to tell apart", placeholder="gull, heron",
                info="empty: those of the data",
            )  # fmt: skip
            positive = control(
                ProbeRequest, "positive", placeholder="gull",
                info="also compares how often it is said, and how often rightly",
            )  # fmt: skip
            limit = control(ProbeRequest, "limit", maximum=10_000, step=20, value=MOST)
            controls = bench.controls("Probe")
        with gr.Column(scale=3, min_width=320):
            summary = gr.HTML(
                hint("Choose pictures with classes and groups and press Probe: gaps between groups, and chance's own.")
            )
            report = gr.HTML(padding=False)
            results = bench.results()
    inputs = [data, groups, labels, positive, limit]
    bench.connect(
        controls, work, inputs, [summary, report], results, also=[groups.submit, labels.submit, positive.submit]
    )


def work(run: Run, data: str | None, groups: str, labels: str, positive: str, limit: float) -> Outcome:
    """Measure as the verb does."""
    classes = parse_labels(labels, "Labels", files=False) if (labels or "").strip() else None
    request = ProbeRequest(
        model=run.model_name, data=run.data(data),
        groups=[one.strip() for one in (groups or "").split(";") if one.strip()], labels=classes,
        positive=(positive or "").strip() or None, limit=int(limit), out=str(run.folder / OUT),
        device=run.bench.models.device,
    )  # fmt: skip
    result = probe.run(request)
    folder = result.report.parent
    return Outcome(
        (
            result_html(result, result.skipped),
            report_frame(result.report, "The report: every group, the surest mistakes, what helps"),
        ),
        [result.report, *(folder / name for name in ("groups.csv", "probe.json", "predictions.parquet"))],
        Equivalent.of(request.replaced(out=OUT)),
        could_not_be_read(len(result.skipped)),
    )


TAB = Tab(
    "Probe",
    "For which groups of pictures the model is worse, and whether chance could be the reason.",
    build,
    order=55,
    group=WHY,
)
