"""Inpaint: paint over a part of a picture, say what belongs there, and see before and after by a slider."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from binderclip.errors import BinderclipError, UsageError
from binderclip.tasks import inpaint
from binderclip.tasks.verbs.inpaint.request import InpaintRequest
from binderclip.workbench.commands import Equivalent
from binderclip.workbench.fields import control
from binderclip.workbench.forms import Form
from binderclip.workbench.look import check_size, hint
from binderclip.workbench.status import said_html
from binderclip.workbench.tab import MAKE, Bench, Outcome, Run, Tab
from binderclip.workbench.trained.words import LABEL, WORDS

SIDE = 900
"""Longer side of the picture that is painted on, in pixels."""
MASK = "mask.png"
PAINT = "#d22f2f", 0.65
"""Colour and opacity of the brush: what is below is still seen."""
FORM = Form(
    InpaintRequest,
    first=("model", "steps", "coarse"),
    without=("image", "mask", "text", "personal"),
    own={
        "text": {"label": "What belongs there"},
        "mask": {"label": "The mask"},
        "personal": {"label": LABEL},
        "steps": {"maximum": 200},
        "guidance": {"minimum": 0, "maximum": 15, "step": 0.5},
        "grow": {"label": "Rim that is painted as well, in pixels", "maximum": 64},
    },
)


def build(bench: Bench) -> None:
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            pictures = bench.pictures("Picture", many=False, height=110)
            text = control(InpaintRequest, "text", label="What belongs there", placeholder="a red apple", info=None)
            words = WORDS.list_of(bench)
            inputs = FORM.build(bench)
            with gr.Accordion("A mask that you have, in place of painting", open=False):
                own = bench.pictures("Mask", many=False, shared=False)
                gr.HTML("<p>A picture of the same size, white where new content belongs, such as a mask of Click.</p>")
            controls = bench.controls("Inpaint")
        with gr.Column(scale=3, min_width=320):
            hint_line = gr.HTML(said_html(""), elem_classes="status-box")
            canvas = gr.ImageEditor(
                label="Paint here", type="filepath", image_mode="RGBA", sources=[], transforms=(),
                layers=False, brush=gr.Brush(default_size=40, colors=[PAINT], color_mode="fixed"),
                eraser=gr.Eraser(default_size=40), buttons=["fullscreen"], elem_classes="paint",
            )  # fmt: skip
            preview = gr.Image(label="While it works", interactive=False, height=280, visible=False)
            slider = gr.ImageSlider(label="Before and after", interactive=False, type="filepath", visible=False)
            summary = gr.HTML(
                hint(
                    "Choose a picture, paint over what is to change, say what belongs there, press Inpaint: before and "
                    "after stand here."
                )
            )
            results = bench.results()

    async def shown(request: gr.Request, file: str | None) -> list[Any]:
        """The picture, to be painted on."""
        if not file:
            return [said_html(""), gr.update(value=None, visible=False)]
        page = (bench.session(request), str(request.session_hash))
        try:
            out = bench.sessions.new_results(*page, "inpaint") / "picture.png"
            await bench.ask(request, lambda job: _reduced(Path(file), out))
        except BinderclipError as error:
            return [said_html(str(error), failed=True), gr.update(value=None, visible=False)]
        value: dict[str, Any] = {"background": str(out), "layers": [], "composite": None}
        return [
            said_html(f"{Path(file).name}: paint over what is to change; the eraser takes paint away."),
            gr.update(value=value, visible=True),
        ]

    settings: dict[str, Any] = {"show_progress": "minimal", "api_visibility": "private"}
    # Gradio's editor measures its place when it gets a picture: it is not made invisible, and is seen before.
    pictures.files.change(lambda file: gr.update(visible=bool(file)), pictures.files, canvas, **settings).then(
        shown, pictures.files, [hint_line, canvas], **settings
    )
    outputs = [preview, slider, summary]
    bench.connect(
        controls, work, [pictures.files, text, words, canvas, own.files, *inputs], outputs, results, keep=True
    )


def work(
    run: Run, file: str | None, text: str | None, word: str | None, painted: Any, mask: str | None, *values: object
) -> Outcome:
    """Inpaint as the verb does."""
    path = run.picture(file)
    check_size(path)
    if not (text or "").strip():
        raise UsageError("say what belongs there, such as: a red apple")
    _mask(path, painted, run.picture(mask) if mask else None).save(mask_path := run.folder / MASK)
    personal = WORDS.chosen(run, word) if word else None
    outs = {name: str(run.folder / f"{name}.png") for name in ("out", "mask_out", "sheet")}
    with FORM.labelled():
        request = FORM.asked(
            run, values, image=str(path), mask=str(mask_path), text=text, **outs,
            **({} if personal is None else {"personal": str(personal)}),
        )  # fmt: skip
        run.preview(lambda paths: run.show(gr.update(value=paths[0], visible=True), gr.skip(), gr.skip()))
        result = inpaint.run(request)
    named = {} if personal is None else {"personal": WORDS.called(run, personal)}
    again = request.replaced(image=path.name, mask=MASK, out=None, mask_out=None, sheet=None, **named)
    before = run.folder / "before.png"
    from binderclip.data import open_image

    open_image(path, mode="RGB").save(before)
    slider = gr.update(value=(str(before), outs["out"]), visible=True)
    preview = gr.update(value=None, visible=False)
    return Outcome(
        (preview, slider, f"<p>{result.title}.</p>"), [result.out, mask_path, result.sheet], Equivalent.of(again)
    )


def _mask(path: Path, painted: Any, file: Path | None) -> Any:
    """The mask that a run takes, at the picture's size: of a file, else what was painted.

    Raises:
        UsageError: nothing was painted, or a file of another size. DataError: one that cannot be read.
    """
    from PIL import Image, ImageChops

    from binderclip.data import open_image

    size = open_image(path, mode="RGB").size
    if file is not None:
        given = open_image(file).convert("L")
        if given.size != size:
            raise UsageError(
                f"{file.name} is {given.width} x {given.height} px, the picture {size[0]} x {size[1]}: give a mask of "
                "the same size"
            )
        return given
    layers = [open_image(layer, mode="RGBA").getchannel("A") for layer in (painted or {}).get("layers", []) if layer]
    mask = Image.new("L", size)
    for layer in layers:
        mask = ImageChops.lighter(mask, layer.resize(size, Image.Resampling.BILINEAR))
    mask = mask.point(lambda value: 255 * (value > 255 * PAINT[1] / 2))
    if mask.getbbox() is None:
        raise UsageError("paint over what is to change, or give a mask")
    return mask


def _reduced(path: Path, out: Path) -> None:
    """Write the picture as it is painted on."""
    from binderclip.data import open_image

    check_size(path)
    picture = open_image(path, mode="RGB")
    picture.thumbnail((SIDE, SIDE))
    picture.save(out)


TAB = Tab(
    "Inpaint", "What a text says, in the part of a picture that you paint over; all else stays.", build, order=58,
    group=MAKE,
)  # fmt: skip
