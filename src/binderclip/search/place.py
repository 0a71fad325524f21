"""Where an index lies: a folder of files, or objects on S3 and what speaks like it; its note and its table there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from binderclip.data.storage import (
    PREFIX,
    is_object,
    join_place,
    list_objects,
    read_object,
    remove_object,
    write_object,
    write_place,
)
from binderclip.documents import parse_json, read_problem
from binderclip.errors import CheckpointError, DataError
from binderclip.search.lock import LOCK, one_writer
from binderclip.search.object_lock import CLAIMS, one_object_writer
from binderclip.similarity.stored import load_transform, save_transform

if TYPE_CHECKING:
    import pyarrow as pa

    from binderclip.search.documents import DocumentState
    from binderclip.similarity.transforms import EmbeddingTransform

NOTE = "binderclip-index.json"
TABLE = "images"
TRANSFORM = "binderclip-transform.safetensors"
FORMAT, FORMAT_MIXED = 1, 2
Place = Path | str
"""A folder, or `s3://bucket/folder`."""


def place_of(given: str | os.PathLike[str]) -> Place:
    """The place that a user named.

    Raises:
        DataError: an address without a bucket.
    """
    if not is_object(given):
        return Path(given)
    if not str(given).removeprefix(PREFIX).strip("/"):
        raise DataError(f"{given}: names no bucket; write s3://BUCKET/FOLDER")
    return str(given).rstrip("/")


def connected(place: Place) -> Any:
    """LanceDB's connection to a place; of objects with the keys, region and server that the environment names.

    Raises:
        DataError: the place cannot be reached; says why.
    """
    import lancedb

    if not is_object(place):
        return lancedb.connect(str(place))
    server = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    options = {"region": os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"}
    if server:
        options |= {"endpoint": server, "allow_http": str(server.startswith("http:")).lower()}
    try:
        return lancedb.connect(str(place), storage_options=options)
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"{place}: {str(error).splitlines()[0]}") from error


def read_note(place: Place) -> dict[str, Any] | None:
    """The note of an index (model, fingerprint, root, mixed, transform), or None where there is no index yet.

    Raises:
        CheckpointError: the place holds something else, or a note of another format.
        DataError: the server cannot be reached, or refuses.
    """
    place = place_of(place)
    note = join_place(place, NOTE)
    content = _bytes(note)
    if content is None:
        check_place(place)
        return None
    try:
        document = parse_json(content)
        if document["format"] not in (FORMAT, FORMAT_MIXED):
            raise ValueError(f"format {document['format']}")
        texts: dict[str, Any] = {key: str(document[key]) for key in ("model", "fingerprint", "root")}
        return texts | {key: bool(document.get(key, False)) for key in ("mixed", "transform")}
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{note} is damaged ({read_problem(error)}); index again with --rebuild") from error


def write_note(place: Place, content: Mapping[str, Any]) -> None:
    """Write the note, whole: it is what makes a place an index."""
    write_place(join_place(place, NOTE), json.dumps(dict(content), indent=2).encode(), setting="write --index to")


def forget_note(place: Place) -> None:
    """Take the note away: without it the place is no index, so that a death in between leaves nothing half valid."""
    if isinstance(place, Path):
        (place / NOTE).unlink(missing_ok=True)
        (place / TRANSFORM).unlink(missing_ok=True)
        return
    for name in (NOTE, TRANSFORM):
        remove_object(f"{place}/{name}")


def write_transform(place: Place, transform: EmbeddingTransform) -> None:
    """Keep a fitted transform beside the table."""
    if isinstance(place, Path):
        save_transform(transform, place / TRANSFORM)
        return
    with TemporaryDirectory() as scratch:
        file = save_transform(transform, Path(scratch, TRANSFORM))
        write_object(f"{place}/{TRANSFORM}", file.read_bytes())


def read_transform(place: Place) -> EmbeddingTransform:
    """The transform that `write_transform` kept.

    Raises:
        CheckpointError: it is not there, or damaged.
    """
    if isinstance(place, Path):
        return load_transform(place / TRANSFORM)
    content = read_object(f"{place}/{TRANSFORM}")
    if content is None:
        raise CheckpointError(f"the index at {place} has lost its transform; index again with --rebuild")
    with TemporaryDirectory() as scratch:
        file = Path(scratch, TRANSFORM)
        file.write_bytes(content)
        return load_transform(file)


def check_place(place: Place) -> None:
    """Refuse a file, and a place with other things in it.

    Raises:
        CheckpointError: it holds something that is no index.
        DataError: the server cannot be reached, or refuses.
    """
    if not isinstance(place, Path):
        names = [url.removeprefix(f"{place}/") for url in list_objects(place, ("",))]
        names = [name for name in names if not name.startswith(f"{CLAIMS}/")]
        if names and NOTE not in names and not any(name.startswith(f"{TABLE}.lance/") for name in names):
            raise CheckpointError(f"{place} is not empty and not a binderclip index; give another place for the index")
        return
    if not place.exists() or (place / NOTE).is_file() or (place / f"{TABLE}.lance").is_dir():
        return
    if place.is_file() or {entry.name for entry in place.iterdir()} - {LOCK}:
        raise CheckpointError(f"{place} is not empty and not a binderclip index; give another place for the index")


def table_schema(width: int) -> pa.Schema:
    """The columns of an index of vectors of that width."""
    import pyarrow as pa

    plain = [("path", pa.string()), ("size", pa.int64()), ("mtime_ns", pa.int64()), ("digest", pa.string())]
    return pa.schema([*plain, ("vector", pa.list_(pa.float32(), width))])


def table_rows(keys: Sequence[str], states: Mapping[str, DocumentState], vectors: Float[Tensor, "n k"]) -> pa.Table:
    """Rows of an index: names, states and vectors of documents."""
    import pyarrow as pa

    values = vectors.detach().cpu().numpy()
    columns = {
        "path": list(keys),
        "size": [states[key].size for key in keys],
        "mtime_ns": [states[key].mtime_ns for key in keys],
        "digest": [states[key].digest for key in keys],
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1]),
    }
    return pa.table(columns, schema=table_schema(values.shape[1]))


@contextmanager
def writing_to(place: Place) -> Iterator[bool]:
    """Be the one that writes to a place, after waiting for another process; gives whether that was needed.

    Raises:
        DataError: on object storage, where a second process does not wait, as of `one_object_writer`.
    """
    if not isinstance(place, Path):
        with one_object_writer(place, connected):
            yield False
        return
    place.mkdir(parents=True, exist_ok=True)
    with one_writer(place) as waited:
        yield waited


def _bytes(place: Place) -> bytes | None:
    if not isinstance(place, Path):
        return read_object(place)
    return place.read_bytes() if place.is_file() else None
