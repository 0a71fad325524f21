"""`quality` by pairs of words and by learned metrics: pictures from the worst to the best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from binderclip.data.images import open_header
from binderclip.display import number_of
from binderclip.errors import UsageError
from binderclip.models.image_text.model import ImageTextModel
from binderclip.quality import PAIRS, BlindQuality, CLIPIQAPlus, PromptQuality, QualiCLIP
from binderclip.quality.score import blind as blind_quality
from binderclip.quality.score import clipiqa
from binderclip.quality.score.blind import BUNDLED_WEIGHTS
from binderclip.quality.score.damaged_views import FAMILIES
from binderclip.quality.score.picture_score import PictureScore
from binderclip.quality.weights import kind_of_weights
from binderclip.tasks.events import Saved, batches, emit, start
from binderclip.tasks.files.inputs import find_images, skip_pictures
from binderclip.tasks.files.outputs import picture_path, writable_path
from binderclip.tasks.files.writing import short_path, write_csv
from binderclip.tasks.models import image_text_model
from binderclip.tasks.report.photographs import BLIND_TO_FAULTS, weak_on_photographs
from binderclip.tasks.report.sheet import contact_sheet
from binderclip.tasks.request import VerbResult
from binderclip.tasks.verbs.quality.request import QualityRequest
from binderclip.tasks.verbs.quality.words import AT_FIRST, LEARNED, QUALITY, named_pairs, pairs_of

AT_CHANCE = "does not know what these words mean on photographs, so the order is near chance (p012)"
STRONG = 0.5
"""A fault of so much is there more likely than not."""
ON_SHEET, BEST_ON_SHEET = 60, 12
"""Pictures of the sheet, and how many of them are the best ones where there are more pictures."""


@dataclass(frozen=True)
class Ranking(VerbResult):
    """Pictures from the worst to the best.

    Attributes:
        model: name.
        by: the column that orders them, or a family of faults.
        pairs: column -> (better, worse), of the keywords and of the user's own words.
        columns: names of the scores: those of `pairs`, and `learned` where there are weights.
        rows: (path, its scores), worst first.
        skipped: (path, reason) of what could not be read.
        reduced: how many pictures were larger than `request.max_side`.
        tuned: name of the bundled weights that the column `quality` comes from, or None.
        faults: of every row, family of faults -> how strong it is taken to be, 0 to 1; None without `BlindQuality`.
        complete: whether there is a row, and every picture that was named one by one could be read.
    """

    request: QualityRequest
    model: str
    by: str
    pairs: dict[str, tuple[str, str]]
    columns: list[str]
    rows: list[tuple[str, list[float]]]
    skipped: list[tuple[str, str]]
    reduced: int
    tuned: str | None = None
    faults: list[dict[str, float]] | None = None
    complete: bool = True

    def fault(self, row: int) -> str:
        """The fault of a row, the strongest or what orders, and its strength: "blur 0.83"; empty without any."""
        if self.faults is None:
            return ""
        name, strength = max(self.faults[row].items(), key=lambda item: item[1])
        if self.by in self.faults[row]:
            name, strength = self.by, self.faults[row][self.by]
        return f"{name} {strength:.2f}"

    def strong_fault(self, row: int) -> str:
        """The strongest fault of a row where it is there more likely than not; else empty."""
        name, strength = max((self.faults[row] if self.faults else {"": 0.0}).items(), key=lambda item: item[1])
        return name if strength >= STRONG else ""

    def score(self, row: int) -> float:
        """What orders: a score, worst first, or the strength of a fault, strongest first."""
        if self.faults is not None and self.by in self.faults[row]:
            return self.faults[row][self.by]
        return self.rows[row][1][self.columns.index(self.by)]

    @property
    def title(self) -> str:
        """How many pictures, in which order."""
        return f"{number_of(len(self.rows), 'image')}, worst first by {self.by}; model {self.model}"

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Columns, and a row a picture with its scores and, where it is known, its strongest fault."""
        if self.faults is None:
            return ("image", *self.columns), [(short_path(key), *scores) for key, scores in self.rows]
        rows = [(short_path(key), *scores, self.fault(row)) for row, (key, scores) in enumerate(self.rows)]
        return ("image", *self.columns, "fault"), rows

    def remarks(self) -> list[str]:
        """What to know of the scores, a sentence each."""
        lines: list[str] = []
        if not self.rows:
            return lines
        if self.reduced:
            lines.append(
                f"{number_of(self.reduced, 'picture')} reduced to {self.request.max_side} px before the look, which "
                "hides fine noise and slight blur: --max-side sees more, and takes longer"
            )
        keywords = [column for column, pair in self.pairs.items() if PAIRS.get(column) == pair]
        if self.tuned is not None:
            words = ", ".join(column for column in keywords if column != QUALITY)
            lines.append(
                f"{QUALITY} comes from {self.tuned}, which learned on photographs that were damaged for it how strong "
                "a fault is" + (f"; {words}: words of {self.model}, near chance on photographs (p012)" if words else "")
            )
        if self.by == LEARNED or (self.by in (QUALITY, *FAMILIES) and self.tuned is not None):
            return lines
        keys = [key for key, _ in self.rows]
        if self.by in keywords:
            return lines + weak_on_photographs(self.model, keys, weakness=AT_CHANCE, real="open_clip:RN50/openai")
        return lines + weak_on_photographs(self.model, keys)

    def places(self) -> list[str]:
        """Where the sheet is."""
        return [f"sheet {self.request.sheet}{self._on_sheet()}"] if self.request.sheet and self.rows else []

    def as_dict(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "by": self.by,
            "pairs": self.pairs,
            "quality_weights": self.tuned,
            "reduced": self.reduced,
            "images": [
                {"image": key, "scores": dict(zip(self.columns, scores, strict=True))}
                | ({} if self.faults is None else {"faults": self.faults[row]})
                for row, (key, scores) in enumerate(self.rows)
            ],
            "skipped": [{"image": key, "reason": reason} for key, reason in self.skipped],
            "sheet": self.request.sheet if self.rows else None,
            "csv": self.request.csv,
            "request": self.request.as_document(),
        }

    def write_sheet(self, path: Path) -> None:
        """Draw the pictures from the worst to the best, the worst and a few of the best where there are many."""
        rows = list(enumerate(self.rows))
        if len(rows) > ON_SHEET:
            rows = [*rows[: ON_SHEET - BEST_ON_SHEET], *rows[-BEST_ON_SHEET:]]
        cards = [
            (key, Path(key).name, ", ".join(filter(None, (f"{self.score(row):.2f}", self.fault(row)))))
            for row, (key, _) in rows
        ]
        title = f"from the worst to the best by {self.by}{self._on_sheet()}"
        contact_sheet(cards, path, title=title, most=ON_SHEET)

    def _on_sheet(self) -> str:
        """Which pictures are on the sheet, where those are not all."""
        if len(self.rows) <= ON_SHEET:
            return ""
        worst = ON_SHEET - BEST_ON_SHEET
        return f" (the worst {worst} and the best {BEST_ON_SHEET} of {len(self.rows)})"


