"""Which of several objects does an embedding stand for: the larger one in pictures, the first one in captions?"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from binderclip.data import multi_object_scenes, vocabulary
from binderclip.data.synthetic_scenes.stream import scenes
from binderclip.evaluate import ObjectClassificationProbe, ObjectRetrievalProbe, OrderSensitivityProbe
from binderclip.studies.harness import Figure, Row, Table, bare, declared_study
from binderclip.studies.protocols.bundled import bundled

CLASSES = ("flag", "clock", "tree", "house", "cat", "dog", "moon", "woman", "apple", "car", "flower", "heart")
SLOTS, EACH, REFERENCES, CAPTIONS, MENTIONED, ABSENT = 4, 8, 6, 240, 3, 2
IMAGES, TEXTS, EVEN, BAGS = "small, pictures", "small, captions", "pictures, all alike", "bags of words"
LARGE, FIRST = "the large object is nearest", "the object mentioned first is nearest"
MATCHED, READ, TOP = "right caption chosen", "object read from the embedding", "all nearest are there"
AHEAD, BEHIND = "large object first", "large object last"


@cache
@torch.no_grad()
def references() -> Float[Tensor, "K E"]:
    """Mean embedding of pictures of one object each, from training drawings."""
    found = []
    for number, name in enumerate(CLASSES):
        words = vocabulary([name], split="train")
        made = scenes(
            number, REFERENCES, 128, vocabulary=words, objects=1, slots=[(0.2, 0.2, 0.8, 0.8)], background="white"
        )
        found.append(F.normalize(bundled().encode_image(made.images), dim=1).mean(dim=0))
    return torch.stack(found)


@torch.no_grad()
def said(texts: list[str]) -> Float[Tensor, "T E"]:
    """Embeddings of captions by `small`."""
    return bundled().encode_text(texts)


@torch.no_grad()
def bags(texts: list[str]) -> Float[Tensor, "T E"]:
    """Sums of the words' own embeddings: no order at all."""
    words = F.normalize(said(list(CLASSES)), dim=1)
    return torch.stack([words[[CLASSES.index(word) for word in text.split(" and ")]].sum(dim=0) for text in texts])


@torch.no_grad()
def pictured(seed: int, ratio: float) -> tuple[Float[Tensor, "N E"], Int[np.ndarray, "N n"], Int[np.ndarray, "N"]]:
    """Scenes of four objects, each place as often the large one as any other: embeddings, contents, large slots."""
    words = vocabulary(list(CLASSES), split="train+val+test+shift")
    made = [
        multi_object_scenes(10 * seed + slot, EACH, 128, classes=words, count=SLOTS, biased=slot, ratio=ratio)
        for slot in range(SLOTS)
    ]
    features = torch.cat([bundled().encode_image(one.images) for one in made])
    contents = np.array([[CLASSES.index(name) for name in names] for one in made for names in one.names])
    return features, contents, np.repeat(np.arange(SLOTS), EACH)


