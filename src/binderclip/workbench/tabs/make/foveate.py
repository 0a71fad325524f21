"""Foveate: a picture as an eye sees it that rests on the point that is clicked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from PIL import ImageDraw

from binderclip.errors import BinderclipError, UsageError
from binderclip.tasks import foveate
from binderclip.tasks.verbs.foveate.request import MIDDLE, FoveateRequest
from binderclip.workbench.commands import Equivalent
from binderclip.workbench.forms import Form
from binderclip.workbench.look import check_size, hint, packed, picture_rows, result_html
from binderclip.workbench.status import said_html
from binderclip.workbench.tab import WHY, Bench, Outcome, Run, Tab

OUT = "foveated"
SIDE = 900
"""Longer side of the picture that is clicked on, in pixels."""
RED = (210, 30, 30)
FORM = Form(
    FoveateRequest,
    first=("method", "scale", "field"),
    without=("images", "at", "pixels_per_degree"),
    own={
        "at": {"label": "Where the eye rests"},
        "method": {"about": {"blur": "blur: a Gaussian as wide as the region", "texture": "texture: its statistics"}},
        "scale": {"minimum": 0.1, "maximum": 1.5, "step": 0.05},
        "field": {"minimum": 5, "maximum": 120, "step": 1},
    },
)


def build(bench: Bench) -> None:
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            pictures = bench.pictures("Picture", many=False, height=110)
            at = gr.Textbox(
                MIDDLE, label="Where the eye rests",
                info="click on the picture; or x,y in pixels or per cent, several with a space between",
            )  # fmt: skip
            inputs = FORM.build(bench)
            controls = bench.controls("Foveate")
        with gr.Column(scale=3, min_width=320):
            canvas = gr.Image(
                label="Click where the eye rests", interactive=False, type="filepath", buttons=["fullscreen"],
                elem_classes="canvas", visible=False,
            )  # fmt: skip
            shown = gr.HTML(hint("Choose a picture, click on it where the eye rests, press Foveate."))
            figures = gr.HTML()
            results = bench.results()
    bench.connect(controls, work, [pictures.files, at, *inputs], [shown, figures], results, also=[at.submit])
    quick: dict[str, Any] = {"show_progress": "minimal", "api_visibility": "private"}

    async def opened(request: gr.Request, file: str | None) -> list[Any]:
        return await drawn(request, file, None)

    async def clicked(request: gr.Request, file: str | None, event: gr.SelectData) -> list[Any]:
        return await drawn(request, file, event.index)

    async def drawn(request: gr.Request, file: str | None, place: Any) -> list[Any]:
        """The picture with the point on it, the point in words, and what went wrong."""
        page = (bench.session(request), str(request.session_hash))
        if not file:
            return [gr.update(value=None, visible=False), MIDDLE, gr.skip()]
        try:
            path, words = await bench.ask(
                request, lambda _: marked(Path(file), place, bench.sessions.new_results(*page, "foveate"))
            )
        except BinderclipError as error:
            return [gr.update(value=None, visible=False), MIDDLE, said_html(str(error), failed=True)]
        return [gr.update(value=str(path), visible=True), words, gr.skip()]

    outputs = [canvas, at, controls.status]
    pictures.files.change(opened, [pictures.files], outputs, **quick)
    canvas.select(clicked, [pictures.files], outputs, **quick)


def marked(path: Path, place: tuple[int, int] | None, folder: Path) -> tuple[Path, str]:
    """The picture as it is clicked on with its point, written; and the point as it is asked for.

    Args:
        path: of the picture.
        place: pixel of the picture as it is seen; None for the middle.
        folder: that it is written into.
    """
    from binderclip.data import open_image

    check_size(path)
    picture = open_image(path)
    seen = picture.copy()
    seen.thumbnail((SIDE, SIDE))
    words, point = MIDDLE, (seen.width / 2, seen.height / 2)
    if place is not None:
        scale = picture.width / seen.width
        point = (place[0] + 0.5, place[1] + 0.5)
        # Pixels are numbered from 0: the middle of the first is 0.
        x, y = (
            round(min(max(value * scale - 0.5, 0), side - 1), 1)
            for value, side in zip(point, picture.size, strict=True)
        )
        words = f"{x:g},{y:g}"
    draw, size = ImageDraw.Draw(seen), max(4, min(seen.size) // 60)
    box = (point[0] - size, point[1] - size, point[0] + size, point[1] + size)
    draw.ellipse(box, fill=RED, outline="white", width=2)
    seen.save(folder / "fixation.png")
    return folder / "fixation.png", words


def work(run: Run, file: str | None, at: str | None, *values: Any) -> Outcome:
    """Foveate as the verb does."""
    path = run.picture(file)
    places = (at or "").split()
    if not places:
        raise UsageError("click on the picture, or write where the eye rests, such as 50%,50%")
    out = run.folder / OUT
    with FORM.labelled():
        request = FORM.asked(run, values, images=[str(path)], at=places, out=str(out))
        result = foveate.run(request)
    entries = [
        (
            f"seen from {row.x:g}, {row.y:g}",
            f"structural similarity {row.similarity:.2f}, detail kept {row.detail:.0%}",
            [
                (row.result, f"as seen from {row.x:g}, {row.y:g}"),
                (row.region_map, "radius of the pooling regions"),
            ],
        )
        for row in result.rows
    ]
    return Outcome(
        (
            picture_rows(entries, "what is seen, and the pooling regions", run.folder / "small"),
            result_html(result, result.skipped),
        ),
        [result.table_file, packed(out, result.files(), "foveated.zip"), *(row.result for row in result.rows[:1])],
        Equivalent.of(request.replaced(images=[path.name], out=OUT)),
    )


TAB = Tab("Foveate", "What an eye sees that rests on one point of a picture.", build, order=57, group=WHY)
