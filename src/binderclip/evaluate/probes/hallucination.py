"""Does a model prefer a caption that names objects which a picture does not show? (p181)"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from binderclip.data.made.hallucinations import HallucinatedCaptions
from binderclip.errors import UsageError
from binderclip.models.checks import refuse_bare_module
from binderclip.similarity.geometry import Cosine, Similarity

if TYPE_CHECKING:
    from binderclip.models import ImageTextModel

__all__ = ["HallucinationFigures", "ObjectHallucination"]

ROUNDING = 1e-9
"""Similarities that differ by less are equal: the same text may be summed in another order."""


@dataclass(frozen=True)
class HallucinationFigures:
    """How often a picture's own caption beats its hallucinated ones.

    Attributes:
        accuracy: share of pictures whose own caption is more similar than each of the others; equal is a failure.
        chance: expected of random similarities: the mean of 1 / (1 + number of captions).
        by_kind: kind of caption -> share of pictures whose own caption beats all of that kind.
        by_changed: number of objects added or taken away -> the same.
        margin: mean similarity of the own caption less that of the best other.
        right: (N,) of each picture, for intervals.
    """

    accuracy: float
    chance: float
    by_kind: dict[str, float]
    by_changed: dict[int, float]
    margin: float
    right: Bool[np.ndarray, "N"]


class ObjectHallucination:
    """Rank a picture's own caption among captions with objects added or taken away.

    Args:
        captions: the own caption of each picture.
        others: its hallucinated ones (`data.hallucinated_captions`).

    Raises:
        UsageError: nothing to compare, or lists of different length.

    Paper: Investigating and Mitigating Object Hallucinations in Pretrained Vision-Language (CLIP) Models, arXiv
    2410.03176 (OHD-Caps).
    """

    def __init__(self, captions: Sequence[str], others: Sequence[HallucinatedCaptions]) -> None:
        if not captions or len(captions) != len(others):
            raise UsageError(f"{len(captions)} captions and {len(others)} lists of others: one list each is needed")
        if any(not any(entry.valid) for entry in others):
            raise UsageError("a picture has no caption to compare its own with")
        self.captions, self.others = list(captions), list(others)
        self.valid = np.array([entry.valid for entry in others], dtype=bool)  # (N, K)
        self.kinds = np.array([entry.kinds for entry in others])
        self.changed = np.array([entry.changed for entry in others])

    @torch.no_grad()
    def __call__(self, model: ImageTextModel, images: Any, *, batch_size: int = 64) -> HallucinationFigures:
        """Measure a model.

        Args:
            model: encodes pictures and captions.
            images: one picture for each caption, as `encode_image` takes them.
            batch_size: pictures at once.
        """
        refuse_bare_module(model, "ObjectHallucination")
        texts = list(dict.fromkeys([*self.captions, *(text for entry in self.others for text in entry.captions)]))
        place = {text: row for row, text in enumerate(texts)}
        known = model.encode_text(texts)
        own = known[[place[text] for text in self.captions]]
        others = known[torch.tensor([[place[text] for text in entry.captions] for entry in self.others])]
        return self.figures(model.encode_image(images, batch_size=batch_size), own, others, geometry=model.geometry)

    def figures(
        self,
        images: Float[Tensor, "N d"],
        own: Float[Tensor, "N d"],
        others: Float[Tensor, "N K d"],
        *,
        geometry: Similarity | None = None,
    ) -> HallucinationFigures:
        """The figures from embeddings: raw, or for cosines of any length.

        Args:
            images: of the pictures.
            own: of their captions.
            others: of the hallucinated ones.
            geometry: what the model compares by; None: cosines.

        Raises:
            UsageError: shapes that do not fit.
        """
        if images.shape != own.shape or others.shape[:2] != self.valid.shape or others.shape[2] != own.shape[1]:
            raise UsageError(
                f"{len(self.captions)} pictures with {self.valid.shape[1]} captions each, got {tuple(images.shape)}, "
                f"{tuple(own.shape)} and {tuple(others.shape)}"
            )
        geometry = geometry or Cosine()
        points = geometry.embed(images.double(), "image")  # (N, e)
        true = geometry.paired(points, geometry.embed(own.double(), "text")).numpy()  # (N,)
        captions = geometry.embed(others.double(), "text")  # (N, K, e)
        other = geometry.paired(points.unsqueeze(1).expand_as(captions), captions).numpy()
        other = np.where(self.valid, other, -np.inf)
        beaten = true[:, None] > other + ROUNDING  # (N, K)
        right = np.asarray(beaten.all(1))

        def share(chosen: Bool[np.ndarray, "N K"]) -> float:
            some = (chosen & self.valid).any(1)
            return float((beaten | ~chosen).all(1)[some].mean()) if some.any() else float("nan")

        return HallucinationFigures(
            float(right.mean()),
            float((1 / (1 + self.valid.sum(1))).mean()),
            {str(kind): share(self.kinds == kind) for kind in dict.fromkeys(self.kinds.ravel())},
            {int(count): share(self.changed == count) for count in np.unique(self.changed[self.valid])},
            float((true - other.max(1)).mean()),
            right,
        )
