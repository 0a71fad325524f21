"""What studies of task-generic segmentation share: hidden animals of held-out drawings, the models, four scores.

One animal a scene, its colours mixed with the ground's, so that the task ("the hidden animal") is the same for all
scenes and what it means is not. Trivial answers stand beside every method: a disc in the middle, the whole picture, a
random click.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from binderclip.data.synthetic_scenes.stream import scenes
from binderclip.data.synthetic_scenes.vocabulary import vocabulary
from binderclip.segment.metrics.foreground import foreground_scores
from binderclip.segment.promptable import Prompts
from binderclip.studies.harness.quantities import Quantity, combined, value_of
from binderclip.studies.harness.table import Row
from binderclip.studies.protocols.data.click_scenes import clicked_model
from binderclip.studies.protocols.tables.segment_table import bundled

ANIMALS = (
    "cat", "dog", "horse", "pig", "mouse", "hedgehog", "fox", "wolf", "bear", "elephant", "giraffe", "zebra",
    "kangaroo", "bat", "beaver", "dolphin", "bird", "owl", "duck", "chicken", "flamingo", "frog", "lizard",
    "butterfly", "scorpion", "mosquito",
)  # fmt: skip
TASK = "the hidden animal"
HELD_OUT = "val+test+shift"
SIZE = 128
SCORES = ("S", "E", "Fw", "MAE")
"""S-measure, mean E-measure, weighted F-measure (larger is better each) and mean absolute error."""
CENTRE, WHOLE, CLICK, BEST_CLICK = "a disc in the middle", "the whole picture", "a random click", "a click inside"
TRIVIAL = (CENTRE, WHOLE, CLICK)
DISC = 0.1
"""Share of the picture that the disc covers, about what an animal does."""


@dataclass(frozen=True)
class HiddenAnimals:
    """N scenes.

    Attributes:
        pictures: RGB. masks: of the animal. names: what it is, of `ANIMALS`.
    """

    pictures: tuple[Image.Image, ...]
    masks: Bool[Tensor, "N S S"]
    names: tuple[str, ...]


@lru_cache(maxsize=4)
def hidden_animals(seed: int, count: int, camouflage: float = 0.6) -> HiddenAnimals:
    """Scenes of one held-out drawing each on textured, cloudy or photographed ground.

    Args:
        seed: of the scenes.
        count: of scenes.
        camouflage: share of the ground that is mixed into the animal.
    """
    made = scenes(
        seed, count, SIZE, vocabulary=vocabulary(list(ANIMALS), split=HELD_OUT), objects=1, area=(0.05, 0.2),
        background=["texture", "noise", "photo"], camouflage=camouflage,
    )  # fmt: skip
    arrays = (made.images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return HiddenAnimals(
        tuple(Image.fromarray(array) for array in arrays), made.visible[:, 0], tuple(own[0] for own in made.names)
    )


def models() -> tuple[Any, Any]:
    """The bundled image-text model and the bundled promptable segmenter."""
    return bundled(), clicked_model()


def score_rows(found: Mapping[str, Sequence[Any]], masks: Bool[Tensor, "N S S"], setting: str = "") -> list[Row]:
    """A row for each method and score, the mean over scenes, and `IoU`.

    Args:
        found: method -> a mask for each scene.
        masks: true ones.
        setting: of the rows.
    """
    rows = []
    for method, answers in found.items():
        scores = [foreground_scores(np.asarray(a), m.numpy()) for a, m in zip(answers, masks, strict=True)]
        rows += [Row(name, method, float(np.mean([s[name] for s in scores])), setting) for name in SCORES]
        overlap = [float((torch.as_tensor(a) & m).sum() / (torch.as_tensor(a) | m).sum())
                   for a, m in zip(answers, masks, strict=True)]  # fmt: skip
        rows.append(Row("IoU", method, float(np.mean(overlap)), setting))
    return rows


def disc() -> Bool[Tensor, "S S"]:
    """A disc in the middle of `DISC` of the picture."""
    at = torch.arange(SIZE) + 0.5 - SIZE / 2
    return (at[:, None] ** 2 + at**2) <= DISC * SIZE**2 / torch.pi


def trivial_masks(segmenter: Any, found: HiddenAnimals, seed: int) -> dict[str, list[Bool[Tensor, "S S"]]]:
    """What needs no word: `TRIVIAL`, and what one click inside gives, which knows where the animal is."""
    count = len(found.pictures)
    random = np.random.default_rng([seed, 5])
    everything = torch.ones(SIZE, SIZE, dtype=torch.bool)
    answers: dict[str, list[Any]] = {CENTRE: [disc()] * count, WHOLE: [everything] * count, CLICK: [], BEST_CLICK: []}
    for picture, mask in zip(found.pictures, found.masks, strict=True):
        state = segmenter.encode(picture)
        inside = mask.nonzero()
        row, column = inside[int(random.integers(len(inside)))].tolist()
        for name, point in ((CLICK, random.uniform(0, SIZE, 2).tolist()), (BEST_CLICK, [column + 0.5, row + 0.5])):
            answers[name].append(segmenter.predict(state, Prompts.of(points=[point])).masks()[0])
    return answers


def quality(method: str) -> Quantity:
    """Mean of S-measure, E-measure and weighted F of a method."""
    return combined("mean", *(value_of(name, method) for name in SCORES[:3]))


def best_trivial() -> Quantity:
    """`quality` of the best of `TRIVIAL`."""
    return combined("most", *(quality(name) for name in TRIVIAL))


def separation(maps: Float[Tensor, "h w"], mask: Bool[Tensor, "S S"]) -> float:
    """Probability that a pixel of the animal is hotter than one of the ground."""
    from binderclip.segment.metrics.anomaly import binary_auroc

    full = torch.nn.functional.interpolate(maps[None, None].float(), size=mask.shape, mode="bilinear")[0, 0]
    return binary_auroc(full.flatten(), mask.flatten())
