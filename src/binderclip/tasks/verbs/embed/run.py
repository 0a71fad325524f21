"""What `embed` does: encode a pool shard by shard, and write the parts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from binderclip.curate import EmbedReport, LateModel, SampleTable, embed_shards, open_table
from binderclip.curate.embed import part_names, read_model
from binderclip.data import LocalRunner, load_folder
from binderclip.data.storage import is_object
from binderclip.display import number_of
from binderclip.tasks.cluster import shard_runner
from binderclip.tasks.events import batches, skip, start, warn
from binderclip.tasks.files.outputs import output_folder, outside_pool, writable_path
from binderclip.tasks.models import encoder
from binderclip.tasks.request import VerbResult
from binderclip.tasks.verbs.embed.request import EmbedRequest


@dataclass(frozen=True)
class EmbeddedPool(VerbResult):
    """The parts of a pool in the folder `request.out`.

    Attributes:
        report: what was computed, and what was there before.
    """

    request: EmbedRequest
    report: EmbedReport

    @property
    def title(self) -> str:
        """How many samples, and by which model."""
        return f"{self.request.out}: embeddings of {number_of(self.report.samples, 'sample')} by {self.request.model}"

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Columns, and one row of counts."""
        counts = (self.report.computed, self.report.found, len(self.report.skipped))
        return ("parts computed", "there before", "samples skipped"), [counts]

    def remarks(self) -> list[str]:
        """Parts of other shards."""
        if not (others := self.report.strangers):
            return []
        return [f"of other shards in {self.request.out}: {number_of(len(others), 'file')}, {', '.join(others[:3])}"]

    def as_dict(self) -> dict[str, Any]:
        return {
            "data": self.request.data, "model": self.request.model, **vars(self.report),
            "request": self.request.as_document(),
        }  # fmt: skip


def run(request: EmbedRequest) -> EmbeddedPool:
    """Encode what is not encoded yet, and write the parts.

    Raises:
        UsageError: a pool without pictures, a folder inside of it, or one with embeddings by another model.
        DataError: nothing could be encoded, or the folder cannot be written; finished parts stay.
    """
    outside_pool(request.out, request.data)
    if not is_object(request.out):
        output_folder(request.out, make=False)
    start("opening the pool")
    pool = _opened(request)
    load = partial(encoder, request.model, device=request.device, dtype=request.dtype)
    late = LateModel(load, lambda: start("loading the model"))
    late.open()  # what is wrong with it is said before the pool is read
    try:
        with shard_runner(request.ray, request.workers, request.device) as remote:
            report = embed_shards(
                pool, request.out, late, dtype=request.stored, batch_size=request.batch_size,
                progress=batches("shard"), runner=remote or LocalRunner(request.workers or 1),
            )  # fmt: skip
    except KeyboardInterrupt:
        warn(f"interrupted: the parts in {request.out} are whole; the same command goes on from here")
        raise
    skip(report.skipped)
    return EmbeddedPool(request, report)


def _opened(request: EmbedRequest) -> SampleTable:
    """The pool, once no part of it would replace another's file."""
    alone = load_folder(request.data, request.split, captions=None) if request.no_captions else request.data
    pool = open_table(alone, request.split, allow_pipe=request.allow_pipe)
    if is_object(request.out):
        return pool
    # A folder of embeddings says so in its note; parts without one are another's.
    for part in (Path(request.out, name) for name in part_names(pool.ids)):
        if part.exists():
            writable_path(part, ours=lambda _: read_model(request.out) is not None)
    return pool
