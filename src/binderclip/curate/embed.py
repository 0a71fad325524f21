"""`embed_shards`: embeddings of pictures and captions as Parquet, one part a shard, computed once for whoever asks."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float, Int

from binderclip.curate.engine.columns import to_arrow
from binderclip.curate.engine.keys import uids_of
from binderclip.curate.engine.shard import SampleTable, Shard
from binderclip.curate.engine.tables import TARS, MetadataTable, TarTable
from binderclip.curate.signals.plain import texts_of
from binderclip.curate.signals.scores import CaptionEmbedding, ImageEmbedding, LateModel
from binderclip.data.cache.parts import META, NOTE, part_note, parts_in, read_model
from binderclip.data.images import open_image
from binderclip.data.parallel.runner import LocalRunner, ShardRunner
from binderclip.data.sets.sample import Skipped
from binderclip.data.storage import is_object, join_place, open_place, write_place
from binderclip.errors import DataError, UsageError
from binderclip.models.checks import refuse_bare_module

if TYPE_CHECKING:
    import pyarrow as pa

    from binderclip.models import ImageTextModel

ROWS = 256
"""Samples that are held, encoded and put behind each other at once."""
Width = Literal["float16", "float32"]


@dataclass(frozen=True)
class EmbedReport:
    """What `embed_shards` left.

    Attributes:
        folder: of the parts.
        samples: rows of all parts.
        computed, found: parts that were computed now, and that an earlier run had left.
        skipped: (key, reason) of samples and shards that could not be used.
        strangers: Parquet files of the folder that are of none of the shards.
    """

    folder: str
    samples: int = 0
    computed: int = 0
    found: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)


def embed_shards(
    table: SampleTable,
    folder: str | os.PathLike[str],
    model: ImageTextModel | LateModel,
    *,
    dtype: Width = "float16",
    batch_size: int = 64,
    runner: ShardRunner | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> EmbedReport:
    """Encode every picture and caption of a pool.

    A part is `SHARD.parquet` with the columns `uid` (32 hexadecimal digits), `name`, `text` (the first caption),
    `image_embedding` and `caption_embedding`: unit vectors, lists of a fixed size; NaN for a caption that is empty. It
    is written whole or not at all, so a run that was interrupted goes on with the next shard, and a shard that has
    changed is encoded again. `open_table(folder)` is a pool for `CurationPipeline` whose scores need neither pictures
    nor model.

    Args:
        table: a pool with pictures, as `open_table` gives it.
        folder: of the parts, a path or `s3://bucket/folder`.
        model: encodes; a `LateModel` is loaded by each worker for itself.
        dtype: of the embeddings.
        batch_size: pictures that go through the model at once.
        runner: where it runs; default here, shard by shard.
        progress: called with (shards that are done, of how many).

    Raises:
        UsageError: a pool without pictures, or a folder with embeddings by another model.
        DataError: nothing could be encoded, or the folder cannot be written; finished parts stay.

    Examples:
        >>> from binderclip import load
        >>> from binderclip.curate import embed_shards, open_table
        >>> pool = open_table("noto-emoji", "val")
        >>> embed_shards(pool, "embedded", load("small")).samples                       # doctest: +SKIP
        190
    """
    refuse_bare_module(model, "embed_shards")
    if isinstance(table, MetadataTable):
        raise UsageError("there are no pictures in this pool, which is a table of metadata")
    place = str(folder) if is_object(folder) else Path(folder)
    parts = dict(zip(table.ids, part_names(table.ids), strict=True))
    _sign(place, model, dtype)
    work = EmbedWork(table, str(place), parts, model, model.fingerprint, dtype, batch_size)
    report = EmbedReport(str(place), skipped=list(table.skipped))
    samples = computed = reused = 0
    for done, (_, part) in enumerate((runner or LocalRunner()).over(table.ids, work), 1):
        samples, computed, reused = samples + part.samples, computed + part.computed, reused + (not part.computed)
        report.skipped.extend(part.skipped)
        if progress is not None:
            progress(done, len(parts))
    if not samples:
        why = f": {report.skipped[0][0]}: {report.skipped[0][1]}" if report.skipped else ""
        raise DataError(f"no sample could be encoded{why}")
    strangers = sorted(set(parts_in(place)) - set(parts.values()))
    return EmbedReport(str(place), samples, computed, reused, sorted(report.skipped), strangers)


def part_names(ids: Sequence[str]) -> list[str]:
    """The file of each shard: its name, with those of the folders above as far as it takes to tell them apart."""
    trails = [[re.sub(r"[^A-Za-z0-9._-]+", "-", word) for word in re.split(r"[/\\]", id.split("?")[0])] for id in ids]
    trails = [[*trail[:-1], re.sub(r"\.(tar|tar\.gz|tgz)$", "", trail[-1])] for trail in trails]
    names = ["-".join(trail[-1:]) for trail in trails]
    for deep in range(2, max(map(len, trails), default=1) + 1):
        twice = Counter(names)
        names = [
            "-".join(trail[-deep:]) if twice[name] > 1 else name for name, trail in zip(names, trails, strict=True)
        ]
    twice = Counter(names)
    numbered = [f"{name}-{n}" if twice[name] > 1 else name for n, name in enumerate(names)]
    return [f"{name}.parquet" for name in numbered]


@dataclass(frozen=True)
class EmbeddedPart:
    """What is known of one part."""

    samples: int
    skipped: list[tuple[str, str]]
    computed: bool


@dataclass(frozen=True, eq=False)
class EmbedWork:
    """What a worker starts with; all of it is sent to it, of the model how to load it.

    Args:
        table, model, dtype, batch_size: as of `embed_shards`.
        folder: of the parts.
        parts: shard -> file.
        fingerprint: of the model that the others use.
    """

    table: SampleTable
    folder: str
    parts: dict[str, str]
    model: ImageTextModel | LateModel
    fingerprint: str
    dtype: Width
    batch_size: int

    def __call__(self) -> Callable[[str], EmbeddedPart]:
        """The work on one shard."""
        return self.embed

    def embed(self, id: str) -> EmbeddedPart:
        """Write the part of a shard, if it is not there."""
        place = join_place(self.folder, self.parts[id])
        stamp = f"{self._state(id)}|{self.fingerprint}|{self.dtype}"
        if stamp[0] != "|" and (part := read_part(place, stamp)) is not None:
            return part
        unread: list[Skipped] = []
        tables = [self._encoded(piece, unread) for piece in self._pieces(id, unread)]
        skipped = [(item.key, item.reason) for item in unread]
        samples = sum(table.num_rows for table in tables)
        if samples:
            write_place(place, _packed(tables, stamp, skipped), setting="write --out to")
        return EmbeddedPart(samples, skipped, computed=True)

    def _state(self, id: str) -> str:
        return self.table.state(id) if isinstance(self.table, TarTable) else self.table.load(id).stamp

    def _pieces(self, id: str, unread: list[Skipped]) -> Iterator[Shard]:
        if isinstance(self.table, TarTable):
            return self.table.pieces(id, ROWS, unread)
        whole = self.table.load(id)
        return (whole.take(np.arange(start, min(start + ROWS, len(whole)))) for start in range(0, len(whole), ROWS))

    def _encoded(self, piece: Shard, unread: list[Skipped]) -> pa.Table:
        import pyarrow as pa

        version = self.fingerprint  # the part keeps what is computed, not the feature cache
        images = ImageEmbedding(self.model, self.batch_size, version=version)(piece)
        texts = CaptionEmbedding(self.model, version=version)(piece)
        assert isinstance(images, np.ndarray)
        assert isinstance(texts, np.ndarray)
        lost = np.isnan(images).any(1)
        unread += _unreadable(piece, np.flatnonzero(lost))
        rows = np.flatnonzero(~lost)
        names, captions = texts_of(piece, "name"), texts_of(piece, "text")
        return pa.table(
            {
                "uid": uids_of(piece.keys[rows]),
                "name": [names[row] for row in rows],
                "text": [captions[row].encode("utf-8", "backslashreplace").decode() for row in rows],
                "image_embedding": to_arrow(_finite(images[rows], self.dtype)),
                "caption_embedding": to_arrow(_finite(texts[rows], self.dtype)),
            }
        )


def read_part(place: str | Path, stamp: str) -> EmbeddedPart | None:
    """What is known of a part that was written before; None where there is none of this stamp, or a damaged one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with open_place(place, at_once=False) as file:
            parquet = pq.ParquetFile(file)
            own, skipped = part_note(parquet.schema_arrow)
            return EmbeddedPart(parquet.metadata.num_rows, skipped, computed=False) if own == stamp else None
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError):
        return None


