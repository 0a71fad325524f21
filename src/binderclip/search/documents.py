"""What an index is of: pictures, or a mixture of pictures, texts and pictures with a text beside them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.data import list_images
from binderclip.data.files import list_files
from binderclip.data.formats.folder_rows import described_rows, find_table
from binderclip.data.formats.trees import FolderTree
from binderclip.errors import DataError

if TYPE_CHECKING:
    from binderclip.models import ImageTextModel
    from binderclip.search.vectors import IndexVectors

TEXT_SUFFIXES = (".txt", ".md")
MOST_READ = 1 << 16
"""Bytes of a text that are looked at; models read some tens of words."""


@dataclass(frozen=True)
class Document:
    """A picture, a text, or a picture with a text; at least one of them.

    Attributes:
        picture, text: their files.
        caption: of the picture, where a table has one: it stands in the place of the text.
    """

    picture: Path | None
    text: Path | None = None
    caption: str = ""

    @property
    def path(self) -> Path:
        """The file that a query gives: the picture where there is one."""
        path = self.picture or self.text
        assert path is not None
        return path

    @property
    def files(self) -> list[Path]:
        """All of them."""
        return [path for path in (self.picture, self.text) if path is not None]


@dataclass(frozen=True)
class DocumentState:
    """The files of a document as they were when it was encoded: sizes, latest time, hashes of caption and files."""

    size: int
    mtime_ns: int
    digest: str

    @classmethod
    def of(cls, document: Document) -> DocumentState:
        """The state now.

        Raises:
            OSError: a file cannot be read.
        """
        size, mtime = cls._times(document)
        return cls(size, mtime, _told(document) + _digest(document.files))

    @staticmethod
    def _times(document: Document) -> tuple[int, int]:
        states = [path.stat() for path in document.files]
        return sum(state.st_size for state in states), max(state.st_mtime_ns for state in states)

    def still_is(self, document: Document) -> bool:
        """Whether sizes and times, or else all bytes, are the same."""
        try:
            size, mtime = self._times(document)
            # A table may change a caption and leave the picture's time as it was.
            caption, sign, files = self.digest.rpartition(":")
            if caption + sign != _told(document) or self.size != size:
                return False
            return self.mtime_ns == mtime or files == _digest(document.files)
        except OSError:
            return False


def _told(document: Document) -> str:
    """What a hash of files begins with where a table has a caption."""
    return f"{hashlib.sha256(document.caption.encode()).hexdigest()}:" if document.caption else ""


def _digest(paths: Sequence[Path]) -> str:
    """SHA-256 of a file; of several, of their hashes, so that no bytes can move from one to the other unseen."""
    parts = []
    for path in paths:
        state = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                state.update(block)
        parts.append(state.hexdigest())
    return parts[0] if len(parts) == 1 else hashlib.sha256("".join(parts).encode()).hexdigest()


def documents_in(folder: Path, *, mixed: bool, skipped: list[tuple[str, str]] | None = None) -> dict[str, Document]:
    """Every document below a folder by the path, within, of the file that stands for it.

    Args:
        folder: an existing one.
        mixed: texts too: `name.txt` beside `name.jpg` belongs to the picture (to the first, in the order of names,
            where several share the name), any other text file is a document of its own; a table of captions in the
            folder goes before texts beside pictures.
        skipped: gets (path, reason) of what is none.

    Raises:
        DataError: a table of captions that cannot be read.
    """
    pictures = list_images(folder, skipped=skipped)
    documents = {path.relative_to(folder).as_posix(): Document(path) for path in pictures}
    if not mixed:
        return documents
    for name, caption in _table_captions(folder).items():
        if name in documents:
            documents[name] = replace(documents[name], caption=caption)
    by_stem: dict[Path, str] = {}
    for key, document in documents.items():
        by_stem.setdefault(document.path.with_suffix(""), key)
    names, _ = list_files(folder, suffixes=TEXT_SUFFIXES)
    for name in names:
        path = folder / name
        beside = by_stem.pop(path.with_suffix(""), "") if path.suffix.lower() == ".txt" else ""
        if beside:
            documents[beside] = replace(documents[beside], text=path)
        else:
            documents[name] = Document(None, path)
    return documents


def _table_captions(folder: Path) -> dict[str, str]:
    """The first caption of each picture of a folder by its relative path, where a table has them."""
    tree = FolderTree(folder)
    if find_table(tree) is None:
        return {}
    rows, _ = described_rows(tree, "auto", "{}")
    return {row.name: row.captions[0].strip() for row in reversed(rows)}


def encode_documents(
    model: ImageTextModel, vectors: IndexVectors, documents: Mapping[str, Document]
) -> tuple[list[str], Float[Tensor, "n k"], list[tuple[str, str]]]:
    """What an index stores of some documents.

    Args:
        model: encodes them all at once.
        vectors: of the index.
        documents: by key.

    Returns:
        The keys of those that could be read, pictures alone first; a row for each; (path, reason) of the others.

    Raises:
        NotSupported: documents of both sides, in a geometry in which lengths have a meaning.
    """
    skipped: list[tuple[str, str]] = []
    texts: dict[str, str] = {}
    for key, document in documents.items():
        if document.caption:
            texts[key] = document.caption
        elif document.text is not None:
            try:
                texts[key] = _read(document.text, whole=document.picture is None)
            except DataError as error:
                skipped.append((str(document.text), str(error)))
    by_path = {document.picture: key for key, document in documents.items() if document.picture is not None}
    images: dict[str, Tensor] = {}
    if by_path:
        encoded = model.encode_files(list(by_path), batch_size=len(by_path))
        skipped += [(str(path), reason) for path, reason in encoded.skipped]
        keys = [by_path[Path(str(path))] for path in encoded.paths]
        images = dict(zip(keys, encoded.features, strict=True))
    text_rows = dict(zip(texts, model.encode_text(list(texts.values())), strict=True)) if texts else {}
    alone = [key for key in images if key not in text_rows]
    paired = [key for key in images if key in text_rows]
    words = [key for key in text_rows if documents[key].picture is None]
    rows = []
    if alone:
        rows.append(vectors.stored(torch.stack([images[key] for key in alone])))
    if paired:
        text, image = (torch.stack([side[key] for key in paired]) for side in (text_rows, images))
        rows.append(vectors.stored_both(text, image))
    if words:
        rows.append(vectors.stored(torch.stack([text_rows[key] for key in words]), "text"))
    return [*alone, *paired, *words], torch.cat(rows) if rows else torch.zeros(0, 0), skipped


@dataclass(frozen=True)
class EncodedBatch:
    """Documents that were encoded together.

    Attributes:
        keys: of those that could be read.
        states: their files as they were before they were read, and of those that could not be, too.
        rows: a vector for each of `keys`.
        skipped: (path, reason) of the others.
    """

    keys: list[str]
    states: dict[str, DocumentState]
    rows: Float[Tensor, "n k"]
    skipped: list[tuple[str, str]]


@dataclass(frozen=True, eq=False)
class DocumentWork:
    """The work of a `data.ShardRunner` on batches of documents.

    Args:
        model: gives the model; called once a worker.
        vectors: of the index.
    """

    model: Callable[[], ImageTextModel]
    vectors: IndexVectors

    def __call__(self) -> Callable[[Mapping[str, Document]], EncodedBatch]:
        """The work, with a model."""
        return partial(_encoded_batch, self.model(), self.vectors)


def _encoded_batch(model: ImageTextModel, vectors: IndexVectors, documents: Mapping[str, Document]) -> EncodedBatch:
    # States are taken before the pixels are read: a file that changes meanwhile is found changed next time.
    states: dict[str, DocumentState] = {}
    skipped: list[tuple[str, str]] = []
    for key, document in documents.items():
        try:
            states[key] = DocumentState.of(document)
        except OSError as error:
            skipped.append((str(document.path), f"{error.strerror}"))
    good, rows, unread = encode_documents(model, vectors, {key: documents[key] for key in states})
    return EncodedBatch(good, states, rows, skipped + unread)


def _read(path: Path, *, whole: bool) -> str:
    """A text, or its first line that says something.

    Raises:
        DataError: it cannot be read, is not UTF-8, or says nothing.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_READ)
        text = content.decode("utf-8-sig", errors="ignore" if len(content) == MOST_READ else "strict").strip()
    except OSError as error:
        raise DataError(f"{error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError("is not a text in UTF-8") from error
    if not text:
        raise DataError("is an empty text")
    return " ".join(text.split()) if whole else text.splitlines()[0].strip()
