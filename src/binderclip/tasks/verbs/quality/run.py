"""What `quality` measures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from binderclip.data.images import open_header
from binderclip.display import number_of
from binderclip.errors import DataError
from binderclip.models import load
from binderclip.models.image_text.model import ImageTextModel
from binderclip.quality import CMMD, BlindQuality, CLIPIQAPlus, FrechetDistance, PromptQuality, QualiCLIP, SetScore
from binderclip.quality.score import blind as blind_quality
from binderclip.quality.score import clipiqa
from binderclip.quality.score.blind import BUNDLED_WEIGHTS
from binderclip.quality.score.damaged_views import FAMILIES
from binderclip.quality.score.picture_score import PictureScore
from binderclip.quality.weights import kind_of_weights
from binderclip.tasks.report.photographs import BLIND_TO_FAULTS
from binderclip.tasks.report.sheet import contact_sheet
from binderclip.tasks.verbs.quality.words import LEARNED, QUALITY

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
        faults: of every row, family of faults -> how strong it is taken to be, 0 to 1; None without `BlindQuality`.
    """

    model: str
    by: str
    columns: list[str]
    rows: list[tuple[str, list[float]]]
    skipped: list[tuple[str, str]]
    longest: int
    reduced: int
    tuned: str | None = None
    faults: list[dict[str, float]] | None = None

    def fault(self, row: int) -> str:
        """The strongest fault of a row and how strong it is taken to be: "blur 0.83"; empty without `BlindQuality`."""
        if self.faults is None:
            return ""
        name, strength = max(self.faults[row].items(), key=lambda item: item[1])
        return f"{name} {strength:.2f}"

    @property
    def head(self) -> list[str]:
        """Names of `cells`: the columns and, where it is known, the strongest fault."""
        return [*self.columns, *([] if self.faults is None else ["fault"])]

    def cells(self, row: int) -> list[str | float]:
        """What a table says of a row."""
        return [*self.rows[row][1], *([] if self.faults is None else [self.fault(row)])]


def ranked(
    name: str, paths: Sequence[Path], pairs: Mapping[str, tuple[str, str]], by: str, *, weights: Path | None,
    longest: int, device: str, dtype: str, batch_size: int, progress: Callable[[int], object],
) -> Ranking:  # fmt: skip
    """Score pictures by all pairs and order them; pictures with equal scores keep their order.

    All pairs and a learned context share one pass; a network of its own costs one more: that of `--weights`, or the
    bundled one, from which the column `quality` comes where the model does not know the words.

    Raises:
        CheckpointError: weights that belong to another model or cannot be read.
    """
    blind = (
        BlindQuality.from_weights(longest=longest, device=device)
        if QUALITY in pairs and name in BLIND_TO_FAULTS
        else None
    )
    words = {column: pair for column, pair in pairs.items() if blind is None or column != QUALITY}
    kind = None if weights is None else kind_of_weights(weights)
    model = load(name, device=device, dtype=dtype) if words or kind not in (None, blind_quality.KIND) else None
    learned = None if weights is None or kind is None else _learned(weights, kind, model, longest, device)
    metrics: list[tuple[list[str], PictureScore]] = []  # with the columns that they give; words come first
    if words:
        assert model is not None
        metrics.append((list(words), PromptQuality(model, words, longest=longest)))
    if blind is not None:
        metrics.append(([QUALITY], blind))
    if learned is not None:
        metrics.append(([LEARNED], learned))
    values: dict[str, Tensor] = {}
    strengths: Tensor | None = None
    keys: list[str] = [str(path) for path in paths]
    skipped: list[tuple[str, str]] = []
    # A learned context reads the features that the words read: one pass.
    shared = words and isinstance(learned, CLIPIQAPlus)
    passes = len(metrics) - bool(shared)
    for number, (columns, metric) in enumerate(metrics[:passes]):
        found = metric.files(
            keys, batch_size=batch_size, progress=partial(_onward, progress, number * len(paths), passes)
        )
        # One network may take smaller pictures than another: what one leaves out has no row.
        keys, skipped = found.keys, [*skipped, *found.skipped]
        values = {column: each[found.index] for column, each in values.items()}
        each = metric.each(found.features).cpu()
        if words and not number:
            values |= dict(zip(columns, each.T, strict=True))
        else:
            values[columns[0]] = metric.total(found.features).cpu()
        if isinstance(metric, BlindQuality):
            strengths = 1 - each  # those of --weights, which come last, count
        if shared and not number:
            assert learned is not None
            values[LEARNED] = learned.total(found.features).cpu()
    columns = [*pairs, *([LEARNED] if learned is not None else [])]
    table = torch.stack([values[column].float() for column in columns], dim=1)
    order = table[:, columns.index(by)].argsort(stable=True).tolist()
    return Ranking(
        name if model is None else model.name, by, columns, [(keys[i], table[i].tolist()) for i in order], skipped,
        longest, sum(max(_size(key)) > longest for key in keys),
        tuned=None if blind is None else BUNDLED_WEIGHTS.parent.name,
        faults=None if strengths is None else [dict(zip(FAMILIES, strengths[i].tolist(), strict=True)) for i in order],
    )  # fmt: skip


def _onward(progress: Callable[[int], object], done: int, passes: int, more: int) -> None:
    """Tell the share of all passes that is done, in pictures."""
    progress((done + more) // passes)


def _learned(
    weights: Path, kind: str, model: ImageTextModel | None, longest: int, device: str
) -> CLIPIQAPlus | QualiCLIP | BlindQuality:
    """The metric of `--weights`."""
    if kind == blind_quality.KIND:
        return BlindQuality.from_weights(weights, longest=longest, device=device)
    assert model is not None
    if kind == clipiqa.KIND:
        return CLIPIQAPlus.from_weights(weights, model, longest=longest)
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
    rows, left_out = list(enumerate(ranking.rows)), ""
    if len(rows) > ON_SHEET:
        worst = ON_SHEET - BEST_ON_SHEET
        left_out = f" (the worst {worst} and the best {BEST_ON_SHEET} of {len(rows)})"
        rows = [*rows[:worst], *rows[-BEST_ON_SHEET:]]
    place = ranking.columns.index(ranking.by)
    cards = [
        (key, Path(key).name, ", ".join(filter(None, (f"{values[place]:.2f}", ranking.fault(row)))))
        for row, (key, values) in rows
    ]
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
