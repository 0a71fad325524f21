"""The tab Click: objects by points and boxes over a folder, taken back, named, saved and gone on with."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from binderclip.data.formats.run_lengths import from_run_lengths
from binderclip.errors import UsageError
from binderclip.workbench.clicks.clicked import KEPT_IN, ClickedPictures, mask_png, open_pictures
from binderclip.workbench.pictures import chosen_pictures

IDLE = """() => {
  const clicker = [...document.querySelectorAll('.clicker')].map(e => e.clicker).find(c => c?.seen);
  return !!clicker?.view && !clicker.waiting && clicker.queue.every(step => step.kind === 'select')
    && [...clicker.masks.values()].every(mask => mask.final && (!mask.image || mask.image.complete));
}"""
PLACE = "() => document.querySelector('.clicker').clicker.place"
STATE = "() => { const {view, selected} = document.querySelector('.clicker').clicker; return {view, selected}; }"


class Clicking:
    """A user's hand on the tab."""

    def __init__(self, view: Any) -> None:
        self.view, self.page = view, view.page
        self.panel = view.tab("Click")
        self.canvas = self.panel.locator(".clicker canvas")
        self.idle()

    def idle(self) -> dict[str, Any]:
        """Wait until every click is answered; what the page shows then."""
        self.page.wait_for_function(IDLE)
        return self.page.evaluate(STATE)

    def at(self, x: float, y: float) -> tuple[float, float]:
        # In the middle: at the bottom the button of the run stands over it.
        self.canvas.evaluate("canvas => canvas.scrollIntoView({block: 'center'})")
        box, place = self.canvas.bounding_box(), self.page.evaluate(PLACE)
        return box["x"] + place["left"] + x * place["scale"], box["y"] + place["top"] + y * place["scale"]

    def click(self, x: float, y: float, *, outside: bool = False) -> dict[str, Any]:
        self.page.keyboard.down("Shift") if outside else None
        self.page.mouse.click(*self.at(x, y))
        self.page.keyboard.up("Shift") if outside else None
        return self.idle()

    def drag(self, x0: float, y0: float, x1: float, y1: float) -> dict[str, Any]:
        self.page.mouse.move(*self.at(x0, y0))
        self.page.mouse.down()
        self.page.mouse.move(*self.at((x0 + x1) / 2, (y0 + y1) / 2))
        self.page.mouse.move(*self.at(x1, y1))
        self.page.mouse.up()
        return self.idle()

    def key(self, name: str) -> dict[str, Any]:
        self.page.keyboard.press(name)
        return self.idle()

    def name(self, number: int, text: str) -> dict[str, Any]:
        field = self.panel.get_by_label(f"Name of object {number}", exact=True)
        field.fill(text)
        field.press("Enter")
        return self.idle()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, photographs: Path) -> Path:
    """Two photographs of their own, since clicks are kept beside them."""
    place = tmp_path_factory.mktemp("clicks") / "holiday"
    place.mkdir()
    for name in ("coffee.jpg", "rocket.jpg"):
        source = next(iter(photographs.glob(name)), sorted(photographs.iterdir())[0])
        shutil.copy(source, place / name)
    return place


@pytest.fixture(scope="module")
def own_server(folder: Path, server: Any) -> Any:
    """A workbench that was opened on the two photographs, beside that of all tests, which is there first."""
    pytest.importorskip("gradio", reason="the workbench needs Gradio: pip install binderclip[workbench]")
    from binderclip.workbench.server import WorkbenchServer
    from binderclip.workbench.tabs import TABS

    # What a server sets is for its process; left there, Gradio would keep the pictures of the other one in its folder.
    before = dict(os.environ)
    tabs = [tab for tab in TABS if tab.title in ("Click", "Papers")]
    with WorkbenchServer(tabs=tabs, folders=[folder]).in_background() as running:
        yield running
    os.environ.clear()
    os.environ.update(before)


