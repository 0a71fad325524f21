"""Instance segmentations that get worse by known steps: masks peeled from the rim, moved, lost and invented."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import distance_transform_edt

Mask: TypeAlias = "Bool[np.ndarray, 'H W']"
Masks: TypeAlias = "list[np.ndarray]"
Ladder: TypeAlias = Literal["1 % of the pixels", "eroded by 1 px", "shifted by 1 px"]

LADDERS: tuple[Ladder, ...] = ("1 % of the pixels", "eroded by 1 px", "shifted by 1 px")


@dataclass(frozen=True)
class Scene:
    """True masks of one scene and a depth for each of their pixels, by which they are peeled from the rim."""

    masks: list[Bool[np.ndarray, "H W"]]
    depths: list[Float[np.ndarray, "H W"]]

    def peeled(self, k: int, keep: float) -> Mask:
        """The object's innermost share of pixels, at least one: exactly this IoU but for rounding."""
        inside = np.flatnonzero(self.masks[k])
        order = inside[np.argsort(-self.depths[k].ravel()[inside], kind="stable")]
        mask = np.zeros(self.masks[k].shape, dtype=bool)
        mask.ravel()[order[: max(1, round(keep * len(order)))]] = True
        return mask


def scene_of(masks: np.ndarray, rng: np.random.Generator) -> Scene:
    """A scene of the masks that are there; equal depths are ordered at random."""
    kept = [mask for mask in masks if mask.any()]
    return Scene(kept, [distance_transform_edt(np.pad(m, 1))[1:-1, 1:-1] + rng.uniform(0, 1e-3, m.shape) for m in kept])


def ladder(kind: Ladder, scene: Scene, rng: np.random.Generator) -> list[Masks]:
    """Predictions of which one object gets worse step by step, the others perfect; it ends before nothing is left."""
    k = int(rng.integers(len(scene.masks)))
    true = scene.masks[k]
    if kind == LADDERS[0]:
        worse = [scene.peeled(k, 1 - step / 100) for step in range(100)]
    elif kind == LADDERS[1]:
        worse = [scene.depths[k] * true > step + 0.5 for step in range(11)]
    else:
        dy, dx = ((0, 1), (0, -1), (1, 0), (-1, 0))[rng.integers(4)]
        worse = [shifted(true, step * dy, step * dx) for step in range(11)]
    return [[*scene.masks[:k], mask, *scene.masks[k + 1 :]] for mask in worse if (mask & true).any()]


def shifted(mask: Mask, dy: int, dx: int) -> Mask:
    """A moved mask; what leaves the picture is lost."""
    padded = np.pad(mask, ((abs(dy),) * 2, (abs(dx),) * 2))
    return np.roll(padded, (dy, dx), (0, 1))[abs(dy) : padded.shape[0] - abs(dy), abs(dx) : padded.shape[1] - abs(dx)]


def invented(predicted: Masks, scene: Scene, rng: np.random.Generator) -> Mask:
    """A disc of at most 7 px radius where there is nothing yet."""
    taken = np.any([*predicted, *scene.masks], axis=0)
    room = distance_transform_edt(~np.pad(taken, 1, constant_values=True))[1:-1, 1:-1]
    radius = min(7.0, room.max() - 1)
    places = np.argwhere(room > radius)
    y, x = places[rng.integers(len(places))]
    grid = np.mgrid[: taken.shape[0], : taken.shape[1]]
    return (grid[0] - y) ** 2 + (grid[1] - x) ** 2 < radius**2


def peeled_all(scene: Scene, iou: tuple[float, float], rng: np.random.Generator) -> Masks:
    """All objects peeled to IoU drawn uniformly from a range."""
    return [scene.peeled(k, rng.uniform(*iou)) for k in range(len(scene.masks))]


def error_chain(scene: Scene, errors: int, rng: np.random.Generator) -> list[Masks]:
    """Predictions with 0, 1, 2, ... errors, each those before it and one more.

    Four of five errors peel an object by a tenth of its pixels, the others lose or invent an object, in turn.
    """
    kept = dict.fromkeys(range(len(scene.masks)), 1.0)
    extra: Masks = []
    chain: list[Masks] = []
    for step in range(errors + 1):
        if step and step % 10 == 5:
            kept.pop(int(rng.choice(list(kept))))
        elif step and step % 5 == 0:
            extra.append(invented(chain[-1], scene, rng))
        elif step:
            k = int(rng.choice([k for k, share in kept.items() if share > 0.15]))
            kept[k] -= 0.1
        chain.append([scene.peeled(k, share) for k, share in kept.items()] + extra)
    return chain
