"""The tab Erase: what is clicked on goes as the verb takes it out; points that are wrong are named."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from binderclip.errors import UsageError


def erased(run: Any, file: Path | None, inside: str, outside: str = "", named: str = "", **options: Any) -> Any:
    from binderclip.workbench.tabs.make.erase import FORM, work

    own = (options.get(name) for name in FORM.names)
    return work(run, None if file is None else str(file), named, inside, outside, *own)


def test_what_is_pointed_at_goes_as_the_verb_takes_it_out(
    tiny_inpainter: Path, photographs: Path, run_of: Any, command: Any, lines: Any, documents: list[Any]
) -> None:
    run = run_of("small")
    photo = photographs / "coffee.jpg"
    with pytest.raises(UsageError, match=r"would be a blur, .* by Diffusion model, Method patches, or Accept a blur$"):
        erased(run, photo, "160,100", model=str(tiny_inpainter), steps=2)
    outcome = erased(run, photo, "160,100", model=str(tiny_inpainter), steps=2, coarse=True)
    (here,) = documents
    shutil.copy(photo, "coffee.jpg")
    there = command(*lines.words(outcome.again.shell), "--json").json()
    for name in ("share", "changed", "change", "seen"):
        assert there[name] == here[name], name
    before, after = (Image.open(path) for path in outcome.values[0]["value"])
    assert before.size == after.size
    mask = np.asarray(Image.open(outcome.files[1])) > 0
    np.testing.assert_array_equal(np.asarray(after)[~mask], np.asarray(before)[~mask])
    np.testing.assert_array_equal(np.asarray(Image.open(there["out"])), np.asarray(after))
    for inside, words in (
        ("", "name what goes, such as dog, or click on it"),
        ("9000,1", "outside the picture"),
        ("a,b", "write two numbers"),
    ):
        with pytest.raises(UsageError, match=words):
            erased(run, photo, inside, model=str(tiny_inpainter))
    with pytest.raises(UsageError, match="there are words and clicks: press Start again"):
        erased(run, photo, "160,100", named="cup")


def test_what_is_named_goes(view: Any, photographs: Path) -> None:
    panel = view.tab("Erase")
    view.drop(panel, photographs / "coffee.jpg")
    panel.get_by_label("What goes, in words").fill("teapot")
    assert "no teapot is seen in" in view.run(panel, "Erase")
    panel.get_by_label("What goes, in words").fill("cup")
    view.run(panel, "Erase")
    assert "all others are as they were" in panel.inner_text()
    assert "--labels cup" in view.lines(panel)[0]


def test_from_a_click_to_before_and_after(view: Any, tiny_inpainter: Path, photographs: Path) -> None:
    panel = view.tab("Erase")
    view.drop(panel, photographs / "coffee.jpg")
    canvas = panel.locator(".canvas img")
    canvas.wait_for()
    view.press(canvas, 0.5, 0.5)
    view.page.wait_for_function(
        "() => [...document.querySelectorAll('.status')].some(e => e.innerText.includes('of the picture goes'))"
    )
    assert panel.get_by_label("Points of the object").input_value().count(",") == 1
    panel.get_by_label("Diffusion model").fill(str(tiny_inpainter))
    panel.get_by_label("number input for Steps").fill("2")
    assert "would be a blur" in view.run(panel, "Erase")
    view.more(panel)
    panel.get_by_label("Accept a blur").check()
    view.run(panel, "Erase")
    assert "all others are as they were" in panel.inner_text()
    view.loaded(panel.locator("img").last)
    assert view.look("erase") == []
    assert view.axe() == []
