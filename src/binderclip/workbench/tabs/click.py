"""Click: several objects of many pictures, by points and boxes; masks as COCO, labels and cut-outs."""

from __future__ import annotations

import html
import itertools
import json
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from binderclip.display import number_of
from binderclip.documents import parse_json
from binderclip.errors import BinderclipError, UsageError
from binderclip.tasks import click
from binderclip.tasks.fields import SMALL_SAM
from binderclip.tasks.models import cached_models
from binderclip.tasks.pointing import opened_segmenter
from binderclip.tasks.verbs.click.objects import OUT
from binderclip.tasks.verbs.click.request import ClickRequest
from binderclip.workbench.clicks.clicked import ClickedPictures, kept_sentence, mask_png, open_pictures
from binderclip.workbench.commands import PICTURES, Equivalent
from binderclip.workbench.fields import control
from binderclip.workbench.grid import source
from binderclip.workbench.held import HeldByPage
from binderclip.workbench.look import gathered, packed, result_html, small_copy
from binderclip.workbench.pictures import chosen_pictures
from binderclip.workbench.status import lines_html, said_html
from binderclip.workbench.tab import CUT, Bench, Outcome, Run, Tab

if TYPE_CHECKING:
    from binderclip.segment.clicks import PictureObjects

VIEW, THUMBNAIL = 1600, 96
"""Longer side of the copy that is clicked on, and of one in the strip, in pixels."""
NEAR = 6
"""Pictures to each side of the present one in the strip."""
MOST_OPEN = 12
"""Choices of pictures that are held with their clicks, of all pages together."""
SESSION = "clicks.json"
MOST_PAGES = 200
SHELL = Path(__file__).parents[1] / "static" / "click.html"

CLICKED = HeldByPage[ClickedPictures](most=MOST_OPEN)
_OPEN: OrderedDict[Any, ClickedPictures] = OrderedDict()
"""By where the pictures come from: pages with the same folder share their clicks, and a page that is loaded again finds
those of its uploads."""
Answer = tuple[dict[str, Any], str | None, Equivalent | None]
"""What the page draws; the line of status, None to leave it; the lines that give the same."""
_LAST: OrderedDict[Path, tuple[int, Answer]] = OrderedDict()
"""Number of the last message of each page, and the answer."""
_asked = itertools.count(1)


class NothingChosen(UsageError):
    """No pictures are chosen, neither in the tab nor for all."""


def build(bench: Bench) -> None:
    status = gr.HTML(said_html(""), elem_classes="status-box")
    gr.HTML(SHELL.read_text(encoding="utf-8"), padding=False)
    sent = gr.Textbox(label="What is clicked", elem_classes="click-wire")
    answer = gr.HTML("", elem_classes="click-wire")
    controls = bench.controls("Save COCO and PNG")
    shown = gr.HTML()
    results = bench.results()
    # The picture comes first: on a phone, too, it is what one clicks on.
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=280):
            pictures = bench.pictures("Pictures to click on", height=110)
        with gr.Column(scale=1, min_width=280):
            model = control(
                ClickRequest, "model", label="Model that cuts out",
                info="small-sam, hf:facebook/sam-vit-base, a run folder; Enter opens it",
            )  # fmt: skip
    bench.connect(controls, work, [], [shown], results)

    async def answered(
        request: gr.Request, text: str, files: list[str] | None, folder: str | None, shared: Any, name: str
    ) -> list[Any]:
        page = (bench.session(request), str(request.session_hash))
        number = 0
        try:
            asked = parse_json(text)
            number = int(asked["n"])

            def carry_out(_: Any) -> Answer:
                if not files and not folder and shared:
                    given: tuple[Any, Any] = (list(shared.files), shared.folder)
                else:
                    given = files, folder
                place = bench.sessions.results(*page)
                try:
                    clicked, message = _opened(bench, page[0], place, *given, name.strip() or SMALL_SAM)
                except NothingChosen:
                    if asked.get("do"):
                        raise
                    # The page has only looked: what to do stands in its empty frame.
                    return {"n": number, "empty": True}, None, None
                return _answer(clicked, asked, place, bench.models.device, message)

            reply, line, again = await bench.ask(request, carry_out)
            return [_reply(reply), gr.skip() if line is None else line, lines_html(again)]
        except BinderclipError as error:
            return [_reply({"n": number, "error": str(error)}), said_html(str(error), failed=True), gr.skip()]

    inputs = [sent, pictures.files, pictures.folder, bench.shared, model]
    outputs = [answer, status, results.lines]
    quiet: dict[str, Any] = {
        "show_progress": "hidden", "concurrency_limit": None, "api_visibility": "private", "trigger_mode": "multiple",
    }  # fmt: skip
    sent.change(answered, inputs, outputs, **quiet)
    # The page asks anew by itself, as soon as the tab is seen.
    changes = [pictures.files.change, pictures.folder.change, model.submit, bench.shared.change]
    gr.on(changes, lambda: _reply({"stale": next(_asked)}), None, answer, **quiet)


