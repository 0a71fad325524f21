"""What studies of contrastive losses share: two small towers trained from scratch on clip art.

Pictures come as frozen features of `small-dino`, captions as bags of words; both towers are new. A run takes a second
or two, so that a study can have many seeds.
"""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from binderclip.evaluate import retrieval
from binderclip.losses import ContrastiveLoss, Similarity
from binderclip.studies.protocols.training.selections import CONCEPTS, pictured

if TYPE_CHECKING:
    from binderclip.data import ImageTextDataset

__all__ = ["CaptionedPictures", "Towers", "accuracy", "held_out", "recall", "train_towers", "training", "tune_towers"]

WIDTH, EMBED, RATE, OFTEN = 128, 64, 1e-3, 4


class CaptionedPictures(NamedTuple):
    """Features of pictures, bags of words of their captions, and the captions."""

    pictures: Float[Tensor, "N D"]
    words: Float[Tensor, "N V"]
    captions: list[str]


@lru_cache(maxsize=1)
def vocabulary() -> dict[str, int]:
    """Words that several training captions have, with their places."""
    from binderclip.data import load_data

    captions = load_data("openclipart", split="train").captions
    counts = Counter(word for text in captions for word in set(_words(text)))
    return {word: place for place, word in enumerate(sorted(word for word, count in counts.items() if count >= OFTEN))}


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def bags(texts: list[str]) -> Float[Tensor, "N V"]:
    """Bags of words of length 1; of nothing known, zeros."""
    places = vocabulary()
    found = torch.zeros(len(texts), len(places))
    for row, text in enumerate(texts):
        for word in _words(text):
            if word in places:
                found[row, places[word]] = 1.0
    return nn.functional.normalize(found, dim=1)


def _opened(*splits: str) -> CaptionedPictures:
    from binderclip.data import load_data
    from binderclip.data.cache.features import FeatureCache, content_hash
    from binderclip.models import load_vision

    model = load_vision("small-dino")
    weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    cache = FeatureCache(f"small-dino, {content_hash(weights)}", "whole")
    features, captions = [], []
    for split in splits:
        data = load_data("openclipart", split=split)

        def encode(missing: list[int], data: ImageTextDataset = data) -> Tensor:
            return pictured([data[row].image for row in missing])

        features.append(cache.fetch([data.content_hash(row) for row in range(len(data))], encode))
        captions += [text.lower() for text in data.captions]
    return CaptionedPictures(torch.cat(features), bags(captions), captions)


@lru_cache(maxsize=1)
def training() -> CaptionedPictures:
    """The training clip art."""
    return _opened("train")


@lru_cache(maxsize=1)
def held_out() -> CaptionedPictures:
    """The clip art of the other two splits."""
    return _opened("val", "test")


class Towers(nn.Module):
    """A tower of two layers for each side, from scratch.

    Args:
        seed: of the weights.
        unit: make the last weights so large that embeddings start with a mean square of 1 a coordinate, about as CLIP's
            do; lengths matter where geometries differ.
    """

    def __init__(self, seed: int, *, unit: bool = False) -> None:
        super().__init__()
        known = training()  # before the seed: what is loaded for the first time draws random numbers, too
        torch.manual_seed(seed)

        def tower(width: int) -> nn.Sequential:
            return nn.Sequential(nn.Linear(width, WIDTH), nn.GELU(), nn.Linear(WIDTH, EMBED, bias=False))

        self.image = tower(known.pictures.shape[1])
        self.text = tower(known.words.shape[1])
        if unit:
            with torch.no_grad():
                for side, embedded in zip((self.image, self.text), self.embed(known), strict=True):
                    side[-1].weight.div_(embedded.square().mean().sqrt())  # type: ignore[operator, union-attr]

    @torch.no_grad()
    def embed(self, pairs: CaptionedPictures) -> tuple[Float[Tensor, "N E"], Float[Tensor, "N E"]]:
        """Raw embeddings of both sides."""
        return self.image(pairs.pictures), self.text(pairs.words)


