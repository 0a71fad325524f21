"""Interpolate: the best model between two, and the layers that break the way."""

from __future__ import annotations

import gradio as gr

from binderclip.errors import UsageError
from binderclip.tasks import interpolate
from binderclip.tasks.verbs.interpolate.request import InterpolateRequest
from binderclip.workbench.commands import Equivalent
from binderclip.workbench.forms import Form
from binderclip.workbench.look import drawn, hint, report_frame, result_html
from binderclip.workbench.tab import LEARN, Bench, Outcome, Run, Tab
from binderclip.workbench.trained.page_models import keep_model, said_of

OUT, BEST = "interpolate.html", "between"
FORM = Form(
    InterpolateRequest,
    first=("data", "points", "layers"),
    without=("first", "second"),
    sets=("noto-emoji", "digits", "fashion-mnist"),
    own={"points": {"maximum": 51}, "layers": {"label": "Layers, one by one"}},
)


def build(bench: Bench) -> None:
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            second = bench.model_list(
                value="", label="Second model, at weight 1",
                info="of the architecture of the one at the top, which has weight 0; such as one trained from it",
            )  # fmt: skip
            inputs = FORM.build(bench)
            controls = bench.controls("Interpolate")
        with gr.Column(scale=3, min_width=320):
            curve = gr.Image(label="Between the models", interactive=False, buttons=["fullscreen"])
            figures = gr.HTML(
                hint("Choose a second model and pictures, press Interpolate: the models between both, and the best.")
            )
            report = gr.HTML(padding=False)
            results = bench.results()
    bench.connect(controls, work, [second, *inputs], [figures, curve, report], results, makes_model=True)


def work(run: Run, second: str | None, *values: object) -> Outcome:
    """Interpolate as the verb does, and keep the best model."""
    if not (second or "").strip():
        raise UsageError("choose the second model: a run folder, or one that this page has trained or compressed")
    page, best = run.folder / OUT, run.folder / BEST
    with FORM.labelled():
        request = FORM.asked(
            run, values, first=run.tower_model, second=str(second).strip(), out=str(page), save=str(best)
        )
        result = interpolate.run(request)
    model, archive = keep_model(run, best, result.second, BEST)
    return Outcome(
        (
            result_html(result, result.skipped),
            drawn(result.curve.plot(), run.folder / "curve.png"),
            report_frame(page, "The report: the curve and the layers"),
        ),
        [page, archive],
        Equivalent.of(request.replaced(out=OUT, save=BEST)),
        said_of(model, len(result.skipped)),
    )


TAB = Tab(
    "Interpolate",
    "The best model between the one at the top (for everyday: small) and another, and the layers that break the way.",
    build,
    order=76,
    group=LEARN,
)