def work(run: Run) -> Outcome:
    """Cut everything out that was clicked, as the verb does."""
    clicked = CLICKED.get(run.folder.parent)
    if clicked is None:
        raise UsageError("choose pictures first, and click on the objects in them")
    if not clicked.session.count:
        raise UsageError("nothing is clicked yet: click on an object, or draw a box around it")
    from binderclip.segment.clicks import write_object_session

    kept = write_object_session(clicked.session, run.folder / SESSION)
    chosen = clicked.chosen
    folder = chosen.folder if chosen.folder is not None else gathered(chosen.paths, run.folder / "pictures")
    request = ClickRequest(
        image=str(folder), objects=str(kept), out=str(run.folder / OUT), model=clicked.model,
        device=run.bench.models.device,
    )  # fmt: skip
    result: Any = click.run(request)
    several = packed(run.folder / OUT, result.files, "objects.zip", into=run.folder)
    return Outcome(
        (result_html(result, result.skipped),),
        files=[result.coco, several, kept],
        again=Equivalent.of(_session_request(clicked, run.bench.models.device)),
    )


def _opened(bench: Bench, session: str, page: Path, files: Any, folder: Any, model: str) -> tuple[ClickedPictures, str]:
    """The pictures that are chosen with their clicks, and what to say where they have just been opened.

    Raises:
        NothingChosen: no pictures are.
        UsageError, DataError: a folder that may not be read, or none of the pictures can be.
        BinderclipError: the model cannot be opened.
    """
    key: Any = (session, tuple(files)) if files else str(folder or "")
    if not key:
        # A page that was loaded again has chosen nothing: what its session clicked last is still there.
        last = next((key for key in reversed(_OPEN) if isinstance(key, tuple) and key[0][0] == session), None)
        if last is None or not all(path.is_file() for path in _OPEN[last].chosen.paths):
            raise NothingChosen("choose pictures first: drop them here, or choose a folder at the top of the page")
        CLICKED.hold(page, _OPEN[last])
        return _OPEN[last], ""
    key = (key, model) if isinstance(key, tuple) else (key, model, "")
    held = _OPEN.get(key)
    if held is None or _is_changed(held):
        chosen = chosen_pictures(files, folder, bench.open_folder)
        with cached_models(bench.models.get):
            segmenter = opened_segmenter(model, device=bench.models.device)
        held, message = open_pictures(chosen, model, segmenter)
        _OPEN[key] = held
        while len(_OPEN) > MOST_OPEN:
            _OPEN.popitem(last=False)[1].close()
    else:
        message = "" if CLICKED.get(page) is held else f"Going on: {number_of(held.session.count, 'object')}."
    _OPEN.move_to_end(key)
    CLICKED.hold(page, held)
    return held, message


def _is_changed(held: ClickedPictures) -> bool:
    """Whether the file of a folder has been changed since; the folder itself may have other pictures as well."""
    if held.file is None:
        return False
    return (held.file.read_bytes() if held.file.is_file() else None) != held.written


def _answer(clicked: ClickedPictures, asked: Mapping[str, Any], page: Path, device: str, message: str) -> Answer:
    """Do what the page asks, and say how things are then; what it asks twice, since an answer is late, is done once."""
    number = _whole(asked, "n")
    last, answer = _LAST.get(page, (0, None))
    if answer is not None and number <= last:
        return answer if number == last else ({"n": number}, None, answer[2])
    answer = _carried_out(clicked, asked, page, device, message)
    _LAST[page] = number, answer
    _LAST.move_to_end(page)
    while len(_LAST) > MOST_PAGES:
        _LAST.popitem(last=False)
    return answer