def test_five_objects_are_cut_out_of_two_pictures(
    browser: Any, view_of: Any, own_server: Any, folder: Path, lines: Any, command: Any, tmp_path: Path
) -> None:
    decoder = pytest.importorskip("pycocotools.coco")
    view = view_of(browser, own_server)
    hand = Clicking(view)
    width, height = Image.open(folder / "coffee.jpg").size
    state = hand.click(width * 0.45, height * 0.4)
    ((x, y, inside),) = state["view"]["objects"][0]["points"]
    assert (x, y, inside) == (pytest.approx(width * 0.45, abs=1.5), pytest.approx(height * 0.4, abs=1.5), True)
    hand.click(width * 0.05, height * 0.05, outside=True)
    state = hand.name(1, "cup")
    assert [each["name"] for each in state["view"]["objects"]] == ["cup"]
    assert hand.canvas.evaluate("canvas => canvas === document.activeElement")
    # Enter begins the next one, a drag draws its box; a click too many is taken back, and comes again.
    hand.key("Enter")
    hand.drag(width * 0.6, height * 0.3, width * 0.95, height * 0.9)
    hand.click(width * 0.1, height * 0.9)
    state = hand.key("Control+z")
    assert [len(each["points"]) for each in state["view"]["objects"]] == [2, 0]
    assert [len(each["points"]) for each in hand.key("Control+y")["view"]["objects"]] == [2, 1]
    hand.key("Control+z")
    hand.key("Enter")
    hand.click(width * 0.2, height * 0.75)
    assert view.look("click") == []
    assert view.axe() == []
    # The next picture by a key; the line names both when there are two.
    state = hand.key("n")
    assert (state["view"]["name"], state["view"]["objects"], state["selected"]) == ("rocket.jpg", [], 0)
    hand.click(width * 0.5, height * 0.5)
    hand.key("Enter")
    hand.drag(width * 0.2, height * 0.2, width * 0.6, height * 0.8)
    assert len(hand.name(2, "tower")["view"]["objects"]) == 2
    kept = json.loads((folder / KEPT_IN).read_text())
    assert [entry["image"] for entry in kept["pictures"]] == ["coffee.jpg", "rocket.jpg"]

    hand.panel.get_by_role("button", name="Save COCO and PNG", exact=True).click()
    assert view.ended(hand.panel).startswith("Done in")
    with view.page.expect_download() as download:
        hand.panel.locator("a[download='coco.json']").first.click()
    shutil.copy(download.value.path(), tmp_path / "page.json")
    coco = decoder.COCO(str(tmp_path / "page.json"))
    assert len(coco.getAnnIds()) == 5
    assert {each["name"] for each in coco.loadCats(coco.getCatIds())} == {"cup", "object", "tower"}
    # The same without this page.
    shell = view.lines(hand.panel)[0]
    assert command(*lines.words(shell)).code == 0
    again = decoder.COCO("objects/coco.json")
    assert [entry["segmentation"] for entry in again.dataset["annotations"]] == [
        entry["segmentation"] for entry in coco.dataset["annotations"]]  # fmt: skip
    assert np.asarray(Image.open("objects/coffee-labels.png")).max() == 3
    view.context.close()
    assert view.faults == []

    # Another page, later: it goes on where this one was, with what can be taken back.
    other = view_of(browser, own_server)
    state = Clicking(other).idle()
    assert sorted(each["name"] for each in state["view"]["strip"]) == ["coffee.jpg", "rocket.jpg"]
    assert [each["objects"] for each in state["view"]["strip"]] == [3, 2]
    other.context.close()
    assert other.faults == []


def test_the_keyboard_and_a_phone_are_enough(view: Any, photographs: Path) -> None:
    panel = view.tab("Click")
    panel.get_by_role("button", name="Undo").click()
    status = panel.locator(".status").first
    view.page.wait_for_function("e => e.innerText.includes('choose pictures first')", arg=status.element_handle())
    view.drop(panel, photographs / "coffee.jpg", box=1)
    hand = Clicking(view)
    hand.canvas.focus()
    for key in ("ArrowUp", "ArrowLeft", "Shift+ArrowLeft", " "):
        view.page.keyboard.press(key)
    (one,) = hand.idle()["view"]["objects"]
    (x, y, inside), (width, height) = one["points"][0], Image.open(photographs / "coffee.jpg").size
    assert inside
    assert width / 2 - 20 < x < width / 2
    assert height / 2 - 20 < y < height / 2
    for text, message in (("", "0 objects"), ("900,900", "outside the picture")):
        panel.locator(".clicker summary").click() if not text else None
        if text:
            panel.get_by_label("Point", exact=True).fill(text)
            panel.get_by_role("button", name="Add", exact=True).press("Enter")
        else:
            hand.key("Delete")
        view.page.wait_for_function("([e, text]) => e.innerText.includes(text)", arg=[status.element_handle(), message])
    view.page.set_viewport_size({"width": 390, "height": 844})
    panel.get_by_label("Box", exact=True).first.check()
    hand.canvas.scroll_into_view_if_needed()
    hand.drag(width * 0.2, height * 0.2, width * 0.8, height * 0.9)
    panel.get_by_label("Not the object").check()
    state = hand.click(width * 0.05, height * 0.05)
    assert [(len(each["points"]), each["box"] is None) for each in state["view"]["objects"]] == [(1, False)]
    assert [each["points"][0][2] for each in state["view"]["objects"]] == [False]


