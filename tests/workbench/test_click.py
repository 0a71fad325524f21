"""The tab Click: clicks and boxes to a mask, taken back one by one; the mask is the verb's."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from binderclip.errors import UsageError
from binderclip.workbench.commands import Equivalent

MASK = "a[download='mask.png']"


def mask_of(view: Any, panel: Any) -> np.ndarray:
    with view.page.expect_download() as download:
        panel.locator(MASK).first.click()
    return np.asarray(Image.open(download.value.path())) > 0


def said(view: Any, panel: Any, *parts: str) -> None:
    """Wait until the status line has these parts."""
    view.page.wait_for_function(
        "parts => [...document.querySelectorAll('.status')].some(e => parts.every(p => e.innerText.includes(p)))",
        arg=list(parts),
    )


def test_clicks_are_made_taken_back_and_downloaded(
    view: Any, photographs: Path, lines: Any, tmp_path: Path, command: Any
) -> None:
    panel = view.tab("Click")
    view.drop(panel, photographs / "coffee.jpg")
    said(view, panel, "coffee.jpg: click on the object")
    canvas = panel.locator(".canvas img")
    width, height = Image.open(photographs / "coffee.jpg").size
    view.press(canvas, 0.5, 0.5)
    said(view, panel, "% of the picture")
    first = mask_of(view, panel)
    assert first.shape == (height, width)
    line = view.lines(panel)[0]
    x, y = (float(part) for part in line.split("--point ")[1].split()[0].split(","))
    # What was clicked is what the line names, to the pixel that is seen.
    assert abs(x - width / 2) < 2
    assert abs(y - height / 2) < 2
    shutil.copy(photographs / "coffee.jpg", "coffee.jpg")  # `command` runs in an empty folder
    assert command(*lines.words(line)).code == 0
    np.testing.assert_array_equal(np.asarray(Image.open("coffee-mask.png")) > 0, first)

    panel.get_by_label("It is not the object").check()
    view.press(canvas, 0.05, 0.05)
    view.page.wait_for_function("() => document.querySelector('.lines').textContent.includes('--not')")
    second = view.lines(panel)[0]
    assert command(*lines.words(second)).code == 0
    # The verb keeps the first mask.
    np.testing.assert_array_equal(np.asarray(Image.open("coffee-mask-2.png")) > 0, mask_of(view, panel))
    assert view.look("click") == []
    assert view.axe() == []

    panel.get_by_role("button", name="Undo").click()
    view.page.wait_for_function("() => !document.querySelector('.lines').textContent.includes('--not')")
    np.testing.assert_array_equal(mask_of(view, panel), first)


def test_the_keyboard_is_enough_and_an_empty_box_changes_nothing(view: Any, photographs: Path) -> None:
    panel = view.tab("Click")
    panel.get_by_role("button", name="Undo").click()
    said(view, panel, "choose a picture first")
    view.drop(panel, photographs / "coffee.jpg")
    said(view, panel, "click on the object")
    panel.get_by_role("button", name="By numbers instead of the pointer").press("Enter")
    area = panel.get_by_role("textbox", name="Box")
    for wrong, message in (("", "write a point"), ("10,10,10,40", "10,10,10,40"), ("cat", "'cat'"),
                           ("900,900,950,950", "outside")):  # fmt: skip
        area.fill(wrong)
        panel.get_by_role("button", name="Add", exact=True).press("Enter")
        said(view, panel, message)
        assert panel.locator(MASK).count() == 0
    panel.get_by_role("button", name="Undo").press("Enter")
    said(view, panel, "there is no click to undo")
    assert panel.locator(MASK).count() == 0
    area.fill("20,20,300,200")
    panel.get_by_role("button", name="Add", exact=True).press("Enter")
    said(view, panel, "% of the picture")
    assert mask_of(view, panel)[20:200, 20:300].any()
    panel.get_by_role("button", name="Start again").press("Enter")
    said(view, panel, "click on the object")
    panel.locator(MASK).first.wait_for(state="detached")


def test_presses_while_an_answer_is_on_its_way_count_in_their_order(
    view: Any, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from binderclip.workbench.tabs import click

    panel = view.tab("Click")
    view.drop(panel, photographs / "coffee.jpg")
    said(view, panel, "click on the object")
    panel.get_by_role("button", name="By numbers instead of the pointer").press("Enter")
    point = panel.get_by_role("textbox", name="Point")
    add, undo = panel.get_by_role("button", name="Add", exact=True), panel.get_by_role("button", name="Undo")
    begun, release, answer = threading.Event(), threading.Event(), click._outcome

    def held(*given: Any) -> Any:
        begun.set()
        release.wait(60)
        return answer(*given)

    monkeypatch.setattr(click, "_outcome", held)
    view.page.evaluate(
        """() => {
            window.shown = new Set();
            const look = () => window.shown.add(document.querySelector('.lines')?.textContent ?? '');
            new MutationObserver(look).observe(document.body, {childList: true, subtree: true, characterData: true});
        }"""
    )
    point.fill("150,100")
    add.click()
    while not begun.is_set():
        view.page.wait_for_timeout(20)
    for place in ("160,100", "170,100", "180,100"):
        point.fill(place)
        add.click()
    for _ in range(2):
        undo.click()
    release.set()
    view.page.wait_for_function(
        "() => /--point 150,100 --point 160,100(?! --point)/.test(document.querySelector('.lines')?.textContent)"
    )
    # An answer that a later press has overtaken is not shown: the page could show it after the later one.
    shown = view.page.evaluate("() => [...window.shown].filter(text => text.includes('--point'))")
    assert len(shown) == 1, shown


@pytest.fixture
def opened(run_of: Any, photographs: Path) -> Any:
    """A photograph as the tab holds it."""
    run = run_of()
    from binderclip.workbench.tabs.click import _opened

    return _opened(photographs / "coffee.jpg", "small-sam", run.bench)


def test_a_wrong_box_leaves_no_point_behind(opened: Any) -> None:
    for box in ("10,10,10,40", "900,900,950,950", "cat"):
        with pytest.raises(UsageError):
            opened.add((100.0, 80.0), opened.region(box), "in")
        assert opened.session.actions == ()
    with pytest.raises(UsageError, match="outside the picture"):
        opened.add((900.0, 80.0), (20.0, 20.0, 90.0, 90.0), "in")
    assert opened.session.actions == ()
    opened.add((100.0, 80.0), (20.0, 20.0, 200.0, 190.0), "in")
    assert [action.kind for action in opened.session.actions] == ["box", "click"]
    assert opened.box == (20.0, 20.0, 200.0, 190.0)


def test_what_is_none_of_the_object_comes_after_the_object(opened: Any, lines: Any, command: Any, photographs: Path):
    with pytest.raises(UsageError, match="first click on the object"):
        opened.press(10.0, 10.0, "out")
    assert opened.session.actions == ()
    width = opened.session.size[1]
    with pytest.raises(UsageError, match="outside the picture"):
        opened.press(float(width), 10.0, "in")  # the verb takes no such point either
    opened.press(200.0, 190.0, "box")
    opened.press(20.0, 20.0, "box")
    opened.press(10.0, 10.0, "out")
    shutil.copy(photographs / "coffee.jpg", "coffee.jpg")
    again = Equivalent.of(opened.request("cpu"))
    assert command(*lines.words(again.shell)).code == 0
    mask = opened.session.mask.numpy()
    np.testing.assert_array_equal(np.asarray(Image.open("coffee-mask.png")) > 0, mask)
    exec(again.python, {})
    np.testing.assert_array_equal(np.asarray(Image.open("coffee-mask-2.png")) > 0, mask)
    opened.undo()
    opened.undo()
    assert opened.box is None


def test_the_lines_name_the_model_that_cut_and_where_it_ran(opened: Any) -> None:
    opened.press(100.0, 80.0, "in")
    opened.model = "hf:facebook/sam-vit-base"
    again = Equivalent.of(opened.request("cuda"))
    assert again.shell.endswith("--model hf:facebook/sam-vit-base --device cuda")
    assert "model='hf:facebook/sam-vit-base', device='cuda'" in again.python
    opened.model = "small-sam"
    again = Equivalent.of(opened.request("cpu"))
    assert "--model" not in again.shell
    assert "device" not in again.shell + again.python


def test_a_picture_that_gave_way_to_newer_ones_is_asked_for_again(opened: Any) -> None:
    from binderclip.workbench.tabs.click import KEPT, _Cuts

    cuts = _Cuts()
    with pytest.raises(UsageError, match="choose a picture first"):
        cuts["s", "p"]
    for number in range(KEPT + 1):
        cuts["s", str(number)] = opened
    with pytest.raises(UsageError, match="choose this one again"):
        cuts["s", "0"]
    assert cuts["s", "1"] is opened
    cuts["s", "0"] = opened
    assert cuts["s", "0"] is opened


def test_files_of_older_clicks_go(opened: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from binderclip.workbench.tabs import click

    monkeypatch.setattr(click, "MOST_WAITING", 2)
    for number in range(4):
        folder = tmp_path / f"click-{number}"
        folder.mkdir()
        opened.press(100.0, 80.0 + number, "in")
        click._outcome(opened, folder, "cpu")
    left = sorted(path.name for path in tmp_path.glob("click-*"))
    assert left == ["click-2", "click-3"]
