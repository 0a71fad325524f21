"""What tabs show: tables, and small copies of pictures that the browser may read."""

from __future__ import annotations

import html
import itertools
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from binderclip.errors import DataError
from binderclip.workbench.grid import GalleryPicture, PictureCopies, PictureRow, grid_html

if TYPE_CHECKING:
    from PIL import Image

    from binderclip.tasks.request import Request, VerbResult

MOST_PIXELS = 40_000_000
"""A larger picture is left out by what makes maps of its size: they would fill the memory."""
SMALL, LARGE = 480, 1600
"""Longer side of a small copy, and of one that is shown when it is enlarged, in pixels."""
MOST_LARGE, MOST_COPIED = 60, 8 * 2**20
"""Pictures of a gallery that still get large copies, and bytes of a file that is copied as it is."""
LONG_WORD = 24
"""Letters of a word in a table above which it may be broken after its dots and slashes."""
CHOOSING = ("Drop pictures", "Choose a folder")
"""How a hint begins that has nothing to choose left to say once pictures are chosen for all tabs."""
_HINT = '<div class="hint">'
SHOWN_BY_BROWSERS = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif"}
"""Suffixes of the formats that every browser shows."""


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
    shown = html.escape(without_place(str(value)))
    # A long name, such as of a layer, may go on in the next line, so that a phone has room for the other columns.
    if any(len(word) > LONG_WORD for word in shown.split()):
        shown = re.sub(r"(?<=[./_])(?=\w)", "<wbr>", shown)
    return f"<td>{shown}</td>"


def without_place(text: str) -> str:
    """A path of an upload, or of what a run made, as its name alone: where it lies is no use to anybody."""
    root = os.environ.get("GRADIO_TEMP_DIR")
    return Path(text).name if root and text.startswith(f"{root}{os.sep}") else text


def gallery(entries: Iterable[tuple[Any, ...]], name: str, folder: Path, *, score: str = "score") -> str:
    """Small copies of pictures in a grid, as HTML; what cannot be read is not shown.

    Args:
        entries: each a `GalleryPicture`, or (picture, caption, more) of one.
        name: what they are, read aloud.
        folder: where the copies go, whose files the browser may read.
        score: what their scores are, such as cosine.
    """
    pictures = [GalleryPicture(*entry) for entry in entries]
    shown = [
        (each, copies.image(f"{each.caption}, {each.more}"))
        for number, each in enumerate(pictures)
        if (copies := copies_of(each.picture, folder, number, large=len(pictures) <= MOST_LARGE))
    ]
    return grid_html(shown, name, score=score) if shown else ""


def picture_rows(
    entries: Iterable[tuple[Any, ...]], name: str, folder: Path, *, kind: str = "pairs", score: str = "score"
) -> str:
    """Small copies of pictures with what was made of each beside it, as HTML.

    Args:
        entries: each a `PictureRow`, or (caption, more, parts) of one; a part that cannot be read is not shown.
        name, folder, score: as of `gallery`.
        kind: `pairs`, two and two in a grid, or `triples`, three in a row.
    """
    rows = [PictureRow(*entry) for entry in entries]
    large, count = sum(len(row.parts) for row in rows) <= MOST_LARGE, itertools.count()
    shown = []
    for row in rows:
        copies = [(copies_of(picture, folder, next(count), large=large), what) for picture, what in row.parts]
        drawn = "".join(each.image(what) for each, what in copies if each is not None)
        shown.append((row, f'<div class="pair">{drawn}</div>'))
    return grid_html(shown, name, kind=kind, score=score)


def left_out(skipped: Sequence[tuple[str, str]]) -> str:
    """What could not be used, and why, as a table without the places of uploads; empty where there is nothing.

    Args:
        skipped: (path, reason).
    """
    if not skipped:
        return ""
    rows = [(Path(key).name, why.replace(key, Path(key).name)) for key, why in skipped]
    return table(("Left out", "Why"), rows, "Left out")


def copies_of(source: Any, folder: Path, number: int, *, large: bool) -> PictureCopies | None:
    """Copies of a picture for a gallery; None where it cannot be read.

    Args:
        source, folder, number: as of `small_copy`.
        large: whether a picture of more than `SMALL` pixels gets a larger copy where the browser cannot have it itself.
    """
    from binderclip.data.cache.features import content_hash

    small = folder / f"{number:05d}.jpg"
    folder.mkdir(exist_ok=True)
    decoded = _reduced(source, small, SMALL)
    if decoded is None:
        return None
    path = Path(source) if isinstance(source, (str, Path)) else None
    size = decoded if path is None else picture_size(path)
    larger = None if path is None else _itself(path, folder, number, copied=large)
    if larger is None and large and max(size) > SMALL:
        larger = folder / f"{number:05d}-large.jpg"
        _reduced(source, larger, LARGE)
    return PictureCopies(small, larger, size, "" if path is None else content_hash(path))


def _itself(path: Path, folder: Path, number: int, *, copied: bool) -> Path | None:
    """The file of a picture under another name that the browser may read; None where browsers cannot show it.

    A link takes neither time nor space; of 12 megapixels a copy takes 2 ms, and one of 1600 pixels 250 ms.

    Args:
        copied: whether it is copied where it lies on another file system and has at most `MOST_COPIED` bytes.
    """
    import shutil

    from binderclip.data.images import open_header

    try:
        with open_header(path) as picture:
            kind = SHOWN_BY_BROWSERS.get(picture.format or "")
            if kind is None or picture.width * picture.height > MOST_PIXELS:
                return None
        place = folder / f"{number:05d}-itself{kind}"
        place.unlink(missing_ok=True)  # of an earlier look at the same run
        try:
            os.link(path.resolve(), place)
        except OSError:
            if not copied or path.stat().st_size > MOST_COPIED:
                return None
            shutil.copyfile(path, place)
    except Exception:  # of the header; the copy that is shown in its place says what is wrong
        return None
    return place


