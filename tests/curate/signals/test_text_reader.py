"""`TextReader`: what it makes of each library's answer, by stand-ins of their interfaces, and by the library itself."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from binderclip.curate import ReadText, TextReader
from binderclip.curate.signals import embedded_text
from binderclip.data.made.words import render_text
from binderclip.errors import MissingDependency, NotSupported, UsageError

PICTURE = Image.new("RGB", (8, 6), (200, 10, 30))


def engine(lines: list[Any] | None, seen: list[np.ndarray]) -> Any:
    def read(pixels: np.ndarray) -> tuple[list[Any] | None, list[float]]:
        seen.append(pixels)
        return lines, [0.1]

    return SimpleNamespace(RapidOCR=lambda: read)


@pytest.mark.parametrize(
    ("lines", "least", "words"),
    [
        (None, 0.5, ""),
        ([[[], "RED  car", "0.93"], [[], "sale", 0.4]], 0.5, "RED car"),
        ([[[], "RED car", 0.93], [[], "sale", 0.4]], 0.4, "RED car sale"),
    ],
    ids=["nothing", "unsure lines", "all lines"],
)
def test_rapidocr(monkeypatch: pytest.MonkeyPatch, lines: Any, least: float, words: str) -> None:
    seen: list[np.ndarray] = []
    monkeypatch.setitem(sys.modules, "rapidocr_onnxruntime", engine(lines, seen))
    assert TextReader(least=least)(PICTURE) == words
    assert seen[0].shape == (6, 8, 3)
    assert seen[0][0, 0].tolist() == [30, 10, 200]  # blue first, as OpenCV has it


def test_tesseract_and_its_program(monkeypatch: pytest.MonkeyPatch) -> None:
    class TesseractNotFoundError(OSError):
        pass

    def absent(picture: Image.Image) -> str:
        raise TesseractNotFoundError

    found = SimpleNamespace(image_to_string=lambda picture: "RED\ncar \n\f")
    monkeypatch.setitem(sys.modules, "pytesseract", found)
    assert TextReader("tesseract")(PICTURE) == "RED car"
    monkeypatch.setitem(sys.modules, "pytesseract", SimpleNamespace(image_to_string=absent))
    with pytest.raises(NotSupported, match="program tesseract"):
        TextReader("tesseract")(PICTURE)


def test_what_is_wrong_or_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="rapidocr or tesseract, not 'easy'"):
        TextReader("easy")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="from 0 to 1"):
        TextReader(least=2)
    monkeypatch.setitem(sys.modules, "rapidocr_onnxruntime", None)
    with pytest.raises(MissingDependency, match=r"binderclip\[ocr\]"):
        TextReader()
    embedded_text._default_reader.cache_clear()
    with pytest.raises(UsageError, match=r"a column `ocr` .* or install a reader: .*binderclip\[ocr\]"):
        ReadText()(SimpleNamespace())  # type: ignore[arg-type]


def test_the_library_itself_reads_what_is_printed() -> None:
    pytest.importorskip("rapidocr_onnxruntime")
    shown = render_text(Image.new("RGB", (320, 120), "white"), "RED CAR", size=40)
    assert TextReader()(shown.image).upper().replace(" ", "") == "REDCAR"