def _packed(tables: Sequence[pa.Table], stamp: str, skipped: list[tuple[str, str]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    note = json.dumps({"stamp": stamp, "skipped": skipped})
    whole = pa.concat_tables(tables).replace_schema_metadata({META: note.encode()})
    sink = pa.BufferOutputStream()
    pq.write_table(whole, sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def _finite(rows: Float[np.ndarray, "n E"], dtype: Width) -> np.ndarray:
    return np.ascontiguousarray(rows, np.float16 if dtype == "float16" else np.float32)


def _unreadable(piece: Shard, rows: Int[np.ndarray, "k"]) -> list[Skipped]:
    """Why pictures could not be encoded."""
    names = texts_of(piece, "name")
    lost = []
    for row in rows.tolist():
        reason = "the model gives no number for its picture"
        try:
            for picture in piece.take(np.array([row])).open_pictures():
                open_image(picture)
        except DataError as error:
            reason = re.sub(r"^\d+ bytes: ", "", str(error))
        inside = f"{os.path.basename(piece.id)}:" if piece.id.endswith(TARS) else ""
        lost.append(Skipped(f"{inside}{names[row]}", reason))
    return lost


def _sign(folder: str | os.PathLike[str], model: ImageTextModel | LateModel, dtype: Width) -> None:
    """Note whose embeddings these are, where that is not noted.

    Raises:
        UsageError: they are by another model, or of another width.
    """
    own = {"format": 1, "model": model.name, "fingerprint": model.fingerprint, "dtype": dtype}
    own["width"] = model.embed_dim
    place, there = join_place(folder, NOTE), read_model(folder)
    if there is not None and (there["fingerprint"], there["dtype"]) == (model.fingerprint, dtype):
        return
    if there is not None:
        raise UsageError(f"{folder} holds embeddings by {there['model']}, {there['dtype']}: give another --out")
    write_place(place, (json.dumps(own, indent=1) + "\n").encode(), setting="write --out to")
