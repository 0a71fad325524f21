"""The report of `binderclip heads`: for every head its texts, the pictures that it answers to, and where it looks."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from binderclip.display import number_of
from binderclip.tasks.report.page import Page

if TYPE_CHECKING:
    from PIL import Image

    from binderclip.cli.verbs.heads.content import Heads
    from binderclip.explain import NamedHead

MOST = 48
"""Heads with a section of their own, largest share first."""
SIDE = 132


def write_report(shown: Heads, path: Path) -> Path:
    """Write the page, self-contained."""
    model, named = shown.model, shown.named
    page = Page(
        f"What the heads of {model.name} say",
        f"{number_of(len(named), 'head')} of {number_of(len(shown.found.layers), 'block')}, "
        f"watched on {number_of(len(shown.found), 'picture')} "
        f"({escape(shown.pictures.source)}), described by {number_of(len(shown.texts), 'text')}. Made by "
        "<code>binderclip heads</code>.",
    )
    page.section(
        "Heads",
        "The image embedding is exactly the sum of what every head and MLP adds. The share is a head's part of the "
        "variance of all these heads. Its texts are chosen one after the other, each along the direction in which the "
        "head still varies most; explained is what ten of them (or all there are) explain, beside the most "
        "that as many directions could. "
        "A role is named where more than half of what the texts explain is due to it.",
    )
    page.table(
        ["head", "share", "explained", "at most", "role", "texts"],
        [[f"{one.layer}.{one.head}", one.share, *_ends(one), one.role, "; ".join(one.span.texts[:4])] for one in named],
    )
    if quiet := [one for one in named if shown.silent(one)]:
        page.text(
            f"Next to nothing is said by {number_of(len(quiet), 'head')} (together "
            f"{sum(one.share for one in quiet):.1%} of the variance) "
            "and have no section; their texts describe noise."
        )
    for one, rows in list(zip(named, shown.strongest, strict=True))[:MOST]:
        if not shown.silent(one) and len(one.span):
            _section(page, shown, one, rows)
    return page.save(path)


def _ends(one: NamedHead) -> list[float]:
    return [float(values[-1]) if len(one.span) else 0.0 for values in (one.span.explained, one.span.bound)]


def _section(page: Page, shown: Heads, one: NamedHead, rows: list[int]) -> None:
    page.section(
        f"Head {one.layer}.{one.head}",
        f"{one.share:.1%} of the variance; role: {escape(one.role)}. "
        f"Explained by {number_of(len(one.span), 'text')}: {_ends(one)[0]:.0%}.",
    )
    page.table(
        ["text", "role", "explains"],
        [[text, role, float(g)] for text, role, g in zip(one.span.texts, one.roles, one.span.gains, strict=True)],
    )
    page.text(
        f"The pictures whose output of this head points most along <b>{escape(one.span.texts[0])}</b>, and where it "
        "comes from (red: attention to these patches adds more than usual in that direction; blue: less)."
    )
    page.strip([(_pair(shown, one, row), _short(shown, row)) for row in rows], width=2 * SIDE + 4)


def _pair(shown: Heads, one: NamedHead, row: int) -> Image.Image:
    """A picture and the heat map of one head on it, side by side."""
    from PIL import Image

    from binderclip.cli.verbs.heads.content import picture_of
    from binderclip.data.images import contained

    picture = picture_of(shown, row)
    # Small pictures are enlarged first, so that the heat is drawn at the size it is looked at.
    picture = contained(picture, SIDE)
    both = Image.new("RGB", (2 * SIDE + 4, SIDE), "white")
    for left, part in ((0, picture), (SIDE + 4, _overlay(shown, one, row, picture))):
        both.paste(part, (left + (SIDE - part.width) // 2, (SIDE - part.height) // 2))
    return both


def _overlay(shown: Heads, one: NamedHead, row: int, picture: Image.Image) -> Image.Image:
    from binderclip.explain import Attribution, decompose_image_embedding
    from binderclip.explain.engine.placement import input_box

    source: Any = shown.pictures.open(shown.found.index[row])
    direction = one.span.basis[:1]
    terms = decompose_image_embedding(
        shown.model, [source], by="head_token", layers=[one.layer], onto=direction.float()
    ).unit()
    # Every patch less what it would add on average: over all tokens that is what the pictures were ranked by.
    usual = float(one.span.mean @ direction[0]) / terms.values.shape[3]
    heat = terms.head_heat(one.layer, one.head)[:, 0].float() - usual
    size = (picture.height, picture.width)
    box = input_box(shown.model.preprocess, size)
    return Attribution((heat,), (box,), size, heat.sum((1, 2)), "head").overlay(picture)


def _short(shown: Heads, row: int) -> str:
    return Path(shown.pictures.names[shown.found.index[row]]).name