def ranked(request: QualityRequest) -> Ranking:
    """Rank the pictures of a request, and write the table and the sheet.

    Raises:
        UsageError: an unknown column, or a result that would replace what is none of ours.
        CheckpointError: weights that belong to another model or cannot be read.
    """
    own = [*([request.pair] if request.pair else []), *(pairs_of(request.pairs) if request.pairs else [])]
    keywords = request.scores or ((QUALITY,) if request.model in BLIND_TO_FAULTS else AT_FIRST)
    pairs = named_pairs(keywords, own)
    names = [*pairs, *([LEARNED] if request.weights else [])]
    by = request.by or (LEARNED if request.weights else own[0][0] if own else names[0])
    blind = QUALITY in pairs and request.model in BLIND_TO_FAULTS
    if by in FAMILIES and by not in names and not blind:
        raise UsageError(f"--by {by} needs the column {QUALITY} of {', '.join(BLIND_TO_FAULTS)}")
    orders = (*names, *(FAMILIES if blind else ()))
    if by not in orders:
        raise UsageError(f"--by {by!r} is no column{' or fault' if blind else ''}: one of {', '.join(orders)}")
    inputs = find_images(request.images)
    sheet = picture_path(request.sheet) if request.sheet else None
    table = writable_path(request.csv, columns=("image", *names)) if request.csv else None
    start("loading the model")
    step, count = batches("picture"), len(inputs.paths)
    ranking = _scored(request, inputs.paths, pairs, by, lambda done: step(done, count))
    skip_pictures(ranking.skipped, left=ranking.rows)
    if inputs.exit_code(ranking.skipped):
        ranking = replace(ranking, complete=False)
    if table is not None:
        head, rows = ranking.table()
        write_csv(head, [(key, *row[1:]) for (key, _), row in zip(ranking.rows, rows, strict=True)], table)
        emit(Saved(table))
    if sheet is not None:
        ranking.write_sheet(sheet)
        emit(Saved(sheet))
    return ranking


