"""Click: the mask of what is pointed at, by clicks and boxes that can be taken back."""

from __future__ import annotations

import shutil
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from binderclip.errors import BinderclipError, UsageError
from binderclip.tasks.arguments.boxes import parse_box
from binderclip.tasks.arguments.points import parse_point
from binderclip.tasks.fields import SMALL_SAM
from binderclip.tasks.files.writing import write_json
from binderclip.tasks.models import cached_models
from binderclip.tasks.verbs.click.request import Box, ClickRequest, Point
from binderclip.workbench.commands import Equivalent
from binderclip.workbench.fields import control
from binderclip.workbench.jobs import MOST_WAITING
from binderclip.workbench.look import check_size
from binderclip.workbench.status import result_values, said_html
from binderclip.workbench.tab import Bench, Tab

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL import Image

    from binderclip.segment import InteractiveSession

KEPT = 6
"""Pictures that are held encoded, of all pages together: the last ones. An older one is chosen again by its user."""
SIDE = 900
"""Longer side of the picture that is clicked on, in pixels."""
LINE = "click"
"""Gradio's line for what is pressed here, one press at a time."""
MODES = [("It is the object", "in"), ("It is not the object", "out"), ("A corner of a box", "box")]


@dataclass
class _Cut:
    """A picture that is being cut out from: the model and its session, and the picture as it is seen."""

    path: Path
    model: str
    session: InteractiveSession
    seen: Image.Image
    corner: Point | None = None
    folders: list[Path] = field(default_factory=list)

    @property
    def scale(self) -> float:
        """Pixels of the picture for each one that is seen."""
        return self.session.size[1] / self.seen.width

    def request(self, device: str) -> ClickRequest:
        """What asks the verb for the same mask."""
        points: tuple[list[Point], list[Point]] = ([], [])
        for each in self.session.clicks:
            points[not each.positive].append((each.x, each.y))
        return ClickRequest(
            image=self.path.name, point=points[0], outside=points[1], box=self.box, model=self.model, device=device
        )

    @property
    def box(self) -> Box | None:
        """The box that counts: the last one."""
        return next((action.box for action in reversed(self.session.actions) if action.box is not None), None)

    def press(self, x: float, y: float, mode: str) -> None:
        """A click on the picture, which is a corner of a box where `mode` is `box`."""
        if mode != "box":
            self.add((x, y), None, mode)
        elif self.corner is None:
            self._check((x, y))
            self.corner = (x, y)
        else:
            (x0, y0), self.corner = self.corner, None
            self.add(None, self.region(f"{min(x0, x):g},{min(y0, y):g},{max(x0, x):g},{max(y0, y):g}"), mode)

    def add(self, point: Point | None, box: Box | None, mode: str) -> None:
        """A point and a box; nothing of it is taken where one is wrong.

        Raises:
            UsageError: outside the picture, or nothing yet that says where the object is.
        """
        outside = mode == "out"
        if point is not None:
            self._check(point)
        if outside and box is None and not self.session.actions:
            # As the verb has it: what is none of it says nothing of where it is.
            raise UsageError("first click on the object, or draw a box around it; then on what is none of it")
        if box is not None:
            self.session.box(*box)
        if point is not None:
            self.session.click(*point, positive=not outside)

    def region(self, text: str) -> Box:
        """The box of a text, checked against the picture."""
        region = parse_box(text, "Box")
        region.bounds(*self.session.size)
        assert region.box is not None
        return region.box

    def _check(self, point: Point) -> None:
        (x, y), (height, width) = point, self.session.size
        if not (0 <= x < width and 0 <= y < height):
            raise UsageError(f"point {x:g},{y:g} is outside the picture of {width} x {height} pixels")

    def undo(self) -> None:
        if self.corner is not None:
            self.corner = None
        else:
            self.session.undo()

    def reset(self) -> None:
        self.session.reset()
        self.corner = None


