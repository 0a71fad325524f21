"""Tables that say what pictures show: CSV, TSV, JSON, JSON lines and Parquet, record by record.

One record that cannot be used costs itself: it is yielded as the reason, under the file's name and line.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import posixpath
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any

from binderclip.data.files import not_unicode
from binderclip.data.images import IMAGE_SUFFIXES
from binderclip.documents import TOO_DEEP, parse_json
from binderclip.errors import DataError

FILE_COLUMNS = (
    "file_name", "file", "filename", "filepath", "image", "image_path", "image_name", "image_file", "img", "path",
)  # fmt: skip
CAPTION_COLUMNS = ("caption", "text", "captions", "texts", "sentences", "title", "description", "comment")
SEVERAL_COLUMN = "labels"
LABEL_COLUMNS = ("label", "class", "class_name", "category")
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")

Record = tuple[str, "dict[str, Any] | str"]
"""(file:line, fields or what is wrong with them)."""
_NUL = "\udc00"  # stands for NUL, which older csv modules refuse; no decoding makes it
_LITERAL = 100_000  # characters of a list in a cell


def read_json(data: bytes | str) -> Any:
    """A JSON document from somebody else.

    Raises:
        DataError: not JSON, not UTF-8, nested too deeply, or a number of too many digits; says which.
    """
    try:
        return parse_json(data)
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 text (byte {error.start})") from error
    except json.JSONDecodeError as error:
        if error.msg == TOO_DEEP:
            raise DataError("not JSON that can be read: nested too deeply") from error
        raise DataError(f"not JSON ({error.msg})") from error


def read_captions(value: Any) -> list[str]:
    """Every caption in a value as people write it: a text, a list of texts, a record with one; none where it is empty.

    White space is made single spaces; numbers become text. A text of characters that nobody sees, such as a lone byte
    order mark, is empty.
    """
    if value is None or isinstance(value, (bool, bytes)):
        return []
    if isinstance(value, dict):
        inner = first_column(value, (*CAPTION_COLUMNS, "raw"))
        return [] if inner is None or isinstance(value[inner], dict) else read_captions(value[inner])
    if isinstance(value, (list, tuple)):
        parts = [part for part in value if not isinstance(part, (list, tuple))]  # no list in a list, however deep
        return [text for part in parts for text in read_captions(part)]
    text = " ".join(str(value).split())
    return [text] if text and not _is_invisible(text) else []


def _is_invisible(text: str) -> bool:
    # The first character says it of nearly every text.
    return not text[0].isprintable() and all(unicodedata.category(c) in ("Cc", "Cf", "Zs") for c in text)


def parse_record(record: dict[str, Any]) -> tuple[str, list[str], str | None, dict[str, Any]] | str:
    """(file name, captions, label, attributes) of one record of a table, or what is wrong with it.

    Without captions they are made of the label, or of several labels; there may be none of all of these.
    """
    record = {str(name).strip().lower(): value for name, value in record.items()}
    name_column, caption_column, label_column = (
        first_column(record, columns) for columns in (FILE_COLUMNS, CAPTION_COLUMNS, LABEL_COLUMNS)
    )
    if caption_column is None and label_column is None:
        caption_column = first_column(record, ("comment",))  # Flickr30k's results.csv; elsewhere a remark
    name = str((record.pop(name_column) if name_column else "") or "").strip()
    caption = record.pop(caption_column) if caption_column else None
    captions = read_captions(caption)
    label = record.pop(label_column) if label_column else None
    label = None if label is None or not str(label).strip() else str(label).strip()
    several = record.pop(SEVERAL_COLUMN, None)
    if several is not None:
        record[SEVERAL_COLUMN] = _several(several)
    if not captions and label is not None and caption_column is None:
        captions = [readable(label)]
    if not captions and several is not None and caption_column is None:
        captions = [readable(", ".join(record[SEVERAL_COLUMN])) or "none of the labels"]
    if "\0" in name:
        return "a file name with a NUL byte"
    if any(not_unicode(text) for text in (name, label or "", *captions)):
        return f"{name.encode('utf-8', 'backslashreplace').decode()}: not Unicode text"
    attributes = {key: value for key, value in record.items() if value is not None and not _is_empty(value)}
    if len(captions) > 1:
        attributes["captions"] = captions
    return name, captions, label, attributes


def _is_empty(value: Any) -> bool:
    return isinstance(value, str) and not value


def _several(value: Any) -> list[str]:
    """The labels of one picture, without doubles, in the order written; an empty cell is a picture with none."""
    parts = value if isinstance(value, list) else str(value).replace("|", ";").split(";")
    return list(dict.fromkeys(_tidy(str(part)) for part in parts if _tidy(str(part))))


def readable(name: str) -> str:
    """The name of a class or folder as words: dashes and underscores are spaces."""
    return _tidy(name.replace("_", " ").replace("-", " "))


def _tidy(text: str) -> str:
    return " ".join(text.split())


def table_records(name: str, data: bytes) -> Iterator[Record]:
    """The records of a table, by the suffix of its name.

    Args:
        name: path of the table, for messages and places.
        data: its bytes.

    Raises:
        DataError: it is empty, has no header that names files, or is not what its name says as a whole.
    """
    suffix = posixpath.splitext(name)[1].lower()
    if suffix == ".parquet":
        yield from _parquet(name, data)
        return
    text = data.decode("utf-8-sig", errors="surrogateescape")
    if not text.strip():
        raise DataError(f"{name}: is empty")
    if suffix == ".json":
        yield from _json_list(name, text)
    elif suffix in (".jsonl", ".ndjson"):
        yield from _json_lines(name, text)
    else:
        yield from _csv(name, text)


def looks_like_table(data: bytes) -> bool:
    """Whether the first line of a text file is a header with a column of files, or names an image first."""
    head = data[:4096].decode("utf-8-sig", errors="replace").partition("\n")[0]
    fields = [cell.strip().lower() for cell in head.split(_delimiter(head, ""))]
    return len(fields) > 1 and (bool(set(fields) & set(FILE_COLUMNS)) or _is_image(fields[0]))


def first_column(record: dict[str, Any], columns: tuple[str, ...]) -> str | None:
    """The first of `columns` that a record has, as the record writes it."""
    lower = {str(name).strip().lower(): name for name in record}
    return next((lower[column] for column in columns if column in lower), None)


def _json_lines(name: str, text: str) -> Iterator[Record]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{posixpath.basename(name)}:{number}"
        if not_unicode(line):
            yield where, "not UTF-8 text"
            continue
        try:
            record = read_json(line)
        except DataError as error:
            yield where, str(error)
        else:
            yield where, _with_file(record)


def _json_list(name: str, text: str) -> Iterator[Record]:
    try:
        document = read_json(text)
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
    if not isinstance(document, list):
        raise DataError(f"{name}: it should be a list of objects, [{{...}}, ...], or COCO captions")
    for number, record in enumerate(document):
        yield f"{posixpath.basename(name)}:[{number}]", _with_file(record)


def _with_file(record: Any) -> dict[str, Any] | str:
    if not isinstance(record, dict):
        return "a line must be a JSON object, {...}"
    if first_column(record, FILE_COLUMNS) is None:
        return f"no file: it has the fields {', '.join(map(str, record)) or '(none)'}; needed is {FILE_COLUMNS[0]}"
    return record


def _parquet(name: str, data: bytes) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{name}: not a readable Parquet file ({error})") from error
    if first_column(dict.fromkeys(table.column_names), FILE_COLUMNS) is None:
        raise DataError(f"{name}: no column of file names: it has {', '.join(table.column_names)}")
    for number, record in enumerate(table.to_pylist()):
        yield f"{posixpath.basename(name)}:{number}", record


def _delimiter(head: str, suffix: str) -> str:
    delimiter = "\t" if suffix == ".tsv" else max("\t;,|", key=head.count)
    return delimiter if delimiter in head else ","


def _is_image(field: str) -> bool:
    # Flickr8k.token.txt writes the number of the caption behind the name: `a.jpg#0`.
    return posixpath.splitext(field.partition("#")[0])[1].lower() in IMAGE_SUFFIXES


def _csv(name: str, text: str) -> Iterator[Record]:
    lines = list(io.StringIO(text.replace("\0", _NUL), newline=""))
    delimiter = _delimiter(lines[0], posixpath.splitext(name)[1].lower())
    base, header = posixpath.basename(name), None
    for number, fields in _csv_rows(lines, delimiter):
        where = f"{base}:{number}"
        if isinstance(fields, str):
            if header is None:
                raise DataError(f"{name}: its header cannot be read: {fields}")
            yield where, fields
            continue
        if not any(cell.strip() for cell in fields):
            continue
        if header is None:
            header, is_header = _header(name, fields)
            if is_header:
                continue
        if _NUL in "".join(fields):
            yield where, "holds a NUL byte"
        elif not_unicode("".join(fields)):
            yield where, "not UTF-8 text"
        elif len(fields) != len(header):
            yield where, f"{len(fields)} fields where the header has {len(header)} (quote captions with {delimiter!r})"
        else:
            yield where, dict(zip(header, map(_cell, fields), strict=True))


def _header(name: str, fields: list[str]) -> tuple[list[str], bool]:
    """The columns, and whether the first line names them."""
    if _NUL in "".join(fields):
        raise DataError(f"{name}: not a text file: its first line holds NUL bytes (save it as UTF-8)")
    header = [cell.strip().lower() for cell in fields]
    if set(header) & set(FILE_COLUMNS):
        return header, True
    if not_unicode("".join(fields)):
        raise DataError(f"{name}: not UTF-8 text in its first line; save it as UTF-8")
    if not _is_image(fields[0].strip()):
        raise DataError(
            f"{name}: no column of file names: the header is {', '.join(fields)[:200]}; it needs one of "
            f"{', '.join(FILE_COLUMNS)}"
        )
    return ["file", "caption", *(f"column{number}" for number in range(3, len(fields) + 1))], False


def _csv_rows(lines: list[str], delimiter: str) -> Iterator[tuple[int, list[str] | str]]:
    """(number of the last line, fields or what is wrong) of every row; a broken one costs itself."""
    options: dict[str, Any] = {"delimiter": delimiter, "skipinitialspace": True}
    reader = csv.reader(lines, **options)
    while True:
        start = reader.line_num
        try:
            fields: list[str] | str = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            large = "field larger" in str(error)
            limit = f"a field of more than {csv.field_size_limit():,} characters (a quote that is not closed?)"
            fields = limit if large else f"cannot be read ({error})"
        # What a row of several lines holds may be the rest of the file, behind a quote that nobody closed.
        if reader.line_num > start + 1 and not isinstance(fields, str):
            fields = _unclosed(lines[start : reader.line_num], options) or fields
        yield (reader.line_num if not isinstance(fields, str) else start + 1), fields


def _unclosed(lines: Iterable[str], options: dict[str, Any]) -> str | None:
    try:
        list(csv.reader(lines, strict=True, **options))
    except csv.Error as error:
        if "unexpected end" in str(error):
            return "a quote that opens here is never closed; all lines behind it are lost"
    return None


def _cell(text: str) -> Any:
    """A list of texts where a cell is one, as pandas and Hugging Face write it; else the cell."""
    bare = text.strip()
    if not (bare.startswith("[") and bare.endswith("]") and len(bare) < _LITERAL):
        return text
    for read in (read_json, ast.literal_eval):
        try:
            value = read(bare)
        except (DataError, ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(value, list) and value and all(isinstance(part, str) for part in value):
            return value
    return text
