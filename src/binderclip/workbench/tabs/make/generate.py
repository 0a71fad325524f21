"""Generate: pictures of texts, which appear out of the noise while they are drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from binderclip.errors import UsageError
from binderclip.tasks import generate
from binderclip.tasks.verbs.generate.request import GenerateRequest
from binderclip.workbench.commands import Equivalent
from binderclip.workbench.fields import control
from binderclip.workbench.forms import Form
from binderclip.workbench.look import could_not_be_read, hint, packed, result_html
from binderclip.workbench.tab import MAKE, Bench, Outcome, Run, Tab
from binderclip.workbench.trained.words import LABEL, WORDS

OUT, FEW = "generated", 8
"""Folder of the pictures; how many are downloaded one by one."""
STEERED = ("controlnet", "control_image", "conditioning_scale")
FORM = Form(
    GenerateRequest,
    first=("count", "guidance", "steps", "seed"),
    without=("texts", "from_folder", "personal", *STEERED),
    own={
        "personal": {"label": LABEL},
        "control_image": {"label": "Control image"},
        "controlnet": {},
        "conditioning_scale": {"step": 0.05},
        "count": {"maximum": 16},
        "guidance": {"minimum": 0, "maximum": 15, "step": 0.5},
        "steps": {"minimum": 5, "maximum": 100},
    },
)


def build(bench: Bench) -> None:
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            texts = gr.Textbox(label="What is to be drawn, a text a line", lines=2, placeholder="a purple heart")
            choices = [("(the diffusion model)", ""), *((str(folder), str(folder)) for folder in bench.below())]
            folder = gr.Dropdown(
                choices, value="", label="Draw with", visible=bool(bench.folders),
                info="a folder instead: without a model, out of patches of its pictures that fit the text",
            )  # fmt: skip
            words = WORDS.list_of(bench)
            inputs = FORM.build(bench)
            with gr.Accordion("Steer by a picture (ControlNet)", open=False):
                controlnet = control(GenerateRequest, "controlnet", info="folder of one for the diffusion model")
                picture = bench.pictures("Control image", many=False, shared=False)
                scale = control(
                    GenerateRequest, "conditioning_scale", step=0.05, info="1 is as it was trained, 0 leaves it out"
                )
            controls = bench.controls("Generate")
        with gr.Column(scale=3, min_width=320):
            pictures = gr.Gallery(label="Pictures", columns=4, object_fit="contain", interactive=False)
            figures = gr.HTML(hint("Type what is to be drawn, press Generate: the pictures appear out of the noise."))
            results = bench.results()
    steered = [controlnet, picture.files, scale]
    bench.connect(controls, work, [texts, folder, words, *steered, *inputs], [pictures, figures], results)


def work(
    run: Run, texts: str | None, folder: str | None, word: str | None, controlnet: str | None, image: str | None,
    scale: float, *values: Any,
) -> Outcome:  # fmt: skip
    """Draw as the verb does."""
    lines = [line.strip() for line in (texts or "").splitlines() if line.strip()]
    if not lines:
        raise UsageError("type what is to be drawn, such as: a purple heart")
    given: dict[str, Any] = {"texts": lines, "out": str(run.folder / OUT)}
    if folder:
        given["from_folder"] = str(run.bench.open_folder(folder))
        unused = {"model", "guidance", "sync"}
    else:
        unused = {"nearest", "reach"}
        given |= _chosen(run, word, controlnet, image, scale)
    # What does not go with the choice keeps its place on the page and says nothing.
    kept = [None if name in unused else value for name, value in zip(FORM.names, values, strict=True)]
    with FORM.labelled():
        request = FORM.asked(run, kept, **given)
        run.preview(lambda paths: run.show(paths, gr.skip()))
        result = generate.run(request)
    shown = [(str(row.path), f"{row.text}, seed {row.seed}") for row in result.rows]
    again = {"out": OUT}
    if request.personal is not None:
        again["personal"] = WORDS.called(run, Path(request.personal))
    if request.control_image is not None:
        again["control_image"] = Path(request.control_image).name
    files = [row.path for row in result.rows]
    few = files if len(files) <= FEW else [packed(run.folder, files, "generated.zip")]
    return Outcome(
        (shown, result_html(result, result.skipped)),
        [result.sheet, *few],
        Equivalent.of(request.replaced(**again)),
        could_not_be_read(len(result.skipped)),
    )


def _chosen(
    run: Run, word: str | None, controlnet: str | None, image: str | None, scale: float
) -> dict[str, str | float]:
    """The fields of a learned word and of a ControlNet, as far as they are chosen."""
    fields: dict[str, str | float] = {}
    if word:
        fields["personal"] = str(WORDS.chosen(run, word))
    if (controlnet or "").strip():
        fields |= {"controlnet": str(controlnet).strip(), "conditioning_scale": scale}
    if image:
        fields["control_image"] = str(run.picture(image))
    return fields


TAB = Tab("Generate", "Pictures of your texts, or out of your own pictures.", build, order=57, group=MAKE)
