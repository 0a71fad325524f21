"""One running workbench for all tests of it, with two more tabs that tests need: one that waits, one that is quick."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from binderclip.data import load_data

LONG = 120.0
"""Seconds that anything may take on a machine with much else to do."""


@dataclass
class Answer:
    """A response over raw HTTP."""

    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def text(self) -> str:
        return self.body.decode(errors="replace")


@dataclass
class Client:
    """A browser without a browser: requests as they are written, with the cookie of its session."""

    port: int
    key: str
    cookie: str = ""
    page: str = field(default_factory=lambda: secrets.token_hex(6))
    open_streams: list[http.client.HTTPConnection] = field(default_factory=list)

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """One request; a header `None` takes away, `host` and `origin` are the server's own unless given."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LONG)
        sent = {"Host": f"127.0.0.1:{self.port}", "Cookie": self.cookie}
        sent |= {name.replace("_", "-").title(): value for name, value in headers.items()}
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in sent.items():
            if value:
                connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        got = Answer(response.status, response.read(), {k.lower(): v for k, v in response.getheaders()})
        connection.close()
        return got

    def sign_in(self) -> Client:
        """Come by the link."""
        got = self.ask("GET", f"/?key={self.key}")
        assert got.status == 303, got.text
        self.cookie = got.headers["set-cookie"].split(";")[0]
        return self

    def post(self, path: str, document: Any, **headers: str) -> Answer:
        return self.ask("POST", path, json.dumps(document).encode(), content_type="application/json", **headers)

    def upload(self, *files: tuple[str, bytes], upload: str = "", **headers: str) -> Answer:
        """A multipart upload as the page sends it; `upload` is the page's own name of it."""
        edge = "edge0123456789"
        parts = b"".join(
            f'--{edge}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n'.encode()
            + b"Content-Type: application/octet-stream\r\n\r\n"
            + content
            + b"\r\n"
            for name, content in files
        )
        body = parts + f"--{edge}--\r\n".encode()
        kind = f"multipart/form-data; boundary={edge}"
        place = "/gradio_api/upload" + (f"?upload_id={upload}" if upload else "")
        return self.ask("POST", place, body, content_type=kind, **headers)

    def run(self, button: str, **values: Any) -> str:
        """Press a button without the page; all that comes of it.

        Args:
            button: what stands on it.
            values: of inputs, by their labels' first words in lower case (`labels="cat"`); the others are as the page
                opens.
        """
        config = json.loads(self.ask("GET", "/config").body)
        parts = {part["id"]: part["props"] for part in config["components"]}
        events = [
            each
            for each in config["dependencies"]
            if each["inputs"] and any(parts.get(place, {}).get("value") == button for place, _ in each["targets"])
        ]
        # Two tabs may have a button of this name: it is the one with these inputs.
        for event in events:
            labels = [str(parts[each].get("label") or "").split(",")[0].split()[:1] for each in event["inputs"]]
            named = ["".join(words).lower() for words in labels]
            if set(values) <= set(named):
                break
        assert set(values) <= set(named), named
        data = [
            values.pop(name) if name in values else parts[each].get("value")
            for name, each in zip(named, event["inputs"], strict=True)
        ]
        body = {"data": data, "fn_index": event["id"], "session_hash": self.page}
        got = self.post("/gradio_api/queue/join", body)
        assert got.status == 200, got.text
        return self.ask("GET", f"/gradio_api/queue/data?session_hash={self.page}").text

    def open_page(self) -> http.client.HTTPConnection:
        """Hold the connection that a page holds as long as it is open; closing it closes the page."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LONG)
        connection.request("GET", f"/gradio_api/heartbeat/{self.page}", headers={"Cookie": self.cookie})
        response = connection.getresponse()
        assert response.status == 200
        assert b"ALIVE" in response.readline()
        self.open_streams.append(connection)
        return connection


class Gate:
    """Lets the run of the tab `Wait` end."""

    def __init__(self) -> None:
        self.begun, self.release = threading.Event(), threading.Event()

    def close(self) -> None:
        self.begun.clear()
        self.release.clear()


@pytest.fixture(scope="session")
def lines() -> Any:
    """Ways to run what the page shows: `lines.shell(line, folder)`, `lines.python(line, folder)`."""
    return SimpleNamespace(shell=shell, python=python, words=words_of)


@pytest.fixture(scope="session")
def gate() -> Gate:
    return Gate()


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small photographs: cat.jpg, coffee.jpg, rocket.jpg, astronaut.jpg."""
    folder = tmp_path_factory.mktemp("photographs")
    names = {"chelsea": "cat", "coffee": "coffee", "rocket": "rocket", "astronaut": "astronaut"}
    for sample in load_data("photographs"):
        if name := names.get(sample.key.split(".")[0]):
            picture = sample.image.convert("RGB")
            picture.thumbnail((320, 320))
            picture.save(folder / f"{name}.jpg")
    assert len(list(folder.iterdir())) == 4
    return folder


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class-named folders of digits: zero, one, four, of 14 pictures each."""
    folder = tmp_path_factory.mktemp("labelled")
    digits = load_data("digits")
    for name, label in (("zero", 0), ("one", 1), ("four", 4)):
        (folder / name).mkdir()
        for row in np.flatnonzero(digits.labels == label)[:14]:
            digits[int(row)].image.save(folder / name / f"{row}.png")
    return folder


@pytest.fixture(scope="session")
def png() -> bytes:
    """A small picture."""
    import io

    out = io.BytesIO()
    Image.new("RGB", (48, 40), (200, 30, 30)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="session")
def server(gate: Gate, photographs: Path, labelled: Path) -> Iterator[Any]:
    """The workbench with all its tabs, on a port of its own."""
    gr = pytest.importorskip("gradio", reason="the workbench needs Gradio: pip install binderclip[workbench]")

    from binderclip.workbench.server import WorkbenchServer
    from binderclip.workbench.tab import Bench, Outcome, Run, Tab
    from binderclip.workbench.tabs import TABS

    def build(bench: Bench) -> None:
        pictures = bench.pictures("Waiting pictures")
        controls = bench.controls("Wait")
        said = gr.HTML()
        bench.connect(controls, wait, pictures.inputs, [said], bench.results())

    def wait(run: Run, files: list[str] | None, folder: str | None) -> Outcome:
        gate.begun.set()
        done = 0
        while not gate.release.is_set():
            done = min(done + 1, 99)
            run.progress(done, 100, "waiting for the test")
            run.show(f"<p>so far {done}</p>")
            time.sleep(0.02)
        (run.folder / "waited.txt").write_text("waited")
        return Outcome((f"<p>waited with {len(files or [])}</p>",), [run.folder / "waited.txt"])

    tabs = [*TABS, Tab("Wait", "Waits until the test says so.", build, order=999)]
    before = dict(os.environ)
    with WorkbenchServer(tabs=tabs, folders=[photographs, labelled]).in_background() as running:
        # What it sets for a process of its own is not for the other tests of this one.
        for name in set(os.environ) - set(before) - {"GRADIO_TEMP_DIR"}:
            del os.environ[name]
        # Gradio looks for this one whenever a picture is shown.
        os.environ.update({name: value for name, value in before.items() if name != "GRADIO_TEMP_DIR"})
        yield running
    os.environ.pop("GRADIO_TEMP_DIR", None)


@pytest.fixture
def run_of(tmp_path: Path) -> Any:
    """Makes what the work of a tab is given, without a server: `run_of()` has an empty folder and the model `small`;
    `run_of(model, folders=[...])` may read these folders as well."""
    pytest.importorskip("gradio", reason="the workbench needs Gradio: pip install binderclip[workbench]")

    from binderclip.workbench.jobs import JobQueue, WorkbenchJob
    from binderclip.workbench.models import ModelShelf
    from binderclip.workbench.sessions import Sessions
    from binderclip.workbench.tab import Bench, Run

    shelf, sessions = ModelShelf(), Sessions(tmp_path / "sessions")

    def made(model: str = "small", folders: Sequence[Path] = ()) -> Run:
        bench = Bench(model=None, jobs=JobQueue(), clicks=JobQueue(), sessions=sessions, models=shelf, folders=folders)
        folder = tmp_path / "page" / secrets.token_hex(4)
        folder.mkdir(parents=True)
        return Run(bench, WorkbenchJob(lambda job: None, "", ""), model, folder)

    return made


@pytest.fixture
def documents(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The `--json` documents of what tabs ask of tasks, as they come."""
    from binderclip.documents import json_text
    from binderclip.tasks import VerbTask

    carry_out, kept = VerbTask.run, list[Any]()

    def run(task: Any, request: Any, **options: Any) -> Any:
        result = carry_out(task, request, **options)
        kept.append(json.loads(json_text(result.as_dict())))
        return result

    monkeypatch.setattr(VerbTask, "run", run)
    return kept


