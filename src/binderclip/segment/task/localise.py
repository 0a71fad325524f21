"""Where words are: heatmaps of an open-vocabulary segmenter, and what several of them agree on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from scipy import ndimage
from torch import Tensor

from binderclip.segment.parts.rewire import DualPath, SelfSelf
from binderclip.segment.segmenter import Segmenter

__all__ = ["Localiser", "WordMaps", "consensus_heatmap", "unit_range", "word_box"]


@runtime_checkable
class Localiser(Protocol):
    """Maps of words on one picture."""

    def __call__(self, image: Image.Image, words: Sequence[str]) -> Float[Tensor, "W h w"]:
        """One map for each word, larger where it fits better; of any resolution."""
        ...


@dataclass
class WordMaps:
    """Maps by a `Segmenter`; GenSAM's are CLIP Surgery's with attention from key to key.

    Args:
        segmenter: any preset; its class logits are the maps.
    """

    segmenter: Segmenter

    @classmethod
    def surgery(cls, model: Any, attends: str = "k", *, size: int | None = None) -> WordMaps:
        """CLIP Surgery's second path: queries, keys or values attend to their like, and the empty text is taken off.

        Args:
            model: an `ImageTextModel` with a transformer image tower.
            attends: "q", "k" or "v".
            size: shorter side at which the model sees the picture; None for twice its own.
        """
        return cls(Segmenter(model, "clip_surgery", size=size, last_block=DualPath(SelfSelf(attends))))  # type: ignore[arg-type]

    @torch.no_grad()
    def __call__(self, image: Image.Image, words: Sequence[str]) -> Float[Tensor, "W h w"]:
        """See `Localiser`; one cell a patch, as heat is counted in cells."""
        unique = list(dict.fromkeys(words))
        scores = self.segmenter(image, unique).scores.float()
        patch = self.segmenter.tower.patch
        grid = (max(1, round(scores.shape[-2] / patch)), max(1, round(scores.shape[-1] / patch)))
        found = torch.nn.functional.adaptive_avg_pool2d(scores, grid)
        return found[[unique.index(word) for word in words]]


def unit_range(maps: Float[Tensor, "*B h w"]) -> Float[Tensor, "*B h w"]:
    """Each map from 0 to 1; zeros where it is constant."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    span = high - low
    return torch.where(span > 1e-12, (maps - low) / span.clamp(min=1e-12), 0.0)


def consensus_heatmap(fore: Float[Tensor, "F h w"], back: Float[Tensor, "G h w"] | None = None) -> Float[Tensor, "h w"]:
    """Mean of the object's maps minus the mean of its surroundings', each from 0 to 1, and the result too.

    Args:
        fore: of the words for the object. back: of those for what is around it, or None.
    """
    heat = unit_range(fore).mean(0)
    if back is not None and len(back):
        heat = heat - unit_range(back).mean(0)
    return unit_range(heat)


def word_box(localiser: Localiser, *, threshold: float = 0.6) -> Any:
    """(picture, word) -> box around the connected region of a word's map that holds its maximum, None for a flat map.

    Args:
        localiser: gives the map.
        threshold: share of the map's range from which a cell belongs to the object.
    """

    def locate(image: Image.Image, word: str) -> tuple[int, int, int, int] | None:
        heat = unit_range(localiser(image, [word]))[0].cpu().numpy()
        if not heat.any():
            return None
        numbers, _ = ndimage.label(heat >= threshold)
        rows, columns = np.nonzero(numbers == numbers[np.unravel_index(heat.argmax(), heat.shape)])
        sx, sy = image.width / heat.shape[1], image.height / heat.shape[0]
        x0, y0 = int(columns.min() * sx), int(rows.min() * sy)
        x1, y1 = round((columns.max() + 1) * sx), round((rows.max() + 1) * sy)
        return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)

    return locate
