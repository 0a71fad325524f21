"""Where words are: heatmaps of an open-vocabulary segmenter, and what several of them agree on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from scipy import ndimage
from torch import Tensor

from binderclip.models.checks import refuse_bare_module
from binderclip.segment.maps import unit_range
from binderclip.segment.parts.resolution import Resolution, Squash
from binderclip.segment.parts.rewire import DualPath, SelfSelf
from binderclip.segment.parts.text import BoundText, TextSide
from binderclip.segment.segmenter import Segmenter, patch_scores

__all__ = ["Localiser", "WordBoxes", "WordMaps", "consensus_heatmap"]


@runtime_checkable
class Localiser(Protocol):
    """Maps of words on one picture."""

    def __call__(self, image: Image.Image, words: Sequence[str]) -> Float[Tensor, "W h w"]:
        """One map for each word, larger where it fits better; of any resolution."""
        ...


@dataclass
class WordMaps:
    """Maps by a `Segmenter`, one cell a patch; GenSAM's are CLIP Surgery's with attention from key to key.

    Args:
        segmenter: any preset whose resolution is one window; its scores of words are the maps.
    """

    segmenter: Segmenter
    _bound: dict[str, BoundText] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def surgery(
        cls,
        model: Any,
        attends: str = "k",
        *,
        resolution: Resolution | None = None,
        normalise: Literal["channels", "tokens"] = "channels",
    ) -> WordMaps:
        """CLIP Surgery's second path: queries, keys or values attend to their like, and the empty text is taken off.

        Words and the empty text are put into its 85 templates.

        Args:
            model: an `ImageTextModel` with a transformer image tower.
            attends: "q", "k" or "v".
            resolution: how the model sees the picture; None for GenSAM's: squashed to the model's own square.
            normalise: "tokens" as the released code of GenSAM and Zip, see `TextSide`.
        """
        refuse_bare_module(model, "WordMaps.surgery")
        how = Squash() if resolution is None else resolution
        block = DualPath(SelfSelf(attends))
        text = TextSide(redundant="", normalise=normalise)
        return cls(
            Segmenter(
                model, "clip_surgery", resolution=how, templates="clip-surgery-85", last_block=block, text=text,  # type: ignore[arg-type]
            )
        )  # fmt: skip

    @torch.no_grad()
    def __call__(self, image: Image.Image, words: Sequence[str]) -> Float[Tensor, "W h w"]:
        """See `Localiser`; a word is encoded once."""
        for word in dict.fromkeys(words):
            if word not in self._bound:
                self._bound[word] = self.segmenter.parts.text.bind(self.segmenter.model, [word])
        known = [self._bound[word] for word in words]
        rows = torch.cat([own.rows for own in known])
        owner = torch.arange(len(rows), device=rows.device)
        return patch_scores(self.segmenter, image, replace(known[0], classes=tuple(words), rows=rows, owner=owner))


def consensus_heatmap(fore: Float[Tensor, "F h w"], back: Float[Tensor, "G h w"] | None = None) -> Float[Tensor, "h w"]:
    """Mean of the object's maps minus the mean of its surroundings', each from 0 to 1, and the result too.

    Args:
        fore: of the words for the object. back: of those for what is around it, or None.
    """
    heat = unit_range(fore).mean(0)
    if back is not None and len(back):
        heat = heat - unit_range(back).mean(0)
    return unit_range(heat)


@dataclass(frozen=True)
class WordBoxes:
    """Boxes of a word: around each connected region of its map that is hot; what stands in for a detector.

    Args:
        localiser: gives the map.
        threshold: share of the map's range from which a cell belongs to an object.
    """

    localiser: Localiser
    threshold: float = 0.6

    def __call__(self, image: Image.Image, word: str) -> list[tuple[int, int, int, int]]:
        """All boxes xyxy in pixels, the one with the map's maximum first; none for a flat map."""
        heat = unit_range(self.localiser(image, [word]))[0].cpu().numpy()
        if not heat.any():
            return []
        numbers, _ = ndimage.label(heat >= self.threshold)
        places = ndimage.find_objects(numbers)
        first = numbers[np.unravel_index(heat.argmax(), heat.shape)] - 1
        sx, sy = image.width / heat.shape[1], image.height / heat.shape[0]
        boxes = []
        for rows, columns in [places[first], *places[:first], *places[first + 1 :]]:
            x0, y0 = int(columns.start * sx), int(rows.start * sy)
            x1, y1 = round(columns.stop * sx), round(rows.stop * sy)
            boxes.append((x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)))
        return boxes

    def first(self, image: Image.Image, word: str) -> tuple[int, int, int, int] | None:
        """The box with the map's maximum, None for a flat map."""
        return next(iter(self(image, word)), None)
