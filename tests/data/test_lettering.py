"""Text cut to a width: against cutting letter by letter, and in the time of what fits."""

from __future__ import annotations

import pytest
from PIL import ImageFont

from binderclip.data.lettering import ellipsized, fitting

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
