"""Draw, Generate, Edges, Foveate and Vectorise as a person sees them; what they compute is tested beside."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def test_a_drawing_is_seen_and_judged(view: Any) -> None:
    panel = view.tab("Draw")
    assert view.run(panel, "Draw") == "type what to draw, such as: a red apple"
    panel.get_by_label("What to draw").fill("a red apple")
    panel.get_by_label("Steps").first.fill("10")
    assert view.run(panel, "Draw").startswith("Done in")
    view.loaded(panel.locator("img").first)
    assert panel.locator(".table-box tbody tr").count() == 2
    assert "binderclip draw 'a red apple'" in view.lines(panel)[0]
    assert view.look("draw") == []
    assert view.axe() == []


def test_a_text_is_drawn_by_the_bundled_model(view: Any) -> None:
    panel = view.tab("Generate")
    panel.get_by_label("What is to be drawn, a text a line").fill("a purple heart")
    panel.get_by_label("Steps").first.fill("40")  # long enough to be seen before it is done
    assert view.run(panel, "Generate").startswith("Done in")
    view.loaded(panel.locator("img").first)
    assert panel.get_by_text("for photographs name the folder of a Stable Diffusion pipeline").is_visible()
    assert view.look("generate") == []
    assert view.axe() == []


def test_a_click_says_where_the_eye_rests(view: Any, photographs: Path) -> None:
    panel = view.tab("Foveate")
    view.drop(panel, photographs / "cat.jpg")
    where = panel.get_by_role("textbox", name="Where the eye rests")
    before = where.input_value()
    view.press(panel.locator(".canvas img").first, 0.25, 0.25)
    view.page.wait_for_function("([field, before]) => field.value !== before", arg=[where.element_handle(), before])
    assert view.run(panel, "Foveate").startswith("Done in")
    assert where.input_value() in view.lines(panel)[0]
    assert view.look("foveate") == []
    assert view.axe() == []


def test_edges_and_paths_of_a_picture(view: Any, photographs: Path) -> None:
    panel = view.tab("Edges")
    view.drop(panel, photographs / "cat.jpg")
    assert view.run(panel, "Find edges").startswith("Done in")
    assert view.look("edges") == []
    assert view.axe() == []