# -- without a browser -------------------------------------------------------------------------------------------------


class Ellipses:
    """A segmenter without weights: an ellipse in the box, a disc around the points."""

    image_size, differentiable = 64, False

    def __init__(self) -> None:
        self.encoded = 0

    def encode(self, image: Any) -> Any:
        from binderclip.segment.promptable import ImageState

        self.encoded += 1
        return ImageState(None, (image.height, image.width), (1.0, 1.0))

    def predict(self, state: Any, prompts: Any, *, multimask: bool = True) -> Any:
        import torch

        from binderclip.segment.promptable import Masks

        height, width = state.size
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        logits = torch.full((height, width), -1.0)
        for (x, y), label in zip(prompts.points[0].tolist(), prompts.labels[0].tolist(), strict=True):
            logits[(rows - y) ** 2 + (columns - x) ** 2 < 100] = 1.0 if label else -1.0
        return Masks(logits[None, None], torch.ones(1, 1), logits[None, None])


@pytest.fixture
def clicked(tmp_path: Path) -> Any:
    """Makes the clicks of three pictures in a folder, as a page opens them."""
    place = tmp_path / "holiday"
    place.mkdir()
    for number in range(3):
        Image.new("RGB", (60, 40), (90 * number, 60, 20)).save(place / f"{number}.png")

    def opened() -> tuple[ClickedPictures, str]:
        return open_pictures(chosen_pictures(None, str(place), Path), "ellipses", Ellipses())

    return opened


def ask(clicked: ClickedPictures, page: Path, number: int, *steps: Any, **more: Any) -> dict[str, Any]:
    from binderclip.workbench.tabs.click import _answer

    page.mkdir(exist_ok=True)
    return _answer(clicked, {"n": number, "do": list(steps), "picture": 0, **more}, page, "cpu", "")[0]


def point(x: float, y: float, inside: bool = True) -> dict[str, Any]:
    return {"kind": "point", "at": [x, y], "inside": inside}


def test_a_message_that_comes_twice_counts_once(clicked: Any, tmp_path: Path) -> None:
    pictures, _ = clicked()
    first = ask(pictures, tmp_path / "page", 1, point(20, 20))
    assert ask(pictures, tmp_path / "page", 1, point(20, 20))["objects"][0]["points"] == first["objects"][0]["points"]
    assert first["selected"] == 1
    # Several presses in one message: a second object, and its name.
    steps = [{"kind": "select", "object": 0}, point(40, 10), {"kind": "name", "object": 2, "name": " cup "}]
    second = ask(pictures, tmp_path / "page", 2, *steps, selected=1, have={"1": first["objects"][0]["key"]})
    assert [each["name"] for each in second["objects"]] == ["", "cup"]
    # A mask that the page has is not sent again.
    assert ["png" in each for each in second["objects"]] == [False, True]
    wrong = ask(pictures, tmp_path / "page", 3, point(99, 1), selected=2)
    assert "outside the picture of 60 x 40" in wrong["error"]
    assert len(wrong["objects"]) == 2


def test_each_picture_is_encoded_once_and_the_next_one_ahead(clicked: Any, tmp_path: Path) -> None:
    pictures, _ = clicked()
    ask(pictures, tmp_path / "page", 1, point(20, 20))
    for index in (0, 1):
        pictures.prepare(index).result()
    assert pictures.segmenter.encoded == 2
    for number in range(2, 5):
        ask(pictures, tmp_path / "page", number, point(20, 10 + number), selected=1)
    assert pictures.segmenter.encoded == 2
    view = ask(pictures, tmp_path / "page", 5, {"kind": "go", "picture": 1}, point(5, 5))
    assert (view["name"], [each["objects"] for each in view["strip"]]) == ("1.png", [1, 1, 0])
    pictures.prepare(2).result()
    assert pictures.segmenter.encoded == 3


