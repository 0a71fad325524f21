"""Sound and damaged pictures that the studies of anomaly detection share; exact masks where defects are planted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from binderclip.data import load_data, open_image, plant_defects, to_tensor, vocabulary
from binderclip.data.synthetic_scenes.stream import scenes
from binderclip.errors import UsageError

STRENGTH = 0.45
"""Opacity of planted defects: from 0.6 on they stick out of every texture."""
CROP = 192
REAL = ("textile, local", "textile, global")
PLANTED = ("textile, planted", "brick wall, planted", "gravel, planted")
_FILES = {"brick wall, planted": "brick.png", "gravel, planted": "gravel.png"}


@dataclass(frozen=True)
class AnomalySet:
    """Pictures of one thing.

    Attributes:
        name: what it is, in words.
        normal: (K, 3, S, S) sound pictures to learn from.
        good: (N, 3, S, S) sound pictures to test.
        bad: (N, 3, S, S) damaged pictures to test.
        masks: (N, S, S) damaged pixels of `bad`, or None where nobody knows them.
    """

    name: str
    normal: Float[Tensor, "K 3 S S"]
    good: Float[Tensor, "N 3 S S"]
    bad: Float[Tensor, "N 3 S S"]
    masks: Bool[Tensor, "N S S"] | None

    @property
    def images(self) -> Float[Tensor, "M 3 S S"]:
        """Test pictures, good ones first."""
        return torch.cat([self.good, self.bad])

    @property
    def labels(self) -> Bool[Tensor, "M"]:
        """Which test pictures are damaged."""
        return torch.arange(len(self.good) + len(self.bad)) >= len(self.good)

    @property
    def truth(self) -> Bool[Tensor, "M S S"] | None:
        """Damaged pixels of all test pictures."""
        if self.masks is None:
            return None
        return torch.cat([torch.zeros(len(self.good), *self.masks.shape[1:], dtype=torch.bool), self.masks])


def drawing_set(name: str, seed: int, *, normal: int, test: int, side: int = 128) -> AnomalySet:
    """One drawing, always in the same place but for a little turning and size, sound or with one defect.

    Args:
        name: class of `scenes15`; its first held-out drawing is taken.
        seed: of the pictures.
        normal: pictures to learn from.
        test: good pictures, and as many bad ones.
        side: of the pictures, in pixels.

    Raises:
        UsageError: an unknown class.
    """
    whole = vocabulary("scenes15", split="val").only([name])
    one = replace(
        whole, sprites=whole.sprites[:1], owner=whole.owner[:1], captions=whole.captions[:1], keys=whole.keys[:1],
        styles=whole.styles[:1], _members={}, _cut={},
    )  # fmt: skip
    factors: Any = {"rotation": list(range(-6, 7, 2)), "position": [(0.5, 0.5), (0.48, 0.5), (0.5, 0.52)]}
    options: Any = {"vocabulary": one, "objects": 1, "area": (0.3, 0.34), "background": "white", "factors": factors}
    sound = scenes(seed, normal + test, side, **options).images
    bad = scenes(seed, test, side, first=normal + test, defects=1, **options)
    return AnomalySet(name, sound[:normal], sound[normal:], bad.images, bad.defects)


def anomaly_set(name: str, seed: int, *, normal: int, test: int) -> AnomalySet:
    """Pictures of a set, drawn by a seed; nothing is in two of its parts.

    The textile pictures are those of the splits `val` and `test`; brick wall and gravel are crops of 192 of the 512
    pixels of one photograph each, so crops of learning and test overlap, but for the defects.

    Args:
        name: of `REAL` or `PLANTED`.
        seed: of the draw.
        normal: pictures to learn from.
        test: good pictures, and as many bad ones.

    Raises:
        UsageError: an unknown name.
    """
    if name not in (*REAL, *PLANTED):
        raise UsageError(f"no set {name!r}; there are {', '.join((*REAL, *PLANTED))}")
    rng = np.random.default_rng([seed, 94])
    word = name.split(",")[0]
    if name in _FILES:
        sound = _crops(_FILES[name], rng, normal + 2 * test)
    else:
        # Damaged pictures are planted on sound ones that are in no other part.
        sound = _textile("nominal", rng, normal + 2 * test)
    learn, good, rest = sound[:normal], sound[normal : normal + test], sound[normal + test :]
    if name in REAL:
        return AnomalySet(word, learn, good, _textile(name.split(", ")[1], rng, test), None)
    planted = plant_defects(rest, 10 * seed + PLANTED.index(name), strength=STRENGTH)
    return AnomalySet(word, learn, good, planted.images, planted.masks)


@cache
def _textile_set() -> tuple[Any, np.ndarray]:
    data = load_data("textile")
    kinds = np.array([str(kind) for kind in data.attributes["kind"]])
    held = np.array([str(split) for split in data.attributes["split"]]) != "train"
    return data, np.where(held, kinds, "")


def _textile(kind: str, rng: np.random.Generator, count: int) -> Tensor:
    data, kinds = _textile_set()
    rows = rng.permutation(np.flatnonzero(kinds == kind))[:count]
    return torch.stack([to_tensor(data[int(row)].image.convert("RGB")) for row in rows])


@cache
def _photograph(file: str) -> np.ndarray:
    found = next(sample.image for sample in load_data("photographs") if sample.key == file)
    return np.asarray(open_image(found))


def _crops(file: str, rng: np.random.Generator, count: int) -> Tensor:
    whole = _photograph(file)
    places = rng.integers(0, np.array(whole.shape[:2]) - CROP, (count, 2))
    return torch.stack([to_tensor(whole[y : y + CROP, x : x + CROP]) for y, x in places.tolist()])
