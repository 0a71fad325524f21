"""Erase: name what goes or click on it, see its mask, and the picture before and after by a slider."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from binderclip.errors import BinderclipError, UsageError
from binderclip.tasks import erase
from binderclip.tasks.arguments.labels import parse_labels
from binderclip.tasks.arguments.points import numbers_text, parse_point
from binderclip.tasks.models import cached_models
from binderclip.tasks.verbs.erase.request import EraseRequest, Point
from binderclip.workbench.commands import Equivalent
from binderclip.workbench.fields import control
from binderclip.workbench.forms import Form
from binderclip.workbench.look import check_size, hint
from binderclip.workbench.status import said_html
from binderclip.workbench.tab import MAKE, Bench, Outcome, Run, Tab

SIDE = 900
"""Longer side of the picture that is clicked on, in pixels."""
MODES = [("It is the object", "in"), ("It is not the object", "out")]
FORM = Form(
    EraseRequest,
    first=("method", "model", "steps"),
    without=("image", "mask", "labels", "point", "background_point", "adapter", "image_model"),
    own={"steps": {"maximum": 200}, "labels": {}},
)


def build(bench: Bench) -> None:
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            pictures = bench.pictures("Picture", many=False, height=110)
            named = control(EraseRequest, "labels", placeholder="dog, ball", info="in the place of clicks")
            mode = gr.Radio(MODES, value="in", label="What a click on the picture says")
            points = gr.Textbox(
                label="Points of the object", placeholder="310,120 330,140", info="x,y in pixels, as clicked or typed"
            )
            outside = gr.Textbox(label="Points that are none of it", placeholder="20,30")
            clear = gr.Button("Start again")
            inputs = FORM.build(bench)
            controls = bench.controls("Erase")
        with gr.Column(scale=3, min_width=320):
            hint_line = gr.HTML(said_html(""), elem_classes="status-box")
            canvas = gr.Image(
                label="Click on what goes", interactive=False, type="filepath", buttons=["fullscreen"],
                elem_classes="canvas", visible=False,
            )  # fmt: skip
            slider = gr.ImageSlider(label="Before and after", interactive=False, type="filepath", visible=False)
            summary = gr.HTML(
                hint("Choose a picture, name what is to go or click on it, press Erase: before and after stand here.")
            )
            results = bench.results()
    settings: dict[str, Any] = {"show_progress": "minimal", "api_visibility": "private"}
    segmenter = inputs[FORM.names.index("segmenter")]

    async def shown(request: gr.Request, file: str | None, inside: str, beside: str, name: str) -> list[Any]:
        """The picture with its mask, as far as points say."""
        if not file:
            return [said_html(""), gr.update(value=None, visible=False)]
        page = (bench.session(request), str(request.session_hash))
        try:
            out = bench.sessions.new_results(*page, "erase") / "points.png"
            message = await bench.ask(request, lambda job: _marked(bench, Path(file), inside, beside, name, out))
        except BinderclipError as error:
            return [said_html(str(error), failed=True), gr.skip()]
        return [said_html(message), gr.update(value=str(out), visible=True)]

    def clicked(file: str | None, how: str, inside: str, beside: str, event: gr.SelectData) -> list[str]:
        scale = _scale(Path(str(file)))
        word = numbers_text([round((place + 0.5) * scale, 1) for place in event.index])
        return [f"{inside} {word}".strip(), beside] if how == "in" else [inside, f"{beside} {word}".strip()]

    here = [pictures.files, points, outside, segmenter]
    seen_parts = [hint_line, canvas]
    cleared = [points, outside]
    pictures.files.change(lambda: ["", ""], None, cleared, **settings).then(shown, here, seen_parts, **settings)
    canvas.select(clicked, [pictures.files, mode, points, outside], cleared, **settings).then(
        shown, here, seen_parts, **settings
    )
    gr.on([points.submit, outside.submit], shown, here, seen_parts, trigger_mode="always_last", **settings)
    clear.click(lambda: ["", "", ""], None, [named, *cleared], **settings).then(shown, here, seen_parts, **settings)
    bench.connect(
        controls, work, [pictures.files, named, points, outside, *inputs], [slider, summary], results, keep=True
    )


def work(
    run: Run, file: str | None, named: str | None, inside: str | None, beside: str | None, *values: object
) -> Outcome:
    """Erase as the verb does."""
    path = run.picture(file)
    check_size(path)
    outs = {name: str(run.folder / f"{name}.png") for name in ("out", "mask_out", "sheet")}
    points, none = _points(inside, "Points of the object"), _points(beside, "Points that are none of it")
    labels = parse_labels(named, "What goes, in words", files=False) if named and named.strip() else None
    if not points and labels is None:
        raise UsageError("name what goes, such as dog, or click on it")
    if points and labels is not None:
        raise UsageError("there are words and clicks: press Start again, or empty What goes, in words")
    with FORM.labelled():
        request = FORM.asked(run, values, image=str(path), labels=labels, point=points, background_point=none, **outs)
        result = erase.run(request)
    again = request.replaced(image=path.name, out=None, mask_out=None, sheet=None)
    before = run.folder / "before.png"
    from binderclip.data import open_image

    open_image(path, mode="RGB").save(before)
    return Outcome(
        (gr.update(value=(str(before), outs["out"]), visible=True), f"<p>{result.title}.</p>"),
        [result.out, result.mask_path, result.sheet],
        Equivalent.of(again),
    )


def _points(text: str | None, label: str) -> list[Point]:
    return [parse_point(word, label) for word in (text or "").split()]


def _scale(path: Path) -> float:
    """Pixels of the picture for each one that is seen."""
    from binderclip.data import open_header

    with open_header(path) as picture:
        return max(1.0, max(picture.size) / SIDE)


def _marked(bench: Bench, path: Path, inside: str, beside: str, name: str, out: Path) -> str:
    """Write the picture as it is seen, mask and points on it; what there is to say."""
    import numpy as np
    from PIL import Image, ImageDraw

    from binderclip.data import open_image
    from binderclip.segment.output.palette import paint
    from binderclip.tasks.arguments.points import check_within
    from binderclip.tasks.pointing import opened_segmenter, pointed_mask
    from binderclip.tasks.verbs.click.run import GREEN, RED

    check_size(path)
    picture = open_image(path).convert("RGB")
    points, none = _points(inside, "Points of the object"), _points(beside, "Points that are none of it")
    check_within([*points, *none], picture)
    seen = picture.copy()
    seen.thumbnail((SIDE, SIDE))
    message = f"{path.name}: click on what goes."
    if points:
        with cached_models(bench.models.get):
            segmenter = opened_segmenter(name.strip() or "small-sam", device=bench.models.device)
        mask, _ = pointed_mask(segmenter, picture, points, none)
        small = np.asarray(Image.fromarray(mask).resize(seen.size, Image.Resampling.NEAREST))
        seen = paint(seen, np.where(small, 0, -1), [RED], opacity=0.5, quiet=set()).copy()
        message = f"{mask.mean():.1%} of the picture goes." if mask.any() else "Nothing was found there."
    draw, size, scale = ImageDraw.Draw(seen), max(4, min(seen.size) // 60), max(1.0, max(picture.size) / SIDE)
    for colour, places in ((GREEN, points), (RED, none)):
        for x, y in ((x / scale, y / scale) for x, y in places):
            draw.ellipse((x - size, y - size, x + size, y + size), fill=colour, outline="white", width=2)
    seen.save(out)
    return message


TAB = Tab(
    "Erase", "Take what you name or click on out of a picture; all else stays as it is.", build, order=57, group=MAKE
)
