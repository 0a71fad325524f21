"""`binderclip workbench`: what is checked before a page is opened."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

WATCHED = """
import socket, sys

def watched(call):
    def wrapper(self, address, *rest):
        network = self.family in (socket.AF_INET, socket.AF_INET6)
        if network and str(address[0]) not in ("127.0.0.1", "localhost", "::1"):
            print("OUTSIDE", address, file=sys.stderr, flush=True)
            raise OSError("no network")
        return call(self, address, *rest)
    return wrapper

def resolved(host, *rest, **options):
    if host not in (None, "127.0.0.1", "localhost", "::1"):
        print("OUTSIDE", host, file=sys.stderr, flush=True)
        raise socket.gaierror("no network")
    return resolve(host, *rest, **options)

resolve = socket.getaddrinfo
socket.getaddrinfo = resolved
socket.socket.connect, socket.socket.connect_ex = watched(socket.socket.connect), watched(socket.socket.connect_ex)
from binderclip.cli import main
main()
"""
"""The command, with every connection and every look-up of a name to the outside said and refused."""


def test_a_folder_that_is_not_there_is_said_before_anything_is_opened(command: Any) -> None:
    done = command("workbench", "nowhere")
    assert done.code == 2
    assert "there is no folder nowhere" in done.err


def test_a_port_that_is_taken_is_named(command: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = command("workbench", "--no-browser", f"--port={port}")
    assert done.code == 2
    assert f"--port {port}" in done.err


def test_it_is_opened_on_the_folders_and_says_where(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    class Server:
        address = "http://127.0.0.1:1/?key=k"

        def __init__(self, **options: Any) -> None:
            given.update(options)

        def run(self) -> None:
            given["ran"] = True

    monkeypatch.setattr("binderclip.workbench.server.WorkbenchServer", Server)
    (tmp_path / "holiday").mkdir()
    done = command("workbench", "holiday", "--no-browser", "--model", "small-dino")
    assert done.code == 0
    assert done.out == "http://127.0.0.1:1/?key=k\n"
    # Absolute, whatever the server's folder is.
    assert given["folders"] == [tmp_path / "holiday"]
    assert given["model"] == "small-dino"
    assert given["ran"]


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT to send")
def test_it_serves_asks_nobody_and_leaves_nothing_behind(tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="the workbench needs Gradio: pip install binderclip[workbench]")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    # An environment that asks for the contrary of what the workbench promises.
    loud = {"GRADIO_ANALYTICS_ENABLED": "True", "GRADIO_SHARE": "True", "GRADIO_SERVER_NAME": "0.0.0.0"}
    running = subprocess.Popen(
        [sys.executable, "-c", WATCHED, "workbench", "--no-browser"],
        env={**os.environ, **loud, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert running.stdout is not None
        address = running.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:"), running.stderr and running.stderr.read()
        where, key = address.removeprefix("http://").split("/", 1)
        connection = http.client.HTTPConnection(where, timeout=120)
        connection.request("GET", f"/{key}")
        first = connection.getresponse()
        cookie = first.headers["set-cookie"].split(";")[0]
        first.read()
        connection.request("GET", "/", headers={"Cookie": cookie})
        page = connection.getresponse().read().decode()
        connection.close()
        assert "binderclip workbench" in page
        assert list(temporary.glob("binderclip-workbench-*"))
    finally:
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=120)
    assert running.returncode == 0, said
    assert "OUTSIDE" not in said
    assert "Traceback" not in said
    assert not list(temporary.glob("binderclip-workbench-*"))


def test_no_page_is_served_with_a_device_or_model_that_is_none(command: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for options, code, said in [
        (("--device", "nope"), 2, "device 'nope' is unknown"),
        (("--device", "meta"), 2, "device 'meta' is not one of"),
        (("--model", ""), 2, "--model is empty"),
        (("--model", "smal"), 2, "did you mean small"),
        (("--model", "empty"), 1, "empty holds no model"),
    ]:
        done = command("workbench", "--no-browser", *options)
        assert (done.code, said in done.err) == (code, True), done.err
        assert "http" not in done.out