def _carried_out(clicked: ClickedPictures, asked: Mapping[str, Any], page: Path, device: str, message: str) -> Answer:
    """The steps of a message, one after the other; a wrong one does not keep the others from being taken."""
    index, current = _whole(asked, "picture"), _whole(asked, "selected")
    error, changed = "", False
    if message or asked.get("picture", -1) != index or index >= len(clicked.chosen.paths):
        first = next((n for n, name in enumerate(clicked.names) if not _is_done(clicked, name)), 0)
        index, error = _turned(clicked, -1, first, page)
        current = 0
    # What only fetches finer masks leaves the line of status as it is: it may say what went wrong.
    quiet = not message and not asked.get("do") and asked.get("picture", -1) == index
    for step in asked.get("do", []):
        try:
            if step["kind"] == "go":
                index, left_out = _turned(clicked, index, int(step["picture"]), page)
                current, error = 0, left_out or error
            elif step["kind"] == "file":
                message, changed = _file_opened(clicked, step, page), True
            else:
                current = _done(clicked.objects(index), step, current)
                changed = changed or step["kind"] != "select"
        except BinderclipError as problem:
            error = str(problem)
        except (KeyError, TypeError, ValueError) as problem:
            raise UsageError(f"the page asked for what is not known here: {problem!r}") from problem
    if changed:
        error = error or kept_sentence(clicked)
    reply = _view(clicked, index, page, dict(asked.get("have") or {}), rough=asked.get("rough") is True)
    if current not in {each["number"] for each in reply["objects"]}:
        current = 0
    reply |= {"n": asked["n"], "selected": current, "error": error}
    clicked.prepare(index)
    if index + 1 < len(clicked.chosen.paths):
        # The next one is there at once.
        clicked.prepare(index + 1)
    counted = sum(bool(each.objects) for each in clicked.session.pictures.values())
    done = sum(each.done for each in clicked.session.pictures.values())
    line = (
        f"{clicked.names[index]}, picture {index + 1} of {len(clicked.chosen.paths)}. "
        f"{number_of(clicked.session.count, 'object')} on {number_of(counted, 'picture')}, {done} done."
    )
    kept = f" Kept in {clicked.file}." if clicked.file is not None and clicked.written is not None else ""
    text = error if error else f"{message} {line}{kept}".strip()
    return reply, None if quiet else said_html(text, failed=bool(error)), _lines(clicked, device)


def _turned(clicked: ClickedPictures, index: int, target: int, page: Path) -> tuple[int, str]:
    """The picture that one gets to, and what is said of those on the way that cannot be used.

    Args:
        index: of the present one; -1 for none. target: where one wants to go; beyond the ends, one stays.

    Raises:
        UsageError: none can be used, from the target on.
    """
    way, problems = 1 if target >= index else -1, list[str]()
    while 0 <= target < len(clicked.chosen.paths):
        try:
            clicked.objects(target)
            if _copy(clicked, target, page / "click-view", VIEW) is not None:
                return target, "; ".join(problems)
            problems.append(f"{clicked.names[target]} cannot be read and is passed over")
        except BinderclipError as error:
            problems.append(f"{error} (passed over)")
        target += way
    if index < 0:
        raise UsageError("; ".join(problems) or "there is no picture")
    return index, "; ".join(problems)


def _is_done(clicked: ClickedPictures, name: str) -> bool:
    known = clicked.session.pictures.get(name)
    return known is not None and (known.done or bool(known.objects))


def _whole(asked: Mapping[str, Any], key: str) -> int:
    value = asked.get(key)
    return value if isinstance(value, int) and value >= 0 else 0


def _file_opened(clicked: ClickedPictures, step: Mapping[str, Any], page: Path) -> str:
    page.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = page / "opened.json"
    path.write_text(str(step["text"]), encoding="utf-8")
    try:
        return clicked.opened(path)
    except BinderclipError as error:
        name = html.unescape(str(step["name"]))[:80]
        raise type(error)(str(error).replace(str(path), name).replace(path.name, name)) from error


def _done(picture: PictureObjects, step: Mapping[str, Any], current: int) -> int:
    """Take a step on a picture; the number of the object that is chosen then, 0 for a new one.

    Raises:
        UsageError: as `PictureObjects.do`.
        KeyError, TypeError, ValueError: the page did not write it.
    """
    from binderclip.segment.clicks import ObjectStep

    kind = step["kind"]
    if kind == "select":
        return int(step["object"])
    if kind in ("undo", "redo"):
        before = (picture.steps if kind == "undo" else picture.undone)[-1:]
        picture.undo() if kind == "undo" else picture.redo()
        return before[0].number
    if kind == "done":
        picture.done = step["done"] is True
        return current
    if kind == "hide":
        hidden = picture.hidden
        hidden.add(int(step["object"])) if step["hidden"] else hidden.discard(int(step["object"]))
        return current
    number = current or picture.next_number
    if kind == "point":
        x, y = (float(value) for value in step["at"])
        picture.do(ObjectStep("point", number, point=(x, y), positive=step["inside"] is True))
    elif kind == "box":
        x0, y0, x1, y1 = (float(value) for value in step["box"])
        picture.do(ObjectStep("box", number, box=(x0, y0, x1, y1)))
    elif kind == "name":
        picture.do(ObjectStep("name", int(step["object"]), name=str(step["name"]).strip()))
        return current
    else:
        picture.do(ObjectStep("delete", int(step["object"])))
        return 0 if current == int(step["object"]) else current
    return number


