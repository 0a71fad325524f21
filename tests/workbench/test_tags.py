"""Tags: kept in a file, the same for a picture in every tab, and nothing is lost where the file is damaged."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from binderclip.data.cache.features import content_hash
from binderclip.errors import UsageError
from binderclip.workbench.tags.store import MOST_TAGS, NAME, TagStore, answer_tags

A, B = "a" * 32, "b" * 32


@pytest.fixture
def store(tmp_path: Path) -> TagStore:
    return TagStore(tmp_path / NAME)


def test_a_picture_is_known_by_its_bytes_wherever_it_lies(tmp_path: Path) -> None:
    for name, content in (("a.png", b"one"), ("b.png", b"one"), ("c.png", b"two")):
        (tmp_path / name).write_bytes(content)
    keys = [content_hash(tmp_path / name) for name in ("a.png", "b.png", "c.png")]
    assert keys[0] == keys[1] != keys[2]
    assert {len(key) for key in keys} == {32}


def test_tags_are_given_taken_away_and_read_again(store: TagStore, tmp_path: Path) -> None:
    assert store.tags() == {}
    assert list(tmp_path.iterdir()) == []
    store.change({A: "cat.jpg", B: "dog.jpg"}, add="  to  print ")
    store.change({A: "cat.jpg"}, add="Vögel")
    store.change({A: "cat.jpg"}, add="to print")  # once is enough; it is the last one now
    assert TagStore(store.path).tags() == {A: ["Vögel", "to print"], B: ["to print"]}
    assert store.change({B: "dog.jpg", A: "cat.jpg"}, remove="to print") == {A: ["Vögel"]}
    document = json.loads(store.path.read_text(encoding="utf-8"))
    # A folder `.binderclip` that is no index would be refused by `search index`.
    assert list(tmp_path.iterdir()) == [store.path]
    assert document["pictures"] == {A: {"name": "cat.jpg", "tags": ["Vögel"]}}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_no_regular_file_is_not_waited_for(store: TagStore) -> None:
    os.mkfifo(store.path)
    with pytest.raises(UsageError, match="no regular file"):
        store.change({A: "cat.jpg"}, add="a")


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"mine": 1}', '{"made_by": "binderclip", "pictures": {"x": 1}}', '{"made_by": "binderclip"}'],
)
def test_a_damaged_file_is_named_and_left_as_it_is(store: TagStore, content: str) -> None:
    store.path.write_text(content)
    for ask in (store.tags, lambda: store.change({A: "cat.jpg"}, add="a")):
        with pytest.raises(UsageError, match=r"tags\.json .*is left as it is"):
            ask()
    assert store.path.read_text() == content
    assert "tags.json" in answer_tags(store, None)["problem"]


def test_what_no_page_asks_changes_nothing(store: TagStore) -> None:
    bad: list[tuple[bytes, str]] = [
        (b"{", "no JSON"),
        (b"[]", "names pictures"),
        (json.dumps({"pictures": {A: 1}, "add": "a"}).encode(), "names pictures"),
        (b'{"pictures": {"../x": "a"}, "add": "a"}', "key of no picture"),
        (json.dumps({"pictures": {A: "a"}, "add": "x" * 61}).encode(), "60 characters"),
        (json.dumps({"pictures": {A: "a"}, "add": "x\u0007"}).encode(), "60 characters"),
    ]  # fmt: skip
    for body, text in bad:
        assert text in answer_tags(store, body)["problem"], body
    assert not store.path.exists()
    for number in range(MOST_TAGS):
        store.change({A: "cat.jpg"}, add=str(number))
    with pytest.raises(UsageError, match="take one away first"):
        store.change({A: "cat.jpg"}, add="one more")


def test_tags_go_to_who_came_by_the_link_alone(client: Any, stranger: Any, kept_tags: Path) -> None:
    assert stranger.ask("GET", "/tags").status == 403
    assert stranger.post("/tags", {"pictures": {A: "a"}, "add": "x"}).status == 403
    assert client.post("/tags", {"pictures": {A: "a"}, "add": "x"}, origin="http://elsewhere").status == 403
    assert not kept_tags.exists()
    answer = client.post("/tags", {"pictures": {A: "a"}, "add": "x"})
    assert json.loads(answer.body) == {"tags": {A: ["x"]}, "problem": ""}
    assert json.loads(client.ask("GET", "/tags").body) == {"tags": {A: ["x"]}, "problem": ""}


@pytest.fixture
def kept_tags(server: Any, photographs: Path) -> Iterator[Path]:
    """The file of the server's tags, which other tests do not find."""
    yield photographs / NAME
    (photographs / NAME).unlink(missing_ok=True)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of eight pictures."""
    folder = tmp_path_factory.mktemp("eight")
    for number in range(8):
        Image.new("RGB", (64, 48), (30 * number, 255 - 30 * number, 90)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def light(pictures: Path) -> Iterator[Any]:
    """A workbench that was opened on the folder, with two tabs that show it; one of them from copies by other names."""
    pytest.importorskip("gradio", reason="the workbench needs Gradio: pip install binderclip[workbench]")
    import gradio as gr

    from binderclip.workbench.look import gallery
    from binderclip.workbench.server import WorkbenchServer
    from binderclip.workbench.tab import Bench, Outcome, Run, Tab

    def build(bench: Bench) -> None:
        controls, shown = bench.controls("Show"), gr.HTML()
        again = gr.Textbox(visible=False)
        # What the page asks for when it opens, by which tests see that it is ready.
        gr.on(None, lambda text: text, [again], [again], show_progress="hidden", api_visibility="private")
        bench.connect(controls, show, [], [shown], bench.results())

    def show(run: Run) -> Outcome:
        entries = []
        for path in sorted(pictures.glob("*.png")):
            other = run.folder / f"copy of {path.name}"
            shutil.copy(path, other)
            entries.append((other, path.name, "made here"))
        return Outcome((gallery(entries, "pictures made here", run.folder / "small"),))

    tabs = [Tab("One", "Pictures made for tests.", build), Tab("Other", "The same in another tab.", build)]
    before = dict(os.environ)
    with WorkbenchServer(tabs=tabs, folders=[pictures]).in_background() as running:
        # What it sets for a process of its own is not for the other tests of this one.
        for name in set(os.environ) - set(before) - {"GRADIO_TEMP_DIR"}:
            del os.environ[name]
        yield running
    if before.get("GRADIO_TEMP_DIR") is None:
        os.environ.pop("GRADIO_TEMP_DIR", None)
    else:
        os.environ.update(before)


@pytest.fixture
def page_of_two(browser: Any, light: Any, view_of: Any) -> Iterator[Any]:
    view = view_of(browser, light)
    yield view
    view.context.close()
    assert view.faults == []


def shown_in(view: Any, tab: str) -> Any:
    panel = view.tab(tab)
    assert view.run(panel, "Show").startswith("Done in")
    panel.locator(".grid-tags").wait_for()
    return panel


def tagged(panel: Any) -> dict[str, str]:
    marked = panel.locator("figure[data-tags]")
    return {each.get_attribute("data-name"): each.get_attribute("data-tags") for each in marked.all()}


def test_tags_survive_a_reload_and_are_shown_in_another_tab(page_of_two: Any, pictures: Path) -> None:
    view, page = page_of_two, page_of_two.page
    panel = shown_in(view, "One")
    for name in ("1.png", "3.png"):
        panel.get_by_label(f"Select {name}", exact=True).check(force=True)
    panel.get_by_label("Tag", exact=True).fill("to print")
    panel.get_by_role("button", name="Tag selected").click()
    panel.get_by_text("2 pictures tagged to print").wait_for()
    assert tagged(panel) == {"1.png": "to print", "3.png": "to print"}
    # One more in the dialog, by the keyboard.
    panel.locator('figure[data-name="1.png"] .enlarge').click()
    box = page.locator("dialog.viewer").get_by_label("Add a tag")
    box.fill("best")
    box.press("Enter")
    page.get_by_role("button", name="Take away the tag best").wait_for()
    view.look("tags-enlarged")
    page.locator(".viewer-close").click()
    assert tagged(panel)["1.png"] == "to print; best"
    # Only those of a tag, and in the table that is exported.
    panel.get_by_label("Show tag").select_option("best")
    assert panel.locator(".grid-count").inner_text() == "1 of 8"
    panel.get_by_label("Show tag").select_option("")
    with page.expect_download() as download:
        panel.get_by_role("button", name="Table as .csv").click()
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))
    assert {row["name"]: row["tags"] for row in rows} == {"1.png": "to print; best", "3.png": "to print"}
    assert view.look("tags") == []
    assert view.axe() == []
    # After a reload another tab knows the same pictures by what is in them.
    view.reload()
    panel = shown_in(view, "Other")
    assert tagged(panel) == {"1.png": "to print; best", "3.png": "to print"}
    panel.get_by_label("Select 1.png", exact=True).check(force=True)
    panel.get_by_label("Tag", exact=True).fill("best")
    panel.get_by_role("button", name="Take tag away").click()
    panel.get_by_text("1 picture no longer tagged best").wait_for()
    assert tagged(panel)["1.png"] == "to print"
    kept = json.loads((pictures / NAME).read_text())["pictures"]
    assert {key: entry["name"] for key, entry in kept.items()} == {
        content_hash(pictures / name): name for name in ("1.png", "3.png")
    }