def test_clicks_are_kept_in_the_folder_and_gone_on_with(clicked: Any, tmp_path: Path) -> None:
    pictures, said = clicked()
    assert said == ""
    ask(pictures, tmp_path / "page", 1, point(20, 20), {"kind": "done", "done": True})
    ask(pictures, tmp_path / "page", 2, {"kind": "undo"})
    later, said = clicked()
    assert "Going on" in said
    assert later.session == pictures.session
    # What is finished is not what one begins with.
    ask(later, tmp_path / "page", 3, {"kind": "redo"})
    from binderclip.workbench.tabs.click import _answer

    assert _answer(later, {"n": 4, "do": []}, tmp_path / "page", "cpu", "Going on.")[0]["name"] == "1.png"
    # Another program's changes are not overwritten.
    file = tmp_path / "holiday" / KEPT_IN
    file.write_text(file.read_text().replace("0.png", "9.png"))
    before = file.read_bytes()
    assert "changed by another program" in ask(later, tmp_path / "page", 5, point(9, 9))["error"]
    assert file.read_bytes() == before


def test_a_picture_that_cannot_be_read_is_passed_over(clicked: Any, tmp_path: Path) -> None:
    (tmp_path / "holiday").joinpath("1.png").write_bytes(b"no picture")
    pictures, _ = clicked()
    view = ask(pictures, tmp_path / "page", 1, {"kind": "go", "picture": 1})
    assert (view["name"], view["picture"]) == ("2.png", 2)
    assert "1.png" in view["error"]
    assert ask(pictures, tmp_path / "page", 2, {"kind": "go", "picture": 1}, picture=2)["name"] == "0.png"
    # Behind the last one there is nothing to go to.
    assert ask(pictures, tmp_path / "page", 3, {"kind": "go", "picture": 3}, picture=2)["name"] == "2.png"


def test_a_damaged_file_is_named_and_stays(clicked: Any, tmp_path: Path) -> None:
    file = tmp_path / "holiday" / KEPT_IN
    file.write_text('{"format": "binderclip objects 1", "pictures": 3}')
    pictures, said = clicked()
    assert KEPT_IN in said
    assert "stays as it is" in said
    assert ask(pictures, tmp_path / "page", 1, point(20, 20))["error"] == ""
    assert file.read_text() == '{"format": "binderclip objects 1", "pictures": 3}'


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_no_regular_file_is_not_waited_for(clicked: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "holiday" / KEPT_IN)
    pictures, message = clicked()
    assert "no regular file" in message
    assert ask(pictures, tmp_path / "page", 1, point(20, 20))["error"] == ""


def test_coco_of_other_programs_is_opened_on_pictures_without_clicks(clicked: Any, tmp_path: Path) -> None:
    pictures, _ = clicked()
    document = {
        "images": [{"id": 1, "file_name": "images/1.png", "height": 40, "width": 60},
                   {"id": 2, "file_name": "far.png", "height": 9, "width": 9}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[5, 5, 25, 5, 25, 25, 5, 25]]},
                        {"id": 2, "image_id": 2, "category_id": 1, "segmentation": [[1, 1, 5, 1, 5, 5]]}],
        "categories": [{"id": 1, "name": "cup"}],
    }  # fmt: skip
    step = {"kind": "file", "name": "theirs.json", "text": json.dumps(document)}
    view = ask(pictures, tmp_path / "page", 1, step, {"kind": "go", "picture": 1})
    (one,) = view["objects"]
    assert (one["name"], one["bounds"]) == ("cup", (5, 5, 25, 25))
    assert "there are objects already on 1.png" in ask(pictures, tmp_path / "page", 2, step)["error"]
    assert "theirs.json" in ask(pictures, tmp_path / "page", 3, {**step, "text": "{"})["error"]
    with pytest.raises(UsageError, match="is not known here"):
        ask(pictures, tmp_path / "page", 4, {"kind": "point", "at": ["a"]})


def test_a_mask_is_sent_as_it_is() -> None:
    import base64
    import io

    rng = np.random.default_rng(0)
    mask = np.zeros((30, 41), dtype=bool)
    mask[3:20, 5:38] = rng.random((17, 33)) < 0.5
    bounds, png = mask_png(mask)
    assert bounds is not None
    left, top, right, bottom = bounds
    alpha = np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGBA"))[..., 3]
    again = np.zeros_like(mask)
    again[top:bottom, left:right] = alpha == 255
    np.testing.assert_array_equal(again, mask)
    assert mask_png(np.zeros((4, 4), dtype=bool)) == (None, "")
    assert from_run_lengths([16], (4, 4)).sum() == 0
