"""Draw: a text as a picture that is seen while it grows, and what a model says of it that did not guide."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from binderclip.errors import UsageError
from binderclip.tasks import draw
from binderclip.tasks.verbs.draw.methods import METHODS
from binderclip.tasks.verbs.draw.request import DrawRequest
from binderclip.workbench.commands import Equivalent
from binderclip.workbench.forms import Form
from binderclip.workbench.look import hint, result_html
from binderclip.workbench.tab import MAKE, Bench, Outcome, Run, Tab

OUT = "drawing.png"
FORM = Form(
    DrawRequest,
    first=("text", "method", "steps", "strokes"),
    without=("model",),
    own={
        "text": {"placeholder": "a red apple", "value": "", "info": "a few words: a model reads the first ones only"},
        "method": {"about": {name: method.about for name, method in METHODS.items()}},
        "steps": {"minimum": 10, "maximum": 1000, "step": 10},
        "strokes": {"maximum": 256},
        "judge": {"placeholder": "(small-b, or small where that one guides)"},
    },
)


def build(bench: Bench) -> None:
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            inputs = FORM.build(bench)
            controls = bench.controls("Draw")
        with gr.Column(scale=3, min_width=320):
            picture = gr.Image(label="The picture, while it grows", interactive=False, buttons=["fullscreen"])
            figures = gr.HTML(
                hint("Type what to draw and press Draw: the model at the top guides, another one judges the picture.")
            )
            results = bench.results()
    bench.connect(controls, work, inputs, [picture, figures], results, also=[inputs[0].submit])


def work(run: Run, *values: object) -> Outcome:
    """Draw as the verb does."""
    if not str(values[0] or "").strip():
        raise UsageError("type what to draw, such as: a red apple")
    out = run.folder / OUT
    with FORM.labelled():
        request = FORM.asked(run, values, model=run.model_name, out=str(out))
        run.preview(lambda paths: run.show(paths[0], gr.skip()))
        again = Equivalent.of(request.replaced(out=OUT))
        try:
            result = draw.run(request)
        except KeyboardInterrupt:
            if out.is_file():
                run.leave(Outcome((str(out), ""), _files(out), again, "This is what was drawn so far."))
            raise
    return Outcome((str(out), result_html(result)), _files(out), again)


def _files(picture: Path) -> list[Path]:
    """The picture and, where there is one, the SVG."""
    return [path for path in (picture, picture.with_suffix(".svg")) if path.is_file()]


TAB = Tab(
    "Draw", "A text as a picture: strokes that a model guides, seen while they move.", build, order=57, group=MAKE
)
