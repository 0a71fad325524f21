"""Tables, documents and arrays as files that say who wrote them, and the names of files in messages."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from binderclip.documents import json_text
from binderclip.files import write_whole
from binderclip.tasks.files.maker import signed, signed_svg

if TYPE_CHECKING:
    import numpy as np


def write_json(document: Any, path: Path) -> None:
    """Write one JSON document, with the key that says who made it; paths become strings, NaN null.

    Raises:
        OutputError: it cannot be written; what was there before still is.
    """
    write_whole(path, json_text(signed(document)) + "\n")


def write_csv(columns: Sequence[str], rows: Iterable[Sequence[Any]], path: Path) -> None:
    """Write a table for other programs.

    Raises:
        OutputError: it cannot be written; what was there before still is.
    """
    held = io.StringIO(newline="")
    writer = csv.writer(held)
    writer.writerow(columns)
    writer.writerows(rows)
    write_whole(path, held.getvalue())


def write_svg(document: str, path: Path, *, sync: bool = True) -> None:
    """Write an SVG document that says who made it.

    Args:
        document: whose first element is `svg`. path: of the file. sync: as of `write_whole`.

    Raises:
        OutputError: it cannot be written; what was there before still is.
    """
    write_whole(path, signed_svg(document), sync=sync)


def write_array(values: np.ndarray, path: Path) -> None:
    """Write numbers as `.npy`.

    Raises:
        OutputError: they cannot be written; what was there before still is.
    """
    import numpy as np

    held = io.BytesIO()
    np.save(held, values, allow_pickle=False)
    write_whole(path, held.getvalue(), sync=False)


def without_empty_columns(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows without the columns that have nothing in any row."""
    kept = [index for index in range(len(columns)) if not rows or any(row[index] not in ("", None) for row in rows)]
    return [columns[index] for index in kept], [[row[index] for index in kept] for row in rows]


def short_path(path: str | Path) -> str:
    """A path as people write it: relative where it is below the current folder; an address stays as it is."""
    whole = Path(path)
    try:
        return str(whole.relative_to(Path.cwd())) if whole.is_absolute() else str(path)
    except ValueError:
        return str(path)


def short_reason(key: object, reason: str) -> str:
    """Which file was left out and why, the file as people write it; most reasons name it already."""
    name = short_path(str(key))
    return reason.replace(str(key), name) if str(key) in reason else f"{name}: {reason}"
