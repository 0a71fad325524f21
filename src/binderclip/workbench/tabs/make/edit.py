"""Edit: a picture changed from one text to another, before and after under one slider."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from binderclip.data import open_image
from binderclip.tasks import edit
from binderclip.tasks.verbs.edit.request import EditRequest
from binderclip.workbench.commands import Equivalent
from binderclip.workbench.forms import Form
from binderclip.workbench.look import check_size, hint, result_html
from binderclip.workbench.tab import MAKE, Bench, Outcome, Run, Tab

OUT = "edited"
ABOUT = {
    "dds": "dds: the picture itself is moved",
    "lusd": "lusd: moved where the words look",
    "prompt-to-prompt": "prompt-to-prompt: inverted, keeps its attention",
    "stylediffusion": "stylediffusion: inverted into values, keeps its attention",
    "vimaedit": "vimaedit: anchored, not inverted",
    "abs-grad-sam": "abs-grad-sam: the new thing drawn into it",
    "strength": "strength: drawn over",
}
FORM = Form(
    EditRequest,
    first=("source", "target", "method", "guidance", "seed", "coarse"),
    without=("images",),
    own={
        "source": {"placeholder": "a cat"},
        "target": {"placeholder": "a tiger"},
        "method": {"about": ABOUT},
        "guidance": {"minimum": 0, "maximum": 15, "step": 0.5},
        "strength": {"step": 0.05},
    },
)


def build(bench: Bench) -> None:
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            pictures = bench.pictures("Picture", many=False)
            inputs = FORM.build(bench)
            controls = bench.controls("Edit")
        with gr.Column(scale=3, min_width=320):
            preview = gr.Gallery(label="While it works", columns=1, object_fit="contain", interactive=False, height=280)
            slider = gr.ImageSlider(label="Before and after", interactive=False)
            figures = gr.HTML(
                hint("Choose a picture, say what it shows and what it should show, press Edit: before and after.")
            )
            results = bench.results()
    bench.connect(controls, work, [pictures.files, *inputs], [preview, slider, figures], results)


def work(run: Run, file: str | None, *values: Any) -> Outcome:
    """Edit as the verb does."""
    from binderclip.tasks.sampling import model_picture, picture_of

    path = run.picture(file)
    check_size(path)
    with FORM.labelled():
        # No guidance is a setting of lusd, and no strength one of the others: what stands there says nothing.
        asked = dict(zip(FORM.names, values, strict=True))
        unused = {"guidance"} if asked["method"] == "lusd" else set()
        unused |= set() if asked["method"] == "strength" else {"strength"}
        kept = [None if name in unused else value for name, value in asked.items()]
        request = FORM.asked(run, kept, images=[str(path)], out=str(run.folder / OUT))
        run.preview(lambda paths: run.show(paths, gr.skip(), gr.skip()))
        result = edit.run(request)
    (row,) = result.rows
    before = run.folder / "before.png"
    # an edit that has no other size stands beside what the model saw
    (open_image(path) if row.result else picture_of(model_picture(path, result.side).pixels[0])).save(before)
    after = row.result or row.small
    return Outcome(
        ([(str(row.small), "at the model's side")], (str(before), str(after)), result_html(result)),
        [*dict.fromkeys((after, row.small)), result.sheet],
        Equivalent.of(request.replaced(images=[Path(path).name], out=OUT)),
    )


TAB = Tab(
    "Edit", "A picture changed from one text to another, by the method of your choice.", build, order=58, group=MAKE
)
