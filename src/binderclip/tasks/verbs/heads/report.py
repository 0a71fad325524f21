"""The report of `binderclip heads`: for every head its texts, the pictures that it answers to, and where it looks."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from binderclip.display import number_of
from binderclip.tasks.report.page import Page
from binderclip.tasks.verbs.heads.result import Heads, picture_of

if TYPE_CHECKING:
    from PIL import Image

    from binderclip.explain import NamedHead

MOST = 48
"""Heads with a section of their own, largest share first."""
SIDE = 132


def write_report(result: Heads, path: Path) -> Path:
    """Write the page, self-contained."""
    model, named = result.model, result.named
    page = Page(
        f"What the heads of {model.name} say",
        f"{number_of(len(named), 'head')} of {number_of(len(result.decomposition.layers), 'block')}, "
        f"watched on {number_of(len(result.decomposition), 'picture')} "
        f"({escape(result.pictures.source)}), described by {number_of(len(result.texts), 'text')}. Made by "
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
    quiet, sentence = result.quiet()
    if quiet:
        page.text(f"{sentence[0].upper()}{sentence[1:]}; they have no section, and their texts describe noise.")
    for one, rows in list(zip(named, result.strongest, strict=True))[:MOST]:
        if not result.silent(one) and len(one.span):
            _section(page, result, one, rows)
    return page.save(path)


def _ends(one: NamedHead) -> list[float]:
    return [float(values[-1]) if len(one.span) else 0.0 for values in (one.span.explained, one.span.bound)]


def _section(page: Page, result: Heads, one: NamedHead, rows: list[int]) -> None:
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
    page.strip([(_pair(result, one, row), _short(result, row)) for row in rows], width=2 * SIDE + 4)


def _pair(result: Heads, one: NamedHead, row: int) -> Image.Image:
    """A picture and the heat map of one head on it, side by side."""
    from PIL import Image

    from binderclip.data.images import contained

    picture = picture_of(result, row)
    # Small pictures are enlarged first, so that the heat is drawn at the size it is looked at.
    picture = contained(picture, SIDE)
    canvas = Image.new("RGB", (2 * SIDE + 4, SIDE), "white")
    for left, part in ((0, picture), (SIDE + 4, _overlay(result, one, row, picture))):
        canvas.paste(part, (left + (SIDE - part.width) // 2, (SIDE - part.height) // 2))
    return canvas


def _overlay(result: Heads, one: NamedHead, row: int, picture: Image.Image) -> Image.Image:
    from binderclip.explain import Attribution, decompose_image_embedding
    from binderclip.explain.engine.placement import input_box

    source: Any = result.pictures.open(result.decomposition.index[row])
    direction = one.span.basis[:1]
    terms = decompose_image_embedding(
        result.model, [source], by="head_token", layers=[one.layer], onto=direction.float()
    ).unit()
    # Every patch less what it would add on average: over all tokens that is what the pictures were ranked by.
    usual = float(one.span.mean @ direction[0]) / terms.values.shape[3]
    heat = terms.head_heat(one.layer, one.head)[:, 0].float() - usual
    size = (picture.height, picture.width)
    box = input_box(result.model.preprocess, size)
    return Attribution((heat,), (box,), size, heat.sum((1, 2)), "head").overlay(picture)


def _short(result: Heads, row: int) -> str:
    return Path(result.pictures.names[result.decomposition.index[row]]).name
