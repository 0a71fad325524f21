"""The page on a phone: what stays in sight, what a press brings into it, and empty tabs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

PHONE = {"width": 390, "height": 844}
OURS = ("title", "controls", "label-learn", "bar", "table-tools")
"""Classes of what may stay in sight while the page scrolls."""
STUCK = """() => [...document.querySelectorAll('body *')]
  .filter(e => ['sticky', 'fixed'].includes(getComputedStyle(e).position))
  .filter(e => e.checkVisibility({visibilityProperty: true}))
  .map(e => ({classes: [...e.classList], box: e.getBoundingClientRect(), tag: e.tagName}))
  .filter(({box}) => box.height > 1 && box.width > innerWidth / 2 && box.top < innerHeight)
  .map(({classes, tag, box}) => ({classes, tag, height: box.height / innerHeight, top: box.top, bottom: box.bottom}))"""
MOST_STUCK = 0.25
"""Share of the window's height that bars may take together."""
OWN_PLACE = ("Click", "Papers")
"""Tabs whose button saves what was done above it, or measures what was chosen there: it has a place of its own."""


@pytest.fixture
def phone(view: Any) -> Any:
    view.page.set_viewport_size(PHONE)
    view.page.wait_for_timeout(300)
    return view


def titles(view: Any) -> list[str]:
    view.page.get_by_role("button", name="Choose a task").click()
    names = [tab.inner_text().strip() for tab in view.page.get_by_role("tab").locator("visible=true").all()]
    view.page.keyboard.press("Escape")
    assert {"Classify", "Click", "Quality"} <= set(names)
    return [name for name in names if name != "Wait"]


def test_what_stays_in_sight_is_ours_and_a_quarter_of_the_window_and_the_button_is_there(phone: Any) -> None:
    for title in titles(phone):
        panel = phone.tab(title)
        stuck = [each for each in phone.page.evaluate(STUCK) if each["tag"] not in ("TH", "H1")]
        assert [each for each in stuck if not {*each["classes"]} & {*OURS}] == [], title
        assert sum(each["height"] for each in stuck) <= MOST_STUCK, (
            title,
            [(each["classes"], each["top"], each["height"]) for each in stuck],
        )
        if title not in OWN_PLACE:
            box = panel.locator(".controls button.primary").locator("visible=true").first.bounding_box()
            assert box["y"] >= 0, title
            assert box["y"] + box["height"] <= PHONE["height"], title


def test_a_press_brings_what_the_run_says_to_the_top_of_the_window(phone: Any, photographs: Path) -> None:
    panel = phone.tab("Edges")
    phone.drop(panel, photographs / "cat.jpg")
    assert phone.run(panel, "Find edges").startswith("Done in")
    phone.loaded(panel.locator(".gallery img").first)
    phone.page.wait_for_timeout(600)  # the last look at where it stands comes a moment after the end
    status, head = (panel.locator(".status").first, phone.page.locator(".page-head > .title"))
    lower = head.bounding_box()["y"] + head.bounding_box()["height"]
    assert lower <= status.bounding_box()["y"] < PHONE["height"] / 2
    # What comes of it follows at once.
    assert panel.locator(".gallery img").first.bounding_box()["y"] < status.bounding_box()["y"] + 120


def test_where_pictures_are_chosen_what_chooses_others_is_away(phone: Any) -> None:
    place = phone.page.locator(".place")
    place.get_by_role("button", name="Try example pictures").click()
    phone.page.locator(".place .strip img").first.wait_for()
    assert not place.locator(".drop").is_visible()
    place.get_by_role("button", name="Use none of these").click()
    place.locator(".drop").wait_for()
    assert place.get_by_role("button", name="Try example pictures").is_visible()


def test_an_empty_click_says_what_to_do_and_not_that_it_failed(view: Any) -> None:
    panel = view.tab("Click")
    panel.get_by_text("then click on an object").wait_for()
    view.page.wait_for_function(
        "() => { const c = document.querySelector('.clicker').clicker; return c.sent && !c.waiting; }"
    )
    assert panel.locator(".status.failed").all_inner_texts() == []
    panel.get_by_role("button", name="Try it with example pictures").click()
    view.page.wait_for_function("() => document.querySelector('.clicker').clicker.view")
    assert not panel.get_by_text("then click on an object").is_visible()
    assert panel.locator("input[data-part='point']").input_value() == ""


def test_a_folder_that_is_not_used_any_more_leaves_click_empty(view: Any, photographs: Path) -> None:
    panel = view.tab("Click")
    view.choose(view.page, "Folder for all tabs", photographs)
    view.page.wait_for_function("() => document.querySelector('.clicker').clicker.view")
    view.page.get_by_role("button", name="Use none of these").click()
    panel.get_by_text("then click on an object").wait_for()
    view.page.wait_for_function("() => !document.querySelector('.clicker').clicker.view")


def test_a_paper_is_looked_for_above_it(phone: Any) -> None:
    panel = phone.tab("Papers")
    words = panel.get_by_label("Words of a title, an author, a name, a room").bounding_box()
    assert words["y"] < panel.get_by_role("heading").first.bounding_box()["y"]


def test_a_drop_zone_speaks_of_pictures(view: Any) -> None:
    view.tab("Quality")
    assert view.page.get_by_text("Drop File Here").locator("visible=true").count() == 0
    assert view.page.get_by_text("Drop pictures here").locator("visible=true").count() >= 2


def test_a_run_that_failed_says_again_what_to_do(view: Any) -> None:
    panel = view.tab("Quality")
    panel.locator(".hint").wait_for()
    assert view.run(panel, "Judge") == "choose pictures first, or a folder"
    assert panel.locator(".hint").is_visible()


CUT_OFF = """() => [...document.querySelectorAll('.drop')].filter(e => e.checkVisibility()).flatMap(zone => {
  const frame = zone.getBoundingClientRect(), words = document.createRange();
  words.selectNodeContents(zone.querySelector('button .wrap'));
  return [...words.getClientRects()].filter(each => each.height > 0 && each.width > 0)
    .filter(each => each.top < frame.top || each.bottom > frame.bottom || each.left < frame.left ||
      each.right > frame.right).map(() => zone.innerText);
})"""
"""Drop zones with words, or an icon, that their frame cuts off."""


@pytest.mark.parametrize("width", [320, 390, 700, 1200])
def test_no_drop_zone_cuts_its_words_off(view: Any, width: int) -> None:
    view.page.set_viewport_size({"width": width, "height": 844})
    for title in ("Quality", "Erase", "Explain"):
        view.tab(title)
        assert view.page.locator(".drop").locator("visible=true").count() >= 2
        assert view.page.evaluate(CUT_OFF) == [], title


def test_a_drop_zone_for_one_picture_says_so(view: Any) -> None:
    panel = view.tab("Erase")
    panel.get_by_text("Drop a picture here for this tab alone").wait_for()
