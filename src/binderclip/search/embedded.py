"""An index out of the parts that `binderclip embed` left: what was encoded once is not encoded again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.data.cache.parts import parts_in, read_model, read_rows
from binderclip.data.storage import join_place
from binderclip.errors import DataError, UsageError
from binderclip.search.documents import DocumentState

__all__ = ["EmbeddedFolder"]


@dataclass
class EmbeddedFolder:
    """The parts of a folder, for an index.

    Args:
        folder: a path, or `s3://bucket/folder`.

    Attributes:
        names: every sample that was read, once `pieces` has been gone through.
        skipped: (part or sample, reason) of what could not be used.
        broken: parts that could not be used to their end.
    """

    folder: Path | str
    names: set[str] = field(default_factory=set)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    broken: int = 0

    def check_model(self, name: str, fingerprint: str) -> None:
        """Refuse embeddings by another model than an index's.

        Raises:
            UsageError: they are by another, or there is no note that says by which.
        """
        note = read_model(self.folder)
        if note is None:
            raise UsageError(f"{self.folder} has no note of the model (embeddings.json): it is no folder of `embed`")
        if note["fingerprint"] != fingerprint:
            other = f"model {note['model']!r}" if note["model"] != name else f"other weights of {name!r}"
            raise UsageError(f"the embeddings in {self.folder} are by {other}: give --model {note['model']}")

    def pieces(
        self, fingerprint: str, width: int, progress: Callable[[int, int], None] | None = None
    ) -> Iterator[tuple[dict[str, DocumentState], Float[Tensor, "n E"]]]:
        """(name -> state, features) of some samples at a time; a damaged part costs itself and is named.

        Args:
            fingerprint: of the model.
            width: E.
            progress: called with (parts that are read, of how many).

        Raises:
            DataError: there is no part.
        """
        parts = parts_in(self.folder)
        if not parts:
            raise DataError(f"there are no parts (*.parquet) in {self.folder}")
        for number, part in enumerate(parts, 1):
            try:
                yield from self._of_part(part, fingerprint, width)
            except DataError as error:
                self.skipped.append((part, str(error)))
                self.broken += 1
            if progress is not None:
                progress(number, len(parts))

    def _of_part(
        self, part: str, fingerprint: str, width: int
    ) -> Iterator[tuple[dict[str, DocumentState], Float[Tensor, "n E"]]]:
        for rows in read_rows(join_place(self.folder, part)):
            if f"|{fingerprint}|" not in f"|{rows.stamp}|":
                raise DataError("is by another model than the parts beside it")
            if rows.vectors.shape[1] != width:
                raise DataError(f"has embeddings of {rows.vectors.shape[1]} numbers, the model gives {width}")
            states: dict[str, DocumentState] = {}
            kept: list[int] = []
            for row, (uid, name) in enumerate(zip(rows.uids, rows.names, strict=True)):
                if name in self.names:
                    self.skipped.append((f"{part}: {name}", "a sample of another part has this name"))
                    continue
                self.names.add(name)
                mark = hashlib.blake2b(f"{rows.stamp}|{uid}".encode(), digest_size=16).hexdigest()
                states[name] = DocumentState(0, 0, mark)
                kept.append(row)
            vectors = torch.from_numpy(rows.vectors[kept])
            good = torch.isfinite(vectors).all(1)
            bad = {name for name, fine in zip(states, good.tolist(), strict=True) if not fine}
            self.skipped += [(f"{part}: {name}", "its embedding is no number") for name in sorted(bad)]
            yield {name: state for name, state in states.items() if name not in bad}, vectors[good]
