"""The page as a whole: runs in line, a stop, pages that close, two users, the keyboard, what is asked of whom."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from binderclip.workbench import guard

LONG = 120.0
WAITING = "Wait"


def eventually(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)


def stored(server: Any, name: str) -> list[str]:
    """Where a file of this name lies in the folders of sessions; some may be going away at this moment."""
    return [folder for folder, _, files in os.walk(server.sessions.root) if name in files]


@pytest.fixture
def waiting(view: Any, gate: Any) -> Any:
    """The panel of the tab whose run waits until the test lets it go."""
    gate.close()
    yield view.tab(WAITING)
    gate.release.set()


@pytest.fixture
def another(view: Any, browser: Any, server: Any) -> Any:
    """A page of another user."""
    other = type(view)(browser, server)
    yield other
    other.context.close()
    assert other.faults == []


def test_a_run_shows_how_far_it_is_and_what_there_is_and_its_files(view: Any, waiting: Any, gate: Any) -> None:
    view.start(waiting, WAITING)
    waiting.locator("progress").wait_for()
    waiting.get_by_text("so far").wait_for()
    status = waiting.locator(".status.running")
    view.page.wait_for_function("() => / s left/.test(document.querySelector('.status.running').innerText)")
    assert status.inner_text().startswith("Waiting for the test, ")
    assert waiting.get_by_role("button", name=WAITING, exact=True).is_disabled()
    gate.release.set()
    assert view.ended(waiting).startswith("Done in")
    waiting.get_by_text("waited with 0").wait_for()
    with view.page.expect_download() as download:
        waiting.locator("a[download='waited.txt']").first.click()
    assert Path(download.value.path()).read_text() == "waited"


def test_files_of_earlier_runs_go_when_a_later_one_is_shown(view: Any, waiting: Any, gate: Any, server: Any) -> None:
    gate.release.set()
    # Those of other pages may go meanwhile.
    before = set(stored(server, "waited.txt"))
    for _ in range(3):
        assert view.run(waiting, WAITING).startswith("Done in")
    eventually(lambda: len(set(stored(server, "waited.txt")) - before) == 1)
    with view.page.expect_download() as download:
        waiting.locator("a[download='waited.txt']").first.click()
    assert Path(download.value.path()).read_text() == "waited"


def test_a_press_just_after_a_run_begins_another(
    view: Any, waiting: Any, gate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a run does when its last line is on the page already, is not in the way."""
    from binderclip.workbench import tab

    remove = tab._remove_all

    def slowly(places: Any) -> None:
        time.sleep(2)
        remove(places)

    monkeypatch.setattr(tab, "_remove_all", slowly)
    gate.release.set()
    for _ in range(2):
        assert view.run(waiting, WAITING).startswith("Done in")


def test_a_double_click_is_one_run(view: Any, waiting: Any, gate: Any, server: Any) -> None:
    waiting.get_by_role("button", name=WAITING, exact=True).dblclick()
    assert gate.begun.wait(LONG)
    view.page.wait_for_timeout(500)
    with server.jobs._changed:
        assert len(server.jobs._waiting) == 0
    gate.release.set()
    assert view.ended(waiting).startswith("Done in")


