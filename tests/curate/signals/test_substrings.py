"""MetaCLIP's matching (p150): the automaton against the loop over all entries that the paper describes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from binderclip.curate import SubstringMatcher, build_metadata
from binderclip.curate.signals.substrings import spaced
from binderclip.errors import UsageError


def loop_spacing(text: str) -> str:
    """The spacing rule of the released code, written one sign at a time."""
    out = " " + text + " "
    for sign in [",", ".", ";", ":", "?", "!", "`"]:
        out = f" {sign} ".join(out.split(sign))
    for sign in ["\t", "\n", "\r"]:
        out = " ".join(out.split(sign))
    return out


def loop_match(entries: list[str], text: str) -> list[int]:
    spaces = loop_spacing(text)
    return [number for number, entry in enumerate(entries) if (" " + entry + " ") in spaces]


ENTRIES = st.lists(st.text(st.sampled_from("abAé .-"), min_size=1, max_size=5), min_size=1, max_size=12, unique=True)
TEXTS = st.text(st.sampled_from('abAé .,;:?!`\t\n-"/'), max_size=40)


@settings(max_examples=300)
@given(entries=ENTRIES, text=TEXTS)
def test_the_automaton_finds_what_the_loop_finds(entries: list[str], text: str) -> None:
    entries = [entry for entry in entries if entry.strip()] or ["a"]
    assert spaced(text) == loop_spacing(text)
    assert SubstringMatcher(entries).match(text) == loop_match(entries, text)
    lower = SubstringMatcher(entries, lower=True).match(text)
    assert lower == loop_match([entry.lower() for entry in entries], text.lower())


def test_words_are_whole_and_count_once() -> None:
    matcher = SubstringMatcher(["cat", "photo", "dog", "photo:dog", "hot dog", "dog."])
    assert matcher.match("concatenate") == []
    assert matcher.match("photo:dog;") == [1, 2]
    assert matcher.match("cat cat, cat") == [0]
    assert matcher.match("Cat") == []
    assert matcher.match("a hot dog") == [2, 4]
    assert matcher.match('"cat" cat-like cats') == []


def test_lists_that_cannot_be_used() -> None:
    for entries, said in (
        ([], "at least one entry"),
        (["a", " "], "entry 1 is empty"),
        (["a", "b", "a"], "'a' stands"),
    ):
        with pytest.raises(UsageError, match=said):
            SubstringMatcher(entries)


def test_metadata_is_made_of_sources_with_minima() -> None:
    made = build_metadata([["cat", "dog", "cat", "!"], {"red dog": 31.0, "of the": 2.0, "cat": 99}], minimum=[2, 30])
    assert made == [*map(str, range(100)), "cat", "red dog"]
    assert build_metadata([["b", "a", "b", "?!"]], numbers=False) == ["b", "a"]
    with pytest.raises(UsageError, match="2 sources, but 1 minima"):
        build_metadata([["a"], ["b"]], minimum=[1])
