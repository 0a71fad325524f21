"""One mask out of candidates, and one round out of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image, ImageFilter
from torch import Tensor

from binderclip.data.synthetic_scenes.paste import boxes_of
from binderclip.errors import UsageError
from binderclip.segment.task.candidates import CandidateMasks
from binderclip.settings import check_choice

__all__ = ["BestScore", "Chooser", "ClosestToMean", "LastRound", "MostSimilar", "SimilarityWeighted", "cutouts"]

Ground = Literal["black", "mean", "blur", "original"]


@runtime_checkable
class Chooser(Protocol):
    """Candidates to one map of probabilities."""

    def __call__(self, image: Image.Image, candidates: CandidateMasks, words: Sequence[str]) -> Float[Tensor, "H W"]:
        """Zeros where there is no candidate."""
        ...


@dataclass(frozen=True)
class BestScore:
    """The candidate of the highest predicted IoU."""

    def __call__(self, image: Image.Image, candidates: CandidateMasks, words: Sequence[str]) -> Float[Tensor, "H W"]:
        """See `Chooser`."""
        return _empty(image) if not len(candidates) else candidates.logits[int(candidates.scores.argmax())].sigmoid()


@dataclass(frozen=True)
class _BySimilarity:
    """Cut-outs against words.

    Args:
        model: an `ImageTextModel`.
        ground: what is outside a mask: "black", the "mean" colour, a "blur" or the "original".
        size: (h, w) to which cut-outs are squashed before the model sees them; None for the model's own preprocessing.
    """

    model: Any
    ground: Ground = "black"
    size: tuple[int, int] | None = None

    @torch.no_grad()
    def similarity(self, image: Image.Image, masks: Bool[Tensor, "N H W"], words: Sequence[str]) -> Float[Tensor, "N"]:
        """Cosine of each cut-out with the mean vector of the words; all are embedded in one batch."""
        pictures = self.model.encode_image(cutouts(image, masks, self.ground, self.size)).float()
        text = self.model.text_bank(list(dict.fromkeys(words))).prototypes().float().mean(0)
        return torch.nn.functional.cosine_similarity(pictures, text[None].to(pictures), dim=-1).cpu()

    def _there(self, candidates: CandidateMasks) -> Tensor:
        return (candidates.logits > 0).flatten(1).any(1).nonzero()[:, 0]


@dataclass(frozen=True)
class MostSimilar(_BySimilarity):
    """SLIP: the candidate whose cut-out is most like the word."""

    def __call__(self, image: Image.Image, candidates: CandidateMasks, words: Sequence[str]) -> Float[Tensor, "H W"]:
        """See `Chooser`."""
        there = self._there(candidates)
        if not len(there):
            return _empty(image)
        like = self.similarity(image, candidates.logits[there] > 0, words)
        return candidates.logits[there[int(like.argmax())]].sigmoid()


@dataclass(frozen=True)
class SimilarityWeighted(_BySimilarity):
    """INT: the sum of the candidates, weighted by a softmax over how like the word their cut-outs are.

    Args:
        scale: of the cosines.
    """

    scale: float = 100.0

    def __call__(self, image: Image.Image, candidates: CandidateMasks, words: Sequence[str]) -> Float[Tensor, "H W"]:
        """See `Chooser`."""
        there = self._there(candidates)
        if not len(there):
            return _empty(image)
        weights = (self.scale * self.similarity(image, candidates.logits[there] > 0, words)).softmax(0)
        return (weights[:, None, None] * candidates.logits[there].sigmoid()).sum(0)


def cutouts(
    image: Image.Image, masks: Bool[Tensor, "N H W"], ground: Ground = "black", size: tuple[int, int] | None = None
) -> list[Image.Image]:
    """The picture cut to each mask's box, what is outside the mask replaced.

    Args:
        image: RGB.
        masks: each with a pixel.
        ground: see `MostSimilar`.
        size: (h, w) to which each is squashed, its aspect lost; None leaves the box's.

    Raises:
        UsageError: an empty mask or an unknown ground.
    """
    check_choice("ground", ground, ("black", "mean", "blur", "original"))
    if not bool(masks.flatten(1).any(1).all()):
        raise UsageError("a mask without a pixel has no cut-out")
    pixels = np.asarray(image.convert("RGB"))
    behind = {
        "black": np.zeros_like(pixels),
        "mean": np.broadcast_to(pixels.mean((0, 1)).round().astype(np.uint8), pixels.shape),
        "original": pixels,
    }
    if ground == "blur":
        behind["blur"] = np.asarray(image.convert("RGB").filter(ImageFilter.GaussianBlur(max(image.size) / 20)))
    cut = []
    for mask, box in zip(masks.cpu().numpy(), boxes_of(masks[None])[0].int().tolist(), strict=True):
        x0, y0, x1, y1 = box
        own = Image.fromarray(np.where(mask[..., None], pixels, behind[ground])[y0:y1, x0:x1])
        cut.append(own if size is None else own.resize((size[1], size[0]), Image.Resampling.BILINEAR))
    return cut


@dataclass(frozen=True)
class ClosestToMean:
    """The round whose map is closest to the mean of all rounds.

    Args:
        norm: 2 for squared differences of masks to the mask of the mean logits (GenSAM), 1 for absolute ones of maps to
            their mean (INT).

    Raises:
        UsageError: another norm.
    """

    norm: int = 2

    def __post_init__(self) -> None:
        check_choice("norm", self.norm, (1, 2))

    def __call__(self, maps: Float[Tensor, "R H W"]) -> int:
        """Number of the round, the first of equal ones."""
        if self.norm == 2:
            mean = maps.double().clamp(1e-9, 1 - 1e-9).logit().mean(0) > 0
            return int(((maps > 0.5) ^ mean).sum((1, 2)).argmin())
        return int((maps - maps.mean(0)).abs().sum((1, 2)).argmin())


@dataclass(frozen=True)
class LastRound:
    """The last one."""

    def __call__(self, maps: Float[Tensor, "R H W"]) -> int:
        """Its number."""
        return len(maps) - 1


def _empty(image: Image.Image) -> Float[Tensor, "H W"]:
    return torch.zeros(image.height, image.width)
