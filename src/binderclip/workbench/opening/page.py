"""The opening of the page: its name and the first pictures of the folder, as HTML, before Gradio's scripts have run."""

from __future__ import annotations

import html
from pathlib import Path

from binderclip.display import number_of
from binderclip.errors import BinderclipError, DataError
from binderclip.workbench.opening.thumbnails import thumbnail_html
from binderclip.workbench.pictures import ChosenPictures, pictures_of
from binderclip.workbench.theme import tokens_css

FIRST = 8
"""Pictures that are decoded before the page is sent; the strip has more as soon as the page asks for it."""
STATIC = Path(__file__).parents[1] / "static"


def opening_html(chosen: ChosenPictures | None, title: str = "") -> str:
    """The opening: the page's name and, of the pictures chosen from the start, how many there are and the first.

    Args:
        chosen: for all tabs; None where nothing is.
        title: what they are called, such as `holiday/`.
    """
    shown, count = "", ""
    if chosen is not None:
        count = f"<b>{html.escape(number_of(len(chosen.paths), 'picture'))} of {html.escape(title)}</b>; "
        for path in chosen.paths[:FIRST]:
            try:
                shown += thumbnail_html(path, chosen.label(path))
            except DataError:
                continue  # the strip that takes its place says so
    styles = tokens_css() + (STATIC / "opening.css").read_text(encoding="utf-8")
    scripts = "".join((STATIC / f"{name}.js").read_text(encoding="utf-8") for name in ("colours", "opening"))
    return (
        f"<style>{styles}</style>"
        '<div class="opening"><p class="opening-name">binderclip <span>workbench</span></p>'
        f'<div class="opening-pictures"><p class="uses" role="status">{count}the tasks are being loaded ...</p>'
        f'<ul class="strip" aria-label="First pictures">{shown}</ul></div></div><script>{scripts}</script>'
    )


def opening_of(folder: Path | None) -> str:
    """The opening of a page that was opened on `folder`, or on none or several (None).

    A folder that cannot be read is named by the page itself, a moment later.
    """
    if folder is None:
        return opening_html(None)
    folder = folder.resolve()
    try:
        return opening_html(pictures_of(folder), f"{folder.name}/")
    except BinderclipError:
        return opening_html(None)
