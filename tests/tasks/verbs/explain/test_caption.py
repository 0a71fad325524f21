"""`explain --words`: the document, the page and the remarks say the same of every word."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from binderclip.errors import UsageError
from binderclip.models import load
from binderclip.tasks import explain
from binderclip.tasks.verbs.explain import caption
from binderclip.tasks.verbs.explain.caption import CaptionReport, caption_score


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "red.png"
    Image.fromarray(np.full((64, 64, 3), (220, 20, 20), dtype=np.uint8)).save(path)
    return path


def scored(picture: Path, text: str, **settings: Any) -> CaptionReport:
    clip = load("small")
    request = explain.request(images=[picture, text], words=True, model="small")
    score = caption_score(clip, "small", Image.open(picture), text, **settings)
    return CaptionReport(request, score, clip.tokenizer.context_length)


def test_the_page_and_the_document_tell_the_same(picture: Path, tmp_path: Path) -> None:
    page = tmp_path / "words.html"
    told = explain(images=[picture, "a <blue> square"], words=True, model="small", report=page).as_dict()
    assert [word["word"] for word in told["words"]] == ["a", "<blue>", "square"]
    assert told["text_blocks"] == [0, 1, 2]
    text = page.read_text(encoding="utf-8")
    assert "&lt;blue&gt;" in text
    assert "<blue>" not in text
    assert "data:image/png;base64" in text
    assert len(re.findall(r"text-decoration: underline", text)) == sum(word["misaligned"] for word in told["words"])


def test_the_lowest_word_alone_does_not_fit(picture: Path) -> None:
    told = scored(picture, "a blue square", decision="most-negative").as_dict()
    lowest = min(told["words"], key=lambda word: word["score"])
    assert [word for word in told["words"] if word["misaligned"]] == [lowest]


def test_what_was_not_seen_is_named(picture: Path) -> None:
    with pytest.warns(UserWarning, match="longer than 16 tokens"):
        told = scored(picture, "a red square and another red square and yet another zebra", eps=-1.0)
    assert told.lines()[0] == "no word below the threshold"
    assert re.fullmatch(r"not seen by small \(its context has 16 tokens\): .*zebra", told.remarks()[0])


def test_a_bundled_model_gets_its_own_threshold(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption, "calibrated", lambda clip, method: replace(method, eps=-0.0123))
    assert scored(picture, "a square").as_dict()["threshold"] == -0.0123


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"images": ["a.png", " "]}, "IMAGES is empty|caption is empty"),
        ({"images": ["a.png"]}, "takes one image and its caption"),
        ({"label": "a cat"}, "takes one image and its caption"),
        ({"out": "words.png"}, r"name it words\.html"),
        ({"out": "a.html", "report": "b.html"}, "two pages"),
    ],
)
def test_mistakes_are_told_by_the_request(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        explain.request(**{"images": ["a.png", "a cat"], "words": True, **fields})


def test_a_page_has_a_folder(picture: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder"):
        explain(images=[picture, "a cat"], words=True, report=tmp_path / "none" / "a.html")