def _view(clicked: ClickedPictures, index: int, page: Path, have: Mapping[str, Any], *, rough: bool) -> dict[str, Any]:
    """What the page draws: the picture, its objects, masks that it does not have yet, and the pictures around it."""
    from binderclip.segment.output.palette import colours

    picture = clicked.objects(index)
    shown = _copy(clicked, index, page / "click-view", VIEW)
    if shown is None:
        raise UsageError(f"{clicked.names[index]} cannot be read: go on to the next picture")
    objects = []
    palette = colours(max([one.number for one in picture.objects], default=1))
    for one in picture.objects:
        key = f"{clicked.names[index]} {hash(one.prompts) & 0xFFFFFFFFFFFF:x}"
        entry = {
            "number": one.number, "name": one.name, "colour": "#{:02x}{:02x}{:02x}".format(*palette[one.number - 1]),
            "hidden": one.number in picture.hidden, "box": one.box, "key": key,
            "points": [[*place, True] for place in one.inside] + [[*place, False] for place in one.outside],
        }  # fmt: skip
        if one.is_placed and have.get(str(one.number)) != key:
            mask, certainty, final = clicked.mask(index, one, rough=rough)
            bounds, png = mask_png(mask)
            entry |= {"bounds": bounds, "png": png, "share": float(mask.mean()), "iou": certainty, "final": final}
        objects.append(entry)
    return {
        "picture": index, "count": len(clicked.chosen.paths), "name": clicked.names[index], "size": picture.size[::-1],
        "src": source(shown), "done": picture.done, "objects": objects, "undo": bool(picture.steps),
        "redo": bool(picture.undone), "strip": _strip(clicked, index, page),
    }  # fmt: skip


def _strip(clicked: ClickedPictures, index: int, page: Path) -> list[dict[str, Any]]:
    around = range(max(0, index - NEAR), min(len(clicked.chosen.paths), index + NEAR + 1))
    strip = []
    for place in around:
        small = _copy(clicked, place, page / "click-strip", THUMBNAIL)
        known = clicked.session.pictures.get(clicked.names[place])
        strip.append(
            {
                "picture": place, "name": clicked.names[place], "src": "" if small is None else source(small),
                "objects": 0 if known is None else len(known.objects), "done": known is not None and known.done,
            }
        )  # fmt: skip
    return strip


def _copy(clicked: ClickedPictures, index: int, folder: Path, side: int) -> Path | None:
    # Other pictures that are chosen later have the same places: the name says whose copy it is.
    folder = folder / f"{id(clicked):x}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = folder / f"{index:05d}.jpg"
    return made if made.is_file() else small_copy(clicked.path(index), folder, index, side)


def _session_request(clicked: ClickedPictures, device: str) -> ClickRequest:
    """What asks the verb for all objects."""
    chosen = clicked.chosen
    if chosen.folder is not None:
        image = str(chosen.folder)
    else:
        image = chosen.paths[0].name if len(chosen.paths) == 1 else PICTURES
    kept = str(clicked.file) if clicked.file is not None else SESSION
    return ClickRequest(image=image, objects=kept, out=OUT, model=clicked.model, device=device)


def _lines(clicked: ClickedPictures, device: str) -> Equivalent | None:
    """The lines that give the same masks: of a single object its points, of several the session."""
    placed = [
        (name, one) for name, picture in clicked.session.pictures.items() for one in picture.objects if one.is_placed
    ]
    if not placed:
        return None
    (name, one), chosen = placed[0], clicked.chosen
    if len(placed) > 1 or one.mask is not None:
        return Equivalent.of(_session_request(clicked, device))
    image = name if chosen.folder is None else str(chosen.folder / name)
    single = ClickRequest(
        image=image, point=list(one.inside), outside=list(one.outside), box=one.box, model=clicked.model, device=device
    )
    return Equivalent.of(single)


def _reply(document: dict[str, Any]) -> str:
    return f'<div class="click-reply" hidden data-reply="{html.escape(json.dumps(document), quote=True)}"></div>'


TAB = Tab("Click", "Cut out objects by points and boxes, picture after picture.", build, order=35, group=CUT)
