"""Learning again from the pictures whose label a person gave, on features that are there already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int
from scipy import special
from sklearn.base import clone

from binderclip.adapt.selection.candidate_heads import Candidate, candidates, catalogue
from binderclip.adapt.selection.crossval import Draw, cross_validate, tuned_fit
from binderclip.adapt.selection.splits import folds_of
from binderclip.errors import UsageError
from binderclip.similarity.temperature import fit_temperature

if TYPE_CHECKING:
    from binderclip.models import TextBank

QUICK = ("gda", "nearest-example")
"""Closed forms of `adapt --methods auto`, with the labels' texts and without, that hold with three pictures a label.

On digits and drawings, ten or twenty pictures known, a tuned linear probe and Tip-Adapter fell to the commonest label.
"""
MOST_FOLDS = 10
"""Of the cross-validation; up to so many pictures a label each is held out once by itself."""


@dataclass(frozen=True)
class LearnedLabels:
    """What was learned from the confirmed pictures, for all N pictures and C labels.

    Attributes:
        method: that was chosen, a name of `adapt.METHODS`. head: of that method, fitted on the confirmed pictures.
        known: columns that have a confirmed picture; the head's classes.
        probabilities: (N, C) of every picture.
        held_out: (N, C) of confirmed pictures by a head that was fitted without them; NaN rows elsewhere, and where a
            label has one picture alone.
        confirmed: (M,) rows that it was learned from. targets: (M,) their columns.
        before: (M,) columns that were likeliest before.
    """

    method: str
    head: Any
    known: Int[np.ndarray, "K"]
    probabilities: Float[np.ndarray, "N C"]
    held_out: Float[np.ndarray, "N C"]
    confirmed: Int[np.ndarray, "M"]
    targets: Int[np.ndarray, "M"]
    before: Int[np.ndarray, "M"]

    @property
    def held(self) -> tuple[int, int, int]:
        """Confirmed pictures that were held out; how many of them were right, and how many had been before."""
        there = np.isfinite(self.held_out[self.confirmed]).all(axis=1)
        right = self.held_out[self.confirmed][there].argmax(axis=1) == self.targets[there]
        return int(there.sum()), int(right.sum()), int((self.before[there] == self.targets[there]).sum())


def learn_labels(
    features: Float[np.ndarray, "N d"],
    labels: Sequence[str],
    confirmed: Mapping[int, int],
    probabilities: Float[np.ndarray, "N C"],
    *,
    bank: TextBank | None = None,
    groups: Int[np.ndarray, "N"] | None = None,
    methods: Sequence[str] = QUICK,
    seed: int = 0,
) -> LearnedLabels:
    """Fit a few-shot head on the confirmed pictures, and classify all pictures again.

    The head is the one of `methods` that is best by cross-validation inside the confirmed pictures, as in
    `select_head`. A label without a confirmed picture keeps the probability that it had; the head shares out the rest:
    p(c) = (1 - sum of p_before over these labels) * p_head(c).

    Args:
        features: of all pictures, raw or of length one.
        labels: C names.
        confirmed: row -> column, what a person said.
        probabilities: of the classifier so far.
        bank: sentences of the labels, for the methods with a text prior; None: they work without.
        groups: (N,) equal pictures share a number and stay on one side of every split; None: all differ.
        methods: names of `adapt.METHODS` that take features.
        seed: of the folds.

    Raises:
        UsageError: confirmed pictures of fewer than two labels, or a row or column that is none.
    """
    rows, targets = np.array(sorted(confirmed), dtype=int), np.array([confirmed[row] for row in sorted(confirmed)], int)
    known = np.unique(targets)
    if len(known) < 2:
        have = f"only {labels[int(known[0])]}" if len(known) else "none"
        raise UsageError(f"learning needs pictures marked with at least two labels; so far there is {have}")
    if rows[0] < 0 or rows[-1] >= len(features) or known[0] < 0 or known[-1] >= len(labels):
        raise UsageError(f"confirmed names a picture or label that is none of {len(features)} and {len(labels)}")
    names = np.array([labels[column] for column in known.tolist()], dtype=object).astype(str)
    place = np.searchsorted(known, targets)
    # A method's classes are in alphabetical order, which may be another than that of the labels.
    own = np.arange(len(features)) if groups is None else groups
    fold = folds_of(place, own[rows], min(MOST_FOLDS, int(np.bincount(place).max())), seed)
    draw = Draw(seed, rows, place, own[rows], fold)
    prior = None if bank is None else bank.select(names.tolist())
    entries = candidates(list(methods), None, prior, catalogue())
    # In the order in which they are named, since candidates are sorted by cost.
    entries.sort(key=lambda entry: list(methods).index(entry.name))
    x = np.asarray(features, dtype=np.float64)
    entry = _best(entries, x, names, draw)
    head = tuned_fit(entry.build(seed), x[rows], names[place], own[rows], seed)
    logits = head.predict_logits(x)[:, [list(head.classes_).index(name) for name in names]]
    temperature = 1.0
    learned = np.full((len(x), len(labels)), np.nan)
    if len(draw.held):
        # Folds with the final head's settings: of heads tuned fold by fold the logits differ in scale.
        cell = cross_validate(lambda _: clone(head), x, names, draw, lambda seconds: True, tune=False)
        temperature = fit_temperature(cell.logits[draw.held], place[draw.held])
        held = rows[draw.held]
        learned[held] = _shared_out(cell.logits[draw.held] / temperature, known, probabilities[held])
    before = probabilities[rows].argmax(axis=1)
    spread = _shared_out(logits / temperature, known, probabilities)
    return LearnedLabels(entry.name, head, known, spread, learned, rows, targets, before)


def _best(entries: Sequence[Candidate], x: Float[np.ndarray, "N d"], names: np.ndarray, draw: Draw) -> Candidate:
    """The candidate of the highest cross-validated accuracy, of equals that of the least loss, as in `select_head`."""
    if len(entries) == 1 or not len(draw.held):
        return entries[0]
    scores = []
    for entry in entries:
        cell = cross_validate(entry.build, x, names, draw, lambda seconds: True)
        logits, targets = cell.logits[draw.held], draw.targets[draw.held]
        log_probabilities = logits - special.logsumexp(logits, axis=1, keepdims=True)
        accuracy = float((logits.argmax(axis=1) == targets).mean())
        loss = float(-log_probabilities[np.arange(len(targets)), targets].mean())
        scores.append((-round(accuracy, 9), round(loss, 6)))
    return entries[min(range(len(entries)), key=scores.__getitem__)]


def _shared_out(
    logits: Float[np.ndarray, "M K"], known: Int[np.ndarray, "K"], before: Float[np.ndarray, "M C"]
) -> Float[np.ndarray, "M C"]:
    """Probabilities of all labels: what the labels that are not known had stays with them."""
    spread = before / np.maximum(before.sum(axis=1, keepdims=True), 1e-12)  # each label by itself with a bias
    unknown = np.setdiff1d(np.arange(before.shape[1]), known)
    spread[:, known] = (1 - spread[:, unknown].sum(axis=1, keepdims=True)) * special.softmax(logits, axis=1)
    return spread
