"""The place at the top: pictures that are chosen once for all tabs, and files that cost only themselves."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

FOLDER = "Folder for all tabs"


@pytest.fixture
def place(view: Any) -> Any:
    """The place at the top of a new page."""
    return view.page.locator(".place")


@pytest.fixture
def mixed(photographs: Path, tmp_path: Path) -> Callable[[], list[Path]]:
    """Makes two pictures, one of a name that is not ASCII, among a text, an empty file, a broken one, a false one."""

    def made() -> list[Path]:
        folder = tmp_path / "mixed"
        folder.mkdir()
        for name, data in (
            ("cat.jpg", (photographs / "cat.jpg").read_bytes()),
            ("notes.txt", b"not a picture"),
            ("empty.jpg", b""),
            ("false.png", b"nor is this"),
            ("Vögel 鳥.jpg", (photographs / "rocket.jpg").read_bytes()),
        ):
            (folder / name).write_bytes(data)
        return sorted(folder.iterdir())

    return made


def thumbnails(place: Any) -> list[str]:
    """Names of the pictures in the strip."""
    return [image.get_attribute("alt") for image in place.locator(".strip img").all()]


def test_a_file_that_is_no_picture_costs_only_itself(view: Any, mixed: Any) -> None:
    panel = view.tab("Classify")
    view.drop(panel, *mixed())
    line = panel.locator("p.uses[role=status]")
    line.get_by_text("left out").first.wait_for()
    for name in ("notes.txt", "empty.jpg", "false.png"):
        assert f"{name} is not a picture" in line.inner_text()
    panel.get_by_label("Labels, separated by commas").fill("cat, rocket")
    assert view.run(panel, "Classify").startswith("Done in")
    assert panel.locator(".gallery li").count() == 2
    assert panel.locator(".gallery").get_by_text("Vögel 鳥.jpg").count() == 1


def test_pictures_that_are_dropped_once_are_used_by_every_tab(view: Any, place: Any, mixed: Any) -> None:
    view.drop(place, *mixed())
    place.locator(".strip img").nth(1).wait_for()
    assert sorted(thumbnails(place)) == ["Vögel 鳥.jpg", "cat.jpg"]
    assert "2 pictures of what was dropped" in place.inner_text()
    assert "empty.jpg is not a picture" in place.locator(".left-out").inner_text()
    panel = view.tab("Classify")
    panel.get_by_text("Uses the 2 pictures of what was dropped, chosen above.").wait_for()
    panel.get_by_label("Labels, separated by commas").fill("cat, rocket")
    assert view.run(panel, "Classify").startswith("Done in")
    assert panel.locator(".gallery li").count() == 2
    panel = view.tab("Quality")
    assert view.run(panel, "Judge").startswith("Done in")
    assert panel.locator(".table-box tbody tr").count() == 2


def test_a_folder_that_is_chosen_once_is_used_until_a_tab_has_its_own(
    view: Any, place: Any, photographs: Path, tmp_path: Path
) -> None:
    view.choose(place, FOLDER, photographs)
    place.locator(".strip img").nth(3).wait_for()
    assert thumbnails(place) == sorted(path.name for path in photographs.iterdir())
    panel = view.tab("Classify")
    panel.get_by_text(f"Uses the 4 pictures of {photographs.name}/, chosen above.").wait_for()
    panel.get_by_label("Labels, separated by commas").fill("cat, rocket")
    assert view.run(panel, "Classify").startswith("Done in")
    assert view.lines(panel)[0].startswith(f"binderclip classify {photographs}")
    panel.get_by_role("button", name="Other pictures, for this tab alone").click()
    view.drop(panel, photographs / "coffee.jpg")
    panel.get_by_text("Uses the 1 picture dropped here, not those above.").wait_for()
    assert not panel.get_by_text("chosen above").is_visible()
    assert view.run(panel, "Classify").startswith("Done in")
    assert panel.locator(".gallery li").count() == 1
    # A folder that the workbench was not opened on is refused, and what was chosen stays.
    view.choose(place, FOLDER, tmp_path)
    place.get_by_text("was not opened on").wait_for()
    assert len(thumbnails(place)) == 4
    assert view.run(panel, "Classify").startswith("Done in")
    # Of a folder and of what was dropped it is said as well which one counts.
    view.choose(panel, "Or a folder on this machine", photographs)
    view.page.wait_for_timeout(500)
    assert panel.get_by_text("Uses the 1 picture dropped here, not those above.").is_visible()
    panel.locator(".drop").get_by_role("button", name="Clear").click()
    panel.get_by_text(f"Uses the pictures of {photographs.name}/, chosen here, not those above.").wait_for()
    place.get_by_role("button", name="Use none of these").click()
    place.get_by_text("try the examples").wait_for()
    place.locator(".strip").wait_for(state="detached")
    assert panel.get_by_text("chosen here").is_visible()
    assert not panel.get_by_text("not those above").is_visible()


def test_each_of_two_places_for_pictures_says_whom_it_is_for(view: Any, place: Any) -> None:
    panel = view.tab("Classify")
    assert place.locator(".drop").inner_text().startswith("Drop pictures here for all tabs")
    assert panel.locator(".drop").first.inner_text().startswith("Drop pictures here for this tab alone")


def test_a_tab_that_takes_one_picture_takes_it_from_those_above(view: Any, place: Any, photographs: Path) -> None:
    view.choose(place, FOLDER, photographs)
    place.locator(".strip img").first.wait_for()
    panel = view.tab("Foveate")
    panel.get_by_label("One of the pictures above").click()
    view.page.get_by_role("option", name="coffee.jpg").click()
    view.loaded(panel.locator("img").first)


def test_examples_are_there_for_who_has_no_pictures(view: Any, place: Any) -> None:
    place.get_by_role("button", name="Try example pictures").click()
    place.locator(".strip img").nth(11).wait_for()
    panel = view.tab("Classify")
    panel.get_by_text("Uses the 12 pictures of the examples, chosen above.").wait_for()
    panel.get_by_label("Labels, separated by commas").fill("cat, rocket")
    assert view.run(panel, "Classify").startswith("Done in")
    assert panel.locator(".gallery li").count() == 12
    assert view.look("place") == []
    assert view.axe() == []


DROP_FOLDER = """([zone, names]) => {
  // What a browser gives for a folder; a script may not make one.
  const file = (name, text) => ({isFile: true, isDirectory: false, name, file: done => done(text)});
  const folder = (name, inside) => ({isFile: false, isDirectory: true, name, createReader: () => {
    const parts = [inside, []];
    return {readEntries: done => done(parts.shift() ?? [])};
  }});
  const canvas = document.createElement('canvas');
  canvas.width = canvas.height = 40;
  return new Promise(done => canvas.toBlob(done, 'image/png')).then(blob => {
    const png = name => file(name, new File([blob], name, {type: 'image/png'}));
    const inside = folder('holiday', [png('one.png'), folder('day 2', [png('two.png')]),
      file('film.mp4', new File(['x'.repeat(1000)], 'film.mp4', {type: 'video/mp4'})),
      file('.hidden', new File([''], '.hidden'))]);
    const event = new DragEvent('drop', {bubbles: true, cancelable: true});
    Object.defineProperty(event, 'dataTransfer', {value: {files: [], items: [{webkitGetAsEntry: () => inside}]}});
    zone.dispatchEvent(event);
  });
}"""


def test_a_folder_that_is_dropped_gives_the_pictures_in_it_and_below(view: Any, place: Any) -> None:
    zone = place.locator(".drop button").first
    view.page.evaluate(DROP_FOLDER, [zone.element_handle(), []])
    place.locator(".strip img").nth(1).wait_for()
    assert sorted(thumbnails(place)) == ["one.png", "two.png"]
    assert "film.mp4 is not a picture" in place.locator(".left-out").inner_text()


@pytest.fixture
def opened_on(photographs: Path, tmp_path: Path) -> Iterator[Any]:
    """A workbench that was opened on one folder, with a picture in it that cannot be read."""
    import os
    import shutil

    pytest.importorskip("gradio", reason="the workbench needs Gradio: pip install binderclip[workbench]")
    from binderclip.workbench.server import WorkbenchServer
    from binderclip.workbench.tabs import TABS

    folder = tmp_path / "holiday"
    shutil.copytree(photographs, folder)
    (folder / "aaa.jpg").write_bytes((photographs / "cat.jpg").read_bytes()[:900])
    before = dict(os.environ)
    tabs = [tab for tab in TABS if tab.title in ("Classify", "Papers")]
    with WorkbenchServer(tabs=tabs, folders=[folder]).in_background() as running:
        yield running
    os.environ.clear()
    os.environ.update(before)


def test_the_only_folder_that_it_was_opened_on_is_chosen_at_once(view: Any, browser: Any, opened_on: Any) -> None:
    other = type(view)(browser, opened_on)
    place = other.page.locator(".place")
    place.locator(".strip img").nth(3).wait_for()
    assert "5 pictures of holiday/" in place.inner_text()
    assert "aaa.jpg cannot be read" in place.locator(".left-out").inner_text()
    other.tab("Classify").get_by_text("Uses the 5 pictures of holiday/, chosen above.").wait_for()
    other.context.close()
    assert other.faults == []


def test_no_choice_is_passed_over_while_that_before_it_is_answered(client: Any) -> None:
    """Gradio drops what is done to a field while its handler is busy, unless the handler says otherwise."""
    config = json.loads(client.ask("GET", "/config").body)
    dropped = [
        (each["api_name"], event)
        for each in config["dependencies"]
        for _, event in each["targets"]
        if event in ("upload", "clear", "delete", "input", "submit") and each["trigger_mode"] == "once"
        if each["backend_fn"]
    ]
    assert dropped == []