def _scored(
    request: QualityRequest, paths: Sequence[Path], pairs: dict[str, tuple[str, str]], by: str,
    progress: Callable[[int], object],
) -> Ranking:  # fmt: skip
    """Score pictures by all pairs and order them; pictures with equal scores keep their order.

    All pairs and a learned context share one pass; a network of its own costs one more: that of `--weights`, or the
    bundled one, from which the column `quality` comes where the model does not know the words.
    """
    weights, longest, device = request.weights, request.max_side, request.device
    blind = (
        BlindQuality.from_weights(longest=longest, device=device)
        if QUALITY in pairs and request.model in BLIND_TO_FAULTS
        else None
    )
    words = {column: pair for column, pair in pairs.items() if blind is None or column != QUALITY}
    kind = None if weights is None else kind_of_weights(weights)
    needed = words or kind not in (None, blind_quality.KIND)
    model = image_text_model(request.model, device=device, dtype=request.dtype) if needed else None
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
        scored = metric.files(
            keys, batch_size=request.batch_size, progress=partial(_onward, progress, number * len(paths), passes)
        )
        # One network may take smaller pictures than another: what one leaves out has no row.
        keys, skipped = scored.keys, [*skipped, *scored.skipped]
        values = {column: each[scored.index] for column, each in values.items()}
        each = metric.each(scored.features).cpu()
        if words and not number:
            values |= dict(zip(columns, each.T, strict=True))
        else:
            values[columns[0]] = metric.total(scored.features).cpu()
        if isinstance(metric, BlindQuality):
            strengths = 1 - each  # those of --weights, which come last, count
        if shared and not number:
            assert learned is not None
            values[LEARNED] = learned.total(scored.features).cpu()
    columns = [*pairs, *([LEARNED] if learned is not None else [])]
    table = torch.stack([values[column].float() for column in columns], dim=1)
    if by in columns:
        order = table[:, columns.index(by)].argsort(stable=True).tolist()
    else:
        assert strengths is not None  # `ranked` has refused a fault that nothing measures
        order = strengths[:, FAMILIES.index(by)].argsort(stable=True, descending=True).tolist()
    return Ranking(
        request, request.model if model is None else model.name, by, pairs, columns,
        [(keys[i], table[i].tolist()) for i in order], skipped, sum(max(_size(key)) > longest for key in keys),
        tuned=None if blind is None else BUNDLED_WEIGHTS.parent.name,
        faults=None if strengths is None else [dict(zip(FAMILIES, strengths[i].tolist(), strict=True)) for i in order],
    )  # fmt: skip


def _onward(progress: Callable[[int], object], done: int, passes: int, more: int) -> None:
    """Tell which part of all passes is done, in pictures."""
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
