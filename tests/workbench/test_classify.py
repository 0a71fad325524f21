"""The tab Classify: its work by itself, and in a browser from the dropped picture to the downloaded table."""

from __future__ import annotations

import ast
import csv
import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from binderclip.errors import UsageError

LABELS = "cat, a cup of coffee, rocket, person"
TRUE = {"cat.jpg": "cat", "coffee.jpg": "a cup of coffee", "rocket.jpg": "rocket", "astronaut.jpg": "person"}


def test_from_dropped_pictures_to_a_table(view: Any, photographs: Path, lines: Any) -> None:
    panel = view.tab("Classify")
    view.drop(panel, *[photographs / name for name in TRUE])
    panel.get_by_label("Labels, separated by commas").fill(LABELS)
    assert view.run(panel, "Classify").startswith("Done in")
    rows = panel.locator(".table-box tbody tr")
    found = {row.locator("td").nth(0).inner_text(): row.locator("td").nth(1).inner_text() for row in rows.all()}
    assert found == TRUE
    assert panel.locator(".gallery img").count() == 4
    assert view.look("classify") == []

    line, code = view.lines(panel)
    said = json.loads(lines.shell(f"{line} --json", photographs))
    assert {Path(each["image"]).name: each["labels"][0]["label"] for each in said["images"]} == TRUE
    with view.page.expect_download() as download:
        panel.get_by_role("link", name="labels.json").or_(panel.locator("a[download='labels.json']")).first.click()
    kept = json.loads(Path(download.value.path()).read_text())
    own = {each["image"]: each["labels"] for each in kept[0]["images"]}
    assert own == {Path(each["image"]).name: each["labels"] for each in said["images"]}
    printed = ast.literal_eval(lines.python(code, photographs))
    assert {each["image"]: each["labels"][0]["label"] for each in printed["images"]} == TRUE


def test_settings_stand_side_by_side(view: Any, photographs: Path) -> None:
    panel = view.tab("Classify")
    view.drop(panel, photographs / "cat.jpg", photographs / "coffee.jpg")
    panel.get_by_label("Labels, separated by commas").fill("cat, dog, a cup of coffee")
    panel.get_by_role("button", name="Ways to look, side by side").click()
    panel.get_by_label("Tiles, 3 x 3").check()
    panel.get_by_label("Weighed for each picture (auto)").check()
    assert view.run(panel, "Classify").startswith("Done in")
    heads = [head.inner_text() for head in panel.locator(".table-box thead th").all()]
    assert heads == ["Picture", "Whole", "Whole, auto", "Tiles", "Tiles, auto"]
    lines = view.lines(panel)[0].splitlines()
    assert [("--views tiles" in line, "--pool auto" in line) for line in lines] == [
        (False, False), (False, True), (True, False), (True, True)]  # fmt: skip
    assert view.look("classify-settings") == []


def test_without_labels_pictures_are_named_by_everyday_words(view: Any, photographs: Path) -> None:
    panel = view.tab("Classify")
    view.drop(panel, *(photographs / f"{name}.jpg" for name in ("cat", "coffee", "rocket")))
    assert view.run(panel, "Classify").startswith("Done in")
    named = [figure.get_attribute("data-label") for figure in panel.locator(".picture-grid figure").all()]
    assert sorted(named) == ["cat", "coffee", "rocket"]
    assert panel.get_by_text("everyday words were compared").is_visible()
    assert "--labels" not in view.lines(panel)[0]


def test_mistakes_are_said_and_lose_nothing(view: Any, photographs: Path, tmp_path: Path) -> None:
    panel = view.tab("Classify")
    assert view.run(panel, "Classify") == "choose pictures first, or a folder"
    view.drop(panel, photographs / "cat.jpg")
    labels = panel.get_by_label("Labels, separated by commas")
    labels.fill("cat,,dog")
    assert "empty label" in view.run(panel, "Classify")
    # The file that was dropped is still there, and enter starts a run as the button does.
    labels.fill("cat,dog")
    labels.press("Enter")
    panel.locator(".status:not(.failed)").first.wait_for()
    assert view.ended(panel).startswith("Done in")


