"""Cleaning captions (p102): cases written by hand, and what must hold of every text."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from binderclip.curate import CLEANERS, strip_numbers

CASES = {
    "numbers": [
        ("a red car", "a red car"),
        ("two  spaces stay", "two  spaces stay"),
        ("photo 12", "photo"),
        ("12", ""),
        ("2 dogs, 12/05/2019 and 1,234.50", "dogs, and"),
        ("a 4x4, an mp3, covid-19 and U2", "a 4x4, an mp3, covid-19 and U2"),
        ("5-star hotel no. 7", "5-star hotel no."),
        ("img_1234 (2)", "img_ ( )"),
        ("１２ cats", "cats"),
        ("10:30-11:45", ""),
    ],
    "filenames": [("IMG_1234.jpg of a cat", "IMG of a cat"), ("a cat", "a cat"), ("dsc-02 and x.png", "dsc-02 and x")],
    "prices": [("only $12.50 today", "only today"), ("12 EUR or 13 euros", "or 13 euros"), ("€ 5", "")],
    "dates": [("on 12 May 2019 in Rome", "on in Rome"), ("May 12, 2019", ""), ("2019-05-12: rain", ": rain")],
    "html": [("<b>cats</b> &amp; dogs", "cats & dogs"), ("a < b", "a < b")],
    "all": [("<i>IMG_12.jpg</i> $5 on 1/2/2020, 7 cats", "IMG on , cats")],
}  # fmt: skip


@pytest.mark.parametrize(
    ("cleaner", "text", "want"), [(name, *case) for name, cases in CASES.items() for case in cases]
)
def test_cases(cleaner: str, text: str, want: str) -> None:
    assert CLEANERS[cleaner](text) == want


def test_settings() -> None:
    assert strip_numbers("a 4x4 and mp3", keep_alnum=False) == "a x and mp"
    assert strip_numbers("room 12 of 30", placeholder="#") == "room # of #"


@given(text=st.text(st.sampled_from("a7-. ,:/x_é０٣\n")), cleaner=st.sampled_from(["numbers", "filenames", "prices"]))
def test_cleaning_twice_is_cleaning_once(text: str, cleaner: str) -> None:
    once = CLEANERS[cleaner](text)
    assert CLEANERS[cleaner](once) == once


@given(text=st.text(st.sampled_from("a7-. ,x_é３")))
def test_what_is_left_of_numbers(text: str) -> None:
    assert not re.search(r"\d", strip_numbers(text, keep_alnum=False))
    if not re.search(r"\d", text):
        assert strip_numbers(text) == text
    letters = re.findall(r"[^\W\d_]", text)
    assert re.findall(r"[^\W\d_]", strip_numbers(text)) == letters
