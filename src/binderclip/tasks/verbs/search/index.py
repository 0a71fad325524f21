"""`search index`: bring the index of a folder up to date."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from binderclip.data import LocalRunner, list_images
from binderclip.data.storage import is_object
from binderclip.display import number_of
from binderclip.errors import DataError, UsageError
from binderclip.files import why_no_folder
from binderclip.models import load_encoder
from binderclip.search import IndexReport, SearchIndex
from binderclip.tasks.arguments.transform import fitted, parse_transform
from binderclip.tasks.cluster import shard_runner
from binderclip.tasks.events import batches, start, warn
from binderclip.tasks.files.inputs import skip_pictures
from binderclip.tasks.models import encoder
from binderclip.tasks.report.photographs import weak_on_photographs
from binderclip.tasks.request import VerbResult
from binderclip.tasks.verbs.search.request import INSIDE, SearchIndexRequest


@dataclass(frozen=True)
class Indexed(VerbResult):
    """An index that is up to date.

    Attributes:
        index: the index itself.
        report: how many documents were added, changed and so on, and which could not be read.
    """

    request: SearchIndexRequest
    index: SearchIndex
    report: IndexReport

    @property
    def count(self) -> str:
        """How many documents, or images, there are: "12 images"."""
        return number_of(len(self.index), _kind(self.index))

    @property
    def title(self) -> str:
        """Where how many documents are."""
        return f"Index {self.index.path}: {self.count}, model {self.request.model}"

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Columns, and one row of counts."""
        names = ("added", "changed", "unchanged", "removed")
        return (*names, "skipped"), [(*(getattr(self.report, name) for name in names), len(self.report.skipped))]

    def remarks(self) -> list[str]:
        """What corrects the scores, and that the model is weak on photographs, where it is."""
        lines, request = correction_of(self.index), self.request
        if request.folder is not None and self.report.encoded:
            inside = None if is_object(self.index.path) else Path(self.index.path)
            lines += weak_on_photographs(request.model, list_images(request.folder, without=inside))
        return lines

    def as_dict(self) -> dict[str, Any]:
        return {
            "index": self.index.path,
            f"{_kind(self.index)}s": len(self.index),
            "model": self.request.model,
            "transform": type(self.index.transform).__name__ if self.index.transform else None,
            **vars(self.report),
            "request": self.request.as_document(),
        }


def run(request: SearchIndexRequest) -> Indexed:
    """Encode what is new or changed, or take embeddings that are there already.

    Raises:
        UsageError: there is no such folder, or no place for the index.
        DataError: no picture can be read, or the index is of another model.
    """
    choice = parse_transform(request.transform)
    if request.folder is not None and not request.folder.is_dir():
        raise UsageError(why_no_folder(request.folder))
    if request.embeddings is not None and not (is_object(request.embeddings) or Path(request.embeddings).is_dir()):
        raise UsageError(why_no_folder(request.embeddings))
    place = _place(request)
    fresh = isinstance(place, Path) and not os.path.lexists(place)
    start("loading the model")
    model = encoder(request.model, device=request.device, dtype=request.dtype)
    transform = None if choice is None else fitted(model, choice, batch_size=request.batch_size)
    # Without the options an index goes on as it was made.
    index = SearchIndex(place, model, rebuild=request.rebuild, mixed=request.mixed or None, transform=transform)
    start("looking for documents" if index.mixed else "looking for pictures")
    try:
        report = _updated(index, request)
    except KeyboardInterrupt:
        warn(f"interrupted: the index holds {number_of(len(index), _kind(index))}; the same command goes on from here")
        raise
    try:
        skip_pictures(report.skipped, left=index, unit="document" if index.mixed else "picture")
    except DataError:
        if fresh:  # left there, it would answer every question by nothing
            shutil.rmtree(place)
        raise
    return Indexed(request, index, report)


def correction_of(index: SearchIndex) -> list[str]:
    """How the scores of pictures for words differ from cosines, where they do."""
    return [f"scores of pictures for words: {index.correction}"] if index.correction else []


def _updated(index: SearchIndex, request: SearchIndexRequest) -> IndexReport:
    if request.embeddings is not None:
        return index.update_embeddings(request.embeddings, pictures=request.folder, progress=batches("part"))
    assert request.folder is not None
    options = {"device": request.device, "dtype": request.dtype}
    with shard_runner(request.ray, request.workers, request.device) as remote:
        return index.update(
            request.folder, batch_size=request.batch_size, progress=batches("document" if index.mixed else "picture"),
            runner=remote or LocalRunner(request.workers or 1),
            worker_model=partial(load_encoder, request.model, **options) if remote else None,
        )  # fmt: skip


def _place(request: SearchIndexRequest) -> Path | str:
    """Where the index lies.

    Raises:
        UsageError: it cannot lie inside a folder of objects.
    """
    if request.index is not None:
        return request.index if is_object(request.index) else Path(request.index)
    inside = request.folder if request.folder is not None else str(request.embeddings)
    if is_object(inside):
        raise UsageError(f"say where the index of {inside} is to lie: --index PLACE")
    return Path(inside) / INSIDE


def _kind(index: SearchIndex) -> str:
    """What the index is of."""
    return "document" if index.mixed else "image"
