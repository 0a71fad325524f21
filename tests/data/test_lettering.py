"""Text cut to a width: against cutting letter by letter, and in the time of what fits."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from binderclip.data import lettering
from binderclip.data.lettering import ellipsized, fitting, font_for

FONT = ImageFont.load_default(size=13)


class Counting:
    """A font whose letters are a pixel wide, and how many letters were measured."""

    def __init__(self) -> None:
        self.letters = 0

    def getlength(self, text: str) -> float:
        self.letters += len(text)
        return float(len(text))


@pytest.mark.parametrize("text", ["", "a", "a cat on a mat", "iiiiiiiiWWWWWWWWWW", "ünïcode ßtraße", "x" * 300])
@pytest.mark.parametrize("width", [0, 5, 12, 30, 60, 90, 1000])
def test_it_is_what_cutting_letter_by_letter_gives(text: str, width: int) -> None:
    want = text
    if FONT.getlength(text) > width:
        while want and FONT.getlength(want + "...") > width:
            want = want[:-1]
        want = want.rstrip()
        want = want and want + "..."
    assert ellipsized(text, FONT, width) == want


@pytest.mark.parametrize("length", [5_000, 1_000_000])
def test_a_long_text_costs_what_fits_and_no_more(length: int) -> None:
    font = Counting()
    assert ellipsized("w" * length, font, 100) == "w" * 97 + "..."  # type: ignore[arg-type]
    assert font.letters < 4_000
    everything = Counting()
    assert ellipsized("w" * length, everything, length) == "w" * length  # type: ignore[arg-type]
    assert everything.letters <= 3 * length


def test_lines_are_joined_and_nothing_fits_into_nothing() -> None:
    assert ellipsized("two\nlines", FONT, 500) == "two lines"
    assert ellipsized("word", FONT, 1) == ""
    assert fitting("word", lambda part: False) == ""
    assert fitting("", lambda part: True) == ""


def drawn(letter: str) -> bytes:
    font = font_for(letter, 24)
    picture = Image.new("L", (48, 48))
    ImageDraw.Draw(picture).text((8, 8), letter, fill=255, font=font)
    assert np.asarray(picture).max() > 128
    return picture.tobytes()


@pytest.mark.parametrize("word", ["Vögel", "Žluť", "птицы", "πουλιά", "naïve – “x”", "café ½ €"])
def test_letters_of_many_scripts_are_drawn_and_no_boxes(word: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pictures = [drawn(letter) for letter in sorted(set(word) - {" "})]
    assert len(set(pictures)) == len(pictures)  # a box is the same for every letter


def test_plain_text_keeps_its_font() -> None:
    assert font_for(["a cat", "50 % {of} it~"], 13).getmask("a cat").size == FONT.getmask("a cat").size
    assert font_for([], 13).getname() == FONT.getname()


def test_letters_that_no_font_has_are_named_once_by_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    own = lettering._font_files()[:1]
    monkeypatch.setattr(lettering, "_font_files", lambda: own)
    lettering._font_file.cache_clear()
    with pytest.warns(UserWarning, match="no font here has the letters 猫鳥, which become boxes") as caught:
        font = font_for(["a 鳥", "ein 猫 Käfig"], 20)
    assert len(caught) == 1
    assert "DejaVu" in font.getname()[0]  # type: ignore[union-attr, operator]
    lettering._font_file.cache_clear()


def test_the_system_s_font_is_taken_where_it_alone_has_the_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lettering, "_font_files", lambda: ["broken", "first", "second", "third"])
    known = {"broken": "", "first": "äö", "second": "äö猫", "third": "äö猫鳥"}
    monkeypatch.setattr(lettering, "_letters_of", lambda path: frozenset(known[path]))
    lettering._font_file.cache_clear()
    assert lettering._font_file(frozenset("ä猫")) == ("second", frozenset())
    assert lettering._font_file(frozenset("猫鳥я")) == ("third", frozenset("я"))
    lettering._font_file.cache_clear()


def test_a_file_that_is_no_font_has_no_letters(tmp_path: Path) -> None:
    path = tmp_path / "broken.ttf"
    path.write_bytes(b"no font")
    assert lettering._letters_of(str(path)) == frozenset()


def test_joined_and_unseen_signs_ask_for_no_letter() -> None:
    assert lettering._letters(["e\u0301 \u200b\n\t", "a"]) == {"e", "a"}
