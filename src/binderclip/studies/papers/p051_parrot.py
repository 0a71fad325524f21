"""Does training on captions that spell what is printed in the picture teach a model to read, and not to see?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.curate import TextRemovalScore
from binderclip.data.images import to_tensor
from binderclip.data.inpaint import inpaint_by_marching
from binderclip.data.made.words import RenderedText, render_text
from binderclip.evaluate import TextSpottingBenchmark
from binderclip.studies.harness import Figure, Row, Table, declared_study, dots, pictures
from binderclip.studies.protocols.training.selections import CONCEPTS, clip_art, linear_map, pictured, said

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE, SIZE, CELL, TURNS, KEPT = 128, 22, 8, 8, 384
"""Pixels of a picture, of its letters and of a cell of gradients; orientations of a cell; dimensions of all cells."""
MOST, TESTED, PAINTED, SHARE = 16, 12, 6, 0.75
"""Pictures of a concept to train on and to test on; pictures that are painted over; what each seed trains on."""
CLEAN, PARROT, OTHER = "no text", "own word printed", "another word printed"
SETS = (CLEAN, PARROT, OTHER)
ACCURACY, SPOTTING = "accuracy without text, mean over concepts", "text spotting"
LOST, CO, CONTROL = "cosine lost by painting over", "the own word", "a box elsewhere"


def gradients(images: Float[Tensor, "N 3 s s"]) -> Float[Tensor, "N F"]:
    """Histograms of gradients without their sign: how strong each of `TURNS` orientations is in every cell."""
    grey = F.pad(images.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    across = (grey[..., 1:-1, 2:] - grey[..., 1:-1, :-2])[:, 0]  # (N, s, s)
    down = (grey[..., 2:, 1:-1] - grey[..., :-2, 1:-1])[:, 0]
    turn = (torch.atan2(down, across) / torch.pi * TURNS).round().long() % TURNS
    strength = F.one_hot(turn, TURNS).movedim(-1, 1) * torch.hypot(across, down)[:, None]  # (N, T, s, s)
    return F.avg_pool2d(strength, CELL).flatten(1).sqrt()


@torch.no_grad()
def frozen(images: Sequence[Image]) -> Float[Tensor, "N D"]:
    """Frozen features that both objects and letters are in: those of `small-dino`, and projected gradients."""
    generator = torch.Generator().manual_seed(51)
    count = TURNS * (SIDE // CELL) ** 2
    project = torch.randn(count, KEPT, generator=generator) / count**0.5
    parts = [gradients(torch.stack([to_tensor(image) for image in images[n : n + 64]])) @ project
             for n in range(0, len(images), 64)]  # fmt: skip
    return torch.cat([pictured(images), F.normalize(torch.cat(parts), dim=1)], 1)


def printed(image: Image, word: str, height: float = 0.5) -> RenderedText:
    """A word across the picture, black where that is bright and white where it is dark."""
    bright = float(np.asarray(image.convert("L")).mean()) > 127
    return render_text(image, word, size=SIZE, position=(0.5, height), colour=(0, 0, 0) if bright else (255, 255, 255))


@lru_cache(maxsize=2)
def named_pictures(split: str, most: int) -> tuple[list[Image], list[str], Bool[np.ndarray, "N C"]]:
    """Clip art that names a concept, at most so many for each; captions; and which concepts each names."""
    images, captions = clip_art(split)
    named = np.array([[word in re.findall(r"[a-z]+", text) for word in CONCEPTS] for text in captions])
    rng = np.random.default_rng([51, most])
    order = rng.permutation(len(images))
    rows = np.unique(np.concatenate([order[named[order, c]][:most] for c in range(len(CONCEPTS))]))
    return [images[n].convert("RGB").resize((SIDE, SIDE)) for n in rows], [captions[n] for n in rows], named[rows]


@lru_cache(maxsize=1)
def pools() -> dict[str, Float[Tensor, "N D"]]:
    """The training pictures without text, with a concept of their caption, and with one of another caption."""
    images, _, named = named_pictures("train", MOST)
    rng = np.random.default_rng(52)
    shown = {CLEAN: images}
    for name, allowed in ((PARROT, named), (OTHER, ~named)):
        words = [CONCEPTS[rng.choice(np.flatnonzero(row))] for row in allowed]
        shown[name] = [printed(image, word).image for image, word in zip(images, words, strict=True)]
    return {name: frozen(some) for name, some in shown.items()}


_SEEN: dict[bytes, Float[Tensor, "D"]] = {}
_FILLED: dict[tuple[bytes, bytes], np.ndarray] = {}


class ProjectedPictures:
    """A linear map of frozen features beside a frozen text tower.

    Args:
        weight: of the map.
    """

    def __init__(self, weight: Float[Tensor, "D E"]) -> None:
        self.weight = weight

    def encode_image(self, images: Sequence[Image], *, normalize: bool, batch_size: int = 64) -> Float[Tensor, "B E"]:
        """Unit embeddings; the frozen features of a picture are computed once."""
        keys = [image.tobytes() for image in images]
        missing = {key: image for key, image in zip(keys, images, strict=True) if key not in _SEEN}
        if missing:
            _SEEN.update(zip(missing, frozen(list(missing.values())), strict=True))
        return F.normalize(torch.stack([_SEEN[key] for key in keys]) @ self.weight, dim=1)

    def encode_text(self, texts: Sequence[str], *, normalize: bool) -> Float[Tensor, "B E"]:
        """Unit embeddings of `small`."""
        return said(tuple(texts))


def _fill(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Telea's method, once for every picture and hole."""
    key = image.tobytes(), hole.tobytes()
    if key not in _FILLED:
        _FILLED[key] = inpaint_by_marching(image, hole)
    return _FILLED[key]


