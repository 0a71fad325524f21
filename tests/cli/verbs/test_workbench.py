"""`binderclip workbench`: what is checked before a page is opened."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest


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