class _Cuts:
    """What each page has open; the last few, as a picture that is encoded takes room."""

    def __init__(self) -> None:
        self._open: OrderedDict[tuple[str, str], _Cut] = OrderedDict()
        self._left: set[tuple[str, str]] = set()

    def __getitem__(self, page: tuple[str, str]) -> _Cut:
        if page in self._left:
            raise UsageError(f"{KEPT} newer pictures are open: choose this one again")
        if page not in self._open:
            raise UsageError("choose a picture first")
        self._open.move_to_end(page)
        return self._open[page]

    def __setitem__(self, page: tuple[str, str], cut: _Cut) -> None:
        self.drop(page)
        self._open[page] = cut
        while len(self._open) > KEPT:
            self._left.add(self._open.popitem(last=False)[0])

    def drop(self, page: tuple[str, str]) -> None:
        self._open.pop(page, None)
        self._left.discard(page)


def build(bench: Bench) -> None:
    cuts = _Cuts()
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            pictures = bench.pictures("Picture", many=False, height=110)
            model = control(
                ClickRequest, "model", label="Model that cuts out",
                info="small-sam, hf:facebook/sam-vit-base, a run folder; Enter opens it",
            )  # fmt: skip
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
    # Every press counts, one after the other, also while the answer to the last one is on its way.
    one_by_one: dict[str, Any] = {
        "show_progress": "minimal", "api_visibility": "private", "trigger_mode": "multiple", "concurrency_id": LINE,
        "concurrency_limit": 1,
    }  # fmt: skip

    async def act(request: gr.Request, change: Callable[[_Cut], None]) -> list[Any]:
        """Change what is said of the picture, and show what comes of it."""
        page = (bench.session(request), str(request.session_hash))
        try:

            def work(_: Any) -> list[Any]:
                cut = cuts[page]
                change(cut)
                return _outcome(cut, bench.sessions.new_results(*page, "click"), bench.models.device)

            answer = list(await bench.ask(request, work))
        except BinderclipError as error:
            return [said_html(str(error), failed=True), *[gr.skip()] * 3]
        # The page may show two answers that come together in the wrong order.
        return [gr.skip()] * len(outputs) if bench.pressed_since(request, LINE) else answer

    async def opened(request: gr.Request, file: str | None, name: str) -> list[Any]:
        page = (bench.session(request), str(request.session_hash))
        cuts.drop(page)
        if not file:
            return [said_html(""), gr.update(value=None, visible=False), *result_values(None)]
        try:

            def work(_: Any) -> list[Any]:
                cuts[page] = cut = _opened(Path(file), name.strip() or SMALL_SAM, bench)
                return _outcome(cut, bench.sessions.new_results(*page, "click"), bench.models.device)

            return list(await bench.ask(request, work))
        except BinderclipError as error:
            return [said_html(str(error), failed=True), gr.update(value=None, visible=False), *result_values(None)]

    async def clicked(request: gr.Request, how: str, event: gr.SelectData) -> list[Any]:
        x, y = event.index

        def change(cut: _Cut) -> None:
            # The middle of the pixel that is seen.
            cut.press(round((x + 0.5) * cut.scale, 1), round((y + 0.5) * cut.scale, 1), how)

        return await act(request, change)

    async def added(request: gr.Request, how: str, place: str, area: str) -> list[Any]:
        def change(cut: _Cut) -> None:
            if not place.strip() and not area.strip():
                raise UsageError("write a point, such as 310,120, or a box, such as 40,30,300,280")
            point = parse_point(place, "Point") if place.strip() else None
            cut.add(point, cut.region(area) if area.strip() else None, how)

        return await act(request, change)

    async def undone(request: gr.Request) -> list[Any]:
        return await act(request, _Cut.undo)

    async def begun_again(request: gr.Request) -> list[Any]:
        return await act(request, _Cut.reset)

    gr.on([pictures.files.change, model.submit], opened, [pictures.files, model], outputs, **one_by_one)
    canvas.select(clicked, [mode], outputs, **one_by_one)
    add.click(added, [mode, point, box], outputs, **one_by_one)
    undo.click(undone, None, outputs, **one_by_one)
    reset.click(begun_again, None, outputs, **one_by_one)


