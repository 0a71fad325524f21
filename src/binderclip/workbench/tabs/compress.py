"""Compress: a smaller model, what it costs and is worth before and after; every tab takes it."""

from __future__ import annotations

import gradio as gr

from binderclip.tasks import compress
from binderclip.tasks.verbs.compress.request import SIDES, CompressRequest
from binderclip.workbench.commands import Equivalent
from binderclip.workbench.forms import Form
from binderclip.workbench.look import hint, result_html
from binderclip.workbench.tab import LEARN, Bench, Outcome, Run, Tab
from binderclip.workbench.trained.page_models import keep_model, said_of

OUT = "smaller"
FORM = Form(
    CompressRequest,
    first=("data", "target", "bits", "method", "steps"),
    without=("model",),
    sets=("noto-emoji", "digits", "fashion-mnist"),
    own={
        "target": {"placeholder": "0.5"},
        "bits": {"choices": [("(as they are)", ""), "8", "4"], "value": ""},
        "steps": {
            "label": "Steps of recovery",
            "info": "the smaller model follows the whole one; 0: none",
            "maximum": 2000,
        },
        "lr": {"label": "Learning rate of the recovery", "info": None},
        "sides": {"choices": list(SIDES), "value": list(SIDES), "multiselect": True},
    },
)


def build(bench: Bench) -> None:
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            inputs = FORM.build(bench)
            controls = bench.controls("Compress")
        with gr.Column(scale=3, min_width=320):
            shown = gr.HTML(
                hint(
                    "Choose pictures and press Compress: size, time and quality of the model before and after, and the "
                    "smaller model."
                )
            )
            results = bench.results()
    bench.connect(controls, work, inputs, [shown], results, makes_model=True)


def work(run: Run, *values: object) -> Outcome:
    """Compress as the verb does."""
    with FORM.labelled():
        request = FORM.asked(run, values, model=run.tower_model, out=str(run.folder / OUT))
        if request.amount is None:  # bits alone go with any model, a classifier beside the tower too
            request = request.replaced(model=run.model_name)
        result = compress.run(request)
    model, archive = keep_model(run, result.saved, result.model, OUT)
    return Outcome(
        (result_html(result, result.skipped),),
        [archive],
        Equivalent.of(request.replaced(out=OUT)),
        said_of(model, len(result.skipped)),
    )


TAB = Tab(
    "Compress",
    "The model in fewer bits, or without the parts that matter least (of everyday: of small), and what that costs.",
    build,
    order=72,
    group=LEARN,
)
