"""The tab Landscape: the figures and files of the verb; points without a loss; a stop; what cannot be drawn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from binderclip.errors import DataError, UsageError
from binderclip.models import load

Clip = Callable[[int], Path]


def drawn(run: Any, data: object, **options: Any) -> Any:
    from binderclip.workbench.tabs.landscape import FORM, work

    given = {"data": str(data), "points": 3, "radius": 1, "limit": 24, **options}
    return work(run, *(given.get(name) for name in FORM.names))


def test_the_loss_is_that_of_the_verb(
    tiny_clip: Clip, labelled: Path, run_of: Any, command: Any, lines: Any, documents: list[Any]
) -> None:
    outcome = drawn(run_of(str(tiny_clip(1)), folders=[labelled]), labelled)
    shown, surface, curve, report = outcome.values
    (here,) = documents
    there = command(*lines.words(outcome.again.shell), "--json").json()
    for name in ("loss", "accuracy", "surface", "curve", "count", "texts", "named_by"):
        assert there[name] == here[name], name
    page, numbers = outcome.files
    assert json.loads(numbers.read_text(encoding="utf-8"))["surface"] == there["surface"]
    assert f"<td>{here['loss']:.4g}</td>" in shown
    for picture in (surface, curve):
        with Image.open(picture) as image:
            assert image.size[0] > 600
    assert page.name == "landscape.html"
    assert "iframe sandbox" in report


def test_points_without_a_loss_are_said(tiny_clip: Clip, labelled: Path, run_of: Any, tmp_path: Path) -> None:
    model = load(str(tiny_clip(1)))
    pixels = torch.zeros(1, 3, *model.preprocess.size)
    with torch.no_grad():
        # Features of the model itself are finite; where the projection is moved they overflow.
        model.visual.ln_post.weight.mul_(1e30)  # type: ignore[union-attr, operator]
        model.visual.ln_post.bias.mul_(1e30)  # type: ignore[union-attr, operator]
        model.visual.proj.mul_(2e38 / float(model.encode_pixels(pixels).abs().max()))  # type: ignore[operator]
    outcome = drawn(run_of(str(model.save(tmp_path / "long")), folders=[labelled]), labelled, radius=2)
    assert "without a finite loss, left blank" in outcome.values[0]
    assert Path(outcome.values[1]).is_file()


def test_what_cannot_be_drawn_is_said(
    tiny_clip: Clip, labelled: Path, photographs: Path, run_of: Any, tmp_path: Path
) -> None:
    run = run_of(str(tiny_clip(1)), folders=[labelled, photographs])
    for data, text in (
        ("", "choose a folder"), (tmp_path, "was not opened on"), (photographs, "nothing says what they show"),
    ):  # fmt: skip
        with pytest.raises((UsageError, DataError), match=text):
            drawn(run, data)
    with pytest.raises(UsageError, match="templates 'nothing' is neither"):
        drawn(run, labelled, templates="nothing")
    with pytest.raises(UsageError, match=r"^Radius nan: input should be a finite number"):
        drawn(run, labelled, radius=float("nan"))


def test_the_page_draws_and_stops(view: Any, tiny_clip: Clip, labelled: Path, server: Any) -> None:
    panel = view.tab("Landscape")
    view.choose(view.page, "Model for all tabs", labelled)
    assert "holds no model" in view.run(panel, "Draw")
    view.choose(view.page, "Model for all tabs", tiny_clip(1))
    view.choose(panel, "Data", labelled)
    points = panel.get_by_label("number input for Points")
    points.fill("51")
    view.start(panel, "Draw")
    panel.locator(".status.running", has_text=" left").wait_for()
    panel.get_by_role("button", name="Stop").click()
    assert view.ended(panel) == "Stopped"
    assert server.jobs._now is None
    points.fill("3")
    assert view.run(panel, "Draw").startswith("Done in")
    view.loaded(panel.locator("img").first)
    assert panel.locator("img").count() == 2
    assert view.look("landscape") == []
    assert view.axe() == []
    assert view.lines(panel)[0].startswith(f"binderclip landscape {tiny_clip(1)} --data {labelled} --points 3")
