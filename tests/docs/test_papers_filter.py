"""The table of papers in a real browser, opened from a file: search, filters, the kept address, a narrow window."""

from __future__ import annotations

import shutil
from pathlib import Path

import markdown
import pytest

from binderclip.papers import JOBS, papers
from binderclip.studies import results_in

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The page as the site shows it, without the theme."""
    folder = tmp_path_factory.mktemp("papers")
    for name in ("papers.js", "site.css"):
        shutil.copy(ROOT / "docs" / "assets" / name, folder)
    text = (ROOT / "docs" / "PAPERS.md").read_text(encoding="utf-8")
    body = markdown.markdown(text, extensions=["tables"])
    head = '<meta charset="utf-8"><link rel="stylesheet" href="site.css"><script src="papers.js"></script>'
    page = folder / "papers.html"
    page.write_text(f'<!doctype html><html lang="en"><head>{head}</head><body><article class="md-typeset">{body}')
    return page.as_uri()


@pytest.fixture
def page(browser, address):
    opened = browser.new_page(viewport={"width": 1366, "height": 768})
    said, asked = [], []
    opened.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(address)
    yield opened
    assert not said
    assert all(url.startswith("file:") for url in asked)
    opened.close()


def shown(page):
    """Ids of the papers that can be seen."""
    return [mark.get_attribute("id") for mark in page.locator("table.papers tbody tr:visible a[id]").all()]


def test_all_papers_are_there_at_first(page):
    assert sorted(shown(page)) == [paper.id for paper in papers()]
    assert page.locator(".papers-filter output").inner_text() == "182 of 182 papers"


def test_every_word_of_the_search_has_to_occur(page):
    page.get_by_label("Search").fill("Gradient CLIPPING")
    assert "p005" in shown(page)
    texts = [row.inner_text().lower() for row in page.locator("table.papers tbody tr:visible").all()]
    assert texts
    assert all("gradient" in text and "clipping" in text for text in texts)
    hidden = page.locator("table.papers tbody tr[hidden]").all_text_contents()
    assert len(hidden) + len(texts) == 182
    assert not any("gradient" in text.lower() and "clipping" in text.lower() for text in hidden)
    page.get_by_label("Search").fill("no such paper at all")
    assert shown(page) == []
    assert "No paper fits" in page.locator(".papers-filter output").inner_text()


def test_filters_agree_with_the_index_and_the_stored_results(page):
    results = results_in(ROOT / "docs" / "results")
    page.get_by_label("Job").select_option(JOBS["privacy"])
    assert set(shown(page)) == {paper.id for paper in papers(status="done") if paper.job == "privacy"}
    assert page.locator("h2:visible").all_inner_texts() == [JOBS["privacy"]]
    page.get_by_role("button", name="Clear").click()
    page.get_by_label("Claim").select_option("no effect of X or more")
    excluded = {identifier for identifier, result in results.items() if result.verdict == "no effect of X or more"}
    assert set(shown(page)) == excluded
    page.get_by_label("Cheap rival").select_option("lost")
    lost = {identifier for identifier in excluded if (rival := results[identifier].rival) and rival.word == "lost"}
    assert set(shown(page)) == lost != set()
    page.get_by_role("button", name="Clear").click()
    assert len(shown(page)) == 182


def test_what_was_asked_stands_in_the_address(page, address):
    page.goto(f"{address}#?verdict=reproduced&rival=beaten")
    page.reload()
    results = results_in(ROOT / "docs" / "results")
    assert set(shown(page)) == {
        identifier
        for identifier, result in results.items()
        if result.verdict == "reproduced" and result.rival and result.rival.word == "beaten"
    }
    assert page.get_by_label("Cheap rival").input_value() == "beaten"


def test_the_keyboard_reaches_every_filter_in_order(page):
    page.get_by_label("Search").focus()
    names = []
    for _ in range(5):
        names.append(page.evaluate("document.activeElement.name || document.activeElement.textContent"))
        page.keyboard.press("Tab")
    assert names == ["words", "job", "verdict", "rival", "Clear"]


def test_a_phone_shows_cards_and_nothing_runs_out_of_the_window(page):
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator("table.papers thead").first.is_hidden()
    assert page.locator("table.papers tbody tr").first.locator("td").first.bounding_box()["width"] > 250


def test_a_verdict_leads_to_a_file_that_is_there(page):
    row = page.locator("table.papers tbody tr", has=page.locator("#p002"))
    links = [link.get_attribute("href") for link in row.locator("a[href^=results]").all()]
    assert links == ["results/p002.md"]
    assert all((ROOT / "docs" / link).is_file() for link in links)
