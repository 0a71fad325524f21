"""What `binderclip quality` measures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from binderclip.cli.shared.photographs import WEAK
from binderclip.cli.shared.sheet import contact_sheet
from binderclip.cli.verbs.quality.command import LEARNED, QUALITY
from binderclip.data.images import open_header
from binderclip.display import number_of
from binderclip.errors import DataError
from binderclip.models import load
from binderclip.models.image_text.model import ImageTextModel
from binderclip.quality import CMMD, BlindQuality, CLIPIQAPlus, FrechetDistance, PromptQuality, QualiCLIP, SetScore
from binderclip.quality.score import blind as blind_quality
from binderclip.quality.score import clipiqa
from binderclip.quality.score.blind import BUNDLED_WEIGHTS
from binderclip.quality.weights import kind_of_weights

RESAMPLES, PERMUTATIONS = 1000, 999
ON_SHEET, BEST_ON_SHEET = 60, 12
"""Pictures of the sheet, and how many of them are the best ones where there are more pictures."""


@dataclass(frozen=True)
class Ranking:
    """Pictures from the worst to the best.

    Attributes:
        model: name.
        by: the column that orders them.
        columns: names of the scores.
        rows: (path, its scores), worst first.
        skipped: (path, reason) of what could not be read.
        longest: side that larger pictures were reduced to. reduced: how many were.
        tuned: name of the bundled weights that the column `quality` comes from, or None.
    """

    model: str
    by: str
    columns: list[str]
    rows: list[tuple[str, list[float]]]
    skipped: list[tuple[str, str]]
    longest: int
    reduced: int
    tuned: str | None = None


def ranked(
    name: str, paths: Sequence[Path], pairs: Mapping[str, tuple[str, str]], by: str, *, weights: Path | None,
    longest: int, device: str, dtype: str, batch_size: int, progress: Callable[[int], object],
) -> Ranking:  # fmt: skip
    """Score pictures by all pairs and order them; pictures with equal scores keep their order.

    All pairs and a learned context share one pass; a network of its own costs a second one: that of `--weights`, or the
    bundled one, from which the column `quality` comes where the model does not know the words.

    Raises:
        CheckpointError: weights that belong to another model or cannot be read.
    """
    model = load(name, device=device, dtype=dtype)
    score = PromptQuality(model, pairs, longest=longest)
    learned = None if weights is None else _learned(weights, model, longest)
    blind = None
    if QUALITY in pairs and model.name in WEAK:
        blind = BlindQuality.from_weights(longest=longest, device=model.device)
    own = [metric for metric in (learned, blind) if isinstance(metric, (QualiCLIP, BlindQuality))]
    passes = 1 + len(own)
    assert score.native is not None
    found = score.native.files(paths, batch_size=batch_size, progress=lambda done: progress(done // passes))
    columns = list(pairs)
    with torch.no_grad():
        values = score.each(found.features)
        for number, metric in enumerate(own, 1):
            done = number * len(paths)
            onward = partial(_onward, progress, done, passes)
            scores = metric.score_files(found.keys, batch_size=batch_size, on_error="raise", progress=onward)
            total = scores.total.to(values)
            if metric is blind:
                values[:, columns.index(QUALITY)] = total
            else:
                columns, values = [*columns, LEARNED], torch.cat([values, total[:, None]], dim=1)
        if isinstance(learned, CLIPIQAPlus):
            columns, values = [*columns, LEARNED], torch.cat([values, learned.total(found.features)[:, None]], dim=1)
    order = values[:, columns.index(by)].argsort(stable=True).tolist()
    keys, table = found.keys, values.tolist()
    reduced = sum(max(_size(key)) > longest for key in keys)
    rows = [(keys[i], table[i]) for i in order]
    name_of_blind = None if blind is None else BUNDLED_WEIGHTS.parent.name
    return Ranking(model.name, by, columns, rows, found.skipped, longest, reduced, name_of_blind)


def _onward(progress: Callable[[int], object], done: int, passes: int, more: int) -> None:
    """Tell the share of all passes that is done, in pictures."""
    progress((done + more) // passes)


def _learned(weights: Path, model: ImageTextModel, longest: int) -> CLIPIQAPlus | QualiCLIP | BlindQuality:
    """The metric of `--weights`."""
    kind = kind_of_weights(weights)
    if kind == clipiqa.KIND:
        return CLIPIQAPlus.from_weights(weights, model, longest=longest)
    if kind == blind_quality.KIND:
        return BlindQuality.from_weights(weights, longest=longest, device=model.device)
    return QualiCLIP.from_weights(weights, model, longest=longest)


def _size(path: str) -> tuple[int, int]:
    """(width, height) of a picture that has been read before, from its header."""
    with open_header(path) as picture:
        return picture.size


def write_sheet(ranking: Ranking, path: Path) -> str:
    """Draw the pictures from the worst to the best, the worst and a few of the best where there are many.

    Returns:
        What was left out, in words; empty where nothing was.
    """
    rows, left_out = ranking.rows, ""
    if len(rows) > ON_SHEET:
        worst = ON_SHEET - BEST_ON_SHEET
        left_out = f" (the worst {worst} and the best {BEST_ON_SHEET} of {len(rows)})"
        rows = [*rows[:worst], *rows[-BEST_ON_SHEET:]]
    place = ranking.columns.index(ranking.by)
    cards = [(key, Path(key).name, f"{values[place]:.2f}") for key, values in rows]
    contact_sheet(cards, path, title=f"from the worst to the best by {ranking.by}{left_out}", most=ON_SHEET)
    return left_out


@dataclass(frozen=True)
class SetDistances:
    """How far two folders are apart.

    Attributes:
        embedding: how pictures became features.
        scores: of each distance; `real` is the folder that is compared with.
        skipped: (path, reason) of what could not be read, of both folders.
    """

    embedding: str
    scores: list[SetScore]
    skipped: list[tuple[str, str]]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "embedding": self.embedding,
            "count": self.scores[0].n_fake,
            "against": self.scores[0].n_real,
            "distances": {
                score.name: {"value": score.value, "interval": score.interval, "p_value": score.p_value}
                for score in self.scores
            },
            "skipped": [{"image": key, "reason": reason} for key, reason in self.skipped],
        }


def distances(
    name: str, ours: Sequence[Path], theirs: Sequence[Path], *, device: str, dtype: str, batch_size: int,
    progress: Callable[[int], object],
) -> SetDistances:  # fmt: skip
    """CMMD with its interval and p-value, and the Fréchet distance, between two folders.

    Raises:
        DataError: a folder with fewer than two pictures that can be read.
    """
    model = load(name, device=device, dtype=dtype)
    metrics: tuple[CMMD, FrechetDistance] = (CMMD(), FrechetDistance())
    skipped: list[tuple[str, str]] = []
    before = 0
    for real, paths, whose in ((False, ours, "the pictures"), (True, theirs, "--against")):
        found = model.encode_files(
            list(paths), batch_size=batch_size, progress=lambda done, before=before: progress(before + done)
        )
        if len(found) < 2:
            raise DataError(
                f"{whose}: {len(found)} of {number_of(len(paths), 'file')} could be read: a distance needs two "
                "pictures, better hundreds"
            )
        for metric in metrics:
            metric.update(found.features, real=real)
        skipped += found.skipped
        before += len(paths)
    scores = [metrics[0].report(permutations=PERMUTATIONS, resamples=RESAMPLES), metrics[1].report()]
    return SetDistances(f"{model.name} with its own resize and crop", scores, skipped)
