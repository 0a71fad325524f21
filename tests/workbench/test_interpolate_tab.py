"""The tab Interpolate: the curve of the verb, its best model for the other tabs; models that have nothing between."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from binderclip.errors import UsageError
from binderclip.landscape import interpolate_weights
from binderclip.models import load

Clip = Callable[[int], Path]


@pytest.fixture(scope="module")
def moved(tiny_clip: Clip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with another image projection."""
    model = load(str(tiny_clip(1)))
    with torch.no_grad():
        model.visual.proj.neg_()  # type: ignore[operator]
    return model.save(tmp_path_factory.mktemp("models") / "moved")


def between(run: Any, second: object, data: object, **options: Any) -> Any:
    from binderclip.workbench.tabs.interpolate import FORM, work

    given = {"data": str(data), "points": 3, "limit": 24, "layers": True, **options}
    return work(run, str(second), *(given.get(name) for name in FORM.names))


def test_the_curve_is_that_of_the_verb_and_the_best_model_is_kept(
    tiny_clip: Clip, moved: Path, labelled: Path, run_of: Any, command: Any, lines: Any, documents: list[Any]
) -> None:
    run = run_of(str(tiny_clip(1)), folders=[labelled])
    outcome = between(run, moved, labelled)
    (here,) = documents
    there = command(*lines.words(outcome.again.shell), "--json").json()
    for name in ("best", "alphas", "accuracy", "loss", "layers", "count", "named_by"):
        assert there[name] == here[name], name
    assert f"Best weight {here['best']:.3g}" in outcome.values[0]
    assert "backbone.visual.proj" in outcome.values[0]
    assert Path(outcome.values[1]).is_file()
    assert [path.name for path in outcome.files] == ["interpolate.html", "moved-between-1.zip"]
    best = load(str(run.models / "moved-between-1")).state_dict()
    expected = interpolate_weights(load(str(tiny_clip(1))), load(str(moved)), here["best"]).state_dict()
    for name, value in best.items():
        torch.testing.assert_close(value, expected[name], msg=name)


def test_what_has_nothing_between_is_said(tiny_clip: Clip, moved: Path, labelled: Path, run_of: Any) -> None:
    run = run_of(str(tiny_clip(1)), folders=[labelled])
    for second, text in (
        ("", "choose the second model"),
        (tiny_clip(1), "nothing lies between them"),
        (tiny_clip(2), "differ in architecture"),
        ("moofed", "there is no model"),
    ):
        with pytest.raises(UsageError, match=text):
            between(run, second, labelled)
    with pytest.raises(UsageError, match=r"^Points 1: input should be greater than or equal to 3$"):
        between(run, moved, labelled, points=1)
    assert not run.models.exists()


def test_the_page_offers_the_best_model(view: Any, tiny_clip: Clip, moved: Path, labelled: Path) -> None:
    panel = view.tab("Interpolate")
    assert view.run(panel, "Interpolate").startswith("choose the second model")
    view.choose(view.page, "Model for all tabs", tiny_clip(1))
    view.choose(panel, "Second model, at weight 1", moved)
    view.choose(panel, "Data", labelled)
    panel.get_by_label("number input for Points").fill("3")
    assert "moved-between-1 can be chosen" in view.run(panel, "Interpolate")
    view.loaded(panel.locator("img").first)
    assert panel.locator(".table-box").count() == 2
    assert view.look("interpolate") == []
    assert view.axe() == []
    view.choose(panel, "Second model, at weight 1", "moved-between-1")
    assert view.run(panel, "Interpolate").startswith("Done in")
    # By the name that it has when it is unpacked, not by where the page keeps it.
    assert view.lines(panel)[0].startswith(f"binderclip interpolate {tiny_clip(1)} moved-between-1 --data")
    panel.get_by_text(" to moved-between-1 on ").first.wait_for()
    view.choose(view.page, "Model for all tabs", "small")
    assert view.run(panel, "Interpolate").startswith("small and moved-between-1 prepare pictures in two ways")
