"""How results show themselves in a notebook: tables and pictures as HTML, figures as PNG.

Every `_repr_html_` and `plot` of the package is made of these few parts, which import what they draw with when asked.
"""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

MOST = 24
"""Pictures or rows that are shown; the rest is counted."""
_SIDE = 160


def number_of(count: int, noun: str) -> str:
    """A number before its noun, in the plural by the rules of spelling: "1 picture", "2 classes", "12,000 queries"."""
    if count == 1:
        return f"1 {noun}"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{count:,} {noun[:-1]}ies"
    hisses = noun.endswith(("s", "x", "ch", "sh")) and not noun.endswith("och")  # an epoch ends in a k
    return f"{count:,} {noun}{'es' if hisses else 's'}"


def table_html(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, caption: str = "", most: int = MOST) -> str:
    """A table; numbers are aligned right, floats have three digits behind the point.

    Args:
        columns: names.
        rows: cells, any values; text is escaped.
        caption: a line above.
        most: rows shown.
    """
    head = "".join(f'<th style="text-align:left">{escape(name)}</th>' for name in columns)
    body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows[:most])
    rest = f"<p>and {len(rows) - most} more</p>" if len(rows) > most else ""
    title = f'<caption style="text-align:left">{escape(caption)}</caption>' if caption else ""
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{rest}"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f'<td style="text-align:right">{value:.3f}</td>'
    side = "right" if isinstance(value, int) and not isinstance(value, bool) else "left"
    return f'<td style="text-align:{side}">{escape(str(value))}</td>'


def picture_html(picture: Image.Image, alt: str, *, side: int = 512) -> str:
    """A picture inside the page, shrunk to at most `side` pixels.

    Args:
        picture: RGB or RGBA.
        alt: what it shows, for who cannot see it.
        side: longest side shown, in pixels.
    """
    shown = picture.convert("RGB")
    shown.thumbnail((side, side))
    held = io.BytesIO()
    shown.save(held, "PNG", optimize=True)
    return _image(held.getvalue(), alt)


def figure_html(figure: Any, alt: str) -> str:
    """A figure of `new_figure` inside the page.

    Args:
        figure: it is drawn now.
        alt: what it shows, for who cannot see it.
    """
    return _image(figure._repr_png_(), alt)


def _image(png: bytes, alt: str) -> str:
    code = base64.b64encode(png).decode()
    return f'<img alt="{escape(alt)}" style="max-width:100%" src="data:image/png;base64,{code}">'


def sheet_html(entries: Sequence[tuple[Image.Image | None, str]], *, title: str = "", side: int = _SIDE) -> str:
    """Pictures beside each other, each with a line below; the line alone where there is no picture.

    Args:
        entries: (picture, text), as many as there are; the first `MOST` are shown, so give no more pictures than that.
        title: a line above.
        side: longest side of a picture, in pixels.
    """
    cards = []
    for picture, text in entries[:MOST]:
        shown = picture_html(picture, text, side=side) if picture is not None else ""
        cards.append(
            f'<figure style="margin:0;max-width:{side}px">{shown}<figcaption>{escape(text)}</figcaption></figure>'
        )
    rest = f"<p>and {len(entries) - MOST} more</p>" if len(entries) > MOST else ""
    head = f"<p><b>{escape(title)}</b></p>" if title else ""
    return f'{head}<div style="display:flex;flex-wrap:wrap;gap:12px">{"".join(cards)}</div>{rest}'


def new_figure(width: float = 8.0, height: float = 3.0) -> Any:
    """An empty matplotlib figure that a notebook draws without pyplot, so nothing is drawn twice and none stays open.

    Args:
        width, height: in inches.
    """
    from matplotlib.figure import Figure

    class Drawing(Figure):
        """A figure that is its own PNG."""

        def _repr_png_(self) -> bytes:
            held = io.BytesIO()
            self.savefig(held, format="png", dpi=100)
            return held.getvalue()

    return Drawing(figsize=(width, height), layout="constrained")


def show_pictures(entries: Sequence[tuple[Any, str]], *, columns: int = 4, side: float = 2.4) -> Any:
    """A figure of pictures in a grid, each with a title.

    Args:
        entries: (picture or array, title); the first `MOST` are drawn.
        columns: pictures in a row.
        side: of a picture, in inches.
    """
    shown = list(entries)[:MOST]
    columns = max(1, min(columns, len(shown)))
    rows = max(1, -(-len(shown) // columns))
    figure = new_figure(columns * side, rows * (side + 0.3))
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.axis("off")
    for axes, (picture, title) in zip(figure.axes, shown, strict=False):
        axes.imshow(picture)
        axes.set_title(title, fontsize=9)
    return figure


def bars(
    axes: Any, names: Sequence[str], values: Sequence[float], *, errors: Sequence[tuple[float, float]] | None = None
) -> None:
    """Horizontal bars from above to below, on matplotlib's axes.

    Args:
        axes: to draw on.
        names, values: of the bars.
        errors: of each bar the lengths to its lower and to its upper limit, or None.
    """
    lengths = [list(side) for side in zip(*errors, strict=True)] if errors else None
    axes.barh(range(len(values)), values, xerr=lengths, color="#4c72b0", ecolor="#333333")
    axes.set_yticks(range(len(values)), names)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)


def time_left(began: float, done: int, total: int) -> str:
    """ ", about 40 s left", at the pace so far; empty before there is one.

    Args:
        began: `time.monotonic()` at the first item.
        done: items that are done.
        total: of how many.
    """
    passed = time.monotonic() - began
    if done < 1 or passed < 1 or done >= total:
        return ""
    return f", about {duration(passed / done * (total - done))} left"


def duration(seconds: float) -> str:
    """Seconds as people say them: "8 s", "3 min", "1 h 20 min"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes % 60 else f"{minutes // 60} h"
