"""Click: the mask of what is pointed at, by clicks and boxes that can be taken back."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import gradio as gr

from binderclip.cli.shared.boxes import parse_box
from binderclip.cli.shared.output import write_json
from binderclip.errors import BinderclipError, DataError, UsageError
from binderclip.workbench.commands import Equivalent, shell_line
from binderclip.workbench.look import picture_size
from binderclip.workbench.tab import Bench, Tab, result_values, said_html

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL import Image

    from binderclip.segment import InteractiveSession

KEPT = 6
"""Pictures that are held encoded, the last ones; an older one is opened again."""
SIDE = 900
"""Longer side of the picture that is clicked on, in pixels."""
MOST_PIXELS = 40_000_000
MODES = [("It is the object", "in"), ("It is not the object", "out"), ("A corner of a box", "box")]
BLUE, GREEN, RED = (20, 90, 220), (20, 160, 60), (210, 30, 30)


@dataclass
class _Cut:
    """A picture that is being cut out from, and what was said of it."""

    path: Path
    session: InteractiveSession
    seen: Image.Image
    steps: list[Literal["in", "out", "box"]] = field(default_factory=list)
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    corner: tuple[float, float] | None = None

    @property
    def scale(self) -> float:
        """Pixels of the picture for each one that is seen."""
        return self.session.size[1] / self.seen.width

    def click(self, x: float, y: float, mode: str) -> None:
        if mode == "box" and self.corner is None:
            self.corner = (x, y)
        elif mode == "box":
            (x0, y0), self.corner = self.corner or (x, y), None
            self.box(f"{min(x0, x):g},{min(y0, y):g},{max(x0, x):g},{max(y0, y):g}")
        else:
            self.session.click(x, y, positive=mode == "in")
            self.steps.append("in" if mode == "in" else "out")

    def box(self, text: str) -> None:
        region = parse_box(text, "the box")
        region.bounds(*self.session.size)
        assert region.box is not None
        self.session.box(*region.box)
        self.steps.append("box")
        self.boxes.append(region.box)

    def undo(self) -> None:
        if self.corner is not None:
            self.corner = None
            return
        self.session.undo()
        if self.steps.pop() == "box":
            self.boxes.pop()

    def reset(self) -> None:
        self.session.reset()
        self.steps.clear()
        self.boxes.clear()
        self.corner = None


class _Cuts:
    """What each page has open; the last few, as a picture that is encoded takes room."""

    def __init__(self) -> None:
        self._open: OrderedDict[tuple[str, str], _Cut] = OrderedDict()

    def __getitem__(self, page: tuple[str, str]) -> _Cut:
        if page not in self._open:
            raise UsageError("choose a picture first")
        self._open.move_to_end(page)
        return self._open[page]

    def __setitem__(self, page: tuple[str, str], cut: _Cut) -> None:
        self._open[page] = cut
        while len(self._open) > KEPT:
            self._open.popitem(last=False)

    def drop(self, page: tuple[str, str]) -> None:
        self._open.pop(page, None)


def build(bench: Bench) -> None:
    cuts = _Cuts()
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            pictures = bench.pictures("Picture", many=False, height=110)
            model = gr.Textbox(
                label="Model that cuts out", value="small-sam", info="small-sam, hf:facebook/sam-vit-base, a run folder"
            )
            mode = gr.Radio(MODES, value="in", label="What a click on the picture says")
            with gr.Row():
                undo = gr.Button("Undo", min_width=80)
                reset = gr.Button("Start again", min_width=80)
            with gr.Accordion("By numbers instead of the pointer", open=False):
                point = gr.Textbox(
                    label="Point", placeholder="310,120", info="x,y in pixels; it says what is chosen above"
                )
                box = gr.Textbox(label="Box", placeholder="40,30,300,280", info="x0,y0,x1,y1 in pixels")
                add = gr.Button("Add")
            status = gr.HTML(said_html(""), elem_classes="status-box")
        with gr.Column(scale=3, min_width=320):
            canvas = gr.Image(
                label="Click on the object", interactive=False, type="filepath", buttons=["fullscreen"],
                elem_classes="canvas", visible=False,
            )  # fmt: skip
            results = bench.results()
    outputs = [status, canvas, results.files, results.lines]
    quiet: dict[str, Any] = {"show_progress": "minimal", "concurrency_limit": None, "api_visibility": "private"}

    async def act(request: gr.Request, name: str, change: Callable[[_Cut], None]) -> list[Any]:
        """Change what is said of the picture, and show what comes of it."""
        page = (bench.session(request), str(request.session_hash))
        try:

            def work(_: Any) -> list[Any]:
                cut = cuts[page]
                change(cut)
                return _outcome(cut, bench.sessions.new_results(*page, "click"), name)

            return list(await bench.ask(request, work))
        except BinderclipError as error:
            return [said_html(str(error), failed=True), *[gr.skip()] * 3]

    async def opened(request: gr.Request, file: str | None, name: str) -> list[Any]:
        page = (bench.session(request), str(request.session_hash))
        cuts.drop(page)
        if not file:
            return [said_html(""), gr.update(value=None, visible=False), *result_values(None)]
        try:

            def work(_: Any) -> list[Any]:
                cuts[page] = cut = _opened(Path(file), name.strip() or "small-sam", bench)
                return _outcome(cut, bench.sessions.new_results(*page, "click"), name)

            return list(await bench.ask(request, work))
        except BinderclipError as error:
            return [said_html(str(error), failed=True), gr.update(value=None, visible=False), *result_values(None)]

    async def clicked(request: gr.Request, how: str, name: str, event: gr.SelectData) -> list[Any]:
        x, y = event.index

        def change(cut: _Cut) -> None:
            # The middle of the pixel that is seen.
            cut.click(round((x + 0.5) * cut.scale, 1), round((y + 0.5) * cut.scale, 1), how)

        return await act(request, name, change)

    async def added(request: gr.Request, how: str, name: str, place: str, area: str) -> list[Any]:
        def change(cut: _Cut) -> None:
            if not place.strip() and not area.strip():
                raise UsageError("write a point, such as 310,120, or a box, such as 40,30,300,280")
            if place.strip():
                cut.click(*_point(place), "in" if how == "box" else how)
            if area.strip():
                cut.box(area)

        return await act(request, name, change)

    async def undone(request: gr.Request, name: str) -> list[Any]:
        return await act(request, name, _Cut.undo)

    async def begun_again(request: gr.Request, name: str) -> list[Any]:
        return await act(request, name, _Cut.reset)

    gr.on([pictures.files.change, model.submit], opened, [pictures.files, model], outputs, **quiet)
    canvas.select(clicked, [mode, model], outputs, **quiet)
    add.click(added, [mode, model, point, box], outputs, **quiet)
    undo.click(undone, [model], outputs, **quiet)
    reset.click(begun_again, [model], outputs, **quiet)


def _opened(path: Path, name: str, bench: Bench) -> _Cut:
    from binderclip.data import open_image
    from binderclip.segment import InteractiveSession, load_promptable

    width, height = picture_size(path)
    if width * height > MOST_PIXELS:
        raise DataError(
            f"{path.name} has {width} x {height} pixels: at most {MOST_PIXELS // 10**6} million are cut from"
        )
    picture = open_image(path).convert("RGB")
    segmenter = bench.models.get("promptable", name, lambda: load_promptable(name, device=bench.models.device))
    seen = picture.copy()
    seen.thumbnail((SIDE, SIDE))
    # Every prompt is asked of the picture anew, as the verb does: the same prompts give the same mask.
    return _Cut(path, InteractiveSession(segmenter, picture, feedback=False), seen)


def _point(text: str) -> tuple[float, float]:
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"the point {text!r}: write two numbers, such as 120,80") from error
    return x, y


def _outcome(cut: _Cut, folder: Path, model: str) -> list[Any]:
    """Values of the outputs: what there is to say, the picture with the mask, files, lines."""
    import numpy as np
    from PIL import Image

    mask = cut.session.mask.cpu().numpy()
    shown = _drawn(cut, mask)
    shown.save(folder / "clicked.png")
    if not cut.steps:
        said = "Click on the other corner of the box." if cut.corner else f"{cut.path.name}: click on the object."
        return [said_html(said), gr.update(value=str(folder / "clicked.png"), visible=True), *result_values(None)]
    Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "mask.png")
    from binderclip.segment import coco_document

    document = coco_document([(cut.path.name, np.where(mask, 0, -1))], ["object"])
    write_json(document, folder / "mask.json")
    said = f"{mask.mean():.1%} of the picture." if mask.any() else "Nothing was found there."
    if cut.corner:
        said += " Click on the other corner of the box."
    files = [folder / "mask.png", folder / "mask.json", folder / "clicked.png"]
    return [
        said_html(said),
        gr.update(value=str(folder / "clicked.png"), visible=True),
        *result_values(_again(cut, model), files),
    ]


def _drawn(cut: _Cut, mask: Any) -> Image.Image:
    """The picture as it is seen: the mask in blue, clicks and boxes on it."""
    import numpy as np
    from PIL import Image, ImageDraw

    from binderclip.segment.output.palette import paint

    shown = cut.seen
    if mask.any():
        small = np.asarray(Image.fromarray(mask).resize(shown.size, Image.Resampling.NEAREST))
        shown = paint(shown, np.where(small, 0, -1), [BLUE], opacity=0.5, quiet=set())
    shown = shown.copy()
    draw, size = ImageDraw.Draw(shown), max(4, min(shown.size) // 60)
    for box in cut.boxes[-1:]:
        draw.rectangle([value / cut.scale for value in box], outline=BLUE, width=max(2, size // 3))
    for click in cut.session.clicks:
        x, y = click.x / cut.scale, click.y / cut.scale
        colour = GREEN if click.positive else RED
        draw.ellipse((x - size, y - size, x + size, y + size), fill=colour, outline="white", width=2)
    if cut.corner:
        x, y = cut.corner[0] / cut.scale, cut.corner[1] / cut.scale
        draw.line((x - size, y, x + size, y), fill=BLUE, width=3)
        draw.line((x, y - size, x, y + size), fill=BLUE, width=3)
    return shown


def _again(cut: _Cut, model: str) -> Equivalent:
    inside = [f"{click.x:g},{click.y:g}" for click in cut.session.clicks if click.positive]
    outside = [f"{click.x:g},{click.y:g}" for click in cut.session.clicks if not click.positive]
    box = ",".join(f"{value:g}" for value in cut.boxes[-1]) if cut.boxes else None
    shell = shell_line(
        "binderclip", "click", cut.path.name, [word for at in inside for word in ("--point", at)],
        [word for at in outside for word in ("--not", at)], ["--box", box] if box else None,
        ["--model", model] if model != "small-sam" else None,
    )  # fmt: skip
    steps = "".join(f"s.click({click.x:g}, {click.y:g}, positive={click.positive}); " for click in cut.session.clicks)
    steps += f"s.box({', '.join(f'{value:g}' for value in cut.boxes[-1])}); " if cut.boxes else ""
    python = (
        "from binderclip.segment import InteractiveSession, load_promptable; "
        f"s = InteractiveSession(load_promptable({model!r}), {cut.path.name!r}, feedback=False); {steps}"
        "print(s.mask.float().mean())"
    )
    return Equivalent(python, shell)


TAB = Tab("Click", "Cut out what you point at, by clicks and boxes.", build, order=35)