def lost(model: Any) -> dict[str, float]:
    """RSC of held-out pictures with their own word, and the control: a box elsewhere, of another picture's word."""
    images, captions, named = named_pictures("val+test", TESTED)
    words = [CONCEPTS[int(row.argmax())] for row in named]
    rows = np.random.default_rng(53).permutation(len(images))[: PAINTED + 1]
    score, found = TextRemovalScore(model, inpaint=_fill), []
    for row, other in pairwise(rows):
        shown = printed(images[row], words[row])
        elsewhere = printed(images[other], words[other], 0.15).polygons
        done = score(shown.image, captions[row], shown.polygons, shown.polygons, elsewhere)
        found.append((done.rsc, done.random))
    return dict(zip((CO, CONTROL), np.array(found, dtype=float).mean(0).tolist(), strict=True))


@lru_cache(maxsize=1)
def _tested() -> Float[Tensor, "N D"]:
    return frozen(named_pictures("val+test", TESTED)[0])


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    _, captions, _ = named_pictures("train", MOST)
    named = named_pictures("val+test", TESTED)[2]
    texts, words = said(tuple(captions)), said(CONCEPTS)
    rows = np.random.default_rng([seed, 51]).permutation(len(captions))[: round(SHARE * len(captions))]
    spotting = TextSpottingBenchmark(CONCEPTS, side=SIDE, size=SIZE)
    results = []
    for name, features in pools().items():
        weight = linear_map(features, texts, rows, seed)
        model: Any = ProjectedPictures(weight)
        guessed = (F.normalize(_tested() @ weight, dim=1) @ words.T).argmax(1).numpy()
        right = named[np.arange(len(named)), guessed]
        by_concept = [right[named[:, c]].mean() for c in range(len(CONCEPTS)) if named[:, c].any()]
        results += [Row(ACCURACY, name, float(np.mean(by_concept))),
                    Row(SPOTTING, name, spotting.evaluate(model).spotting)]  # fmt: skip
        results += [Row(LOST, name, value, part) for part, value in lost(model).items()]
    return results


def draw(table: Table, figure: Figure) -> None:
    """Both figures of every training set, what painting over takes, and one picture of each set."""
    accuracy, spotting, own, control, *shown = figure.subplots(1, 7)
    panels = (
        (accuracy, ACCURACY, "", "accuracy\nwithout text"),
        (spotting, SPOTTING, "", SPOTTING),
        (own, LOST, CO, f"lost without\n{CO}"),
        (control, LOST, CONTROL, f"lost without\n{CONTROL}"),
    )
    for ax, metric, setting, title in panels:
        dots(ax, table, metric, SETS, setting)
        ax.set_title(title, fontsize=8)
        ax.set_xticks(range(len(SETS)), SETS, fontsize=7, rotation=60)
    limits = [*own.get_ylim(), *control.get_ylim()]
    for ax in (own, control):
        ax.set_ylim(min(limits), max(limits))
    first: Any = [part[0] for part in named_pictures("train", MOST)]
    image, _, named = first
    word, other = (CONCEPTS[int(np.flatnonzero(row)[0])] for row in (named, ~named))
    seen = [image, printed(image, word).image, printed(image, other).image]
    pictures(shown, [np.asarray(one) for one in seen])
    for ax, name in zip(shown, SETS, strict=True):
        ax.set_title(name.replace(" word", "\nword"), fontsize=7)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 22), registered="b8f9ea0056ec")
