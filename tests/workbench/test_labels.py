"""Correcting labels in the tab Classify: ten labels from dropped pictures to a saved table, learned from on the way."""

from __future__ import annotations

import csv
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from binderclip.data import load_data, load_folder
from binderclip.errors import UsageError
from binderclip.tasks import adapt
from binderclip.workbench.labels import labelling

NAMES = {0: "zero", 1: "one", 4: "four"}
LABELS = "zero, one, four"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Twelve pictures of each of three digits, called after them: the bundled model does not know them by words."""
    folder, data, paths = tmp_path_factory.mktemp("digits"), load_data("digits"), []
    for label, name in NAMES.items():
        for number, row in enumerate(np.flatnonzero(data.labels == label)[:12]):
            paths.append(folder / f"{name}-{number:02d}.png")
            data[int(row)].image.resize((96, 96)).save(paths[-1])
    return paths


@pytest.fixture(autouse=True)
def nothing_kept() -> None:
    """No page before this one has corrected anything."""
    labelling.KEPT._held.clear()
    labelling.HELD._held.clear()


def truth(name: str) -> str:
    return name.split("-")[0]


def classified(run_of: Any, files: list[Path]) -> tuple[Any, Any]:
    """A run, and what the page holds after Classify."""
    from binderclip.workbench.tabs.classify import work

    run = run_of()
    work(run, list(map(str, files)), None, LABELS, ["whole"], [""], "simple", "(none)", [])
    return run, labelling.HELD.get(run.folder.parent)


def marks_of(held: Any, rows: list[int]) -> str:
    return json.dumps({"run": held.run, "labels": {str(row): truth(held.name(row)) for row in rows}})


# -- the work by itself ------------------------------------------------------------------------------------------------


def test_learning_again_does_not_look_at_the_pictures_again(
    run_of: Any, digits: list[Path], monkeypatch: pytest.MonkeyPatch, command: Any
) -> None:
    run, held = classified(run_of, digits)
    from binderclip.models import ImageTextModel

    monkeypatch.setattr(ImageTextModel, "encode_image", None)
    rows = [0, 1, 2, 12, 13, 14, 24, 25, 26, 27]
    again = run_of()
    outcome = labelling.learn_again(again, marks_of(held, rows))
    now = labelling.HELD.get(run.folder.parent).now
    right = [now.labels[column] == truth(held.name(row)) for row, column in enumerate(now.called)]
    before = [held.scored.labels[c] == truth(held.name(r)) for r, c in enumerate(held.scored.called)]
    assert np.mean(right) > max(0.9, np.mean(before))
    assert "Learned from 10 pictures whose label is known" in outcome.values[1]
    assert "each held out in turn" in outcome.values[1].lower()
    assert outcome.values[0].count("data-was=") == len(now.changed) > 0
    with (again.folder / "corrected.csv").open() as file:
        assert [(row["file"], row["label"], row["by"]) for row in csv.DictReader(file)] == [
            (held.name(row), truth(held.name(row)), "person") for row in rows
        ]
    monkeypatch.undo()
    # The line without the page says the same.
    monkeypatch.chdir(again.folder)
    place = again.folder / "pictures"
    place.mkdir()
    for path in digits:
        (place / path.name).write_bytes(path.read_bytes())
    printed: list[Any] = []
    exec(outcome.again.python, {"print": printed.append})
    said = {Path(each["image"]).name: each["labels"][0]["label"] for each in printed[0]["images"]}
    assert said == {held.name(row): now.labels[column] for row, column in enumerate(now.called)}


def test_what_is_saved_trains_on_the_command_line(run_of: Any, digits: list[Path], tmp_path: Path) -> None:
    run, held = classified(run_of, digits)
    rows = [*range(0, 8), *range(12, 20), *range(24, 32)]
    before = [path.read_bytes() for path in digits]
    outcome = labelling.save_labels(run_of(), marks_of(held, rows), ["csv", "folders", "coco"], False)
    files = {path.name: path for path in outcome.files}
    assert set(files) == {"labels.csv", "labels.zip", "labels-coco.json"}
    document = json.loads(files["labels-coco.json"].read_text())
    categories = {each["id"]: each["name"] for each in document["categories"]}
    images = {each["id"]: each["file_name"] for each in document["images"]}
    assert {images[each["image_id"]]: categories[each["category_id"]] for each in document["annotations"]} == {
        held.name(row): truth(held.name(row)) for row in rows
    }
    with zipfile.ZipFile(files["labels.zip"]) as archive:
        assert "zero/zero-00.png" in archive.namelist()
    # The table beside the pictures, and the archive, are the data of `binderclip adapt`.
    (digits[0].parent / "labels.csv").write_bytes(files["labels.csv"].read_bytes())
    for number, data in enumerate((digits[0].parent / "labels.csv", files["labels.zip"])):
        read = load_folder(data)
        assert {Path(key).name: read.classes[c] for key, c in zip(read.keys, read.labels, strict=True)} == {
            held.name(row): truth(held.name(row)) for row in rows
        }
        report = adapt(
            data=str(data), shots=4, seeds=1, folds=2, methods=["gda"], out=tmp_path / f"head-{number}", report=False
        )
        assert sorted(report.selection.classes) == ["four", "one", "zero"]
        assert report.selection.test.accuracy.value > 1 / 3
        assert (tmp_path / f"head-{number}" / "head.json").is_file()
    (digits[0].parent / "labels.csv").unlink()
    assert [path.read_bytes() for path in digits] == before
    # And of the tab Adapt, which does not say where they lie.
    from binderclip.workbench.tabs.adapt import SAVED, work

    place = labelling.saved_labels(run.folder.parent)
    assert len(load_folder(place)) == len(rows)
    outcome = work(run_of(), SAVED, 4, ["gda", "nearest-example"], 1, 1, False)
    assert outcome.again.shell.startswith("binderclip adapt labels.zip")
    assert str(place) not in "".join(map(str, outcome.values))
    assert str(place) not in next(path for path in outcome.files if path.suffix == ".json").read_text()


def test_what_was_corrected_is_there_when_the_same_pictures_come_again(
    run_of: Any, digits: list[Path], tmp_path: Path
) -> None:
    run, held = classified(run_of, digits[:14])
    labelling.remember(held, held.marks(marks_of(held, [0, 12])), run.folder.parent)
    kept = json.loads((held.folder / "corrections.json").read_text())["labels"]
    assert [(each["image"], each["label"]) for each in kept] == [("zero-00.png", "zero"), ("one-00.png", "one")]
    assert len({each["identity"] for each in kept}) == 2
    # Dropped again in another order, under other names and in another folder.
    others = []
    for number, path in enumerate(reversed(digits[:14])):
        others.append(tmp_path / f"again-{number}.png")
        others[-1].write_bytes(path.read_bytes())
    _, again = classified(run_of, others)
    assert again.now.confirmed == {13: 0, 1: 1}
    assert 'data-marks="{&quot;1&quot;: &quot;one&quot;, &quot;13&quot;: &quot;zero&quot;}"' in (
        labelling.labelling_gallery(again)
    )
    # Taken back, it is gone.
    labelling.remember(again, {}, run.folder.parent)
    _, later = classified(run_of, digits[:14])
    assert later.now.confirmed == {}


def test_labels_are_kept_in_the_folder_and_there_after_the_server_ended(
    run_of: Any, digits: list[Path], tmp_path: Path
) -> None:
    from binderclip.workbench.tabs.classify import work

    folder = tmp_path / "album"
    folder.mkdir()
    for path in (*digits[:3], *digits[12:15], *digits[24:27]):
        (folder / path.name).write_bytes(path.read_bytes())

    def asked(labels: str = LABELS) -> tuple[Any, Any]:
        # Another server knows nothing but what is in the folder.
        labelling.KEPT._held.clear()
        run = run_of(folders=[folder])
        work(run, None, str(folder), labels, ["whole"], [""], "simple", "(none)", [])
        return run, labelling.HELD.get(run.folder.parent)

    def said(held: Any) -> dict[str, str]:
        return {held.name(row): held.scored.labels[column] for row, column in held.now.confirmed.items()}

    run, held = asked()
    rows = {held.name(row): row for row in range(9)}
    labelling.learn_again(run, marks_of(held, [rows["zero-00.png"], rows["one-00.png"], rows["four-00.png"]]))
    (folder / "zero-00.png").rename(folder / "renamed.png")
    _, held = asked()
    assert said(held) == {"renamed.png": "zero", "one-00.png": "one", "four-00.png": "four"}
    # Another question forgets none of them, and a mark that is taken back is forgotten.
    run, other = asked("round, thin, one")
    assert said(other) == {"one-00.png": "one"}
    labelling.remember(other, {}, run.folder.parent)
    run, held = asked()
    assert said(held) == {"renamed.png": "zero", "four-00.png": "four"}
    # A file that is damaged stays as it is; it is named, and the marks are learned from all the same.
    kept = folder / ".binderclip-labels.json"
    assert json.loads(kept.read_text())["made_by"] == "binderclip"
    kept.write_text("{")
    run, held = asked()
    assert said(held) == {}
    assert [".binderclip-labels.json cannot be read and is left as it is" in line for line in run.warnings] == [True]
    outcome = labelling.learn_again(run, marks_of(held, [0, 3, 7]))
    assert "Learned from 3 pictures" in outcome.said
    assert "cannot be read" in run.warnings[-1]
    assert kept.read_text() == "{"


def test_what_the_browser_sends_is_checked(run_of: Any, digits: list[Path]) -> None:
    with pytest.raises(UsageError, match="classify pictures first"):
        labelling.learn_again(run_of(), "{}")
    _, held = classified(run_of, digits[:14])
    run = run_of()
    for text, problem in (
        ("[", "cannot be read"),
        ('{"labels": [1]}', "cannot be read"),
        ('{"labels": {"x": "zero"}}', "cannot be read"),
        ('{"run": "other", "labels": {}}', "classified again meanwhile"),
        (json.dumps({"run": held.run, "labels": {"99": "zero"}}), "none of these"),
        (json.dumps({"run": held.run, "labels": {"0": "seven"}}), "none of these"),
        (marks_of(held, []), "at least two labels; so far there is none"),
        (marks_of(held, [0, 1]), "at least two labels; so far there is only zero"),
    ):
        with pytest.raises(UsageError, match=problem):
            labelling.learn_again(run, text)
    with pytest.raises(UsageError, match="no picture is marked"):
        labelling.save_labels(run, marks_of(held, []), ["csv"], False)
    with pytest.raises(UsageError, match="choose what to save"):
        labelling.save_labels(run, marks_of(held, [0]), [], False)
    with pytest.raises(UsageError, match="no labels were saved"):
        labelling.saved_labels(run.folder.parent)
    outcome = labelling.save_labels(run, marks_of(held, [0]), ["csv"], True)
    with outcome.files[0].open() as file:
        assert [row["by"] for row in csv.DictReader(file)] == ["person", *["model"] * 13]


# -- in the browser ----------------------------------------------------------------------------------------------------


def pressed(panel: Any, button: str) -> str:
    """Press a button below the gallery, and wait for what the line there says at the end."""
    line = panel.locator(".label-actions .status")
    before = line.get_attribute("data-line")
    panel.get_by_role("button", name=button, exact=True).click()
    done = panel.locator(f".label-actions .status:is(.done, .failed):not([data-line='{before}'])")
    # The line that a run leaves says more than that it is done.
    done.filter(has_text=re.compile("label|Done in .*[.] .")).wait_for()
    return str(done.inner_text())


def test_fix_ten_labels_and_learn_again(view: Any, digits: list[Path], tmp_path: Path) -> None:
    page, panel = view.page, view.tab("Classify")
    page.set_viewport_size({"width": 1400, "height": 900})
    assert not panel.get_by_role("button", name="Save labels").is_visible()
    view.drop(panel, *digits)
    panel.get_by_label("Labels, separated by commas").fill(LABELS)
    assert view.run(panel, "Classify").startswith("Done in")
    bar = panel.locator(".label-bar")
    assert "none marked yet" in bar.inner_text()

    # Ten that are worth a look, each with the reason.
    bar.get_by_role("button", name="These ten first").click()
    listed = panel.locator(".gallery li:visible figure")
    names = listed.evaluate_all("all => all.map(each => each.dataset.name)")
    assert len(names) == 10
    assert panel.locator(".gallery li:visible .label-why").count() == 10

    # Three below the picture by mouse and list, the others enlarged by their digits.
    for name in names[:3]:
        panel.get_by_label(f"Label of {name}", exact=True).select_option(truth(name))
    assert "3 marked" in bar.inner_text()
    panel.locator(f"figure[data-name='{names[3]}'] .enlarge").click()
    dialog = page.locator("dialog.viewer")
    for name in names[3:]:
        assert name in dialog.locator(".viewer-title").inner_text()
        page.keyboard.press(str(1 + [*NAMES.values()].index(truth(name))))
    assert dialog.get_by_role("button", name=f"It is {truth(names[9])}").get_attribute("aria-pressed") == "true"
    assert view.axe() == []
    page.keyboard.press("Escape")
    assert "10 marked" in bar.inner_text()

    # One too many by the tick, and back.
    bar.get_by_role("button", name="These ten first").click()
    other = next(path.name for path in digits if path.name not in names)
    panel.get_by_role("button", name=f"is right for {other}").click()
    assert "11 marked" in bar.inner_text()
    bar.get_by_role("button", name="Undo").click()
    assert "10 marked" in bar.inner_text()
    assert view.look("labels-marked") == []
    page.set_viewport_size({"width": 1400, "height": 900})

    # A few of each by ticks, so that every label has some.
    for label in NAMES.values():
        for path in [path for path in digits if truth(path.name) == label and path.name not in names][:2]:
            panel.locator(f"figure[data-name='{path.name}']").hover()
            panel.get_by_label(f"Select {path.name}", exact=True).check()
        bar.get_by_role("button", name=f"Selected are {label}").click()
        panel.get_by_role("button", name="Select none").click()
    assert "16 marked" in bar.inner_text()

    said = pressed(panel, "Learn again from the marked pictures")
    assert "Learned from 16 pictures" in said, said
    assert "16 marked" in panel.locator(".label-bar").inner_text()
    assert panel.locator("figure[data-was]").count() > 0
    called = panel.locator("figure").evaluate_all("all => all.map(each => [each.dataset.name, each.dataset.label])")
    assert np.mean([truth(name) == label for name, label in called]) > 0.9
    assert view.look("labels-learned") == []
    page.set_viewport_size({"width": 1400, "height": 900})
    assert view.axe() == []

    panel.get_by_label("A folder for each label (ZIP)").check()
    assert "16 labels saved" in pressed(panel, "Save labels")
    with page.expect_download() as download:
        panel.get_by_role("link", name="labels.csv").or_(panel.locator("a[download='labels.csv']")).first.click()
    with open(download.value.path()) as file:
        rows = [(row["file"], row["label"]) for row in csv.DictReader(file)]
    assert len(rows) == 16
    assert all(truth(name) == label for name, label in rows)


def test_corrections_survive_a_reload(view: Any, digits: list[Path]) -> None:
    panel = view.tab("Classify")
    view.drop(panel, *digits[:8])
    panel.get_by_label("Labels, separated by commas").fill(LABELS)
    view.run(panel, "Classify")
    panel.get_by_label("Label of zero-03.png", exact=True).select_option("four")
    # As soon as the server knows of it.
    end = [each for each in range(200) if view.page.wait_for_timeout(50) or any(labelling.KEPT._held.values())][:1]
    assert end
    view.reload()
    panel = view.tab("Classify")
    view.drop(panel, *digits[:8])
    panel.get_by_label("Labels, separated by commas").fill(LABELS)
    view.run(panel, "Classify")
    assert "1 marked" in panel.locator(".label-bar").inner_text()
    assert panel.get_by_label("Label of zero-03.png", exact=True).input_value() == "four"
