"""The coloured words of `binderclip explain --words`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from binderclip.cli.verbs.explain.words import coloured, explain_words
from binderclip.errors import UsageError
from binderclip.tasks.verbs import explain as verb


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "red.png"
    Image.fromarray(np.full((64, 64, 3), (220, 20, 20), dtype=np.uint8)).save(path)
    return path


def test_words_are_coloured_by_sign_and_marked_when_wrong():
    line = coloured([("a", 0.01), ("red", 1.0), ("cat", -0.8), ("here", None)], [False, False, True, False])
    assert line.plain == "a red cat here"
    styles = {line.plain[span.start : span.end].strip(): str(span.style) for span in line.spans}
    assert styles["red"] == "bold green"
    assert styles["cat"] == "bold red underline"
    assert "strike" in styles["here"]


def test_json_and_page_tell_the_same(picture, tmp_path, capsys):
    page = tmp_path / "words.html"
    explain_words(picture, "a <blue> square", json=True, html=page, decision="most-negative")
    told = json.loads(capsys.readouterr().out)
    assert [word["word"] for word in told["words"]] == ["a", "<blue>", "square"]
    assert told["text_blocks"] == [0, 1, 2]
    lowest = min(told["words"], key=lambda word: word["score"])
    assert [word for word in told["words"] if word["misaligned"]] == [lowest]
    text = page.read_text(encoding="utf-8")
    assert "&lt;blue&gt;" in text
    assert "<blue>" not in text
    assert "data:image/png;base64" in text
    assert len(re.findall(r"text-decoration: underline", text)) == 1


def test_the_terminal_names_what_was_not_seen(picture, capsys):
    with pytest.warns(UserWarning, match="longer than 16 tokens"):
        explain_words(picture, "a red square and another red square and yet another zebra", eps=-1.0)
    told = capsys.readouterr()
    assert "no word below the threshold" in told.out
    assert re.search(r"not seen by small.*zebra", told.err)


def test_a_bundled_model_gets_its_own_threshold(picture, capsys, monkeypatch):
    def told(clip, method):
        from dataclasses import replace

        return replace(method, eps=-0.0123)

    monkeypatch.setattr(verb, "calibrated", told)
    explain_words(picture, "a square", json=True)
    assert json.loads(capsys.readouterr().out)["threshold"] == -0.0123


def test_errors_before_any_work(picture, tmp_path):
    with pytest.raises(UsageError, match="caption is empty"):
        explain_words(picture, " ")
    with pytest.raises(UsageError, match=r"name it .*words\.html"):
        explain_words(picture, "a cat", out=tmp_path / "words.png")
    with pytest.raises(UsageError, match="two pages"):
        explain_words(picture, "a cat", out="a.html", html="b.html")
    with pytest.raises(UsageError, match="no folder"):
        explain_words(picture, "a cat", html=tmp_path / "none" / "a.html")
