"""The scenes that the studies of visual prompts share: several objects, exact boxes and masks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from binderclip.adapt import Region

if TYPE_CHECKING:
    from binderclip.data import Scenes

GROUNDS = ["plain", "gradient", "noise", "texture"]


def cluttered(
    seed: int,
    n: int,
    *,
    objects: int | tuple[int, int] = 4,
    size: int = 256,
    split: str = "val",
    only: tuple[str, ...] | None = None,
    **options: Any,
) -> Scenes:
    """`n` scenes of that many objects of different classes, each 4 to 12 % of the picture, at most a tenth hidden.

    Args:
        seed: of the scenes.
        n: how many.
        objects: in each, or (least, most).
        size: side in pixels.
        split: of the pictures that occur.
        only: class names; None for all fifteen.
        options: of `data.scenes`, instead of these.
    """
    from binderclip.data import vocabulary
    from binderclip.data.synthetic_scenes.stream import scenes

    words = vocabulary("scenes15", split=split)
    chosen = words if only is None else words.only(only)
    settings: dict[str, Any] = {"area": (0.04, 0.12), "occlusion": 0.1, "background": GROUNDS} | options
    return scenes(seed, n, size, vocabulary=chosen, objects=objects, **settings)


def as_arrays(images: Float[Tensor, "N 3 S S"]) -> list[UInt8[np.ndarray, "S S 3"]]:
    """Scenes as 8-bit pictures."""
    return list((images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy())


def object_regions(found: Scenes) -> list[list[Region]]:
    """Box and mask of every object of every scene."""
    return [
        [
            Region((box[0], box[1], box[2], box[3]), mask, name=name)
            for box, mask, name in zip(found.boxes[i].tolist(), found.visible[i].numpy(), names, strict=False)
        ]
        for i, names in enumerate(found.names)
    ]
