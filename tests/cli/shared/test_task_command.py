"""Commands made from requests, and `--from`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from binderclip.cli.shared.task_command import with_request
from binderclip.tasks import attack

Command = Callable[..., Any]
ASKED = {"task": "attack", "model": "small", "images": ["-odd.png"], "labels": ["a", "b"], "seed": 3}


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "request.json"
    path.write_text(json.dumps(ASKED), encoding="utf-8")
    return path


@pytest.mark.parametrize("join", [False, True])
def test_the_document_stands_for_its_words_and_options_beside_it_come_later(document: Path, join: bool) -> None:
    given = [f"--from={document}"] if join else ["--from", str(document)]
    words = with_request(["--seed", "5", *given, "--json"], attack)
    assert words == ["--labels", "a,b", "--seed", "3", "--seed", "5", "--json", "--", "small", "-odd.png"]
    assert with_request(["small", "x.png"], attack) == ["small", "x.png"]


def test_mistakes_in_documents_are_said(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    for text, message in (
        ("{", "not a JSON document"),
        ('{"task": "segment"}', "this is a request of 'segment', not of attack"),
        ('{"model": "small", "images": ["a.png"], "labels": ["a", "b"], "eps": 7}', "must be above 0 and at most 1"),
        ('{"model": "small", "images": [], "labels": ["a", "b"]}', "IMAGES|images"),
    ):
        path.write_text(text, encoding="utf-8")
        done = command("attack", "--from", path)
        assert (done.code, any(part in done.err for part in message.split("|"))) == (2, True), done.err
    done = command("attack", "--from", tmp_path / "none.json")
    assert (done.code, "there is no file" in done.err) == (2, True)


def test_a_missing_name_behind_from_is_an_error(command: Command) -> None:
    for words, message in ((("--from",), "requires an argument"), (("--from", " "), "--from is empty")):
        done = command("attack", *words)
        assert (done.code, message in done.err) == (2, True), done.err
