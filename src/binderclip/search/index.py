"""An image index on disk: one LanceDB table of vectors, and a note of the model that made them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from binderclip.data.parallel.runner import LocalRunner, ShardRunner
from binderclip.errors import CheckpointError, DataError, NotSupported, UsageError, require
from binderclip.files import why_no_folder
from binderclip.models.checks import refuse_bare_module
from binderclip.numeric import check_number
from binderclip.search.documents import Document, DocumentState, DocumentWork, EncodedBatch, documents_in
from binderclip.search.embedded import EmbeddedFolder
from binderclip.search.hits import Hit, Hits
from binderclip.search.place import (
    FORMAT,
    FORMAT_MIXED,
    TABLE,
    check_place,
    connected,
    forget_note,
    place_of,
    read_note,
    read_transform,
    table_rows,
    table_schema,
    write_note,
    write_transform,
    writing_to,
)
from binderclip.search.report import IndexReport
from binderclip.search.vectors import IndexVectors
from binderclip.similarity.transformed import Transformed

if TYPE_CHECKING:
    from torch import Tensor

    from binderclip.models import ImageTextModel
    from binderclip.similarity.transforms import EmbeddingTransform

__all__ = ["IndexReport", "SearchIndex", "read_note"]

ALIKE = 1e-3
"""Length of a difference of unit vectors below which its direction is rounding."""


class SearchIndex:
    """Image features of a folder on disk, searched by text or by image as the model compares them.

    With `mixed` text files are documents too, and a picture with `name.txt` beside it is one document of both. Plain
    cosines rank what is of the query's own kind first in such a corpus; a transform that removes the gap between the
    kinds (`similarity.GapRemoval`, p096) is kept in the index and stands in front of every query.

    Only new or changed files are encoded again: a file counts as unchanged while its size and time are the same, or
    while its bytes are. Each batch is committed when it is encoded, so an interrupted update keeps what it did; of two
    processes that update one index, the second waits and then finds little left to do.

    Args:
        path: folder of the index (made by `update`), or `s3://bucket/folder`, where a second process is
            refused while one writes.
        model: the model whose features the index holds; the index refuses to mix models.
        rebuild: forget what an index at `path` holds, whatever model made it; the next `update` starts anew.
        mixed: index texts as well; None: as the index at `path` was made, a new one pictures alone.
        transform: a fitted one for a new index; None: that of the index at `path`.

    Raises:
        UsageError: the index at `path` was made by another model, of other documents or with another transform.
        NotSupported: `mixed` for a model in whose geometry lengths have a meaning.
        CheckpointError: `path` holds something that is not an index.
        MissingDependency: LanceDB is not installed.

    Examples:
        >>> index = SearchIndex("photos/.binderclip", load("small"))      # doctest: +SKIP
        >>> index.update("photos").added                                  # doctest: +SKIP
        240
        >>> index.query("a red bicycle", top=3)[0].path                   # doctest: +SKIP
        PosixPath('photos/street/0042.jpg')
    """

    def __init__(
        self,
        path: str | Path,
        model: ImageTextModel,
        *,
        rebuild: bool = False,
        mixed: bool | None = None,
        transform: EmbeddingTransform | None = None,
    ) -> None:
        # LanceDB's engine would announce on stderr that it makes a table.
        refuse_bare_module(model, "SearchIndex")
        os.environ.setdefault("LANCEDB_LOG", "error")
        require("lancedb", "search")
        self.path = place_of(path)
        self.model = model
        self.mixed, self.transform = bool(mixed), transform
        self._vectors = self._compared()
        self._asked = mixed
        self.root: Path | None = None
        self._table: Any = None
        self._rebuild = rebuild
        if rebuild:
            check_place(self.path)
        else:
            self._open()

    def _compared(self) -> IndexVectors:
        """By the model's geometry, with the transform in front."""
        model = self.model if self.transform is None else self.model.with_transform(self.transform)
        vectors = IndexVectors(model.geometry)
        if self.mixed:
            vectors.need_means()
        return vectors

    def _open(self) -> None:
        """Take over what is on disk, which another process may have made a moment ago."""
        note = read_note(self.path)
        if note is None:
            return
        if note["fingerprint"] != self.model.fingerprint:
            if note["model"] == self.model.name:
                raise UsageError(
                    f"the index at {self.path} was made with other weights of {self.model.name!r} than it has now; "
                    "index again with --rebuild"
                )
            raise UsageError(
                f"the index at {self.path} was made with model {note['model']!r}, not with {self.model.name!r}; query "
                f"it with --model {note['model']}, or index again with --rebuild"
            )
        self._take_over(note)
        self.root = Path(note["root"])
        try:
            self._table = connected(self.path).open_table(TABLE)
        except (ValueError, OSError, RuntimeError) as error:
            raise CheckpointError(f"the index at {self.path} is damaged; index again with --rebuild") from error

    def _take_over(self, note: Mapping[str, Any]) -> None:
        """Documents and transform of the index on disk, which must be those that were asked for."""
        if self._asked is not None and self._asked != note["mixed"]:
            kind = "pictures and texts" if note["mixed"] else "pictures alone"
            raise UsageError(f"the index at {self.path} is of {kind}; index again with --rebuild")
        kept = read_transform(self.path) if note["transform"] else None
        if self.transform is not None:
            own = Transformed(self.transform).signature()
            if kept is None or Transformed(kept).signature() != own:
                other = "without a transform" if kept is None else "with another transform"
                raise UsageError(f"the index at {self.path} was made {other}; index again with --rebuild")
        self.mixed, self.transform = bool(note["mixed"]), kept
        self._vectors = self._compared()

    @property
    def measure(self) -> str:
        """What the scores of hits are: `cosine`, or `similarity` where a geometry or a transform compares."""
        return "cosine" if self._vectors.geometry is None else "similarity"

    @property
    def correction(self) -> str:
        """What scores of pictures for a text are beyond cosines, in words; empty where they are cosines."""
        return self._vectors.correction

    def __len__(self) -> int:
        return int(self._table.count_rows()) if self._table is not None else 0

    def update(
        self,
        folder: str | Path,
        *,
        batch_size: int = 64,
        progress: Callable[[int, int], None] | None = None,
        runner: ShardRunner | None = None,
        worker_model: Callable[[], ImageTextModel] | None = None,
    ) -> IndexReport:
        """Bring the index in line with a folder: encode what is new or changed, drop what is gone.

        Args:
            folder: the folder of documents; what is below it counts.
            batch_size: pictures that go through the model, and are committed, at once.
            progress: called with (done, total) pictures to encode.
            runner: encodes batches, default here; this process alone writes the index. Workers have to see the folder.
            worker_model: gives the index's model to each worker of a `runner` in other processes, such as
                `functools.partial(load, "small")`; default the model itself, which is sent to them.

        Raises:
            DataError: the folder does not exist or holds no image.
            UsageError: the index belongs to another folder.
        """
        folder = Path(folder).resolve()
        if not folder.is_dir():
            raise DataError(why_no_folder(folder))
        self._check_root(folder)
        left_out: list[tuple[str, str]] = []
        documents = documents_in(folder, mixed=self.mixed, skipped=left_out)
        if not documents and not len(self):
            kinds = "PNG, JPEG, WebP, GIF, BMP and TIFF files" + (", TXT and MD" if self.mixed else "")
            raise DataError(f"no {'documents' if self.mixed else 'images'} in {folder}: looked for {kinds}, also below")
        try:
            with writing_to(self.path) as waited:
                if waited:
                    documents = documents_in(folder, mixed=self.mixed)
                opened = worker_model or partial(_same, self.model)
                report = self._update(folder, documents, batch_size, progress, runner or LocalRunner(), opened)
        except OSError as error:
            raise DataError(f"cannot write to the index at {self.path}: {error.strerror or error}") from error
        report.skipped[:0] = left_out
        return report

    def _check_root(self, folder: Path) -> None:
        if self.root is not None and self.root != folder:
            kinds = [f"{each}" if each != Path() else "names of embeddings" for each in (self.root, folder)]
            raise UsageError(f"the index at {self.path} is of {kinds[0]}, not of {kinds[1]}")

    def _update(
        self,
        folder: Path,
        documents: dict[str, Document],
        batch_size: int,
        progress: Callable[[int, int], None] | None,
        runner: ShardRunner,
        opened: Callable[[], ImageTextModel],
    ) -> IndexReport:
        known, report = self._begin(folder), IndexReport()
        gone = sorted(set(known) - set(documents))
        self._delete(gone)
        report.removed = len(gone)
        todo = list(self._changed(documents, known, report))
        batches = [{key: documents[key] for key in todo[i : i + batch_size]} for i in range(0, len(todo), batch_size)]
        done = 0
        for batch, encoded in runner.over(batches, DocumentWork(opened, self._vectors)):
            self._commit(batch, encoded, known, report)
            done += len(batch)
            if progress:
                progress(done, len(todo))
        return self._end(report)

    def update_embeddings(
        self,
        folder: str | Path,
        *,
        pictures: str | Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> IndexReport:
        """Bring the index in line with the parts that `curate.embed_shards` left, without encoding anything.

        Rows of a part that has not changed are not written again, those of parts that are gone are dropped. A damaged
        part, or one by another model, costs itself; while there is one, nothing is dropped.

        Args:
            folder: of the parts, a path or `s3://bucket/folder`.
            pictures: the folder that the pictures' names are paths in; without, hits have the names of the pool.
            progress: called with (done, total) parts.

        Raises:
            UsageError: embeddings by another model, an index of texts too, or of another folder.
            NotSupported: a model in whose geometry lengths have a meaning, which unit vectors have lost.
            DataError: there are no parts, or none that can be used.
        """
        if self.mixed:
            raise UsageError("parts hold pictures for an index of pictures alone; leave mixed out")
        self._vectors.need_units()
        source, root = EmbeddedFolder(place_of(folder)), Path() if pictures is None else Path(pictures).resolve()
        source.check_model(self.model.name, self.model.fingerprint)
        self._check_root(root)
        try:
            with writing_to(self.path):
                known, report = self._begin(root), IndexReport()
                for states, features in source.pieces(self.model.fingerprint, self.model.embed_dim, progress):
                    names = list(states)
                    fresh = [n for n, name in enumerate(names) if known.get(name) != states[name]]
                    keys = [names[n] for n in fresh]
                    report.unchanged += len(names) - len(keys)
                    if keys:
                        self._merge(keys, states, self._vectors.stored(features[fresh]), known, report)
                gone = [] if source.broken else sorted(set(known) - source.names)
                self._delete(gone)
                report.removed, report.skipped = len(gone), source.skipped
                if not len(self):
                    why = f": {report.skipped[0][0]}: {report.skipped[0][1]}" if report.skipped else ""
                    raise DataError(f"no part in {folder} could be used{why}")
                return self._end(report)
        except OSError as error:
            raise DataError(f"cannot write to the index at {self.path}: {error.strerror or error}") from error

    def _begin(self, root: Path) -> dict[str, DocumentState]:
        """Open or make the table, of which nobody else is a writer; gives what it holds."""
        if not self._rebuild:
            self._open()
            self._check_root(root)
        if self._table is None:
            self._create(root)
            self._rebuild = False
        return self._known()

    def _end(self, report: IndexReport) -> IndexReport:
        if report.encoded or report.removed:
            # One file instead of one a batch. What a query in another process may still be reading stays for a day.
            self._table.optimize(cleanup_older_than=timedelta(days=1))
        return report

    def query(self, query: Any, *, top: int = 10, minus: str | None = None, minus_weight: float = 0.5) -> Hits:
        """The pictures nearest to a text or to an image, best first.

        With `minus` what is asked is x / |x| - w y / |y|, of the embeddings x of the query and y of `minus`.

        Args:
            query: a text; or an image as a path (`pathlib.Path`), PIL image, array or tensor.
            top: most hits returned.
            minus: a text that is taken away from one that is asked.
            minus_weight: w, from 0 to 1.

        Raises:
            UsageError: the index is empty, `top` is below 1, `minus_weight` is out of range, or `minus` beside an image
                or a text that leaves nothing of it.
            NotSupported: `minus` where lengths of embeddings have a meaning.
        """
        check_number("top", top, least=1)
        check_number("minus_weight", minus_weight, least=0, most=1)
        if not len(self):
            raise UsageError(f"the index at {self.path} is empty; fill it with `binderclip search index FOLDER`")
        words = isinstance(query, str)
        features = self.model.encode_text([query]) if words else self.model.encode_image([query])
        if minus is not None:
            if not words:
                raise UsageError("minus takes a text away from a text, and what is asked is an image")
            features = self._difference(features, minus, minus_weight)
        vector = self._vectors.asked(features, "query" if words else "image")[0].detach()
        rows = (
            self._table.search(vector.cpu().numpy())
            .metric(self._vectors.metric)
            .select(["path", "_distance"])
            .limit(top)
            .to_list()
        )
        assert self.root is not None
        hits = [Hit(self.root / row["path"], self._vectors.score(float(row["_distance"]))) for row in rows]
        return Hits(hits, query if words else "")

    def _difference(self, features: Tensor, minus: str, weight: float) -> Tensor:
        """The unit embedding (1, E) of a text less the weighted one of another, not brought to unit length."""
        self._vectors.need_units()
        rows = [
            torch.nn.functional.normalize(each.float(), dim=-1) for each in (features, self.model.encode_text([minus]))
        ]
        left = rows[0] - weight * rows[1]
        if float(left.detach().norm()) < ALIKE:
            raise UsageError(
                f"nothing is left of what is asked without {minus!r}: take other words, or a smaller weight"
            )
        return left

    def embeddings(self) -> tuple[list[Path], Tensor]:
        """The documents whose files are as they were when they were indexed, and their unit vectors (n, E).

        Raises:
            NotSupported: an index of texts too, or by a geometry from whose rows no unit vectors can be read.
        """
        if self.mixed:
            raise NotSupported("vectors of an index of texts too stand between pictures and texts")
        if not len(self):
            return [], torch.zeros(0, self.model.embed_dim)
        assert self.root is not None
        columns = ["path", "size", "mtime_ns", "digest", "vector"]
        table = self._table.search().select(columns).limit(len(self)).to_arrow()
        plain = zip(*(table[column].to_pylist() for column in columns[:-1]), strict=True)
        kept, paths = [], []
        for row, (path, size, mtime, digest) in enumerate(plain):
            place = self.root / path
            if DocumentState(size, mtime, digest).still_is(Document(place)):
                kept.append(row)
                paths.append(place)
        vectors = table["vector"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
        return paths, self._vectors.units(torch.from_numpy(vectors[kept].astype("float32")))

    def _create(self, folder: Path) -> None:
        forget_note(self.path)
        try:
            schema = table_schema(self._vectors.width(self.model.embed_dim))
            self._table = connected(self.path).create_table(TABLE, schema=schema, mode="overwrite")
        except RuntimeError as error:
            raise DataError(f"cannot make an index at {self.path}: {str(error).splitlines()[0]}") from error
        note = {
            "format": FORMAT,
            "model": self.model.name,
            "fingerprint": self.model.fingerprint,
            "root": str(folder),
        }
        if self.mixed or self.transform is not None:  # what version 0.2.0 would misread
            note |= {"format": FORMAT_MIXED, "mixed": self.mixed, "transform": self.transform is not None}
        if self.transform is not None:
            write_transform(self.path, self.transform)
        write_note(self.path, note)  # last, since it is what makes the place an index
        self.root = folder

    def _known(self) -> dict[str, DocumentState]:
        columns = ["path", "size", "mtime_ns", "digest"]
        table = self._table.search().select(columns).limit(max(len(self), 1)).to_arrow()
        rows = zip(*(table[column].to_pylist() for column in columns), strict=True)
        return {path: DocumentState(size, mtime, digest) for path, size, mtime, digest in rows}

    def _changed(
        self, documents: dict[str, Document], known: dict[str, DocumentState], report: IndexReport
    ) -> Iterator[str]:
        """Keys whose bytes the index does not hold; a file that was only touched counts as unchanged.

        Files whose names the index cannot hold are reported.
        """
        for key, document in documents.items():
            before = known.get(key)
            if key != key.encode("utf-8", "replace").decode("utf-8"):
                reason = "its name is not text in UTF-8, which the index keeps names in"
                report.skipped.append((str(document.path), reason))
            elif before is not None and before.still_is(document):
                report.unchanged += 1
            else:
                yield key

    def _commit(
        self, batch: Mapping[str, Document], encoded: EncodedBatch, known: dict[str, DocumentState], report: IndexReport
    ) -> None:
        report.skipped += encoded.skipped
        good = encoded.keys
        self._delete(sorted((set(batch) - set(good)) & set(known)))
        if not good:
            return
        self._merge(good, encoded.states, encoded.rows, known, report)

    def _merge(
        self, keys: Sequence[str], states: Mapping[str, DocumentState], rows: Tensor,
        known: Mapping[str, DocumentState], report: IndexReport,
    ) -> None:  # fmt: skip
        table = table_rows(keys, states, rows)
        try:
            self._table.merge_insert("path").when_matched_update_all().when_not_matched_insert_all().execute(table)
        except (OSError, RuntimeError) as error:
            raise DataError(
                f"cannot write to the index at {self.path}: {error}; what was indexed before is kept"
            ) from error
        report.changed += sum(key in known for key in keys)
        report.added += sum(key not in known for key in keys)

    def _delete(self, keys: Sequence[str], chunk: int = 500) -> None:
        for start in range(0, len(keys), chunk):
            quoted = ", ".join("'" + key.replace("'", "''") + "'" for key in keys[start : start + chunk])
            self._table.delete(f"path IN ({quoted})")


def _same(model: ImageTextModel) -> ImageTextModel:
    return model
