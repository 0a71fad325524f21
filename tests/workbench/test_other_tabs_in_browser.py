"""Explain, Papers and Train as a person sees them; what they compute is tested beside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SHORT = "evaluation.data=[]\nstage.0.batch_size=16\nstage.0.data=['icons']"


def test_evidence_is_shown_method_by_method(view: Any, photographs: Path) -> None:
    panel = view.tab("Explain")
    view.drop(panel, photographs / "cat.jpg")
    assert view.run(panel, "Show the evidence") == "type what to look for, such as: a cat"
    panel.get_by_label("What to look for").fill("a cat")
    panel.get_by_role("button", name="Other methods than").click()
    for name in ("concepts", "smoothgrad"):
        panel.get_by_label(name, exact=True).uncheck()
    panel.get_by_label("saliency", exact=True).check()
    assert view.run(panel, "Show the evidence").startswith("Done in")
    assert panel.locator(".table-box tbody tr").count() == 2
    assert "--method gradcam,saliency" in view.lines(panel)[0]
    assert view.look("explain") == []
    assert view.axe() == []


def test_a_paper_is_found_and_opened(view: Any) -> None:
    panel = view.tab("Papers")
    panel.get_by_label("Words of a title, an author, a name, a room").fill("autoclip")
    panel.get_by_role("heading", name="AutoClip").first.wait_for()
    assert panel.get_by_text("The paper says.").is_visible()
    assert view.look("papers") == []
    assert view.axe() == []


def test_a_recipe_is_started_and_stopped(view: Any, server: Any) -> None:
    panel = view.tab("Train")
    panel.get_by_label("Other settings, one a line").fill("stage.lrr=1")
    assert "lrr" in view.run(panel, "Train")
    panel.get_by_label("Other settings, one a line").fill(SHORT)
    view.start(panel, "Train")
    panel.locator(".status.running").wait_for()
    assert view.look("train") == []
    panel.get_by_role("button", name="Stop").click()
    assert view.ended(panel) == "Stopped"
    assert server.jobs._now is None
