"""The tab Segment: presets side by side, files as the verb writes them, large and broken pictures left out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from binderclip.errors import DataError, UsageError


@pytest.mark.parametrize(("background", "classes"), [("floor", {"background", "cat", "wall"}), ("", {"cat", "wall"}),
                                                    ("none", {"cat", "wall"})])  # fmt: skip
def test_files_are_those_of_the_verb(
    photographs: Path, run_of: Any, lines: Any, command: Any, background: str, classes: set[str]
) -> None:
    run = run_of()
    from binderclip.workbench.tabs.segment import work

    outcome = work(run, [str(photographs / "cat.jpg")], None, "cat, wall", background, ["value"])
    names = {path.name for path in outcome.files}
    assert names == {"cat-overlay.png", "cat-labels.png", "masks.json", "areas.csv"}
    shutil.copy(photographs / "cat.jpg", "cat.jpg")  # `command` runs in an empty folder
    assert command(*lines.words(outcome.again.shell)).code == 0
    for name in ("cat-labels.png", "cat-overlay.png"):
        np.testing.assert_array_equal(np.asarray(Image.open(name)), np.asarray(Image.open(run.folder / name)))
    coco = json.loads((run.folder / "masks.json").read_text())
    assert [each["file_name"] for each in coco["images"]] == ["cat.jpg"]
    assert {each["name"] for each in coco["categories"]} == classes


def test_who_names_neither_preset_nor_background_gets_what_the_verb_gives(
    photographs: Path, run_of: Any, lines: Any, command: Any
) -> None:
    run = run_of()
    from binderclip.segment import GROUND
    from binderclip.workbench.tabs.segment import work

    outcome = work(run, [str(photographs / "cat.jpg")], None, "cat, wall", ", ".join(GROUND), [])
    shutil.copy(photographs / "cat.jpg", "cat.jpg")
    assert command("segment", "cat.jpg", "--labels", "cat,wall", "--model", "small").code == 0
    maps = [np.asarray(Image.open(path)) for path in ("cat-labels.png", run.folder / "cat-labels.png")]
    np.testing.assert_array_equal(*maps)
    assert 0 < (maps[0] == 1).mean() < 1
    assert "--preset clip_dinoiser" in outcome.again.shell


def test_presets_stand_side_by_side_and_have_files_of_their_own(photographs: Path, run_of: Any) -> None:
    run = run_of()
    from binderclip.workbench.tabs.segment import work

    files = [str(photographs / "cat.jpg"), str(photographs / "coffee.jpg")]
    outcome = work(run, files, None, "cat, cup, table", "", ["value", "sclip"])
    page = outcome.values[0]
    assert page.count("<figure>") == 4
    assert page.count("<b>sclip</b>") == 2
    # Eight maps and overlays are listed; more would be one archive.
    assert {path.parent.name for path in outcome.files} == {"value", "sclip"}
    assert [path.name for path in outcome.files].count("areas.csv") == 2


def test_the_lines_of_several_presets_make_the_files_of_the_page(
    photographs: Path, run_of: Any, lines: Any, command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from binderclip.workbench.tabs.segment import work

    run = run_of()
    again = work(run, [str(photographs / "cat.jpg")], None, "cat, wall", "", ["vv", "value"]).again
    (tmp_path / "request.json").write_text(again.request)
    ways = {
        "shell": lambda: command(*lines.words(again.shell)),
        "python": lambda: exec(again.python, {}),
        "request": lambda: command("segment", "--from", tmp_path / "request.json"),
    }
    for name, ask in ways.items():
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        shutil.copy(photographs / "cat.jpg", "cat.jpg")
        ask()
        for preset in ("vv", "value"):
            made, shown = f"segments/{preset}/cat-labels.png", run.folder / preset / "cat-labels.png"
            np.testing.assert_array_equal(np.asarray(Image.open(made)), np.asarray(Image.open(shown)))


def test_presets_that_see_the_same_windows_share_the_tower_s_passes(photographs: Path, run_of: Any) -> None:
    import torch

    from binderclip.tasks.models import cached_models
    from binderclip.workbench.tabs.segment import work

    run, seen, passes = run_of(), list[int](), dict[str, int]()
    tower = run.bench.models.image_text("small").image_tower.module
    first = next(part for part in tower.modules() if isinstance(part, torch.nn.Conv2d))
    hook = first.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    with cached_models(run.bench.models.get):
        for presets in (["plain"], ["value"], ["vv"], ["plain", "value", "vv"]):
            seen.clear()
            work(run_of(), [str(photographs / "cat.jpg")], None, "cat, wall", "", presets)
            passes[",".join(presets)] = sum(seen)
    hook.remove()
    assert passes["plain"] == passes["value"] == passes["vv"] == passes["plain,value,vv"] > 0


def test_a_preset_that_does_not_fit_the_model_costs_its_own_cell_alone(photographs: Path, run_of: Any) -> None:
    from binderclip.errors import NotSupported
    from binderclip.workbench.tabs.segment import work

    picture = str(photographs / "cat.jpg")
    outcome = work(run_of("small-b"), [picture], None, "cat, wall", "", ["value", "dense"])
    assert outcome.values[0].count("<figure>") == 1
    assert "<td>value</td>" in outcome.values[0]
    assert "without attention" in outcome.values[0]
    assert outcome.said == "1 preset could not be used."
    assert "--preset dense" in outcome.again.shell
    with pytest.raises(NotSupported, match="without attention"):
        work(run_of("small-b"), [picture], None, "cat, wall", "", ["value", "vv"])


def test_pictures_are_shown_one_by_one_as_they_are_done(
    photographs: Path, run_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from binderclip.workbench.tabs.segment import work

    run, shown = run_of(), list[str]()
    monkeypatch.setattr(run, "show", shown.append)
    files = [str(photographs / "cat.jpg"), str(photographs / "coffee.jpg")]
    work(run, files, None, "cat, cup", "", ["value", "plain"])
    assert [page.count("<figure>") for page in shown] == [1, 2, 3, 4]


def test_the_colours_shown_are_those_of_the_map(photographs: Path, run_of: Any) -> None:
    run = run_of()
    from binderclip.segment.output.palette import colours
    from binderclip.workbench.tabs.segment import work

    work(run, [str(photographs / "cat.jpg")], None, "cat, wall", "", ["value"])
    labels = np.asarray(Image.open(run.folder / "cat-labels.png"))
    shown = np.asarray(Image.open(run.folder / "seen" / "00000-0.png"))
    # A picture of 320 pixels is shown at its own size.
    assert shown.shape == (*labels.shape, 4)
    table = np.array([*colours(2)])
    np.testing.assert_array_equal(shown[..., :3], table[labels])


def test_a_label_that_has_no_pixel_is_told_of(photographs: Path) -> None:
    from binderclip.workbench.tabs.segment import _Segmented, _shown

    picture = photographs / "cat.jpg"

    def page(**shares: float) -> str:
        return _shown([_Segmented(picture, picture, {"value": (picture, shares)})])

    assert "<li>not found: a &lt;b&gt;, grass</li>" in page(
        **{"background": 0.0, "cat": 0.7, "a <b>": 0.0, "grass": 0.0}
    )
    # A label of a few pixels has no chip, and was found.
    assert "not found" not in page(background=0.0, cat=0.999, grass=0.001)


def test_large_and_broken_pictures_are_named_and_the_others_done(
    photographs: Path, tmp_path: Path, run_of: Any
) -> None:
    run = run_of()
    from binderclip.workbench.tabs.segment import work

    Image.new("L", (12_000, 12_000)).save(tmp_path / "large.png")
    (tmp_path / "broken.jpg").write_bytes((photographs / "cat.jpg").read_bytes()[:900])
    files = [tmp_path / "large.png", tmp_path / "broken.jpg", photographs / "cat.jpg"]
    outcome = work(run, [str(path) for path in files], None, "cat, wall", "", ["value"])
    assert outcome.said == "2 pictures could not be read."
    assert "12000 x 12000 pixels" in outcome.values[0]
    # Where they lie on the server is nobody's business.
    assert str(tmp_path) not in outcome.values[0].split("<table>")[1]
    with pytest.raises(DataError, match="none of the pictures could be segmented"):
        work(run_of(), [str(tmp_path / "large.png")], None, "cat, wall", "", ["value"])


@pytest.mark.parametrize(
    ("labels", "background", "said"),
    [("", "", "type labels"), ("cat,cat", "", "more than once"), ("cat", "cat", "is a label and background"),
     ("a,,b", "", "empty")],
)  # fmt: skip
def test_mistakes_are_said_before_a_model_is_loaded(
    photographs: Path, run_of: Any, monkeypatch: pytest.MonkeyPatch, labels: str, background: str, said: str
) -> None:
    run = run_of()
    from binderclip.workbench.tabs.segment import work

    monkeypatch.setattr("binderclip.models.load", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(UsageError, match=said):
        work(run, [str(photographs / "cat.jpg")], None, labels, background, ["value"])


def test_from_a_dropped_picture_to_coloured_ones(view: Any, photographs: Path) -> None:
    panel = view.tab("Segment")
    view.drop(panel, photographs / "cat.jpg")
    panel.get_by_label("Labels, separated by commas").fill("cat, wall")
    assert view.run(panel, "Segment").startswith("Done in")
    coloured = panel.locator("img.colours")
    assert coloured.count() == 1
    view.loaded(coloured)
    assert coloured.evaluate("image => getComputedStyle(image).opacity") == "0.6"
    assert view.look("segment") == []
    assert view.axe() == []
    slider = panel.get_by_role("slider", name="Opacity of the colours")
    slider.focus()
    slider.press("Home")
    view.page.wait_for_function("() => getComputedStyle(document.querySelector('img.colours')).opacity === '0'")
    slider.press("End")
    view.page.wait_for_function("() => getComputedStyle(document.querySelector('img.colours')).opacity === '1'")