def mentions(seed: int) -> Int[np.ndarray, "N n"]:
    """Three objects in every cyclic order, so that each word stands equally often in each place."""
    rng = np.random.default_rng(seed)
    chosen = [rng.permutation(len(CLASSES))[:MENTIONED] for _ in range(CAPTIONS // MENTIONED)]
    return np.array([np.roll(one, turn) for one in chosen for turn in range(MENTIONED)])


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    probe, rows = ObjectRetrievalProbe(references()), []
    for method, ratio in ((IMAGES, 2.0), (EVEN, 1.0)):
        features, contents, large = pictured(seed, ratio)
        found = probe(features, contents)
        own = np.take_along_axis(found.by_scene, large[:, None], axis=1)[:, 0]
        rows.append(Row(LARGE, method, float(own.mean()), items=tuple(own.tolist())))
        rows += [Row("nearest, by place", method, float(v), f"slot {k}") for k, v in enumerate(found.dominance)]
        rows.append(Row(TOP, method, found.precision))
        if method == IMAGES:
            for encoder, encode in ((TEXTS, said), (BAGS, bags)):
                order = OrderSensitivityProbe(CLASSES, encode, absent=ABSENT, seed=seed)(
                    features, contents, large.tolist()
                )
                for case, place in ((AHEAD, 0), (BEHIND, 1)):
                    rates = order.by_scene[:, place]
                    rows.append(Row(MATCHED, encoder, float(rates.mean()), case, items=tuple(rates.tolist())))
    held = mentions(seed)
    texts = [" and ".join(CLASSES[word] for word in words) for words in held.tolist()]
    for method, encode in ((TEXTS, said), (BAGS, bags)):
        features = encode(texts)
        found = ObjectRetrievalProbe(said(list(CLASSES)))(features, held)
        first = found.by_scene[:, 0]
        rows.append(Row(FIRST, method, float(first.mean()), items=tuple(first.tolist())))
        rows += [Row("nearest, by mention", method, float(v), f"word {k + 1}") for k, v in enumerate(found.dominance)]
        rows.append(Row(TOP, method, found.precision))
        read = ObjectClassificationProbe(len(CLASSES), epochs=30, lr=1e-2, seed=seed)(features, held)
        rows += [Row(READ, method, float(v), f"word {k + 1}") for k, v in enumerate(read)]
    return rows


def draw(table: Table, figure: Figure) -> None:
    """A scene; how often the large or the first object is nearest; matching with the order for and against."""
    shown, first, second, third = figure.subplots(1, 4, width_ratios=(0.9, 1, 1.1, 1.1))
    made = multi_object_scenes(3, 1, 128, classes=vocabulary(list(CLASSES)), count=SLOTS, biased=2)
    shown.imshow(made.images[0].permute(1, 2, 0).numpy())
    bare(shown, frame=False)
    shown.set_title(", ".join(made.names[0]), fontsize=7)
    for number, method in enumerate((IMAGES, EVEN)):
        first.bar(number, table.mean(LARGE, method), 0.6, color=f"C{number}")
    first.axhline(1 / SLOTS, color="grey", linestyle=":")
    first.set_xticks(range(2), ("one twice as large", "all alike"), fontsize=7)
    first.set_title(LARGE, fontsize=8)
    for number, method in enumerate((TEXTS, BAGS)):
        place = np.arange(MENTIONED) + 0.38 * number - 0.19
        values = [table.mean("nearest, by mention", method, f"word {k + 1}") for k in range(MENTIONED)]
        second.bar(place, values, 0.36, label=method, color=f"C{number}")
        values = [table.mean(MATCHED, method, case) for case in (AHEAD, BEHIND)]
        third.bar(np.arange(2) + 0.38 * number - 0.19, values, 0.36, label=method, color=f"C{number}")
    second.axhline(1 / MENTIONED, color="grey", linestyle=":")
    second.set_xticks(range(MENTIONED), ("first", "second", "third"))
    second.set_title("nearest object, by mention", fontsize=8)
    third.set_xticks(range(2), (AHEAD, BEHIND), fontsize=7)
    third.set_title(MATCHED, fontsize=8)
    third.set_ylim(0, 1.15)
    third.legend(fontsize=7, loc="upper right", ncols=2)


def null(seed: int) -> list[Row]:
    """Nearest objects and matches at random."""
    rng = np.random.default_rng([seed, 4])
    large = np.eye(SLOTS)[rng.integers(0, SLOTS, SLOTS * EACH)][:, 0]
    first = np.eye(MENTIONED)[rng.integers(0, MENTIONED, CAPTIONS)][:, 0]
    rows = [Row(LARGE, IMAGES, float(large.mean()), items=tuple(large.tolist()))]
    rows.append(Row(FIRST, TEXTS, float(first.mean()), items=tuple(first.tolist())))
    for encoder in (TEXTS, BAGS):
        for case in (AHEAD, BEHIND):
            own = rng.integers(0, ABSENT + 1, SLOTS * EACH) / ABSENT
            rows.append(Row(MATCHED, encoder, float(own.mean()), case, items=tuple(own.tolist())))
    return [*rows, Row(TOP, IMAGES, 1.0), Row(TOP, TEXTS, 1.0)]


SEEDS = tuple(range(20, 28))

STUDY = declared_study(__name__, measure, draw=draw, seeds=SEEDS, null=null, registered="7ac26ea40964")