def small_copy(source: Any, folder: Path, number: int, side: int = SMALL) -> Path | None:
    """A small JPEG of a picture; None where it cannot be read.

    Args:
        source: anything `open_image` takes.
        folder: where it goes, made where it is missing. number: its file's name.
        side: longer side, in pixels.
    """
    path = folder / f"{number:05d}.jpg"
    folder.mkdir(exist_ok=True)
    return None if _reduced(source, path, side) is None else path


def _reduced(source: Any, path: Path, side: int) -> tuple[int, int] | None:
    """Write a JPEG of at most `side` pixels; the size that was decoded, None where the picture cannot be read."""
    from PIL import Image

    from binderclip.data import open_image

    try:
        picture = open_image(source, size_hint=side)
    except DataError:
        return None
    size = picture.size
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    picture.save(path, quality=88)
    return size


def in_page_words(text: str, request: type[Request] | None = None) -> str:
    """A sentence of a task in which options are called as the page calls them, and no Python is advised.

    Args:
        text: of the task. request: whose options they are; None where that is not known.
    """
    text = re.sub(r"--model (\S*[\w/])", r"\1 as Model for all tabs", text)
    text = re.sub(r"^--set ", "Other settings, ", text).replace("--set ", "")
    text = re.sub(r" \(\w+\(\)[^()]*\)", "", text)  # "(list_models() names what is known)"
    text = re.sub(r"; `binderclip [^`]*`[^;.]*", "", text)  # another way that the page does not have
    text = re.sub(r"[.;] binderclip\.\w+ does\.?$", "", text)  # what opens a folder that another program cannot
    return re.sub(r"(?<![\w-])--(?!set\b)([a-z][a-z-]+)", lambda match: _label_of_flag(match[1], request), text)


def _label_of_flag(flag: str, request: type[Request] | None) -> str:
    """What pages call an option: the label of the request's field, else of all of its name, else its name as words."""
    from binderclip.tasks.request import Request, label_of

    name = flag.replace("-", "_")
    if request is not None and name in request.model_fields:
        return label_of(request, name)
    labels = {label_of(request, name) for request in Request.__subclasses__() if name in request.model_fields}
    return labels.pop() if len(labels) == 1 else name.replace("_", " ").capitalize()


def sentences(lines: Sequence[str], request: type[Request] | None = None) -> str:
    """Remarks on a result as paragraphs, in words of the page; `request` as of `in_page_words`."""
    words = [in_page_words(line, request) for line in lines]
    return "".join(f"<p>{html.escape(_begun(line).removesuffix('.'))}.</p>" for line in words)


def _begun(line: str) -> str:
    """A sentence with a capital, unless it begins with a name such as open_clip, which is written as it is."""
    first = re.split(r"[\s,:;]", line, maxsplit=1)[0]
    return line if re.search(r"[_.\d/]\w", first) else line[:1].upper() + line[1:]


def remarks_html(result: VerbResult) -> str:
    """What to know of a result, as `sentences`."""
    return sentences(result.remarks(), type(result.request))


def result_html(result: VerbResult, skipped: Sequence[tuple[str, str]] = ()) -> str:
    """What a task found out: what to take away, all tables, what to know of them, and what was left out.

    Args:
        result: of the task. skipped: (path, reason).
    """
    tables = [(result.title, *result.table()), *result.more_tables()]
    shown = "".join(table(columns, rows, title) for title, columns, rows in tables if rows)
    return sentences(result.conclusion(), type(result.request)) + shown + remarks_html(result) + left_out(skipped)


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
    """(width, height) of a picture file as it is shown, from its header: its orientation tag is applied.

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
                return picture.size[::-1] if _is_turned(picture) else picture.size
    except Exception as error:
        raise DataError(f"{path.name} is not a picture that can be read") from error


def _is_turned(picture: Image.Image) -> bool:
    """Whether its orientation tag turns it by a quarter; one that cannot be parsed turns nothing."""
    from PIL import ExifTags

    try:
        return picture.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    except Exception:
        return False


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
    """A folder with uploads in it under their own names, for what works on a folder; made where it is missing.

    Those that share a name get a number: `01.png`, `01-2.png`.
    """
    if not folder.is_dir():
        folder.mkdir()
        taken: set[str] = set()
        for path in paths:
            name, number = path.name, 1
            while name.casefold() in taken:
                number += 1
                name = f"{path.stem}-{number}{path.suffix}"
            taken.add(name.casefold())
            os.link(path, folder / name)
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


def is_hint(value: Any) -> bool:
    """Whether it is what `hint` makes."""
    return isinstance(value, str) and value.startswith(_HINT)


def hint(text: str) -> str:
    """What stands where results will: how to get some.

    Args:
        text: one that begins with `CHOOSING` is shown without that where pictures are chosen for all tabs.
    """
    # The button is seen where the tab takes pictures and none are chosen yet; `tabs.js` makes it work.
    button = '<button type="button">Try it with example pictures</button>'
    rest = re.sub(rf"^({'|'.join(CHOOSING)})(,| and) ", "", text)
    chosen = f'<p class="chosen">{html.escape(rest[:1].upper() + rest[1:])}</p>' if rest != text else ""
    return f"{_HINT}<p>{html.escape(text)}</p>{chosen}{button}</div>"