@pytest.fixture
def client(server: Any) -> Iterator[Client]:
    """A new session on the server."""
    client = Client(server.port, server.key).sign_in()
    yield client
    for connection in client.open_streams:
        connection.close()


@pytest.fixture
def stranger(server: Any) -> Client:
    """Somebody who knows the port and no more."""
    return Client(server.port, "wrong key")


def words_of(line: str) -> list[str]:
    """The words of a line of shell after `binderclip`."""
    words = shlex.split(line)
    assert words[0] == "binderclip", line
    return words[1:]


def shell(line: str, folder: Path) -> str:
    """Run a line that the page shows as it stands; what it prints."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(line, shell=True, cwd=folder, capture_output=True, text=True, env=environment, timeout=280)
    assert done.returncode == 0, done.stderr
    return done.stdout


def python(line: str, folder: Path) -> str:
    """Run a line of Python that the page shows; what it prints."""
    done = subprocess.run([sys.executable, "-c", line], cwd=folder, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return done.stdout


# -- the browser -------------------------------------------------------------------------------------------------------

LAPTOP, PHONE = {"width": 1366, "height": 768}, {"width": 390, "height": 844}
SHOTS = Path(__file__).parents[2] / "build" / "screenshots"
"""Screenshots of the tabs, kept for people to look at."""

_CUT = """() => [...document.querySelectorAll('button, label > span, h1, p, td, th, .status, [role=tab]')]
  .filter(e => e.offsetParent !== null && e.scrollWidth > e.clientWidth + 2 && e.innerText.trim())
  .filter(e => getComputedStyle(e).overflowX === 'hidden' && getComputedStyle(e).textOverflow !== 'ellipsis')
  .filter(e => !e.closest('[aria-hidden=true]'))
  .map(e => e.tagName + ' ' + e.className + ': ' + e.innerText.trim().slice(0, 60))"""
_BROKEN = """() => [...document.querySelectorAll('button')]
  .filter(e => e.offsetParent !== null && /^\\S+$/.test(e.innerText.trim()))
  .filter(e => {
    const range = document.createRange(), texts = document.createTreeWalker(e, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
      range.selectNodeContents(texts.currentNode);
      const lines = [...range.getClientRects()].filter(r => r.width > 1).map(r => Math.round(r.top));
      if (new Set(lines).size > 1) return true;
    }
    return false;
  }).map(e => e.className + ': ' + e.innerText.trim())"""
"""Buttons of one word that stands in two lines."""
_COVERED = """() => [...document.querySelectorAll('button, a[href], input, select, summary, textarea')]
  .filter(e => e.offsetParent !== null && !e.disabled && !e.closest('[inert], [aria-hidden=true]'))
  .filter(e => e.checkVisibility({opacityProperty: true, visibilityProperty: true}))
  .filter(e => {
    e.scrollIntoView({block: 'center', inline: 'center', behavior: 'instant'});
    const box = e.getBoundingClientRect();
    if (box.width < 2 || box.height < 2) return false;
    const top = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
    return top && !e.contains(top) && !top.contains(e) && !e.closest('label')?.contains(top);
  })
  .map(e => e.tagName + ' ' + e.className + ': ' + (e.innerText || e.ariaLabel || '').trim().slice(0, 60))"""
"""What can be pressed and lies under something else, so that a finger or a mouse does not reach its middle."""
_SQUEEZED = """() => [...document.querySelectorAll('label > span, button, p')]
  .filter(e => e.offsetParent !== null && e.innerText.trim().split(/\\s+/).length > 3)
  .filter(e => {
    const range = document.createRange(), texts = document.createTreeWalker(e, NodeFilter.SHOW_TEXT), lines = new Set();
    while (texts.nextNode()) {
      range.selectNodeContents(texts.currentNode);
      for (const r of range.getClientRects()) if (r.width > 1) lines.add(Math.round(r.top));
    }
    return lines.size > 3 && lines.size > e.innerText.trim().split(/\\s+/).length / 2;
  }).map(e => e.tagName + ' ' + e.className + ': ' + e.innerText.trim().slice(0, 60))"""
"""Texts of several words with fewer than two in a line: their column has no room beside its neighbours."""
_GRADIO = ('nested-interactive: <button class="icon-button',)
"""What is in Gradio itself and cannot be mended from outside: its button that adds files holds their input."""
_VIOLATIONS = """() => axe.run(document, {
  runOnly: ['wcag2a', 'wcag2aa', 'wcag21aa'], resultTypes: ['violations'],
}).then(result => result.violations)"""
"""What breaks a rule; where each of the others holds is not written down, which took four times as long."""
_COLOURS = """colours => {
  const list = document.querySelector('select.colours'), before = list.value;
  list.value = colours;
  list.dispatchEvent(new Event('change', {bubbles: true}));
  return before;
}"""
"""Chooses colours though something lies over their list; those from before."""
_WIDE = "() => document.documentElement.scrollWidth - window.innerWidth"
_LOADED = "image => image.complete && image.naturalWidth > 0"
_LAID_OUT = """image => {
  const box = image.getBoundingClientRect();
  return image.complete && image.naturalWidth > 0 && box.height > 0
    && Math.abs(box.width / box.height - image.naturalWidth / image.naturalHeight) < 0.05;
}"""
"""Whether a picture's box is its own; before it is loaded the box is that of nothing."""
_DRAWN = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
_STILL = """async () => {
  const frame = () => new Promise(done => requestAnimationFrame(done)), root = document.documentElement;
  const end = performance.now() + 3000;
  for (let alike = 0, before = ''; alike < 5 && performance.now() < end;) {
    await frame();
    const now = [root.scrollWidth, root.scrollHeight, root.querySelectorAll('*').length, scrollY].join();
    const moving = document.getAnimations().some(
      each => each.playState === 'running' && Number.isFinite(each.effect.getComputedTiming().endTime));
    alike = now === before && !moving ? alike + 1 : 0;
    before = now;
  }
}"""
"""Waits until five frames one after the other are as large and as full as one another, and nothing moves in them."""


