"""How the gate of absent words was calibrated: `models.image_text.word_maps.PRESENCE`."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int

from binderclip.data import to_tensor
from binderclip.errors import UsageError
from binderclip.models import ImageTextModel
from binderclip.models.image_text.word_maps import PRESENCE_SIDES, PictureConcepts, presence_score, word_weights
from binderclip.segment import ConceptMaps
from binderclip.segment.parts.text import TextSide
from binderclip.train.bundled.data.labelled_photographs import LabelledPhotograph
from binderclip.train.bundled.everyday import pooled_features, scenes

__all__ = ["fit_presence", "presence_scores"]

LONGEST = 1024


@torch.no_grad()
def presence_scores(
    model: ImageTextModel,
    photographs: Sequence[LabelledPhotograph],
    words: Sequence[str],
    named: Mapping[str, Sequence[int]],
    *,
    beside: Sequence[LabelledPhotograph] = (),
) -> tuple[Float[np.ndarray, "N Q"], Int[np.ndarray, "N Q"]]:
    """`presence_score` of words in photographs, each without the scenes that it gave itself; and whether it shows them.

    Args:
        model: with concepts, whose scenes are of these photographs.
        photographs: with their words.
        words: any.
        named: words of classes and kinds (`synsets.kinds`).
        beside: more photographs, which gave no scene; their rows come last.

    Returns:
        The scores, and 1 where a word is right, 0 where it is not, -1 where one may dispute that.
    """
    concepts, sharpness = copy.deepcopy(model.concepts), ConceptMaps().sharpness
    assert concepts is not None
    rows = TextSide().bind(model, list(words)).rows
    pooled = pooled_features(concepts, [each.open() for each in photographs])
    classes, senses, vectors = concepts.classifier.out_features, concepts.senses, concepts.vectors
    usual = concepts.usual
    names = concepts.names[classes:]
    seen = [*photographs, *beside]
    scores, shown = np.zeros((len(seen), len(words))), np.zeros((len(seen), len(words)), dtype=int)
    for number, photograph in enumerate(seen):
        others = [row for row in range(len(photographs)) if row != number]
        concepts.centre = pooled[others].mean(0)
        kept = scenes([photographs[row] for row in others], pooled[others] - concepts.centre, named)
        # A scene that stands on too few pictures without this one is not there at all, as for any word without one.
        there = [*range(classes), *(classes + place for place, name in enumerate(names) if name in kept)]
        column = {concept: place for place, concept in enumerate(there)}
        concepts.vectors, concepts.usual = vectors[there], usual[there]
        own = [kept[names[concept - classes]] for concept in there[classes:]]
        concepts.prototypes = torch.stack(own) if own else pooled[:0]
        left = {word: [column[each] for each in meant if each in column] for word, meant in senses.items()}
        concepts.senses = {word: meant for word, meant in left.items() if meant}
        weights = word_weights(concepts, rows, words, sharpness)
        picture = photograph.open()
        picture.thumbnail((LONGEST, LONGEST))
        places = PictureConcepts(concepts, to_tensor(picture)[None])
        logits = [places.logits(side) for side in PRESENCE_SIDES]
        scores[number] = presence_score(concepts, logits, rows, weights).numpy()
        for value, named_here in ((1, (photograph.label, *photograph.also)), (-1, photograph.shows)):
            shown[number, [column for column, word in enumerate(words) if word in named_here]] = value
    return scores, shown


def fit_presence(
    scores: Float[np.ndarray, "N Q"], shown: Int[np.ndarray, "N Q"], *beside: Float[np.ndarray, "N Q"]
) -> tuple[float, ...]:
    """Slopes and offset of a logistic regression of whether words are shown, both sides weighing alike.

    Args:
        scores, shown: of `presence_scores`.
        beside: other scores of the same words, each with a slope of its own (`regions.region_scores`).

    Raises:
        UsageError: no word is shown, or every one.
    """
    from sklearn.linear_model import LogisticRegression

    if not ((shown == 1).any() and (shown == 0).any()):
        raise UsageError("fit_presence: there must be words that are shown and words that are not")
    known = shown >= 0
    evidence = np.stack([each[known] for each in (scores, *beside)], 1)  # (n, 1 + number of others)
    fit = LogisticRegression(C=1e6, class_weight="balanced").fit(evidence, shown[known])
    return (*map(float, fit.coef_[0]), float(fit.intercept_[0]))
