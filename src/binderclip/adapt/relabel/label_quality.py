"""How trustworthy each label is: by the classifier's own confidence, and by the nearest neighbours of the picture."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from binderclip.display import number_of
from binderclip.errors import UsageError
from binderclip.numeric import check_whole

NEIGHBOURS = 10
"""Neighbours that are asked, as in cleanlab."""
_CHUNK = 1024
"""Rows whose cosines with all others are held at once."""


def self_confidence(probabilities: Float[np.ndarray, "N C"], labels: Int[np.ndarray, "N"]) -> Float[np.ndarray, "N"]:
    """Probability that the classifier gives to each picture's label; a low one speaks against the label.

    The label quality score of confident learning (Northcutt et al., arXiv 1911.00068).

    Args:
        probabilities: rows that sum to 1, of a classifier that was not fitted on the label itself.
        labels: columns, one a row.

    Raises:
        UsageError: shapes that do not fit, a label that is no column, or a probability that is not finite.
    """
    _check(probabilities, labels)
    return probabilities[np.arange(len(labels)), labels]


def normalized_margin(probabilities: Float[np.ndarray, "N C"], labels: Int[np.ndarray, "N"]) -> Float[np.ndarray, "N"]:
    """(p[label] - p[best other label] + 1) / 2 of each picture: 1 for certain, 1/2 for a tie, 0 for certainly another.

    Args:
        probabilities, labels: as of `self_confidence`.

    Raises:
        UsageError: as `self_confidence`.
    """
    own = self_confidence(probabilities, labels)
    others = probabilities.copy()
    others[np.arange(len(labels)), labels] = 0.0  # without another label its probability is 0
    return (own - others.max(axis=1) + 1) / 2


def neighbour_agreement(
    features: Float[np.ndarray, "N d"], labels: Int[np.ndarray, "N"], *, neighbours: int = NEIGHBOURS
) -> tuple[Float[np.ndarray, "N"], Int[np.ndarray, "N"]]:
    """Share of each picture's nearest neighbours that have its label, and the label that most of them have.

    Args:
        features: of the pictures, of any length above 0; the nearest are those of the highest cosine.
        labels: whole numbers from 0.
        neighbours: that are asked; all others where there are fewer.

    Returns:
        (N,) from 0 to 1, 1 where there is no other picture; (N,) labels, of several that are equally common the
        picture's own, else the first.

    Raises:
        UsageError: shapes that do not fit, no neighbour, or features that are zero or not finite.
    """
    check_whole("neighbours", neighbours, least=1)
    if features.ndim != 2 or labels.shape != (len(features),):
        raise UsageError(f"features {features.shape} and labels {labels.shape} do not fit: (N, d) and (N,)")
    length = np.linalg.norm(features, axis=1, keepdims=True)
    if not (np.isfinite(length) & (length > 0)).all():
        raise UsageError("features have a row that is zero or not finite: it has no nearest neighbours")
    count, unit = min(neighbours, len(features) - 1), features / length
    if count < 1:
        return np.ones(len(features)), labels.copy()
    agreement, common = np.empty(len(unit)), np.empty(len(unit), dtype=labels.dtype)
    for start in range(0, len(unit), _CHUNK):
        cosines = unit[start : start + _CHUNK] @ unit.T  # (chunk, N)
        rows = np.arange(len(cosines))
        cosines[rows, start + rows] = -np.inf  # a picture is no neighbour of its own
        nearest = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
        votes = np.zeros((len(cosines), int(labels.max()) + 1))
        np.add.at(votes, (rows[:, None], labels[nearest]), 1.0)
        own = labels[start : start + _CHUNK]
        agreement[start : start + _CHUNK] = votes[rows, own] / count
        votes[rows, own] += 0.5  # ties are the picture's own
        common[start : start + _CHUNK] = votes.argmax(axis=1)
    return agreement, common


@dataclass(frozen=True)
class ReviewEntry:
    """A picture that a person should look at.

    Attributes:
        row: of the picture. reason: why, as half a sentence.
    """

    row: int
    reason: str


def review_order(
    probabilities: Float[np.ndarray, "N C"],
    labels: Int[np.ndarray, "N"],
    names: Sequence[str],
    *,
    features: Float[np.ndarray, "N d"] | None = None,
    confirmed: Collection[int] = (),
    held_out: Float[np.ndarray, "N C"] | None = None,
    neighbours: int = NEIGHBOURS,
) -> list[ReviewEntry]:
    """Pictures in the order in which a look at them is worth most: the label is unsure, or their neighbours differ.

    Ordered by the mean of two ranks, of the normalized margin and of the agreement of the nearest neighbours as a part
    of what it can be with so few pictures of that label: ranks, since the probabilities of a model may all be near 1.
    First of all come labels that a person gave and that a classifier, fitted without them, contradicts.

    Args:
        probabilities: of the C labels.
        labels: what each picture is called now, as columns.
        names: of the labels.
        features: embeddings of the pictures; None: the margin decides alone.
        confirmed: rows whose label a person gave; without a contradiction they are not in the list.
        held_out: of the confirmed rows the probabilities of a classifier that was fitted without them; NaN elsewhere.
        neighbours: as of `neighbour_agreement`.

    Raises:
        UsageError: shapes that do not fit.
    """
    margin = normalized_margin(probabilities, labels)
    if len(names) != probabilities.shape[1]:
        raise UsageError(f"{len(names)} names for {probabilities.shape[1]} labels")
    if not len(labels):
        return []
    rank = stats.rankdata(margin)
    asked = min(neighbours, len(labels) - 1)
    unlike, common = np.zeros(len(labels), dtype=int), labels
    if features is not None:
        agreement, common = neighbour_agreement(features, labels, neighbours=neighbours)
        possible = _of_possible(agreement, labels, asked)
        unlike = np.where(possible <= 0.5, np.rint((1 - agreement) * asked), 0).astype(int)
        rank = (rank + stats.rankdata(possible)) / 2
    first = _contradicted(labels, names, confirmed, held_out)
    kept = set(confirmed)
    rest = [row for row in np.argsort(rank, kind="stable").tolist() if row not in kept]
    return first + [
        ReviewEntry(row, "; ".join(_reasons(probabilities[row], unlike, common, labels, names, row, asked)))
        for row in rest
    ]


def _of_possible(agreement: Float[np.ndarray, "N"], labels: Int[np.ndarray, "N"], asked: int) -> Float[np.ndarray, "N"]:
    """Agreement as a part of the largest that there can be; 1 for the only picture of a label, against which no
    neighbour speaks: a small class is not wrong for being small."""
    others = np.minimum(np.bincount(labels)[labels] - 1, asked)  # (N,) neighbours that might have the label
    return np.where(others > 0, agreement * asked / np.maximum(others, 1), 1.0)


def _contradicted(
    labels: Int[np.ndarray, "N"], names: Sequence[str], confirmed: Collection[int],
    held_out: Float[np.ndarray, "N C"] | None,
) -> list[ReviewEntry]:  # fmt: skip
    """Confirmed rows whose label is not the likeliest without them, the least likely label first."""
    if held_out is None:
        return []
    rows = [row for row in confirmed if np.isfinite(held_out[row]).all() and held_out[row].argmax() != labels[row]]
    rows.sort(key=lambda row: (held_out[row, labels[row]], row))
    entries = []
    for row in rows:
        other = int(held_out[row].argmax())
        text = f"you said {names[labels[row]]}; learned without it, it looks like {names[other]}"
        entries.append(ReviewEntry(row, f"{text} ({held_out[row, other]:.2f})"))
    return entries


def _reasons(
    probability: Float[np.ndarray, "C"], unlike: Int[np.ndarray, "N"], common: Int[np.ndarray, "N"],
    labels: Int[np.ndarray, "N"], names: Sequence[str], row: int, asked: int,
) -> list[str]:  # fmt: skip
    """What speaks against the label of a row; where nothing does, how sure it is."""
    reasons = []
    others = [column for column in np.argsort(-probability, kind="stable").tolist() if column != labels[row]]
    own = f"{names[labels[row]]} {probability[labels[row]]:.2f}"
    if others and probability[labels[row]] - probability[others[0]] < 0.5:
        # Less than three times as likely as the next one, where there are two.
        reasons.append(f"unsure: {own}, {names[others[0]]} {probability[others[0]]:.2f}")
    if unlike[row] and common[row] != labels[row]:
        most = f"most of them {names[common[row]]}"
        reasons.append(f"{unlike[row]} of the {number_of(asked, 'picture')} most like it have another label, {most}")
    return reasons or [f"nothing speaks against {own}"]


def _check(probabilities: Float[np.ndarray, "N C"], labels: Int[np.ndarray, "N"]) -> None:
    if probabilities.ndim != 2 or not probabilities.shape[1] or labels.shape != (len(probabilities),):
        raise UsageError(f"probabilities {probabilities.shape} and labels {labels.shape} do not fit: (N, C) and (N,)")
    if not np.isfinite(probabilities).all():
        raise UsageError("probabilities hold NaN or infinity")
    if len(labels) and not (labels.min() >= 0 and labels.max() < probabilities.shape[1]):
        raise UsageError(f"labels must lie from 0 to {probabilities.shape[1] - 1}")
