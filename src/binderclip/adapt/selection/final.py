"""After the choice: calibration, fewer shots, and the one look at the test part."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import special
from sklearn.base import clone

from binderclip.adapt.selection.candidate_heads import Candidate
from binderclip.adapt.selection.compare import CandidateComparison, Job
from binderclip.adapt.selection.crossval import Draw, cross_validate, tuned_fit
from binderclip.adapt.selection.measures import adaptive_calibration_error, macro_f1, proportion_interval
from binderclip.adapt.selection.result import Examined
from binderclip.adapt.selection.splits import DataSplit, draw_up_to
from binderclip.similarity.temperature import fit_temperature

CURVE = (1, 2, 4, 8, 16, 32, 64)
CURVE_METHODS = 3


def calibrate(job: Job, entry: Candidate, head: Any, draws: list[Draw], keep: float) -> tuple[float, float]:
    """Temperature, and the top probability that a share `keep` of held-out pictures reaches, over all draws.

    The folds are fitted with the final head's settings: heads tuned fold by fold differ in the scale of their logits,
    and no temperature of theirs would fit the one that is used.
    """

    def build(seed: int) -> Any:
        return clone(head)

    parts, targets = [], []
    for draw in draws:
        cell = cross_validate(build, job.inputs(entry), job.names, draw, lambda seconds: True, tune=False)
        parts.append(cell.logits[draw.held])
        targets.append(draw.targets[draw.held])
    logits, target = np.concatenate(parts), np.concatenate(targets)
    if not len(logits):
        return 1.0, 0.0
    temperature = fit_temperature(logits, target)
    top = special.softmax(logits / temperature, axis=1).max(axis=1)
    # The split-conformal quantile: of n + 1 exchangeable pictures a share `keep` at least lies above it. Draws share
    # pictures and folds have fewer shots than the final head, so here it is a good guess, not a guarantee.
    place = int(np.floor((len(top) + 1) * (1 - keep)))
    return temperature, float(np.sort(top)[place - 1]) if place >= 1 else 0.0


def final_fit(job: Job, entry: Candidate, draw: Draw) -> Any:
    """The head as it is used: tuned and fitted on all shots of a draw."""
    job.progress(f"{entry.name}: the last fit, on all {len(draw.rows)} shots")
    x = job.inputs(entry)[draw.rows]
    return tuned_fit(entry.build(draw.seed), x, job.names[draw.targets], draw.groups, draw.seed)


def examine(job: Job, name: str, entry: Candidate, head: Any, parts: DataSplit, temperature: float) -> Examined:
    """One fitted head on the test part."""
    targets = job.targets[parts.test]
    place = [list(head.classes_).index(own) for own in job.names]
    logits = head.predict_logits(job.inputs(entry)[parts.test])[:, place]
    probs = special.softmax(logits / temperature, axis=1)
    predicted = probs.argmax(axis=1)
    confusion = np.zeros((len(job.names), len(job.names)), dtype=int)
    np.add.at(confusion, (targets, predicted), 1)
    error, bins = adaptive_calibration_error(probs, targets)
    interval = proportion_interval(int((predicted == targets).sum()), len(targets))
    return Examined(name, interval, macro_f1(predicted, targets), error, bins, confusion, probs)


def learning_curve(job: Job, comparison: CandidateComparison) -> dict[str, list[tuple[int, float]]]:
    """Accuracy of the best heads, and of zero-shot, with fewer shots, on the held-out folds."""
    chosen = [s.name for s in comparison.scores[:CURVE_METHODS]]
    chosen += [name for name in ("zero-shot",) if name in comparison.cells and name not in chosen]
    curve: dict[str, list[tuple[int, float]]] = {}
    for name in chosen:
        entry, score = comparison.candidates[name], next(s for s in comparison.scores if s.name == name)
        points: list[tuple[int, float]] = []
        most = max(int(np.bincount(d.targets[d.fold != 0]).max()) for d in comparison.draws)
        for count in [c for c in CURVE if c < most]:
            if score.seconds * len(comparison.draws) * job.folds > max(0.0, job.left()) / 4:
                break
            job.progress(f"{name}: {count} shot{'s' if count > 1 else ''}")
            points.append((count, _accuracy_at(job, entry, comparison.draws, count)))
        # All shots but those of the held-out fold: what the table shows.
        points.append((most, score.accuracy.value))
        curve[name] = points
    return curve


def _accuracy_at(job: Job, entry: Candidate, draws: list[Draw], count: int) -> float:
    right = total = 0
    x = job.inputs(entry)
    for draw in draws:
        for fold in [f for f in np.unique(draw.fold) if f >= 0]:
            held, rest = np.flatnonzero(draw.fold == fold), np.flatnonzero(draw.fold != fold)
            some = rest[draw_up_to(draw.targets[rest], count, draw.seed)]
            y = job.names[draw.targets[some]]
            head = tuned_fit(entry.build(draw.seed), x[draw.rows[some]], y, draw.groups[some], draw.seed)
            right += int((head.predict(x[draw.rows[held]]) == job.names[draw.targets[held]]).sum())
            total += len(held)
    return right / max(1, total)
