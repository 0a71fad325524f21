"""How the gate of absent words was calibrated: `word_maps.PRESENCE`, and `regions.PEOPLE_PRESENCE` for people."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch.nn import functional

from binderclip.data import to_tensor
from binderclip.errors import UsageError
from binderclip.models import ImageTextModel
from binderclip.models.image_text.word_maps import PictureConcepts, presence_score, word_weights
from binderclip.segment import ConceptMaps
from binderclip.segment.parts.text import TextSide
from binderclip.train.bundled.data.labelled_photographs import LabelledPhotograph
from binderclip.train.bundled.data.photograph_masks import PhotographMask
from binderclip.train.bundled.everyday import people_probe, pooled_features, scenes, shows_people
from binderclip.train.bundled.regions import AREA_SIDE, PEOPLE

__all__ = ["fit_people_presence", "fit_presence", "people_odds", "presence_scores"]

LONGEST = 1024
LEAST = 0.01
"""Of a picture that people must cover to count as shown: smaller ones no tower sees."""


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
    concepts, maps = copy.deepcopy(model.concepts), ConceptMaps()
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
        weights = word_weights(concepts, rows, words, maps.sharpness)
        picture = photograph.open()
        picture.thumbnail((LONGEST, LONGEST))
        logits = PictureConcepts(concepts, to_tensor(picture)[None]).logits(maps.middle)
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


@torch.no_grad()
def people_odds(
    branch: ConceptBranch, photographs: Sequence[LabelledPhotograph], *, folds: int = 5, seed: int = 0
) -> Float[np.ndarray, "N"]:
    """`ConceptBranch.people_log_odds` of photographs, each by a probe that has not learned from it.

    Args:
        branch: with its centre.
        photographs: all that the probe learns from, and others.
        folds: parts that the photographs are cut into, those of people and the others alike.
        seed: of the parts.

    Raises:
        UsageError: fewer than two photographs of people outside of a part.
    """
    own = copy.deepcopy(branch)
    assert own.people is not None
    of_people = np.array([{True: 1, False: 0, None: -1}[shows_people(each)] for each in photographs])
    order, part = np.random.default_rng(seed), np.zeros(len(photographs), dtype=int)
    for value in (1, 0, -1):
        rows = order.permutation(np.flatnonzero(of_people == value))
        part[rows] = np.arange(len(rows)) % folds
    pooled = torch.cat([pooled_features(own, [photograph.open()]) for photograph in photographs])  # one at a time open
    seen = functional.normalize(pooled - own.centre, dim=1)
    odds = np.zeros(len(photographs))
    for fold in range(folds):
        left = part != fold
        if (of_people[left] == 1).sum() < 2:
            raise UsageError(f"people_odds: {int((of_people == 1).sum())} photographs of people in {folds} parts")
        weight, bias = people_probe(*(seen[torch.from_numpy(left & (of_people == value))] for value in (1, 0)))
        own.people.weight, own.people.bias = weight, torch.tensor([bias])
        for row in np.flatnonzero(part == fold):
            picture = photographs[row].open()
            picture.thumbnail((LONGEST, LONGEST))
            seen_here = own.people_log_odds(to_tensor(picture)[None])
            assert seen_here is not None
            odds[row] = float(seen_here)
    return odds


def fit_people_presence(
    branch: ConceptBranch, photographs: Sequence[LabelledPhotograph], outlines: Sequence[PhotographMask]
) -> tuple[float, ...]:
    """Slope and offset of `regions.PEOPLE_PRESENCE`, by `people_odds`.

    A photograph shows people where they are outlined and cover `LEAST` of it; one that they are said of is left out
    otherwise.

    Args:
        branch: with its probe for people.
        photographs: all that the probe learned from, and others.
        outlines: of regions, of which those of people count.
    """
    large = {
        (each.photograph.package, each.photograph.file, each.photograph.member)
        for each in outlines
        if each.word == "person" and each.mask(AREA_SIDE, AREA_SIDE).mean() >= LEAST
    }
    shown = np.zeros((len(photographs), 1), dtype=int)
    for row, each in enumerate(photographs):
        if (each.package, each.file, each.member) in large:
            shown[row] = 1
        elif not {each.label, *each.also, *each.shows}.isdisjoint(PEOPLE):
            shown[row] = -1
    return fit_presence(people_odds(branch, photographs)[:, None], shown)
