"""Figures of an image-text model on the labelled photographs: naming, and search by a word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.evaluate.probes import wilson
from binderclip.models import ImageTextModel
from binderclip.train.bundled.data.labelled_photographs import LabelledPhotograph

__all__ = ["PhotographFigures", "photograph_figures"]


@dataclass(frozen=True)
class PhotographFigures:
    """How often an answer is right, for each picture or word.

    Attributes:
        first, five: (N,) whether the first label, or one of the first five, is right for each picture.
        search_first, search_five: (Q,) whether the first picture, or one of five, is right for each word that some
            picture shows.
        labels: how many labels competed.
    """

    first: Bool[Tensor, "N"]
    five: Bool[Tensor, "N"]
    search_first: Bool[Tensor, "Q"]
    search_five: Bool[Tensor, "Q"]
    labels: int

    def as_dict(self) -> dict[str, object]:
        """Percentages with Wilson's intervals of 95 %, and what they count."""
        figures = {name: interval(getattr(self, name)) for name in ("first", "five", "search_first", "search_five")}
        return {"photographs": len(self.first), "words": len(self.search_first), "labels": self.labels, **figures}


def interval(hits: Bool[Tensor, "n"]) -> list[float]:
    """[percent, low, high] of a proportion, by Wilson's interval of 95 %."""
    low, high = wilson(float(hits.sum()), len(hits))
    return [round(100 * float(value), 1) for value in (hits.double().mean(), low, high)]


@torch.no_grad()
def photograph_figures(
    model: ImageTextModel, photographs: Sequence[LabelledPhotograph], labels: Sequence[str]
) -> PhotographFigures:
    """Name photographs among labels, and find them by each label.

    A word that is visible beside a picture's subject, or that one may dispute, is neither right nor wrong for it.

    Args:
        model: compares as it always does; labels are given without templates.
        photographs: with their words.
        labels: all words that compete; every word of the photographs is among them.

    Raises:
        UsageError: no photograph, or a word that is not among the labels.
    """
    if not photographs:
        raise UsageError("photograph_figures: no photographs")
    column = {label: index for index, label in enumerate(labels)}
    right = torch.zeros(len(photographs), len(labels), dtype=torch.bool)
    void = torch.zeros_like(right)
    for row, photograph in enumerate(photographs):
        words = (photograph.label, *photograph.also)
        if missing := [word for word in (*words, *photograph.shows) if word not in column]:
            raise UsageError(f"photograph_figures: {missing[0]!r} of {photograph.file} is not among the labels")
        right[row, [column[word] for word in words]] = True
        void[row, [column[word] for word in photograph.shows]] = True
    features = torch.cat([model.encode_image(photograph.open()) for photograph in photographs])
    scores = model.similarity(features, model.text_bank(list(labels)).raw).cpu()  # (N, C)
    scores = scores.masked_fill(void & ~right, -torch.inf)
    named = right.gather(1, scores.topk(min(5, len(labels)), 1).indices)  # (N, 5)
    shown = right.any(0)
    hits = right.T[shown].gather(1, scores.T[shown].topk(min(5, len(photographs)), 1).indices)  # (Q, 5)
    return PhotographFigures(named[:, 0], named.any(1), hits[:, 0], hits.any(1), len(labels))