def missing(what: str) -> None:
    """Skip, and say why; where a browser is required, fail."""
    if os.environ.get("BINDERCLIP_BROWSER") == "required":
        pytest.fail(what, pytrace=False)
    pytest.skip(what)


class View:
    """A page in the browser, of a user of its own.

    Attributes:
        page: Playwright's page. faults: what went wrong behind it; the test fails if anything is left there.
    """

    def __init__(self, browser: Any, server: Any) -> None:
        self.server = server
        self.context = browser.new_context(viewport=LAPTOP, accept_downloads=True)
        self.context.set_default_timeout(LONG * 1000)
        self.page = self.context.new_page()
        self.faults: list[str] = []
        self.page.on("pageerror", lambda error: self.faults.append(f"script: {error}"))
        self.page.on("response", lambda got: got.status >= 400 and self.faults.append(f"{got.status} {got.url}"))
        self.page.on("request", self._asked)
        self.page.on("console", lambda said: "Security Policy" in said.text and self.faults.append(said.text))
        self._answered: list[str] = []
        for ended in ("requestfinished", "requestfailed"):
            self.page.on(ended, lambda asked: "/queue/data" in asked.url and self._answered.append(asked.url))
        self._opened(lambda: self.page.goto(server.address))

    def reload(self) -> None:
        """Open the page anew, as its user does."""
        self._opened(self.page.reload)

    def _opened(self, open_page: Callable[[], object]) -> None:
        self._answered.clear()
        open_page()
        self.page.get_by_role("tab").first.wait_for()
        # What the page asks for by itself when it opens (the first paper) goes the way of every press: its answer
        # shows that the handlers are bound and that the way is free.
        end = time.monotonic() + LONG
        while not self._answered:
            assert time.monotonic() < end, "the page has had no answer"
            self.page.wait_for_timeout(20)

    def _asked(self, request: Any) -> None:
        if not request.url.startswith((f"http://127.0.0.1:{self.server.port}/", "data:", "blob:")):
            self.faults.append(f"asked for {request.url}")

    def tab(self, title: str) -> Any:
        """Open a tab; its panel, in which everything else is looked for."""
        handle = self.page.get_by_role("tab", name=title, exact=True).locator("visible=true")
        if not handle.count():
            # On a phone they stand behind a button.
            self.page.get_by_role("button", name="Choose a task").click()
        handle.first.click()
        panel = self.page.get_by_role("tabpanel").locator("visible=true")
        panel.first.wait_for()
        return panel.first

    def choose(self, where: Any, label: str, value: object) -> None:
        """Type into a list, as people do with what is not in it, or take what is."""
        field = where.get_by_label(label, exact=True)
        for pause in (100, 200, 400, 800, 1600):  # ms; a busy machine is given longer
            field.fill(str(value))
            self.page.wait_for_timeout(pause)  # the list is filtered a moment after the key
            field.press("Enter")
            # The list takes the value in a later task: one that is left in the same is put back to what it had.
            self.page.wait_for_timeout(pause)
            field.blur()
            self.page.wait_for_timeout(pause)
            if field.input_value() == str(value):
                return
        raise AssertionError(f"{label} holds {field.input_value()!r} and does not take {str(value)!r}")

    def more(self, panel: Any) -> None:
        """Open the section of more settings, and wait until it is laid out: a field takes no text before."""
        panel.get_by_text("More settings", exact=True).first.click()
        self.still()

    def drop(self, panel: Any, *paths: Path, box: int = 0) -> None:
        """Choose files, and wait until they are uploaded."""
        with self.page.expect_response(lambda got: "/gradio_api/upload" in got.url and "progress" not in got.url):
            panel.locator("input[type=file]").nth(box).set_input_files([str(path) for path in paths])

    def run(self, panel: Any, button: str) -> str:
        """Press a button and wait until its run has ended; what the status line says then."""
        status = panel.locator(".status").first
        before = status.get_attribute("data-line")
        panel.get_by_role("button", name=button, exact=True).click()
        self.page.wait_for_function(
            "([panel, before]) => panel.querySelector('.status').dataset.line !== before",
            arg=[panel.element_handle(), before],
        )
        return self.ended(panel)

    def ended(self, panel: Any) -> str:
        stop = panel.get_by_role("button", name="Stop")
        status = panel.locator(".status.done, .status.failed, .status.stopped").first
        status.wait_for()
        self.page.wait_for_function("button => button.disabled", arg=stop.element_handle())
        # What came with the last line of status is drawn with it, or in the next frame.
        self.page.evaluate(_DRAWN)
        return str(status.inner_text())

    def loaded(self, image: Any) -> None:
        """Wait until a picture is there."""
        image.wait_for()
        self.page.wait_for_function(_LOADED, arg=image.element_handle())

    def press(self, image: Any, x: float, y: float) -> None:
        """Click on a picture, at shares of its width and height, as soon as it is loaded and laid out."""
        image.wait_for()
        self.page.wait_for_function(_LAID_OUT, arg=image.element_handle())
        box = image.bounding_box()
        image.click(position={"x": box["width"] * x, "y": box["height"] * y})

    def stroke(self, canvas: Any, start: tuple[float, float], end: tuple[float, float], steps: int = 8) -> None:
        """Draw a line on a canvas, between two places at shares of its width and height."""
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        across, down = (
            [
                box[low] + box[side] * (start[axis] + (end[axis] - start[axis]) * step / steps)
                for step in range(steps + 1)
            ]
            for axis, (low, side) in enumerate((("x", "width"), ("y", "height")))
        )
        self.page.mouse.move(across[0], down[0])
        self.page.mouse.down()
        for place in zip(across, down, strict=True):
            self.page.mouse.move(*place)
            self.page.wait_for_timeout(20)  # the editor draws once a frame
        self.page.mouse.up()
        self.page.wait_for_timeout(100)

    def lines(self, panel: Any) -> tuple[str, str]:
        """The lines of shell and of Python that the page shows."""
        details = panel.locator("details.lines")
        if details.get_attribute("open") is None:
            details.locator("summary").click()
        return tuple(panel.get_by_role("region", name=name, exact=True).inner_text() for name in ("Shell", "Python"))

    def start(self, panel: Any, button: str) -> None:
        """Press a button, and wait only until the run is in line."""
        panel.get_by_role("button", name=button, exact=True).click()
        panel.locator(".status.waiting, .status.running").first.wait_for()

    def look(self, name: str) -> list[str]:
        """Screenshots on a laptop and on a phone; what is cut, squeezed or sticks out on either."""
        SHOTS.mkdir(parents=True, exist_ok=True)
        wrong = []
        for device, size in (("laptop", LAPTOP), ("phone", PHONE)):
            self.page.set_viewport_size(size)
            self.still()
            self.page.screenshot(path=SHOTS / f"{name}-{device}.png", full_page=True)
            if self.page.evaluate(_WIDE) > 1:
                wrong.append(f"{device}: wider than the window")
            wrong += [f"{device}: cut: {text}" for text in self.page.evaluate(_CUT)]
            wrong += [f"{device}: broken: {text}" for text in self.page.evaluate(_BROKEN)]
            wrong += [f"{device}: squeezed: {text}" for text in self.page.evaluate(_SQUEEZED)]
            wrong += [f"{device}: covered: {text}" for text in self.page.evaluate(_COVERED)]
            self.page.evaluate("() => scrollTo(0, 0)")
        self.page.set_viewport_size(LAPTOP)
        self.still()  # tabs come back from behind the button of a narrow page
        return wrong

    def still(self) -> None:
        """Wait until the page is laid out."""
        self.page.evaluate(_STILL)

    def axe(self) -> list[str]:
        """What axe-core finds against WCAG 2 A and AA, by day and by night: labels, contrast, roles."""
        script = Path(os.environ.get("BINDERCLIP_AXE") or Path(sys.prefix) / "axe-core" / "axe.min.js")
        if not script.is_file():
            missing(f"axe-core is not at {script}: `make test` brings it where npm is")
        self.page.evaluate(script.read_text())
        found: dict[str, str] = {}
        before = self.page.evaluate(_COLOURS, "dark")
        for when in ("by night", "by day"):
            wrong = self.page.evaluate(_VIOLATIONS)
            nodes = [f"{each['id']}: {node['html'][:150]}" for each in wrong for node in each["nodes"]]
            found |= {node: when for node in nodes if not node.startswith(_GRADIO)}
            self.page.evaluate(_COLOURS, "light")
        self.page.evaluate(_COLOURS, before)
        return [f"{node}, {when}" for node, when in found.items()]

    def focused(self, presses: int) -> list[str]:
        """Names of what the tabulator key reaches, one after the other."""
        names = []
        for _ in range(presses):
            self.page.keyboard.press("Tab")
            names.append(
                self.page.evaluate(
                    "() => { const e = document.activeElement; return e.getAttribute('aria-label') || "
                    "(e.labels && e.labels[0] && e.labels[0].innerText) || e.innerText || e.tagName }"
                ).strip()
            )
        return names


@pytest.fixture(scope="session")
def view_of() -> type[View]:
    """Opens a page of another server: `view_of(browser, server)`."""
    return View


@pytest.fixture
def view(browser: Any, server: Any) -> Iterator[View]:
    """A page of the workbench; at the end nothing may have gone wrong behind it."""
    view = View(browser, server)
    yield view
    view.context.close()
    assert view.faults == []