def test_a_broken_picture_is_named_and_the_others_are_done(view: Any, photographs: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes((photographs / "rocket.jpg").read_bytes()[:2000])
    panel = view.tab("Classify")
    view.drop(panel, photographs / "cat.jpg", broken)
    panel.get_by_label("Labels, separated by commas").fill("cat, rocket")
    assert "1 picture could not be read" in view.run(panel, "Classify")
    left_out = panel.locator(".table-box table").nth(1)
    assert "broken.jpg" in left_out.inner_text()
    # Where it lies on the server is nobody's business.
    assert "/uploads/" not in left_out.inner_text()


def test_a_folder_that_the_workbench_was_opened_on(view: Any, photographs: Path) -> None:
    panel = view.tab("Classify")
    panel.get_by_label("Or a folder on this machine").click()
    view.page.get_by_role("option", name=str(photographs)).click()
    panel.get_by_label("Labels, separated by commas").fill(LABELS)
    assert view.run(panel, "Classify").startswith("Done in")
    assert panel.locator(".table-box tbody tr").count() == 4
    line = view.lines(panel)[0]
    assert line.startswith(f"binderclip classify {shlex.quote(str(photographs))} --labels")


def test_heads_that_adapt_left_are_asked(photographs: Path, tmp_path: Path, run_of: Any) -> None:
    run = run_of(folders=[tmp_path])
    from binderclip.adapt import METHODS, save_head
    from binderclip.workbench.tabs.classify import work

    files = [str(photographs / "cat.jpg"), str(photographs / "coffee.jpg")]
    x = run.bench.models.image_text(run.model_name).encode_files(files).features.double().numpy()
    save_head(METHODS["gda"]().fit(x, ["cat", "cup"]), tmp_path / "two", model="small")
    work(run, files, None, "", ["whole"], [""], "simple", "(none)", [str(tmp_path / "two")])
    rows = list(csv.DictReader((run.folder / "labels.csv").open()))
    best = [(row["image"], row["label"]) for row in rows if row["rank"] == "1"]
    assert best == [("cat.jpg", "cat"), ("coffee.jpg", "cup")]


def test_a_head_outside_the_opened_folders_is_not_read(photographs: Path, tmp_path: Path, run_of: Any) -> None:
    run = run_of(folders=[photographs])
    from binderclip.workbench.tabs.classify import work

    with pytest.raises(UsageError, match="was not opened on"):
        work(run, [str(photographs / "cat.jpg")], None, "", [], [], "simple", "(none)", [str(tmp_path)])


def test_a_picture_of_twelve_thousand_pixels_is_classified(tmp_path: Path, run_of: Any) -> None:
    run = run_of()
    from binderclip.workbench.tabs.classify import work

    Image.new("RGB", (12_000, 9_000), (200, 30, 30)).save(tmp_path / "large.jpg")
    work(run, [str(tmp_path / "large.jpg")], None, "red, green", ["whole"], [""], "simple", "(none)", [])
    rows = list(csv.DictReader((run.folder / "labels.csv").open()))
    assert rows[0]["image"] == "large.jpg"
    with Image.open(run.folder / "small" / "00000.jpg") as small:
        assert max(small.size) == 480


def test_the_lines_of_python_give_the_probabilities_of_the_page(
    photographs: Path, run_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of()
    from binderclip.workbench.tabs.classify import work

    monkeypatch.chdir(photographs)
    files = [str(photographs / "cat.jpg"), str(photographs / "rocket.jpg")]
    plain = work(run, files, None, "cat,dog", ["tiles", "crops"], ["auto", "max"], "simple", "(none)", [])
    described = work(run_of(), files, None, "cat,dog", ["whole"], [""], "simple", "animals", [])
    usual = work(run_of(), files, None, "cat,dog", ["whole"], ["max"], "(as described)", "(none)", [])
    for outcome in (plain, described, usual):
        document = json.loads(next(path for path in outcome.files if path.suffix == ".json").read_text())
        for entry, line in zip(document, outcome.again.python.splitlines(), strict=True):
            printed: list[Any] = []
            exec(line, {"print": printed.append})
            for own, said in zip(entry["images"], printed[0]["images"], strict=True):
                shown, again = ({each["label"]: each["prob"] for each in row["labels"]} for row in (own, said))
                assert again == pytest.approx(shown, abs=1e-5), line
    assert len(plain.again.python.splitlines()) == 4


def test_labels_that_begin_with_a_dash_stay_labels_in_the_line(
    photographs: Path, run_of: Any, lines: Any, command: Any
) -> None:
    run = run_of()
    from binderclip.workbench.tabs.classify import work

    outcome = work(run, [str(photographs / "cat.jpg")], None, "-cat,--dog", ["whole"], [""], "simple", "(none)", [])
    shutil.copy(photographs / "cat.jpg", "cat.jpg")
    document = command(*lines.words(outcome.again.shell), "--json").json()
    assert {each["label"] for each in document["images"][0]["labels"]} == {"-cat", "--dog"}
