"""Galleries and tables as people use them: enlarge, filter, sort, select, export; on a page that has them alone."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from binderclip.workbench.app import STATIC
from binderclip.workbench.grid import FIRST, GalleryPicture, PictureRow
from binderclip.workbench.look import gallery, picture_rows, table

HOSTILE = '<img src=x onerror="document.title=1">, &"q".png'
LABELS = ("zebra", "apple", "quince")
SIZES = {"laptop": {"width": 1366, "height": 768}, "phone": {"width": 390, "height": 844}}


def synthetic(count: int, folder: Path) -> str:
    """A gallery of so many pictures, two pairs, and a table of as many rows.

    Picture 0 has 1200 x 800 pixels, the others 64 x 48; 2 has a hostile name. Scores fall from 0.9 in steps of 0.1, the
    last has none; labels go round.
    """
    colours = [Image.new("RGB", (64, 48), (30 * n, 255 - 30 * n, 90)) for n in range(8)]
    Image.linear_gradient("L").resize((1200, 800)).convert("RGB").save(folder / "large.png")
    entries, cells = [], []
    for n in range(count):
        name, label = HOSTILE if n == 2 else f"picture {n}.png", LABELS[n % 3]
        score = None if n == count - 1 else 0.9 - n / 10
        picture: Any = colours[n % 8] if n else folder / "large.png"
        entries.append(GalleryPicture(picture, name, label, score=score, label=label))
        cells.append((n, name, "" if n == 4 else label, (7 * n) % count / 4))
    pairs = [(f"pair {n}", "both", [(colours[n], f"{n}, before"), (colours[n + 1], f"{n}, after")]) for n in (0, 1)]
    return (
        gallery(entries, "pictures made here", folder / "small", score="likeness")
        + picture_rows([PictureRow(*pair) for pair in pairs], "pairs made here", folder / "pairs")
        + table(("rank", "name", "label", "value"), cells, "all of them")
    )


@pytest.fixture(scope="module")
def light() -> Iterator[Any]:
    """A workbench with one tab, which shows as many pictures as are asked for."""
    gr = pytest.importorskip("gradio", reason="the workbench needs Gradio: pip install binderclip[workbench]")

    from binderclip.workbench.server import WorkbenchServer
    from binderclip.workbench.tab import Bench, Outcome, Run, Tab

    def build(bench: Bench) -> None:
        count = gr.Number(8, label="How many")
        controls, shown = bench.controls("Show"), gr.HTML()
        # What the page asks for when it opens, by which tests see that it is ready.
        gr.on(None, lambda number: number, [count], [count], show_progress="hidden", api_visibility="private")
        bench.connect(controls, show, [count], [shown], bench.results())

    def show(run: Run, count: float) -> Outcome:
        return Outcome((synthetic(int(count), run.folder),))

    before = dict(os.environ)
    with WorkbenchServer(tabs=[Tab("Grid", "Pictures made for tests.", build)]).in_background() as running:
        # What it sets for a process of its own is not for the other tests of this one.
        for name in set(os.environ) - set(before) - {"GRADIO_TEMP_DIR"}:
            del os.environ[name]
        directory = os.environ.get("GRADIO_TEMP_DIR")
        yield running
    if directory is not None and before.get("GRADIO_TEMP_DIR") is None:
        os.environ.pop("GRADIO_TEMP_DIR", None)
    else:
        os.environ.update(before)


@pytest.fixture
def view(browser: Any, light: Any, view_of: Any) -> Iterator[Any]:
    view = view_of(browser, light)
    yield view
    view.context.close()
    assert view.faults == []


def shown(view: Any, count: int = 12) -> Any:
    """The panel with so many pictures."""
    panel = view.tab("Grid")
    panel.get_by_label("How many").fill(str(count))
    assert view.run(panel, "Show").startswith("Done in")
    panel.locator(".gallery li").nth(count - 1).wait_for(state="attached")
    return panel


def names(panel: Any) -> list[int]:
    """The pictures that are shown, by their numbers; -1 is the one with the hostile name."""
    listed = panel.locator(".picture-grid >> nth=0").locator("li:not([hidden]) figure")
    given = listed.evaluate_all("all => all.map(each => each.dataset.name)")
    return [-1 if name == HOSTILE else int(name.split()[1].removesuffix(".png")) for name in given]


def test_a_picture_is_enlarged_by_the_keyboard_and_the_focus_comes_back(view: Any) -> None:
    panel, page = shown(view), view.page
    dialog, text = page.locator("dialog.viewer"), page.locator("dialog.viewer p")
    panel.locator(".enlarge").first.focus()
    page.keyboard.press("Enter")
    view.loaded(dialog.locator("img"))
    page.get_by_text("1200 x 800 px", exact=True).wait_for()
    assert "picture 0.png" in text.inner_text()
    assert "1 of 12" in text.inner_text()
    assert view.axe() == []
    # The window's size, then every pixel; the arrows move over it.
    stage = dialog.locator(".viewer-stage")
    fitted = dialog.locator("img").bounding_box()
    assert fitted["height"] <= stage.bounding_box()["height"] + 1
    page.keyboard.press("+")
    assert dialog.locator("img").bounding_box()["width"] == pytest.approx(1200, abs=1)
    page.keyboard.press("-")
    assert dialog.locator("img").bounding_box() == fitted
    # Nothing is before the first one; the third has a name that is HTML, and stays text.
    page.keyboard.press("ArrowLeft")
    assert "1 of 12" in text.inner_text()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert HOSTILE in text.inner_text()
    assert page.title() != "1"
    page.get_by_text("64 x 48 px", exact=True).wait_for()
    page.keyboard.press("End")
    assert "12 of 12" in text.inner_text()
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    # The dialog gives the focus back to where it was opened; its `close`, a task later, moves it on.
    page.wait_for_function("() => document.activeElement.closest('figure')?.dataset.name === 'picture 11.png'")


def test_parts_of_a_pair_are_seen_at_one_place(view: Any) -> None:
    panel, page = shown(view), view.page
    panel.locator(".pairs .enlarge").nth(0).click()
    text = page.locator("dialog.viewer p")
    assert "0, before" in text.inner_text()
    page.get_by_role("button", name="Next picture").click()
    assert "0, after" in text.inner_text()
    assert "2 of 4" in text.inner_text()
    assert not page.locator(".viewer-pick").is_visible()
    page.locator("dialog.viewer img").click()
    assert page.get_by_role("button", name="Fit into the window").is_visible()
    page.get_by_role("button", name="Close").click()
    assert not page.locator("dialog.viewer").is_visible()


def test_pictures_are_filtered_as_one_types_and_sorted(view: Any) -> None:
    panel = shown(view)
    count = panel.locator(".grid-count")
    panel.get_by_label("Filter by text").press_sequentially("apple 1")
    assert names(panel) == [1, 10]
    assert count.inner_text() == "2 of 12"
    panel.get_by_label("Filter by text").fill("")
    panel.get_by_label("Label", exact=True).select_option("quince")
    assert names(panel) == [-1, 5, 8, 11]
    panel.get_by_label("Order").select_option("rising")
    # What has no score stands at the end, whichever comes first.
    assert names(panel) == [8, 5, -1, 11]
    panel.get_by_label("Order").select_option("falling")
    assert names(panel) == [-1, 5, 8, 11]
    panel.get_by_label("Label", exact=True).select_option("")
    panel.get_by_label("likeness from").fill("0.35")
    panel.get_by_label("likeness to").fill("0.65")
    assert names(panel) == [3, 4, 5]
    panel.get_by_label("likeness from").fill("")
    panel.get_by_label("likeness to").fill("")
    panel.get_by_label("Order").select_option("name")
    assert names(panel) == [-1, 0, 1, *range(3, 12)]
    panel.get_by_label("Order").select_option("label")
    assert names(panel)[:4] == [1, 4, 7, 10]
    panel.get_by_label("Order").select_option("given")
    assert names(panel) == [0, 1, -1, *range(3, 12)]
    # The dialog goes through what is shown, in its order.
    panel.get_by_label("Filter by text").fill("zebra")
    panel.locator("li:not([hidden]) .enlarge").nth(1).click()
    assert "2 of 4" in view.page.locator("dialog.viewer p").inner_text()


def test_a_selection_is_exported_with_names_as_they_are(view: Any) -> None:
    panel, page = shown(view), view.page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    boxes = panel.locator(".pick input")
    boxes.nth(1).check()
    boxes.nth(3).click(modifiers=["Shift"])
    assert panel.locator(".grid-picked").inner_text() == "3 selected"
    boxes.nth(11).focus()
    page.keyboard.press("Space")
    with page.expect_download() as download:
        panel.get_by_role("button", name="Names as .txt").click()
    assert download.value.suggested_filename == "selection.txt"
    chosen = ["picture 1.png", HOSTILE, "picture 3.png", "picture 11.png"]
    assert Path(download.value.path()).read_text().splitlines() == chosen
    with page.expect_download() as download:
        panel.get_by_role("button", name="Table as .csv").click()
    with Path(download.value.path()).open(newline="") as file:
        head, *rows = list(csv.reader(file))
    assert head == ["name", "likeness", "label"]
    assert rows[1] == [HOSTILE, "0.7", "quince"]
    assert rows[3] == ["picture 11.png", "", "quince"]
    panel.get_by_role("button", name="Copy names").click()
    panel.get_by_text("4 names copied").wait_for()
    assert page.evaluate("() => navigator.clipboard.readText()") == "\n".join(chosen)
    # What is selected stays so when it is filtered away, which is said.
    panel.get_by_label("Filter by text").fill("zebra")
    assert panel.locator(".grid-picked").inner_text() == "4 selected, 3 of them not shown"
    panel.get_by_role("button", name="Select all shown").click()
    assert panel.locator(".grid-picked").inner_text() == "7 selected, 3 of them not shown"
    panel.get_by_role("button", name="Select none").click()
    assert panel.locator(".pick input:checked").count() == 0
    assert page.evaluate("() => document.activeElement.innerText") == "Select all shown"
    # In the dialog as well.
    panel.locator("li:not([hidden]) .enlarge").first.click()
    page.get_by_label("Selected").check()
    page.keyboard.press("Escape")
    assert panel.locator(".grid-picked").inner_text() == "1 selected"


def test_of_many_pictures_more_are_laid_out_as_one_scrolls(view: Any) -> None:
    panel, page = shown(view, FIRST + 60), view.page
    count, laid_out = panel.locator(".grid-count"), panel.locator(".gallery >> nth=0").locator("li:not([hidden])")
    assert laid_out.count() == FIRST
    # What is not laid out yet is filtered, selected and enlarged all the same.
    panel.get_by_label("Filter by text").fill(f"picture {FIRST + 50}")
    assert names(panel) == [FIRST + 50]
    panel.get_by_label("Filter by text").fill("")
    assert count.inner_text() == f"{FIRST + 60} of {FIRST + 60}"
    assert laid_out.count() == FIRST
    panel.get_by_role("button", name="Select all shown").click()
    assert panel.locator(".grid-picked").inner_text() == f"{FIRST + 60} selected"
    panel.locator(".enlarge").first.click()
    page.keyboard.press("End")
    assert f"{FIRST + 60} of {FIRST + 60}" in page.locator("dialog.viewer p").inner_text()
    page.keyboard.press("Home")
    page.keyboard.press("Escape")
    panel.locator(".table-box").scroll_into_view_if_needed()
    panel.locator(".gallery li").nth(FIRST + 59).wait_for()
    assert laid_out.count() == FIRST + 60


def test_another_result_begins_anew(view: Any) -> None:
    panel = shown(view)
    panel.locator(".pick input").first.check()
    panel.get_by_label("Order").select_option("rising")
    panel.get_by_label("Filter by text").fill("zebra")
    panel.get_by_role("button", name="value").click()
    panel = shown(view, 13)
    assert names(panel) == [0, 1, -1, *range(3, 13)]
    assert panel.locator(".pick input:checked").count() == 0
    assert panel.get_by_label("Filter by text").input_value() == ""
    assert panel.get_by_label("Order").input_value() == "given"
    assert panel.locator("th[aria-sort]").count() == 0
    # The listeners know the new one.
    panel.get_by_label("Filter by text").fill("apple")
    assert names(panel) == [1, 4, 7, 10]
    panel.get_by_role("button", name="value").click()
    assert [cell.inner_text() for cell in panel.locator("tbody td:last-child").all()][:2] == ["0.000", "0.250"]


def test_a_table_is_sorted_by_its_heads_and_filtered(view: Any) -> None:
    panel = shown(view)
    ranks = lambda: [int(cell.inner_text()) for cell in panel.locator("tbody tr:visible td:first-child").all()]  # noqa: E731
    value, label = (panel.get_by_role("button", name=name, exact=True) for name in ("Value", "Label"))
    value.focus()
    view.page.keyboard.press("Enter")
    by_value = sorted(range(12), key=lambda n: (7 * n) % 12)
    assert ranks() == by_value
    assert panel.locator("th[aria-sort=ascending]").inner_text() == "Value"
    view.page.keyboard.press("Enter")
    assert ranks() == by_value[::-1]
    view.page.keyboard.press("Enter")
    assert ranks() == list(range(12))
    assert panel.locator("th[aria-sort]").count() == 0
    # Ties stay in their order, what is empty comes last.
    label.click()
    assert ranks() == [1, 7, 10, 2, 5, 8, 11, 0, 3, 6, 9, 4]
    label.click()
    assert ranks() == [0, 3, 6, 9, 2, 5, 8, 11, 1, 7, 10, 4]
    panel.get_by_label("Filter rows: All of them").fill("quince")
    assert ranks() == [2, 5, 8, 11]
    assert panel.get_by_text("4 of 12 rows").is_visible()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_is_whole_and_readable_on_every_size(view: Any, theme: str) -> None:
    panel, page = shown(view), view.page
    page.evaluate("dark => document.body.classList.toggle('dark', dark)", theme == "dark")
    panel.locator(".pick input").nth(1).check()
    assert view.look(f"grid-{theme}") == []
    for size in SIZES.values():
        page.set_viewport_size(size)
        assert view.axe() == []
        panel.locator(".enlarge").first.click()
        view.loaded(page.locator("dialog.viewer img"))
        assert view.axe() == []
        page.keyboard.press("Escape")
    # A few pictures have no tools that would stand in their way.
    assert shown(view, 3).locator(".grid-tools, .pick, .table-tools").count() == 0


def test_no_cell_of_a_table_is_a_formula(view: Any) -> None:
    script = (STATIC / "files.js").read_text(encoding="utf-8")
    rows = [["=1+1.png", "-0.5", "-rm.png"], ["@a", "b,c", 'd"e']]
    text = view.page.evaluate(f"(rows) => ({script})().csv(rows)", rows)
    read = list(csv.reader(text.splitlines()))
    assert read == [["'=1+1.png", "-0.5", "'-rm.png"], ["'@a", "b,c", 'd"e']]