def train_towers(
    make: Callable[[], ContrastiveLoss],
    seed: int,
    *,
    steps: int,
    batch: int,
    rate: float = RATE,
    unit: bool = False,
    watch: Callable[[int, ContrastiveLoss, Tensor, Tensor], None] | None = None,
) -> tuple[Towers, ContrastiveLoss]:
    """Train by a loss; start and batches come from the seed and are the same for every loss.

    Args:
        make: the loss; its parameters are trained too.
        seed: of weights and batches.
        steps: of AdamW, with a cosine schedule; 0 leaves the towers as they start.
        batch: pairs a step.
        rate: peak learning rate.
        unit: of the towers.
        watch: called with the step, the loss and the embeddings of the batch, before each backward.
    """
    from binderclip.fit import fit

    towers, loss, pairs = Towers(seed, unit=unit), make(), training()
    generator = torch.Generator().manual_seed(seed)
    count = 0

    def drawn() -> Tensor:
        return torch.randperm(len(pairs.captions), generator=generator)[:batch]

    def step(rows: Tensor) -> Tensor:
        nonlocal count
        image, text = towers.image(pairs.pictures[rows]), towers.text(pairs.words[rows])
        if watch is not None:
            watch(count, loss, image, text)
        count += 1
        return loss(image, text).total

    learned = [*towers.parameters(), *(p for p in loss.parameters() if p.requires_grad)]
    if steps:
        fit(step, learned, (drawn() for _ in range(steps)), steps=steps, lr=rate)
    return towers, loss


def tune_towers(
    start: Towers, make: Callable[[], ContrastiveLoss], seed: int, *, steps: int, batch: int, rate: float
) -> Towers:
    """Go on from trained towers; the loss sees what they say beside, as `teacher_image` and `teacher_text`.

    Args:
        start: trained towers; a copy of them is trained.
        make: the loss.
        seed: of the batches, the same for every loss.
        steps: of AdamW (weight decay 0.1), with a cosine schedule.
        batch: pairs a step.
        rate: peak learning rate.
    """
    from binderclip.fit import fit

    towers, loss, known = copy.deepcopy(start), make(), training()
    generator = torch.Generator().manual_seed(seed)
    before = dict(zip(("teacher_image", "teacher_text"), start.embed(known), strict=True))

    def step(rows: Tensor) -> Tensor:
        image, text = towers.image(known.pictures[rows]), towers.text(known.words[rows])
        return loss(image, text, **{name: value[rows] for name, value in before.items()}).total

    batches = [torch.randperm(len(known.captions), generator=generator)[:batch] for _ in range(steps)]
    learned = [*towers.parameters(), *(p for p in loss.parameters() if p.requires_grad)]
    fit(step, learned, batches, steps=steps, lr=rate, optimizer={"name": "adamw", "weight_decay": 0.1})
    return towers


def recall(
    towers: Towers, similarity: Similarity, k: int = 5, *, pictures: Float[Tensor, "N D"] | None = None
) -> float:
    """Mean of both directions' recall at k on held-out clip art, in a geometry; `pictures` replaces their features."""
    pairs = held_out() if pictures is None else held_out()._replace(pictures=pictures)
    image, text = towers.embed(pairs)
    found = retrieval(image, text, captions=held_out().captions, similarity=similarity, ks=(k,))
    return (found[f"text_to_image/R@{k}"] + found[f"image_to_text/R@{k}"]) / 2


@lru_cache(maxsize=1)
def _named() -> Bool[np.ndarray, "N C"]:
    return np.array([[word in _words(text) for word in CONCEPTS] for text in held_out().captions])


@torch.no_grad()
def accuracy(towers: Towers, similarity: Similarity, *, pictures: Float[Tensor, "N D"] | None = None) -> float:
    """Zero-shot accuracy on held-out clip art that names a concept: a picture is right with any that it names.

    Args:
        towers: trained.
        similarity: geometry of their embeddings.
        pictures: instead of the features of the held-out pictures.
    """
    named = _named()
    rows = np.flatnonzero(named.any(1))
    pictures = held_out().pictures if pictures is None else pictures
    image = similarity.embed(towers.image(pictures[rows]), "image")
    text = similarity.embed(towers.text(bags(list(CONCEPTS))), "text")
    guessed = similarity(image, text).argmax(1).numpy()
    return float(named[rows, guessed].mean())
