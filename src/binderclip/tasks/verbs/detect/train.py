"""Training of `binderclip detect`: what is held out, the detector's file, and its sanity check."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from binderclip.data import RealFakeSet, real_fake_folder
from binderclip.data.uniform import uniform
from binderclip.display import number_of
from binderclip.errors import DataError, UsageError
from binderclip.evaluate import DetectorSanityCheck
from binderclip.fit import Checkpoint
from binderclip.models.files.devices import resolve_device
from binderclip.quality import Detector, create_detector, save_detector, train_detector
from binderclip.tasks.events import Saved, batches, emit, skip, start
from binderclip.tasks.files.outputs import writable_path
from binderclip.tasks.files.results import ask_for_room, save_or_keep, size_of
from binderclip.tasks.request import VerbResult
from binderclip.tasks.verbs.detect.report import check_tables
from binderclip.tasks.verbs.detect.request import DetectRequest
from binderclip.tasks.verbs.detect.run import sanity_check, title_of

HELD = 0.25
"""Share of the pictures that is measured and not trained on."""


CHECKPOINTS = 20
"""So many are written in a training, whatever its length."""


@dataclass(frozen=True)
class TrainedDetector(VerbResult):
    """A detector's file, `request.out`, and how it did on what it has not seen.

    Attributes:
        card: what stands in the file beside the weights.
        check: on the pictures that were held out.
        title: method, model, and how many these were.
        skipped: (path, reason) of what could not be read.
    """

    request: DetectRequest
    card: dict[str, Any]
    check: DetectorSanityCheck
    title: str
    skipped: list[tuple[str, str]]

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Columns, and a row a generator."""
        return check_tables(self.check, self.title)[0][1:]

    def more_tables(self) -> list[tuple[str, tuple[str, ...], list[tuple[Any, ...]]]]:
        """Title, columns and rows of real pictures after processing."""
        return check_tables(self.check, self.title)[1:]

    def remarks(self) -> list[str]:
        """What was found out about the detector."""
        return self.check.findings

    def places(self) -> list[str]:
        """Where the detector is."""
        return [f"detector {self.request.out}"]

    def as_dict(self) -> dict[str, Any]:
        return {"detector": self.request.out, **self.card, "request": self.request.as_document()}


def halves(data: RealFakeSet, hold_out: Sequence[str], seed: int) -> tuple[RealFakeSet, RealFakeSet]:
    """Pictures to learn from and to measure on; an aligned copy stays with its original.

    Args:
        data: all pictures.
        hold_out: generators of which none is learned from.
        seed: of the draw.

    Raises:
        UsageError: a generator that is not there, or all of them.
        DataError: too few pictures to hold any out.
    """
    if unknown := [name for name in hold_out if name not in data.made_by]:
        raise UsageError(f"--hold-out {unknown[0]}: there is no such generator; there are {', '.join(data.made_by)}")
    if set(hold_out) == set(data.made_by):
        raise UsageError("--hold-out names every generator: nothing would be left to learn from")
    originals = [data.key(row if partner < 0 else int(partner)) for row, partner in enumerate(data.partners)]
    held = uniform(seed, [f"held out/{key}" for key in originals], 0, 1)[:, 0] < HELD
    away = np.array([label == 1 and name in hold_out for label, name in zip(data.labels, data.generators, strict=True)])
    parts = subset(data, np.flatnonzero(~held & ~away)), subset(data, np.flatnonzero(held))
    for part in parts:
        if len(set(part.labels.tolist())) < 2:
            raise DataError(
                f"too few with {number_of(len(data), 'picture')}: a quarter is held out, and "
                f"both parts need real and generated ones"
            )
    return parts


def subset(data: RealFakeSet, rows: np.ndarray) -> RealFakeSet:
    """Some of the pictures; pairs stay aligned where both are among them."""
    place = {int(row): new for new, row in enumerate(rows)}
    partners = np.array([place.get(int(data.partners[row]), -1) for row in rows], dtype=int)
    return RealFakeSet(
        [data.sources[row] for row in rows], data.labels[rows], [data.generators[row] for row in rows], partners,
        keys=[data.key(row) for row in rows.tolist()],
    )  # fmt: skip


def usable(detector: Detector, data: RealFakeSet) -> tuple[RealFakeSet, list[tuple[str, str]]]:
    """The pictures that can be read and looked at, and (path, reason) of the others."""
    kept, skipped = [], []
    for row in range(len(data)):
        try:
            detector.view(data.image(row)[None])
            kept.append(row)
        except DataError as error:
            skipped.append((data.named(row), str(error)))
    return subset(data, np.array(kept, dtype=int)), skipped


def checkpoints_of(out: Path) -> Path:
    """The folder of the checkpoints of a detector's file."""
    return out.with_name(f"{out.name}.checkpoints")


def _pictures(data: RealFakeSet) -> str:
    """16 hexadecimal digits over which pictures there are, and who made them."""
    keys = [data.key(row) for row in range(len(data))]
    text = repr((keys, data.labels.tolist(), list(data.generators), data.partners.tolist()))
    return hashlib.blake2b(text.encode("utf-8", "backslashreplace"), digest_size=8).hexdigest()


def train(request: DetectRequest) -> TrainedDetector:
    """Train on one part of the folder, measure on the other, and write the file.

    Checkpoints lie beside the file until it is written; with `resume` training goes on from them and ends with the same
    detector.

    Args:
        request: what is asked, with `train` and `out`.

    Raises:
        CheckpointError: what is there belongs to other settings or pictures.
        UsageError: an unknown generator, or a file that is none of ours.
        DataError: too few pictures, or none aligned where pairs are needed.
        OutputError: the file has no room, which is said before the training.
    """
    assert request.train is not None
    assert request.out is not None
    out = writable_path(request.out)
    device = resolve_device(request.device)
    left = checkpoints_of(out)
    if left.is_dir() and not request.resume:
        raise UsageError(f"{left} holds a training that was stopped: go on with it (--resume), or remove the folder")
    start("reading the folders")
    named = real_fake_folder(request.train)
    start("loading the model")
    torch.manual_seed(request.seed)
    detector = create_detector(request.method, request.model)
    detector.to(device)
    # Of the file, and of a checkpoint, which holds two moments of every weight as well.
    ask_for_room(out, 4 * size_of(detector))
    start("looking at every picture")
    data, left_out = usable(detector, named)
    learn, test = halves(data, request.hold_out, request.seed)
    settings = {name: getattr(request, name) for name in ("steps", "batch_size", "lr", "seed")}
    own = {
        "method": request.method, "model": request.model, **settings, "hold_out": request.hold_out,
        "pictures": _pictures(learn),
    }  # fmt: skip
    kept = Checkpoint(left, every=max(1, request.steps // CHECKPOINTS), identity=own)
    train_detector(detector, learn, **settings, progress=batches("step"), checkpoint=kept)
    check, _ = sanity_check(detector, test, learn.made_by, batch_size=request.batch_size)
    card = {
        "method": request.method, "generators": learn.made_by, "real": len(learn.rows(label=0)),
        "fake": len(learn.rows(label=1)), "held_out": len(test), **settings, "check": check.as_dict(),
    }  # fmt: skip
    save_or_keep(lambda place: save_detector(detector, place, card), out)
    shutil.rmtree(left, ignore_errors=True)
    emit(Saved(out))
    skipped = [*named.skipped, *left_out]
    skip(skipped)
    title = f"{title_of(detector, card)}: {number_of(len(test), 'picture')} held out"
    return TrainedDetector(request, card, check, title, skipped)
