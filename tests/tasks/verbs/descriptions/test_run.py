"""`descriptions` asked of a service on this machine: what is sent, said, written and given back."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from binderclip.adapt import read_descriptions
from binderclip.errors import UsageError
from binderclip.tasks import descriptions
from binderclip.tasks.events import Reported, Saved

LABELS, ATTRIBUTES = ["oak", "red, round"], ["leaf", "bark, and so on"]


class Answering(BaseHTTPRequestHandler):
    """Describes every label alike."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        sentences = {"sentences": [f"oak, red, round: {number}" for number in range(2)]}
        body = json.dumps({"choices": [{"message": {"content": json.dumps(sentences)}}]}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Answering)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def test_labels_are_told_one_by_one_and_written(url: str, tmp_path: Path) -> None:
    out = tmp_path / "trees.json"
    request = descriptions.request(labels=LABELS, out=out, url=url, model="m", attributes=ATTRIBUTES)
    events: list[Any] = []
    result = descriptions.run(request, progress=events.append)
    assert [event.message for event in events if isinstance(event, Reported)][:2] == LABELS
    assert [event.path for event in events if isinstance(event, Saved)] == [out]
    written = read_descriptions(out)
    assert (list(written.classes), written.attributes, written.about) == (LABELS, ATTRIBUTES, "written by m")
    assert result.as_dict()["classes"] == written.classes
    assert result.table()[1] == []  # they are in the file


def test_words_and_document_give_the_request_again() -> None:
    request = descriptions.request(labels=LABELS, out="a.json", attributes=ATTRIBUTES, count=3, timeout=2.5)
    assert descriptions.request.from_document(request.as_document()) == request
    assert request.argv()[0] == 'oak,"red, round"'
    assert 'leaf,"bark, and so on"' in request.argv()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"labels": ["oak"]}, "--out FILE is needed"),
        ({"labels": ["oak", "oak"], "out": "a.json"}, "LABELS names 'oak' more than once"),
        ({"labels": ["oak"], "out": "a.json", "attributes": []}, "--attributes is empty"),
        ({"labels": ["animals"], "timeout": float("nan")}, "--timeout"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        descriptions.request(**fields)


def test_a_shipped_set_is_asked_for_by_its_name_alone() -> None:
    assert descriptions.request(labels=["animals"]).shipped == "animals"
    assert descriptions.request(labels=["animals", "oak"], out="a.json").shipped is None
