"""One running workbench for all tests of it, with two more tabs that tests need: one that waits, one that is quick."""

from __future__ import annotations

import http.client
import json
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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

    def upload(self, *files: tuple[str, bytes], **headers: str) -> Answer:
        """A multipart upload as the page sends it."""
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
        return self.ask("POST", "/gradio_api/upload", body, content_type=kind, **headers)

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
def png() -> bytes:
    """A small picture."""
    import io

    out = io.BytesIO()
    Image.new("RGB", (48, 40), (200, 30, 30)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="session")
def server(gate: Gate, photographs: Path) -> Iterator[Any]:
    """The workbench with all its tabs, on a port of its own."""
    import time

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
    with WorkbenchServer(tabs=tabs, folders=[photographs]).in_background() as running:
        yield running


@pytest.fixture
def run_of(tmp_path: Path) -> Any:
    """Makes what the work of a tab is given, without a server: `run_of()` has an empty folder and the model `small`."""
    pytest.importorskip("gradio", reason="the workbench needs Gradio: pip install binderclip[workbench]")

    from binderclip.workbench.jobs import JobQueue, WorkbenchJob
    from binderclip.workbench.models import ModelShelf
    from binderclip.workbench.sessions import Sessions
    from binderclip.workbench.tab import Bench, Run

    bench = Bench(model=None, jobs=JobQueue(), sessions=Sessions(tmp_path / "sessions"), models=ModelShelf())

    def made(model: str = "small") -> Run:
        folder = tmp_path / secrets.token_hex(4)
        folder.mkdir()
        return Run(bench, WorkbenchJob(lambda job: None, "", ""), model, folder)

    return made


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
