"""Parts of embeddings on disk or as objects: Parquet files that `embed_shards` writes, and the note of their model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from binderclip.data.storage import is_object, join_place, list_objects, open_place
from binderclip.documents import parse_json
from binderclip.errors import DataError

__all__ = ["META", "NOTE", "EmbeddedRows", "part_note", "parts_in", "read_model", "read_rows"]

NOTE = "embeddings.json"
"""Beside the parts: by what model they are."""
META = b"binderclip"
"""Where a part keeps its own note: the stamp of what it was made of, and what could not be read."""
PICTURES = ("uid", "name", "image_embedding")
"""The columns of a part that say what its pictures are."""


@dataclass(frozen=True)
class EmbeddedRows:
    """The pictures of one part.

    Attributes:
        stamp: of what the part was made of.
        uids, names: (n,) of the samples.
        vectors: (n, E) float32 unit features of the pictures.
    """

    stamp: str
    uids: list[str]
    names: list[str]
    vectors: Float[np.ndarray, "n E"]


def parts_in(folder: str | Path) -> list[str]:
    """Names of the Parquet files of a folder, sorted."""
    if is_object(folder):
        return sorted(url.rpartition("/")[2] for url in list_objects(str(folder), (".parquet",)))
    return sorted(path.name for path in Path(folder).glob("*.parquet"))


def read_model(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The note beside parts: `model`, `fingerprint` and `dtype`; None where there is none that can be read.

    Raises:
        DataError: it cannot be read for another reason than that.
    """
    place = join_place(folder, NOTE)
    try:
        with open_place(place) as file:
            document: Any = parse_json(file.read().decode())
        return {key: str(document[key]) for key in ("model", "fingerprint", "dtype")}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    except OSError as error:
        raise DataError(f"cannot read {place}: {error.strerror or error}") from error


def part_note(schema: Any) -> tuple[str, list[tuple[str, str]]]:
    """(stamp, [(key, reason) of what could not be read]) of a part, by its Arrow schema.

    Raises:
        ValueError, KeyError, TypeError: it is no part.
    """
    note = parse_json(schema.metadata[META].decode())
    return str(note["stamp"]), [(str(key), str(reason)) for key, reason in note["skipped"]]


def read_rows(place: str | Path, rows: int = 65_536) -> Iterator[EmbeddedRows]:
    """The pictures of a part, some at a time; no other column is read.

    Args:
        place: of the part.
        rows: most of one piece.

    Raises:
        DataError: it is damaged, is no part, or lacks a column; says which.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with open_place(place, at_once=False) as file:
            parquet = pq.ParquetFile(file)
            missing = [name for name in PICTURES if name not in parquet.schema_arrow.names]
            if missing:
                raise DataError(f"has no column {', '.join(missing)}")
            kind = parquet.schema_arrow.field("image_embedding").type
            if not pa.types.is_fixed_size_list(kind) or not pa.types.is_floating(kind.value_type):
                raise DataError(f"image_embedding is {kind}, not lists of a fixed size of numbers")
            stamp, _ = part_note(parquet.schema_arrow)
            for batch in parquet.iter_batches(rows, columns=list(PICTURES)):
                column = batch.column("image_embedding")
                values = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, kind.list_size)
                if len(values) != len(batch):
                    raise DataError("image_embedding has rows without a value")
                texts = [[str(text) for text in batch.column(name).to_pylist()] for name in ("uid", "name")]
                yield EmbeddedRows(stamp, texts[0], texts[1], values.astype(np.float32))
    except FileNotFoundError as error:
        raise DataError("no such file") from error
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"damaged Parquet file ({str(error).splitlines()[0]})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError("is no part of `binderclip embed`: its note is missing or damaged") from error
