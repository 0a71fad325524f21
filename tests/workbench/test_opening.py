"""The opening of the page: the first pictures of a folder are in the page itself, before a script of Gradio has run."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import binderclip.data

PICTURES = 30


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Thirty pictures of as many colours, one of them broken, and one of a name that is HTML."""
    folder = tmp_path / "two & more"
    folder.mkdir()
    for number in range(PICTURES):
        Image.new("RGB", (60, 40), (8 * number, 90, 200)).save(folder / f"{number:02d}.png")
    (folder / "01.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "02.png").rename(folder / "02<b>.png")
    return folder


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Pictures that were decoded, as they are."""
    pytest.importorskip("gradio", reason="the workbench needs Gradio: pip install binderclip[workbench]")
    opened, decoded = binderclip.data.open_image, list[Path]()

    def open_image(source: Any, **options: Any) -> Any:
        decoded.append(Path(source))
        return opened(source, **options)

    monkeypatch.setattr(binderclip.data, "open_image", open_image)
    return decoded


def alternatives(page: str) -> list[str]:
    return re.findall(r'<img src="data:image/jpeg;base64,[^"]+" alt="([^"]*)"', page)


def test_few_pictures_are_decoded_before_the_first_answer(folder: Path, decoded: list[Path]) -> None:
    from binderclip.workbench.opening.page import FIRST, opening_of

    page = opening_of(folder)
    assert len(decoded) == FIRST < PICTURES
    assert alternatives(page) == ["00.png", "02&lt;b&gt;.png", *(f"{n:02d}.png" for n in range(3, FIRST))]
    assert "<b>30 pictures of two &amp; more/</b>" in page
    # Of the next page none but the broken one, of which there is nothing to keep, and one that is another now.
    del decoded[:]
    Image.new("RGB", (90, 40), (9, 9, 9)).save(folder / "04.png")
    assert alternatives(opening_of(folder)) == alternatives(page)
    assert [path.name for path in decoded] == ["01.png", "04.png"]


def test_the_strip_does_not_decode_them_again(folder: Path, decoded: list[Path]) -> None:
    from binderclip.workbench.opening.page import opening_of
    from binderclip.workbench.pictures import pictures_of
    from binderclip.workbench.place import SEEN, _strip

    opening_of(folder)
    before = set(decoded)
    del decoded[:]
    strip = _strip(pictures_of(folder.resolve()), "two/")
    assert len(alternatives(strip)) == SEEN - 1
    assert not (set(decoded) & before - {folder.resolve() / "01.png"})


def test_a_page_without_a_folder_or_on_one_that_is_gone_opens_all_the_same(folder: Path) -> None:
    pytest.importorskip("gradio", reason="the workbench needs Gradio: pip install binderclip[workbench]")
    from binderclip.workbench.opening.page import opening_of

    for nothing in (None, folder / "gone"):
        page = opening_of(nothing)
        assert alternatives(page) == []
        assert "binderclip <span>workbench</span>" in page


@pytest.mark.parametrize(("method", "status"), [("GET", 200), ("HEAD", 200), ("GET", 500)])
def test_it_is_put_into_the_page_and_the_length_is_true(method: str, status: int) -> None:
    from binderclip.workbench.guard import _with_opening

    asked: list[Any] = []
    sent: list[dict[str, Any]] = []
    parts = [b"<body><gradio", b"-app>1</gradio-app><gradio-app>"] if method == "GET" else [b""]

    async def inside(scope: dict[str, Any], receive: Any, send: Any) -> None:
        asked.extend(scope["headers"])
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"46")]})
        for place, part in enumerate(parts):
            await send({"type": "http.response.body", "body": part, "more_body": place < len(parts) - 1})

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"method": method, "headers": [(b"Accept-Encoding", b"br"), (b"host", b"here")]}
    # In a thread of its own: the browser of other tests may have a loop in this one.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, _with_opening("<i>鳥</i>".encode(), inside, scope, send, send)).result()
    # What is compressed cannot be added to.
    assert asked == [(b"host", b"here")]
    start, body = sent
    assert start["status"] == status
    added = "<i>鳥</i>" if method == "GET" and status == 200 else ""
    assert body["body"].decode() == "".join([b"".join(parts).decode()[:6], added, b"".join(parts).decode()[6:]])
    lengths = [value for name, value in start["headers"] if name == b"content-length"]
    assert lengths == ([str(len(body["body"])).encode()] if method == "GET" else [])


@pytest.fixture
def opened_on(folder: Path) -> Iterator[Any]:
    """A workbench on the folder."""
    pytest.importorskip("gradio", reason="the workbench needs Gradio: pip install binderclip[workbench]")
    from binderclip.workbench.server import WorkbenchServer
    from binderclip.workbench.tabs import TABS

    before = dict(os.environ)
    tabs = [tab for tab in TABS if tab.title == "Classify"]
    with WorkbenchServer(tabs=tabs, folders=[folder]).in_background() as running:
        yield running
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize("width", [1400, 390])
def test_pictures_are_seen_before_any_script_of_gradio_and_the_strip_takes_their_place(
    browser: Any, opened_on: Any, width: int
) -> None:
    from binderclip.workbench.opening.page import FIRST

    page = browser.new_context(viewport={"width": width, "height": 844}).new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.route("**/assets/*.js", lambda route: route.abort())
    page.goto(opened_on.address)
    page.wait_for_function(
        "count => [...document.images].filter(image => image.complete && image.naturalWidth).length === count",
        arg=FIRST - 1,
    )
    opening = page.locator(".opening")
    assert "30 pictures of two & more/" in opening.inner_text()
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 1
    page.unroute("**/assets/*.js")
    page.reload()
    page.locator(".place .block .strip img").nth(20).wait_for(timeout=120_000)
    page.wait_for_function("document.querySelectorAll('.opening, .opening-pictures').length === 0")
    assert "30 pictures of two & more/" in page.locator(".place").inner_text()
    assert faults == []
    page.context.close()
