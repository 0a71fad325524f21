"""Every candidate cross-validated on the same draws, within a budget of time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import special

from binderclip.adapt.heads.inputs import features_for
from binderclip.adapt.selection.candidate_heads import Candidate
from binderclip.adapt.selection.crossval import (
    CrossValidation,
    CrossValidationStore,
    Draw,
    OverBudget,
    cross_validate,
    head_settings,
)
from binderclip.adapt.selection.encoded import Encoded
from binderclip.adapt.selection.measures import Interval, adaptive_calibration_error, macro_f1, mean_interval
from binderclip.adapt.selection.result import MethodScore
from binderclip.adapt.selection.splits import DataSplit, draw_up_to, folds_of
from binderclip.errors import BinderclipError, UsageError

if TYPE_CHECKING:
    from binderclip.data import ImageTextDataset
    from binderclip.models import ImageTextModel, TextBank


@dataclass
class Job:
    """Everything the stages of a selection share."""

    model: ImageTextModel
    data: ImageTextDataset
    encoded: Encoded
    names: np.ndarray
    targets: np.ndarray
    groups: np.ndarray
    deadline: float
    folds: int
    progress: Callable[[str], object]
    judged: Callable[[str, MethodScore | str], object]
    _pixels: Any = None

    def inputs(self, entry: Candidate) -> Any:
        if entry.level == "features":
            return self.encoded.features.double().numpy()
        if entry.level == "pre_projection":
            if self.encoded.pre_projection is None:
                raise UsageError("this model's image side cannot be opened before its projection")
            return self.encoded.pre_projection.double().numpy()
        if self._pixels is None:
            pictures = [self.data[int(row)].image for row in self.encoded.rows]
            self._pixels = features_for("images", self.model, pictures)
        return self._pixels

    def draw(self, parts: DataSplit, shots: int, seed: int) -> Draw:
        rows = parts.pool[draw_up_to(self.targets[parts.pool], shots, seed)]
        fold = folds_of(self.targets[rows], self.groups[rows], self.folds, seed)
        return Draw(seed, rows, self.targets[rows], self.groups[rows], fold)

    def left(self) -> float:
        return self.deadline - time.monotonic()


@dataclass
class CandidateComparison:
    """The candidates that were run, by name: their draws, cross-validated cells, and scores, best first."""

    candidates: dict[str, Candidate]
    draws: list[Draw]
    cells: dict[str, list[CrossValidation]]
    left_out: list[tuple[str, str]]
    scores: list[MethodScore]


def compare_candidates(
    job: Job,
    parts: DataSplit,
    candidates: list[Candidate],
    shots: int,
    seeds: range,
    store: str | Path | None,
    bank: TextBank,
) -> CandidateComparison:
    """Cross-validate every candidate that fits into the budget, on the same draws.

    Raises:
        UsageError: nothing can be held out, or no candidate could be run.
    """
    draws = [job.draw(parts, shots, seed) for seed in seeds]
    if not len(draws[0].held) and len(candidates) > 1:
        raise UsageError(
            "no class has two different pictures to learn from, so there is nothing to choose by: name one method"
        )
    about = {
        "model": job.model.fingerprint,
        "pictures": [job.encoded.keys[row] for row in range(len(job.encoded.keys))],
        "targets": job.targets.tolist(),
        "texts": bank.texts,
        "shots": shots,
        "folds": job.folds,
    }
    cells = CrossValidationStore(None if store is None else Path(store), about)
    validations: dict[str, list[CrossValidation]] = {}
    left_out: list[tuple[str, str]] = []
    for number, entry in enumerate(candidates, 1):
        try:
            validations[entry.name] = _cells_of(job, entry, draws, cells, f"method {number} of {len(candidates)}")
        except OverBudget as over:
            left = "" if over.needed is None else f", {max(0.0, job.left()):.0f} s are left of the budget"
            left_out.append((entry.name, f"{over}{left}"))
        except BinderclipError as error:
            left_out.append((entry.name, str(error)))
        else:
            job.judged(entry.name, _score(entry, draws, validations[entry.name]))
            continue
        job.judged(*left_out[-1])
    if not validations:
        raise UsageError("no method could be run: " + "; ".join(f"{name}: {why}" for name, why in left_out))
    by_name = {entry.name: entry for entry in candidates}
    scores = [_score(by_name[name], draws, own) for name, own in validations.items()]
    order = {entry.name: place for place, entry in enumerate(candidates)}
    scores.sort(key=lambda s: (-round(s.accuracy.value, 9), round(s.loss, 6), order[s.name]))
    return CandidateComparison(by_name, draws, validations, left_out, scores)


def _cells_of(
    job: Job, entry: Candidate, draws: list[Draw], cells: CrossValidationStore, place: str
) -> list[CrossValidation]:
    validations = []
    for number, draw in enumerate(draws):
        settings = head_settings(entry.build(draw.seed))
        cell = cells.get(entry.name, draw.seed, settings)
        if cell is None:
            if job.left() <= 0:
                raise OverBudget(None)
            job.progress(f"{place}, {entry.name}: draw {number + 1} of {len(draws)}")
            rest = len(draws) - number - 1

            def allowed(seconds: float, rest: int = rest) -> bool:
                # This draw's other folds, the draws to come, and the last fit.
                return seconds * (1 + rest) * (job.folds / max(1, job.folds - 1)) <= job.left()

            # More than its share for the first of all fits: the rest would not fit into the budget either.
            allowance = max(0.1, job.left() / (job.folds * len(draws)))
            first = allowance if number == 0 else None
            cell = cross_validate(entry.build, job.inputs(entry), job.names, draw, allowed, first_limit=first)
            cells.put(entry.name, draw.seed, settings, cell)
        validations.append(cell)
    return validations


def _score(entry: Candidate, draws: list[Draw], cells: list[CrossValidation]) -> MethodScore:
    accuracy, f1, calibration, errors, losses = [], [], [], [], []
    for draw, cell in zip(draws, cells, strict=True):
        held = draw.held
        if not len(held):
            continue
        logits, targets = cell.logits[held], draw.targets[held]
        predicted = logits.argmax(axis=1)
        log_probs = logits - special.logsumexp(logits, axis=1, keepdims=True)
        accuracy.append(float((predicted == targets).mean()))
        f1.append(macro_f1(predicted, targets))
        calibration.append(adaptive_calibration_error(np.exp(log_probs), targets)[0])
        losses.append(float(-log_probs[np.arange(len(held)), targets].mean()))
        errors += [float((predicted != targets)[draw.fold[held] == f].mean()) for f in np.unique(draw.fold[held])]
    nan = float("nan")
    return MethodScore(
        name=entry.name,
        cost=entry.cost,
        accuracy=mean_interval(np.array(accuracy)) if accuracy else Interval(nan, nan, nan),
        by_seed=accuracy,
        macro_f1=float(np.mean(f1)) if f1 else nan,
        calibration=float(np.mean(calibration)) if calibration else nan,
        seconds=float(np.mean([cell.seconds for cell in cells])),
        parameters=cells[0].parameters,
        fold_errors=errors,
        loss=float(np.mean(losses)) if losses else nan,
    )
