"""Tasks of a newcomer, from a folder that the workbench was opened on to what the person wanted.

Those that stand beside their tab: ten labels fixed and learned from (`test_labels`), five objects cut out
(`test_click`), evidence shown (`test_other_tabs_in_browser`), duplicates removed (`test_duplicates_tab`), generated
pictures found by the bundled detector (`test_detect_tab`).
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from binderclip.data import load_data

BLURRED = {"china.jpg", "coffee.jpg", "flower.jpg"}


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs, three of them blurred; drawings in a folder below, four of dogs; a folder to train a detector on."""
    album = tmp_path_factory.mktemp("newcomer") / "album"
    for name in ("photographs", "drawings", "set/0_real", "set/1_fake/grid"):
        (album / name).mkdir(parents=True)
    names = ("chelsea", "coffee", "rocket", "motorcycle_left", "flower", "china", "coins", "astronaut")
    for sample in load_data("photographs"):
        name = f"{sample.key.split('.')[0]}"
        if name in names:
            picture = sample.image.convert("RGB")
            picture.thumbnail((480, 480))
            blur = ImageFilter.GaussianBlur(4 if f"{name}.jpg" in BLURRED else 0)
            picture.filter(blur).save(album / "photographs" / f"{name}.jpg", quality=92)
    drawings = load_data("openclipart")
    captions = [drawings[row].caption for row in range(len(drawings))]
    dogs = [row for row, caption in enumerate(captions) if re.search(r"\bdog\b", caption.lower())][:4]
    others = [row for row, caption in enumerate(captions) if not re.search("dog|puppy|wolf|cat", caption.lower())]
    for kind, rows in (("dog", dogs), ("other", others[:: len(others) // 11])):
        for number, row in enumerate(rows):
            drawings[row].image.convert("RGB").resize((160, 160)).save(album / "drawings" / f"{kind}-{number:02d}.png")
    rng = np.random.default_rng(0)
    for row in range(12):
        smooth = Image.fromarray(rng.integers(0, 150, (4, 4, 3), dtype=np.uint8)).resize(
            (80, 64), Image.Resampling.BILINEAR
        )
        smooth.save(album / "set" / "0_real" / f"{row}.png")
        grid = np.asarray(smooth).astype(int) + 90 * (np.arange(80) % 2)[None, :, None]
        Image.fromarray(grid.clip(0, 255).astype(np.uint8)).save(album / "set" / "1_fake" / "grid" / f"grid-{row}.png")
    return album


@pytest.fixture(scope="module")
def opened(album: Path) -> Iterator[Any]:
    """The workbench that `binderclip workbench album/` opens, with the tabs of these tasks."""
    pytest.importorskip("gradio", reason="the workbench needs Gradio: pip install binderclip[workbench]")
    from binderclip.workbench.server import WorkbenchServer
    from binderclip.workbench.tabs import TABS

    before = dict(os.environ)
    tabs = [tab for tab in TABS if tab.title in ("Classify", "Search", "Quality", "Detect")]
    with WorkbenchServer(tabs=tabs, folders=[album]).in_background() as running:
        yield running
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def newcomer(browser: Any, opened: Any, view_of: Any, album: Path) -> Iterator[Callable[[str], Any]]:
    """Opens the page, and chooses one of the folders in the album at the top."""
    view = view_of(browser, opened)

    def on(folder: str) -> Any:
        view.choose(view.page.locator(".place"), "Folder for all tabs", album / folder)
        view.page.locator(".place .uses").get_by_text(f"of {Path(folder).name}/").wait_for()
        return view

    yield on
    view.context.close()
    assert view.faults == []


def saved(view: Any, panel: Any, button: str) -> str:
    """What the browser saves at the press of a button."""
    with view.page.expect_download() as download:
        panel.get_by_role("button", name=button, exact=True).click()
    return Path(download.value.path()).read_text()


def names_of(text: str) -> set[str]:
    return {Path(line).name for line in text.split()}


def test_find_the_blurred_ones_and_repeat_it_from_the_command_line(newcomer: Any, lines: Any, tmp_path: Path) -> None:
    view = newcomer("photographs")
    panel = view.tab("Quality")
    view.choose(panel, "Order by", "blur, strongest first")
    assert view.run(panel, "Judge").startswith("Done in")
    assert panel.get_by_text(f"{len(BLURRED)} pictures with a strong fault: blur {len(BLURRED)}.").count() == 1
    shown = panel.locator(".gallery figcaption")
    assert {shown.nth(row).inner_text().split()[0] for row in range(3)} == BLURRED
    panel.get_by_label("Label", exact=True).select_option("blur")
    assert panel.locator(".gallery li:visible").count() == len(BLURRED)
    panel.get_by_role("button", name="Select all shown").click()
    assert names_of(saved(view, panel, "Names as .txt")) == BLURRED
    rows = list(csv.DictReader(saved(view, panel, "Table as .csv").splitlines()))
    assert {row["label"] for row in rows} == {"blur"}
    assert view.look("newcomer-blurred") == []
    # The line that the page shows, in a shell.
    line = view.lines(panel)[0]
    assert "--by blur" in line
    printed = lines.shell(line, tmp_path)
    assert set(re.findall(r"(\w+\.jpg)", printed)[:3]) == BLURRED


def test_find_all_dogs(newcomer: Any) -> None:
    view = newcomer("drawings")
    panel = view.tab("Search")
    panel.get_by_label("What you look for, in words").fill("a dog")
    assert view.run(panel, "Search").startswith("Done in")
    names = panel.locator(".gallery figure").evaluate_all("all => all.map(each => each.dataset.name)")
    dogs = {f"dog-{number:02d}.png" for number in range(4)}
    assert {Path(name).name for name in names[:4]} == dogs
    for name in names[:4]:
        panel.locator(f"figure[data-name='{name}']").hover()
        panel.get_by_label(f"Select {name}", exact=True).check()
    assert names_of(saved(view, panel, "Names as .txt")) == dogs


def test_compare_two_models(newcomer: Any, album: Path, command: Any) -> None:
    view = newcomer("photographs")
    labels = "an animal, a machine, food, a building, a plant"
    words = ("classify", album / "photographs", "-l", labels, "--model", "everyday", "--against", "small", "--json")
    against = command(*words).json()["against"]
    differing = {Path(each["image"]).name for each in against["images"] if each["differs"]}
    assert 0 < len(differing) < len(against["images"])

    panel = view.tab("Classify")
    panel.get_by_label("Labels, separated by commas").fill(labels)
    panel.get_by_role("button", name="Compare two models").click()
    view.choose(panel, "Second model", "everyday")
    assert view.run(panel, "Classify").startswith("everyday is the model at the top already")
    view.choose(panel, "Second model", "small")
    status = view.run(panel, "Classify")
    assert f"small calls {len(differing)} pictures otherwise: type disagrees into the filter" in status
    count = len(against["images"])
    assert panel.get_by_text(f"Everyday and small agree on {count - len(differing)} of {count} pictures").count() == 1
    table = panel.get_by_role("region", name=re.compile("on which everyday and small disagree"))
    assert {row.split()[0] for row in table.locator("tbody tr").all_inner_texts()} == differing
    # The same pictures, both answers below each.
    panel.get_by_label("Filter by text").first.fill("disagrees")
    visible = panel.locator(".gallery li:visible figure")
    assert set(visible.evaluate_all("all => all.map(each => each.dataset.name)")) == differing
    assert "small disagrees: " in visible.first.inner_text()
    assert "--against small" in view.lines(panel)[0]
    assert view.look("newcomer-two-models") == []
    assert view.axe() == []


def test_train_a_detector_and_find_what_is_generated(newcomer: Any, album: Path) -> None:
    view = newcomer("set")
    panel = view.tab("Detect")
    panel.get_by_text("Train a detector", exact=True).first.click()
    view.choose(panel, "Folder of real and generated pictures", album / "set")
    panel.get_by_label("number input for Training steps").fill("40")
    panel.locator(".controls button.primary", has_text="Train a detector").click()
    line = panel.locator(".status").nth(1)
    line.and_(panel.locator(".status.done, .status.failed")).wait_for()
    assert line.inner_text().startswith("Done in")
    # Folded again: the buttons of the training are out of the way.
    panel.get_by_text("Train a detector", exact=True).first.click()
    assert view.run(panel, "Detect").startswith("Done in")
    called = panel.locator(".gallery figure").evaluate_all(
        "all => all.map(each => [each.dataset.name, each.dataset.label])"
    )
    assert len(called) == 24
    assert np.mean([("grid-" in name) == (label == "fake") for name, label in called]) > 0.9
    # The generated ones as a table to take along.
    panel.get_by_label("Label", exact=True).select_option("fake")
    panel.get_by_role("button", name="Select all shown").click()
    rows = list(csv.DictReader(saved(view, panel, "Table as .csv").splitlines()))
    assert {row["label"] for row in rows} == {"fake"}
    assert view.look("newcomer-detector") == []
