"""Landscape: the loss around a model's weights, over a plane and along a line."""

from __future__ import annotations

import gradio as gr

from binderclip.tasks import landscape
from binderclip.tasks.verbs.landscape.request import LandscapeRequest
from binderclip.workbench.commands import Equivalent
from binderclip.workbench.forms import Form
from binderclip.workbench.look import could_not_be_read, drawn, hint, report_frame, result_html
from binderclip.workbench.tab import LEARN, Bench, Outcome, Run, Tab

OUT = "landscape.html"
FORM = Form(
    LandscapeRequest,
    first=("data", "points", "radius", "limit"),
    without=("model",),
    sets=("openmoji", "noto-emoji", "digits"),
    own={
        "points": {"maximum": 51, "step": 2, "minimum": 3},
        "radius": {"minimum": 0.05, "maximum": 2, "step": 0.05},
        "limit": {"maximum": 1024},
    },
)


def build(bench: Bench) -> None:
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            inputs = FORM.build(bench)
            controls = bench.controls("Draw")
        with gr.Column(scale=3, min_width=320):
            surface = gr.Image(label="Loss over the plane", interactive=False, buttons=["fullscreen"])
            figures = gr.HTML(hint("Choose pictures and press Draw: how the loss rises where the weights are moved."))
            curve = gr.Image(label="Along the first direction", interactive=False, buttons=["fullscreen"])
            report = gr.HTML(padding=False)
            results = bench.results()
    bench.connect(controls, work, inputs, [figures, surface, curve, report], results)


def work(run: Run, *values: object) -> Outcome:
    """Draw as the verb does."""
    page = run.folder / OUT
    with FORM.labelled():
        request = FORM.asked(run, values, model=run.tower_model, out=str(page))
        result = landscape.run(request)
    return Outcome(
        (
            result_html(result, result.skipped),
            drawn(result.surface.plot(), run.folder / "surface.png"),
            drawn(result.curve.plot(), run.folder / "curve.png"),
            report_frame(page, "The report, to keep beside that of another model"),
        ),
        [page, page.with_suffix(".json")],
        Equivalent.of(request.replaced(out=OUT)),
        could_not_be_read(len(result.skipped)),
    )


TAB = Tab(
    "Landscape",
    "How the loss rises around the model (for everyday: around small): wide and flat, or narrow and steep.",
    build,
    order=74,
    group=LEARN,
)