def _opened(path: Path, name: str, bench: Bench) -> _Cut:
    from binderclip.data import open_image
    from binderclip.segment import InteractiveSession
    from binderclip.tasks.pointing import opened_segmenter

    check_size(path)
    picture = open_image(path).convert("RGB")
    with cached_models(bench.models.get):
        segmenter = opened_segmenter(name, device=bench.models.device)
    seen = picture.copy()
    seen.thumbnail((SIDE, SIDE))
    # Every prompt is asked of the picture anew, as the verb does: the same prompts give the same mask.
    return _Cut(path, name, InteractiveSession(segmenter, picture, feedback=False), seen)


def _outcome(cut: _Cut, folder: Path, device: str) -> list[Any]:
    """Values of the outputs: what there is to say, the picture with the mask, files, lines."""
    import numpy as np
    from PIL import Image

    _leave_last(cut.folders, folder)
    mask = cut.session.mask.cpu().numpy()
    shown = _drawn(cut, mask)
    shown.save(folder / "clicked.png")
    if not cut.session.actions:
        message = "Click on the other corner of the box." if cut.corner else f"{cut.path.name}: click on the object."
        return [said_html(message), gr.update(value=str(folder / "clicked.png"), visible=True), *result_values(None)]
    Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "mask.png")
    from binderclip.segment import coco_document

    document = coco_document([(cut.path.name, np.where(mask, 0, -1))], ["object"])
    write_json(document, folder / "mask.json")
    message = f"{mask.mean():.1%} of the picture." if mask.any() else "Nothing was found there."
    if cut.corner:
        message += " Click on the other corner of the box."
    files = [folder / "mask.png", folder / "mask.json", folder / "clicked.png"]
    return [
        said_html(message),
        gr.update(value=str(folder / "clicked.png"), visible=True),
        *result_values(Equivalent.of(cut.request(device)), files),
    ]


def _leave_last(folders: list[Path], folder: Path) -> None:
    """Keep the files that are on the page, or will be of presses that are in line; older ones go."""
    folders.append(folder)
    for old in folders[:-MOST_WAITING]:
        shutil.rmtree(old, ignore_errors=True)
    del folders[:-MOST_WAITING]


def _drawn(cut: _Cut, mask: Any) -> Image.Image:
    """The picture as it is seen: the mask in blue, clicks and boxes on it."""
    import numpy as np
    from PIL import Image, ImageDraw

    from binderclip.segment.output.palette import paint
    from binderclip.tasks.verbs.click.run import BLUE, GREEN, RED

    shown = cut.seen
    if mask.any():
        small = np.asarray(Image.fromarray(mask).resize(shown.size, Image.Resampling.NEAREST))
        shown = paint(shown, np.where(small, 0, -1), [BLUE], opacity=0.5, quiet=set())
    shown = shown.copy()
    draw, size = ImageDraw.Draw(shown), max(4, min(shown.size) // 60)
    if cut.box is not None:
        draw.rectangle([value / cut.scale for value in cut.box], outline=BLUE, width=max(2, size // 3))
    for click in cut.session.clicks:
        x, y = click.x / cut.scale, click.y / cut.scale
        colour = GREEN if click.positive else RED
        draw.ellipse((x - size, y - size, x + size, y + size), fill=colour, outline="white", width=2)
    if cut.corner:
        x, y = cut.corner[0] / cut.scale, cut.corner[1] / cut.scale
        draw.line((x - size, y, x + size, y), fill=BLUE, width=3)
        draw.line((x, y - size, x, y + size), fill=BLUE, width=3)
    return shown


TAB = Tab("Click", "Cut out what you point at, by clicks and boxes.", build, order=35)
