"""The page's tokens: text is read on every ground it stands on, by day and by night, and styles name tokens only."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="the workbench needs Gradio: pip install binderclip[workbench]")

from binderclip.workbench.app import STATIC
from binderclip.workbench.theme import COLOURS, GROUNDS, SIZES, tokens_css

LITERAL = re.compile(r"#[0-9a-fA-F]{3,8}\b|\b(?:rgba?|hsla?|hwb|lab|lch|oklab|oklch)\(|:\s*(?:white|black|red)\b")
NAMED = re.compile(r"var\(--b-([\w-]+)")
STYLES = sorted(STATIC.glob("*.css"))
TEXT, SHAPE = 4.5, 3.0
"""Least contrast of text (WCAG 2.2, 1.4.3) and of what shows where a control is or has the focus (1.4.11)."""


def luminance(colour: str) -> float:
    """Relative luminance of `#rrggbb`, as WCAG 2.2 defines it."""
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Contrast ratio, from 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(
    ("one", "other", "ratio"),
    # As the W3C's techniques and WebAIM's checker give them.
    [("#000000", "#ffffff", 21.0), ("#ffffff", "#ffffff", 1.0), ("#777777", "#ffffff", 4.48),
     ("#767676", "#ffffff", 4.54), ("#0000ff", "#ffffff", 8.59), ("#ff0000", "#ffffff", 4.00)],
)  # fmt: skip
def test_the_contrast_is_that_of_wcag(one: str, other: str, ratio: float) -> None:
    assert contrast(one, other) == pytest.approx(ratio, abs=0.006)


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_text_is_read_on_every_ground_it_stands_on(mode: str) -> None:
    low = {
        f"{name} on {ground}": round(ratio, 2)
        for name, colour in COLOURS.items()
        for ground in colour.ink_on
        if (ratio := contrast(getattr(colour, mode), getattr(COLOURS[ground], mode))) < TEXT
    }
    assert low == {}


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_edges_of_controls_and_the_focus_are_seen(mode: str) -> None:
    for name in ("border-strong", "focus", "attention", "danger"):
        for ground in GROUNDS[:2]:
            assert contrast(getattr(COLOURS[name], mode), getattr(COLOURS[ground], mode)) >= SHAPE, (name, ground)
    for name in ("stage-border", "stage-focus"):
        assert contrast(getattr(COLOURS[name], mode), getattr(COLOURS["stage"], mode)) >= SHAPE, name


@pytest.mark.parametrize("style", STYLES, ids=lambda path: path.name)
def test_no_style_has_a_colour_of_its_own(style: Path) -> None:
    text = re.sub(r"/\*.*?\*/", "", style.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert LITERAL.findall(text) == []


@pytest.mark.parametrize("style", STYLES, ids=lambda path: path.name)
def test_every_token_that_a_style_names_is_one(style: Path) -> None:
    assert {*NAMED.findall(style.read_text(encoding="utf-8"))} <= {*COLOURS, *SIZES}


def test_every_ink_of_a_style_has_its_grounds_checked() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in STYLES)
    inks = {*re.findall(r"(?<![\w-])color:\s*var\(--b-([\w-]+)\)", text)}
    assert inks
    assert {name for name in inks if not COLOURS[name].ink_on} == set()


def test_the_page_has_every_token_by_day_and_by_night() -> None:
    day, night = tokens_css().split(".dark")
    for name, colour in COLOURS.items():
        assert f"--b-{name}: {colour.light};" in day
        assert f"--b-{name}: {colour.dark};" in night
