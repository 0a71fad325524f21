"""Pictures of a gallery as HTML: what can be enlarged, filtered, sorted and selected by the page's scripts."""

from __future__ import annotations

import html
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

FEW = 6
"""So many pictures are seen at a glance: a gallery of no more has nothing to filter, sort or select them by."""
FIRST = 200
"""So many pictures are laid out at first, and as many again whenever one scrolls near their end."""

_made = itertools.count()


class GalleryPicture(NamedTuple):
    """A picture of a gallery.

    Args:
        picture: as `look.small_copy` takes it. caption: said below it. more: a second line, in grey.
        name: what a list of selected pictures calls it; the caption where it is empty.
        score: what it can be sorted and filtered by; None where there is none, or it is not finite.
        label: what it can be filtered by; empty where there is none.
        data: (name, value) of further attributes `data-name`, for scripts; `first` is its place in the order in which
            pictures are worth a look.
    """

    picture: Any
    caption: str
    more: str
    name: str = ""
    score: float | None = None
    label: str = ""
    data: Sequence[tuple[str, str]] = ()


class PictureRow(NamedTuple):
    """A picture with what was made of it beside it.

    Args:
        caption, more, name, score, label, data: as of `GalleryPicture`.
        parts: (picture, as `look.small_copy` takes it, what it shows, read aloud).
    """

    caption: str
    more: str
    parts: Sequence[tuple[Any, str]]
    name: str = ""
    score: float | None = None
    label: str = ""
    data: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class PictureCopies:
    """Files of a picture that the browser may read.

    Args:
        small: shown in the gallery. large: shown when it is enlarged; None where the small one is.
        size: (width, height) of the picture itself, upright, in pixels.
        key: `content_hash` of the picture's file; empty where it is no file.
    """

    small: Path
    large: Path | None
    size: tuple[int, int]
    key: str = ""

    def image(self, what: str) -> str:
        """The small copy as a button that enlarges it.

        Args:
            what: it shows, read aloud.
        """
        large = "" if self.large is None else f' data-large="{source(self.large)}"'
        key = f' data-key="{self.key}"' if self.key else ""
        return (
            f'<button type="button" class="enlarge"><img src="{source(self.small)}" alt="{_attribute(what)}" '
            f'loading="lazy" decoding="async" data-size="{self.size[0]} x {self.size[1]}"{large}{key}></button>'
        )


def source(path: Path) -> str:
    """The address of a file of the session."""
    return f"/gradio_api/file={quote(str(path))}"


def figure_html(drawn: str, entry: GalleryPicture | PictureRow, *, tick: bool, hidden: bool = False) -> str:
    """An entry of a gallery.

    Args:
        drawn: its pictures as HTML. tick: whether it can be selected. hidden: whether it is not laid out yet.
    """
    name = _attribute(entry.name or entry.caption)
    data = f' data-name="{name}"'
    if (score := _finite(entry.score)) is not None:
        data += f' data-score="{score:.6g}"'
    if entry.label:
        data += f' data-label="{_attribute(entry.label)}"'
    data += _data(entry.data)
    below = f"<figcaption>{html.escape(entry.caption)}<span>{html.escape(entry.more)}</span></figcaption>"
    box = f'<label class="pick"><input type="checkbox" aria-label="Select {name}"></label>' if tick else ""
    return f"<li{' hidden' * hidden}><figure{data}>{drawn}{below}{box}</figure></li>"


def grid_html(
    shown: Sequence[tuple[GalleryPicture | PictureRow, str]], name: str, *, kind: str = "", score: str = "score",
    data: Sequence[tuple[str, str]] = (),
) -> str:  # fmt: skip
    """A gallery, with what filters, sorts and selects its pictures above it where there are more than `FEW`.

    Args:
        shown: entries, and their pictures as HTML. name: what they are, read aloud.
        kind: further class of the list. score: what the scores are. data: as of `GalleryPicture`, of the whole.
    """
    tools = len(shown) > FEW
    items = "".join(
        figure_html(drawn, entry, tick=tools, hidden=place >= FIRST) for place, (entry, drawn) in enumerate(shown)
    )
    above = _tools([entry for entry, _ in shown], name, score) if tools else ""
    # Gradio changes the page in place: ticks, order and filters of an earlier result would stay on the pictures of this
    # one. An element of another name is not changed but replaced.
    tag = f"picture-grid-{next(_made)}"
    listed = f'<ul class="{f"gallery {kind}".strip()}" aria-label="{_attribute(name)}">{items}</ul>'
    return (
        f'<{tag} class="picture-grid" data-score-name="{_attribute(score)}" data-step="{FIRST}"{_data(data)}>'
        f"{above}{listed}</{tag}>"
    )


def _tools(entries: Sequence[GalleryPicture | PictureRow], name: str, score: str) -> str:
    """What stands above a gallery; `grid.js` makes it work."""
    labels = sorted({entry.label for entry in entries if entry.label}, key=str.casefold)
    scores = {value for entry in entries if (value := _finite(entry.score)) is not None}
    orders = [("given", "As given"), ("name", "By name")]
    parts = ['<input type="search" class="grid-words" placeholder="Filter by text" aria-label="Filter by text">']
    if len(labels) > 1:
        orders.append(("label", "By label"))
        parts.append(_choice("grid-label", "Label", [("", "All labels"), *((label, label) for label in labels)]))
    if len(scores) > 1:
        what = html.escape(score)
        orders += [("falling", f"Highest {score} first"), ("rising", f"Lowest {score} first")]
        ends = (("least", "From", min(scores)), ("most", "to", max(scores)))
        boxes = "".join(
            f'<label>{text} <input type="number" step="any" class="grid-{end}" placeholder="{round(value, 3):.3g}" '
            f'aria-label="{_attribute(score)} {text.lower()}"></label>'
            for end, text, value in ends
        )
        parts.append(f'<span class="grid-range"><span>{what}</span>{boxes}</span>')
    if any(name == "first" for entry in entries for name, _ in entry.data):
        orders.append(("first", "Worth a look first"))
    parts.append(_choice("grid-order", "Order", orders))
    count = f'<output class="grid-count" aria-live="polite">{len(entries)} of {len(entries)}</output>'
    buttons = (
        ("all", "Select all shown"), ("none", "Select none"), ("txt", "Names as .txt"), ("csv", "Table as .csv"),
        ("copy", "Copy names"),
    )  # fmt: skip
    picks = "".join(
        f'<button type="button" data-do="{do}"{" hidden" * (do != "all")}>{text}</button>' for do, text in buttons
    )
    return (
        f'<div class="grid-tools" role="group" aria-label="Filter and sort {_attribute(name)}">{"".join(parts)}{count}'
        f'</div><div class="grid-tools" role="group" aria-label="Select of {_attribute(name)}">{picks}'
        '<output class="grid-picked" aria-live="polite"></output></div>'
    )


def _choice(kind: str, label: str, options: Sequence[tuple[str, str]]) -> str:
    listed = "".join(f'<option value="{_attribute(value)}">{html.escape(text)}</option>' for value, text in options)
    return f'<select class="{kind}" aria-label="{label}">{listed}</select>'


def _data(attributes: Sequence[tuple[str, str]]) -> str:
    return "".join(f' data-{name}="{_attribute(value)}"' for name, value in attributes)


def _attribute(text: str) -> str:
    return html.escape(text, quote=True)


def _finite(score: float | None) -> float | None:
    """A score that can be compared with others: NaN and infinity are none."""
    return score if score is not None and abs(score) < float("inf") else None
