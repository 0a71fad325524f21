"""Figures of few-shot heads on the labelled photographs: some pictures of each kind of thing, by WordNet's kinds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.adapt import LinearProbe, TipAdapter, ZeroShotClassifier
from binderclip.errors import UsageError
from binderclip.models import ImageTextModel
from binderclip.train.bundled.data.labelled_photographs import LabelledPhotograph
from binderclip.train.bundled.data.synsets import Synset

__all__ = ["KINDS", "few_shot_figures", "photograph_kind"]

KINDS: Mapping[str, str] = {
    "mammal": "mammal", "bird": "bird", "fish": "fish", "insect": "insect", "plant": "plant", "fruit": "plant",
    "flower": "plant", "food": "food", "vehicle": "vehicle", "structure": "building", "tool": "tool",
    "instrument": "tool", "container": "container",
}  # fmt: skip
"""Word of a meaning in WordNet -> the kind of everything below it; the nearest meaning counts."""


def photograph_kind(label: str, synsets: Mapping[str, Synset], order: Mapping[str, Sequence[str]]) -> str | None:
    """The kind of a label by its commonest meaning; None for a word that WordNet lacks, or of another kind.

    Args:
        label: a noun.
        synsets, order: of `noun_synsets` and `senses`.
    """
    waiting = [order[label][0]] if label in order else []
    seen = set(waiting)
    while waiting:
        synset = synsets[waiting.pop(0)]
        if kind := next((kind for word, kind in KINDS.items() if word in synset.lemmas), None):
            return kind
        fresh = [parent for parent in synset.hypernyms if parent not in seen]
        waiting += fresh
        seen.update(fresh)
    return None


@torch.no_grad()
def few_shot_figures(
    model: ImageTextModel,
    learn: tuple[Sequence[LabelledPhotograph], Sequence[str | None]],
    test: tuple[Sequence[LabelledPhotograph], Sequence[str | None]],
    *,
    shots: int = 4,
    draws: int = 20,
) -> dict[str, object]:
    """Mean accuracy of two heads over draws of their examples, and of the names of the kinds alone.

    Args:
        model: encodes.
        learn, test: photographs and their kinds. Kinds with fewer than `shots` and two more to learn from, or without
            three to test on, are left out.
        shots: of each kind.
        draws: of examples; figures are means and standard deviations over them.

    Raises:
        UsageError: fewer than two kinds are left.
    """
    counts = [Counter(kinds) for _, kinds in (learn, test)]
    chosen = sorted(kind for kind in set(KINDS.values()) if counts[0][kind] >= shots + 2 and counts[1][kind] >= 3)
    if len(chosen) < 2:
        raise UsageError(f"few_shot_figures: of {', '.join(chosen) or 'no kind'} there are enough photographs")
    (x, y), (z, t) = (_encoded(model, photographs, kinds, chosen) for photographs, kinds in (learn, test))
    bank = model.text_bank(chosen, "simple")
    reached: dict[str, list[float]] = {"Tip-Adapter": [], "linear probe": []}
    for draw in range(draws):
        generator = np.random.default_rng(draw)
        rows = np.concatenate([generator.permutation(np.flatnonzero(y == kind))[:shots] for kind in chosen])
        for name, head in (("Tip-Adapter", TipAdapter(text_prior=bank)), ("linear probe", LinearProbe())):
            reached[name].append(float((head.fit(x[rows], y[rows]).predict(z) == t).mean()))
    words = float((ZeroShotClassifier(bank).fit().predict(z) == t).mean())
    heads = {name: [round(float(np.mean(own)), 3), round(float(np.std(own)), 3)] for name, own in reached.items()}
    return {"kinds": chosen, "photographs": len(t), **heads, "words alone": round(words, 3)}


def _encoded(
    model: ImageTextModel, photographs: Sequence[LabelledPhotograph], kinds: Sequence[str | None], chosen: Sequence[str]
) -> tuple[Float[np.ndarray, "N E"], np.ndarray]:
    """Unit features of the photographs of some kinds, and their kinds."""
    kept = [row for row, kind in enumerate(kinds) if kind in chosen]
    features: list[Tensor] = []
    for row in kept:
        features.append(model.encode_image(photographs[row].open(), normalize=True))
    return torch.cat(features).double().numpy(), np.array([kinds[row] for row in kept])
