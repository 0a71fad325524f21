"""Links, anchors and pictures of the site's sources, and the checker that `make docs` runs on what was built."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import markdown
import pytest
from markdown.extensions.toc import TocExtension

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")

_spec = importlib.util.spec_from_file_location("site_links", DOCS / "generate" / "links.py")
links = sys.modules["site_links"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(links)


def without_code(text):
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def anchors(page):
    text = page.read_text(encoding="utf-8")
    html = markdown.markdown(
        re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), extensions=[TocExtension()]
    )
    return set(re.findall(r'id="([^"]+)"', html))


def test_every_relative_link_of_the_sources_leads_to_a_file_and_an_anchor():
    wrong, looked = [], 0
    for page in PAGES:
        for address in LINK.findall(without_code(page.read_text(encoding="utf-8"))):
            path, _, fragment = address.partition("#")
            if re.match(r"[a-z]+:", address):
                continue
            looked += 1
            target = (page.parent / path).resolve() if path else page
            known = target.is_file() and (not fragment or target.suffix != ".md" or fragment in anchors(target))
            if not known:
                wrong.append(f"{page.relative_to(ROOT)}: {address}")
    assert not wrong
    assert looked > 300


def test_every_page_is_in_the_navigation_or_is_a_study():
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("nav:")[2]
    pages = [page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")]
    pages += [page.relative_to(DOCS).with_suffix(".md").as_posix() for page in DOCS.rglob("*.ipynb")]
    listed = re.findall(r": ([\w/-]+\.md)$", nav, flags=re.MULTILINE)
    assert sorted(listed) == sorted(page for page in pages if not page.startswith("results/"))


def test_pictures_have_a_text_and_are_not_empty():
    for page in PAGES:
        for text, address in re.findall(r"!\[([^\]]*)\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            assert text, f"{page.name}: {address}"
            if not address.startswith("http"):
                assert (page.parent / address).stat().st_size > 1000, address


@pytest.fixture
def site(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "index.html").write_text('<p id="here">x</p>')
    (tmp_path / "a.png").write_bytes(b"x")
    return tmp_path


def problems(site, body):
    (site / "a.html").write_text(body)
    return list(links.problems(site))


def test_a_good_page_has_no_problems(site):
    body = '<a href="b/">b</a><a href="b/index.html#here">h</a><a href="#top" id="top">t</a><img alt="" src="a.png">'
    assert (
        problems(site, body + '<a href="https://example.org">out</a><img alt="x" src="data:image/png;base64,QQ==">')
        == []
    )
    assert problems(site, '<a href="b/#?family=optim">filtered</a>') == []


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('<a href="c.html">c</a>', "c.html leads to no file"),
        ('<a href="b/#gone">b</a>', "b/#gone leads to no anchor"),
        ('<a href="#gone">b</a>', "#gone leads to no anchor"),
        ('<img alt="" src="gone.png">', "gone.png leads to no file"),
        ('<img src="a.png">', "a.png has no text beside it"),
        ('<script src="https://cdn.example.org/x.js"></script>', "from outside"),
        ('<link rel="stylesheet" href="//fonts.example.org/x.css">', "from outside"),
    ],
)
def test_what_is_wrong_is_said(site, body, said):
    (found,) = problems(site, body)
    assert found.startswith("a.html: ")
    assert said in found


def test_a_site_without_pages_is_no_good_site(tmp_path):
    assert list(links.problems(tmp_path)) == [f"{tmp_path}: there is no page"]