def test_a_press_while_a_stream_of_answers_ends_is_answered(view: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradio has decided that nothing is pending, and the page has not read of it yet."""
    promising, late = guard._promising, 0

    def slow(send: Any) -> Any:
        further = promising(send)

        async def sending(message: dict[str, Any]) -> None:
            nonlocal late
            if b"close_stream" in message.get("body", b""):
                late += 1
                await asyncio.sleep(0.4)
            await further(message)

        return sending

    monkeypatch.setattr(guard, "_promising", slow)
    panel = view.tab("Click")
    undo, status = panel.get_by_role("button", name="Undo"), panel.locator(".status").first
    for _ in range(3):
        before = status.get_attribute("data-line")
        undo.click()
        view.page.wait_for_function(
            "([panel, before]) => panel.querySelector('.status').dataset.line !== before",
            arg=[panel.element_handle(), before],
            timeout=20_000,
        )
    assert late >= 1


def test_another_user_s_run_waits_in_line_and_is_taken_out_of_it(
    view: Any, waiting: Any, gate: Any, another: Any
) -> None:
    view.start(waiting, WAITING)
    assert gate.begun.wait(LONG)
    theirs = another.tab(WAITING)
    another.start(theirs, WAITING)
    theirs.get_by_text("Waiting: 1 run before this one").wait_for()
    theirs.get_by_role("button", name="Stop").click()
    assert another.ended(theirs) == "Stopped"
    # The first one goes on.
    assert waiting.locator(".status.running").is_visible()
    gate.release.set()
    assert view.ended(waiting).startswith("Done in")


def test_stop_stops_and_the_next_run_starts(view: Any, waiting: Any, gate: Any, server: Any) -> None:
    view.start(waiting, WAITING)
    assert gate.begun.wait(LONG)
    waiting.get_by_role("button", name="Stop").click()
    assert view.ended(waiting) == "Stopped"
    assert server.jobs._now is None
    gate.release.set()
    assert view.run(waiting, WAITING).startswith("Done in")


def test_a_tab_closed_in_mid_run_leaves_the_server_well(
    view: Any, browser: Any, server: Any, gate: Any, photographs: Path
) -> None:
    gate.close()
    leaver = type(view)(browser, server)
    panel = leaver.tab(WAITING)
    leaver.drop(panel, photographs / "cat.jpg")
    leaver.start(panel, WAITING)
    assert gate.begun.wait(LONG)
    assert stored(server, "cat.jpg")
    leaver.page.close()
    eventually(lambda: server.jobs._now is None)
    eventually(lambda: not stored(server, "cat.jpg"))
    leaver.context.close()
    gate.release.set()
    assert view.run(view.tab(WAITING), WAITING).startswith("Done in")


def test_a_second_user_does_not_see_the_first_one_s_pictures(view: Any, another: Any, photographs: Path) -> None:
    panel = view.tab(WAITING)
    view.drop(panel, photographs / "cat.jpg")
    link = panel.locator("a[href*='file=']").first.get_attribute("href")
    assert view.page.request.get(link).status == 200
    refused = another.page.request.get(link)
    assert refused.status == 403
    assert "not one of yours" in refused.text()


def test_five_hundred_pictures_are_dropped_at_once(view: Any, tmp_path: Path, png: bytes, gate: Any) -> None:
    paths = [tmp_path / f"{number:03d}.png" for number in range(500)]
    for path in paths:
        path.write_bytes(png)
    panel = view.tab(WAITING)
    view.drop(panel, *paths)
    panel.get_by_text("499").first.wait_for(state="attached")
    gate.release.set()
    assert view.run(panel, WAITING).startswith("Done in")
    panel.get_by_text("waited with 500").wait_for()


def test_a_file_that_is_no_picture_is_refused_where_it_is_dropped(view: Any, tmp_path: Path, server: Any) -> None:
    (tmp_path / "notes.png").write_text("no picture")
    panel = view.tab(WAITING)
    panel.locator("input[type=file]").first.set_input_files(str(tmp_path / "notes.png"))
    view.page.get_by_text("notes.png is not a picture").first.wait_for()
    assert not stored(server, "notes.png")
    # The browser reports the refusal as well.
    assert view.faults
    assert all(fault.startswith("400 ") for fault in view.faults)
    view.faults.clear()


def test_an_unknown_model_is_named_with_those_there_are(view: Any, photographs: Path) -> None:
    panel = view.tab("Classify")
    view.drop(panel, photographs / "cat.jpg")
    panel.get_by_label("Labels, separated by commas").fill("cat,dog")
    model = view.page.get_by_label("Model for all tabs")
    model.fill("smoll")
    model.press("Tab")
    assert "did you mean small" in view.run(panel, "Classify").lower()
    assert panel.locator(".status.failed").is_visible()


def test_the_keyboard_reaches_everything_that_a_run_needs(view: Any) -> None:
    view.tab("Classify")
    view.page.locator("body").click(position={"x": 5, "y": 5})
    names = " | ".join(view.focused(14))
    for name in ("Model for all tabs", "Classify", "Labels, separated by commas", "Ways to look"):
        assert name in names, names


def test_every_tab_is_readable_and_whole_before_anything_is_done(view: Any) -> None:
    titles = [tab.inner_text() for tab in view.page.get_by_role("tab").all() if tab.inner_text() != WAITING]
    assert {"Classify", "Search", "Segment", "Click"} <= set(titles)
    for title in dict.fromkeys(titles):
        view.tab(title)
        assert view.look(f"{title.lower()}-empty") == [], title
        assert view.axe() == [], title


IN_SIGHT = """panel => {
  const status = [...panel.querySelectorAll('.controls')].find(e => e.offsetParent).previousElementSibling;
  status.querySelector('.status').textContent = 'Working, 3 %, 12 s left';
  const box = status.getBoundingClientRect(), middle = [box.x + box.width / 2, box.y + box.height / 2];
  return box.height > 10 && box.bottom <= innerHeight && status.contains(document.elementFromPoint(...middle));
}"""
"""Whether the line of a run is seen as soon as there is one, without a turn of the wheel."""
BELOW = ("Click", "Papers")
"""Their button saves or measures what stands above it, and comes last."""


def test_how_a_run_goes_is_in_sight_in_every_tab_however_long_its_settings_are(view: Any) -> None:
    titles = [tab.inner_text() for tab in view.page.get_by_role("tab").all()]
    for title in dict.fromkeys(titles):
        panel = view.tab(title)
        for fold in panel.get_by_role("button", name="More settings").locator("visible=true").all():
            fold.click()
        if title not in BELOW:
            view.page.evaluate("() => scrollTo(0, 0)")
            view.still()
            assert panel.evaluate(IN_SIGHT), title


def test_the_colours_are_those_of_the_system_until_others_are_chosen(view: Any) -> None:
    dark = "() => document.body.classList.contains('dark')"
    assert not view.page.evaluate(dark)
    view.page.emulate_media(color_scheme="dark")
    view.page.wait_for_function(dark)
    view.page.get_by_label("Colours", exact=True).select_option("light")
    assert not view.page.evaluate(dark)
    # It is kept, and is there before the page is.
    view.page.reload()
    view.page.get_by_role("tab").first.wait_for()
    assert not view.page.evaluate(dark)
    assert view.page.get_by_label("Colours", exact=True).input_value() == "light"


def test_tabs_are_gone_through_by_arrows_and_on_a_phone_stand_behind_a_button(view: Any) -> None:
    tabs = view.page.get_by_role("tab")
    tabs.first.focus()
    for key, place in (("ArrowDown", 1), ("End", tabs.count() - 1), ("ArrowDown", 0), ("ArrowUp", tabs.count() - 1)):
        view.page.keyboard.press(key)
        assert tabs.nth(place).evaluate("tab => tab === document.activeElement"), key
    assert tabs.evaluate_all("tabs => tabs.filter(tab => tab.tabIndex === 0).length") == 1
    view.page.set_viewport_size({"width": 390, "height": 844})
    button = view.page.get_by_role("button", name="Choose a task")
    assert not tabs.first.is_visible()
    button.click()
    assert view.axe() == []
    view.page.get_by_role("tab", name="Quality", exact=True).click()
    assert not tabs.first.is_visible()
    assert "Quality" in button.inner_text()
    # The button of the run is in sight, at the lower edge of the window.
    box = view.page.get_by_role("button", name="Judge", exact=True).bounding_box()
    assert 700 < box["y"] + box["height"] <= 844


def test_an_empty_tab_brings_the_examples_and_words_to_go_with_them(view: Any) -> None:
    panel = view.tab("Classify")
    panel.get_by_role("button", name="Try it with example pictures").click()
    panel.get_by_text("chosen above").wait_for()
    assert panel.get_by_label("Labels, separated by commas").input_value() == "cat, dog, a cup of coffee"
    assert not panel.get_by_role("button", name="Try it with example pictures").is_visible()
