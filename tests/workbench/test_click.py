"""The tab Click: clicks and boxes to a mask, taken back one by one; the mask is the verb's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def mask_of(view: Any, panel: Any) -> np.ndarray:
    with view.page.expect_download() as download:
        panel.locator("a[download='mask.png']").first.click()
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
    # Each message is another one: a press while the last answer is still on its way is not taken.
    for wrong, message in (("", "write a point"), ("10,10,10,40", "10,10,10,40"), ("cat", "'cat'"),
                           ("900,900,950,950", "outside")):  # fmt: skip
        area.fill(wrong)
        panel.get_by_role("button", name="Add", exact=True).press("Enter")
        said(view, panel, message)
    panel.get_by_role("button", name="Undo").press("Enter")
    said(view, panel, "there is no click to undo")
    area.fill("20,20,300,200")
    panel.get_by_role("button", name="Add", exact=True).press("Enter")
    said(view, panel, "% of the picture")
    panel.get_by_role("button", name="Start again").press("Enter")
    said(view, panel, "click on the object")
    assert json.dumps(view.faults) == "[]"
