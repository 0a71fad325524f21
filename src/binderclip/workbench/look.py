"""What tabs show: tables, and small copies of pictures that the browser may read."""

from __future__ import annotations

import html
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from binderclip.errors import DataError

if TYPE_CHECKING:
    from binderclip.tasks.request import VerbResult

MOST_PIXELS = 40_000_000
"""A larger picture is left out by what makes maps of its size: they would fill the memory."""
SMALL = 480
"""Longer side of a small copy, in pixels."""


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], caption: str) -> str:
    """A table as HTML; what stands in cells is escaped, numbers are right-aligned.

    Args:
        columns: their heads. rows: their cells; floats are shown with three decimals.
        caption: what the table is of, read aloud and shown above it; it and the heads begin with a capital here.
    """
    rows = list(rows)
    numeric = [bool(rows) and all(_is_number(row[n]) for row in rows) for n in range(len(columns))]
    head = "".join(
        f'<th scope="col"{" class=number" * right}>{html.escape(_with_capital(name.strip()))}</th>'
        for name, right in zip(columns, numeric, strict=True)
    )
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    name = html.escape(_with_capital(caption), quote=True)
    return (
        f'<div class="table-box" tabindex="0" role="region" aria-label="{name}"><table>'
        f"<caption><span>{name}</span></caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _with_capital(text: str) -> str:
    """The text with its first letter as a capital; a letter alone is a symbol, such as p, as is mAP."""
    return text if len(text) == 1 or text[1:2].isupper() else text[:1].upper() + text[1:]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f'<td class="number">{value:.3f}</td>'
    if isinstance(value, int):
        return f'<td class="number">{value}</td>'
    return f"<td>{html.escape(str(value))}</td>"


def gallery(entries: Iterable[tuple[Any, str, str]], name: str, folder: Path) -> str:
    """Small copies of pictures in a grid, as HTML; what cannot be read is not shown.

    Args:
        entries: (picture, as `small_copy` takes it, what is said below it, a second line in grey).
        name: what they are, read aloud.
        folder: where the copies go, whose files the browser may read.
    """
    shown = ""
    for number, (picture, caption, more) in enumerate(entries):
        if copy := small_copy(picture, folder, number):
            shown += _figure(_image(copy, f"{caption}, {more}"), caption, more)
    return f'<ul class="gallery" aria-label="{html.escape(name, quote=True)}">{shown}</ul>' if shown else ""


def picture_rows(
    entries: Iterable[tuple[str, str, Sequence[tuple[Any, str]]]], name: str, folder: Path, *, kind: str = "pairs"
) -> str:
    """Small copies of pictures with what was made of each beside it, as HTML.

    Args:
        entries: (what is said below, a second line in grey, parts); a part is a picture, as `small_copy` takes it, and
            what it shows, read aloud; one that cannot be read is not shown.
        name, folder: as of `gallery`.
        kind: `pairs`, two and two in a grid, or `triples`, three in a row.
    """
    rows, count = "", itertools.count()
    for caption, more, parts in entries:
        copies = [(small_copy(picture, folder, next(count)), what) for picture, what in parts]
        drawn = "".join(_image(path, what) for path, what in copies if path is not None)
        rows += _figure(f'<div class="pair">{drawn}</div>', caption, more)
    return f'<ul class="gallery {kind}" aria-label="{html.escape(name, quote=True)}">{rows}</ul>'


def _image(path: Path, what: str) -> str:
    return f'<img src="{source(path)}" alt="{html.escape(what, quote=True)}" loading="lazy">'


def _figure(drawn: str, caption: str, more: str) -> str:
    below = f"<figcaption>{html.escape(caption)}<span>{html.escape(more)}</span></figcaption>"
    return f"<li><figure>{drawn}{below}</figure></li>"


def left_out(skipped: Sequence[tuple[str, str]]) -> str:
    """What could not be used, and why, as a table without the places of uploads; empty where there is nothing.

    Args:
        skipped: (path, reason).
    """
    if not skipped:
        return ""
    rows = [(Path(key).name, why.replace(key, Path(key).name)) for key, why in skipped]
    return table(("Left out", "Why"), rows, "Left out")


def source(path: Path) -> str:
    """The address of a file of the session."""
    return f"/gradio_api/file={quote(str(path))}"


def small_copy(source: Any, folder: Path, number: int, side: int = SMALL) -> Path | None:
    """A small JPEG of a picture; None where it cannot be read.

    Args:
        source: anything `open_image` takes.
        folder: where it goes, made where it is missing. number: its file's name.
        side: longer side, in pixels.
    """
    from PIL import Image

    from binderclip.data import open_image

    folder.mkdir(exist_ok=True)
    try:
        picture = open_image(source, size_hint=side)
    except DataError:
        return None
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    path = folder / f"{number:05d}.jpg"
    picture.save(path, quality=88)
    return path


def sentences(lines: Sequence[str]) -> str:
    """Remarks on a result as paragraphs."""
    return "".join(f"<p>{html.escape(line[:1].upper() + line[1:].removesuffix('.'))}.</p>" for line in lines)


def result_html(result: VerbResult, skipped: Sequence[tuple[str, str]] = ()) -> str:
    """What a task found out: what to take away, all tables, what to know of them, and what was left out.

    Args:
        result: of the task. skipped: (path, reason).
    """
    tables = [(result.title, *result.table()), *result.more_tables()]
    shown = "".join(table(columns, rows, title) for title, columns, rows in tables if rows)
    return sentences(result.conclusion()) + shown + sentences(result.remarks()) + left_out(skipped)


def drawn(figure: Any, path: Path) -> str:
    """A matplotlib figure as a PNG, twice as fine as on the page; its path, as a picture of the page takes it."""
    figure.savefig(path, format="png", dpi=144)
    return str(path)


def could_not_be_read(count: int) -> str:
    """A sentence on pictures that were left out; empty where there are none."""
    if not count:
        return ""
    return f"{count} picture{'s' if count > 1 else ''} could not be read."


def picture_size(path: Path) -> tuple[int, int]:
    """(width, height) of a picture file, from its header.

    Raises:
        DataError: it is none.
    """
    import warnings

    from PIL import Image

    from binderclip.data.images import open_header

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with open_header(path) as picture:
                return picture.size
    except Exception as error:
        raise DataError(f"{path.name} is not a picture that can be read") from error


def check_size(path: Path) -> None:
    """Whether a picture is small enough for maps at its own size, told from its header.

    Raises:
        DataError: it has more than `MOST_PIXELS`, or is no picture.
    """
    width, height = picture_size(path)
    if width * height > MOST_PIXELS:
        raise DataError(
            f"{path.name} has {width} x {height} pixels: at most {MOST_PIXELS // 10**6} million are looked at here; "
            "make it smaller"
        )


def packed(folder: Path, files: Iterable[Path], name: str, *, into: Path | None = None) -> Path:
    """Many files as one ZIP, below their common folder.

    Args:
        folder: that all of them lie in. files: what goes in. name: of the archive.
        into: folder of the archive; None for `folder`.
    """
    import zipfile

    path = (into or folder) / name
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for file in files:
            archive.write(file, file.relative_to(folder))
    return path


def gathered(paths: Sequence[Path], folder: Path) -> Path:
    """A folder with uploads in it under their own names, for what works on a folder; made where it is missing."""
    import os

    from binderclip.tasks.files.inputs import output_names

    if not folder.is_dir():
        folder.mkdir()
        for name, path in zip(output_names([Path(path.name) for path in paths]), paths, strict=True):
            os.link(path, folder / f"{name}{path.suffix}")
    return folder


def report_frame(path: Path, caption: str) -> str:
    """A report inside the page, to be opened there; scripts have no power in it.

    Args:
        path: of the HTML file, self-contained. said: what is in it.
    """
    inside = html.escape(path.read_text(encoding="utf-8"), quote=True)
    return (
        f'<details class="report"><summary>{html.escape(caption)}</summary>'
        f'<iframe sandbox title="Report" srcdoc="{inside}"></iframe></details>'
    )


def hint(text: str) -> str:
    """What stands where results will: how to get some."""
    return f'<p class="hint">{html.escape(text)}</p>'
