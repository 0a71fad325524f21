"""Where a classifier beside the image tower sees what a text means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from binderclip.errors import NotSupported, UsageError
from binderclip.explain.engine.attribution import Attribution
from binderclip.explain.engine.observed import Observer
from binderclip.explain.engine.placement import whole
from binderclip.explain.engine.targets import resolve
from binderclip.models.image_text.word_maps import (
    SIDES,
    picture_patches,
    place_logits,
    shown_concepts,
    spread_maps,
    word_maps,
    word_weights,
)

__all__ = ["ConceptMap"]


@dataclass(frozen=True)
class ConceptMap:
    """Evidence of the concepts near a text at each place, for models with `concepts` such as `everyday`.

    The classifier is applied at each place of its last map at several sizes of the whole picture, and its logits are
    summed softly with weights that fall with a concept's distance from the text and rise with what the picture shows
    anywhere, and spread over patches that look alike to `small-dino`. No gradient is needed, nothing is cropped, and a
    picture takes half a second. It says where the classifier sees the thing, not what the image tower made of it.

    Args:
        sides: long sides in pixels at which the classifier sees the picture.
        sharpness: how near a concept must be, per unit of cosine.
        picture: weight of the concepts that the picture shows.
        contrast: weight of what the place shows of anything.
        affinity: how much more patches that look alike count, per unit of cosine; 0 leaves the maps as they are.

    Raises:
        UsageError: no side, or one below 32; (when called) a target that is no text.
        NotSupported: (when called) a model without concepts.
    """

    sides: tuple[int, ...] = SIDES
    sharpness: float = 15.0
    picture: float = 1.0
    contrast: float = 0.5
    affinity: float = 10.0

    def __post_init__(self) -> None:
        if not self.sides or min(self.sides) < 32 or max(self.sides) > 4096:
            raise UsageError(f"sides are long sides of 32 to 4096 pixels, not {self.sides}")

    def plan(self) -> None:
        """It reads the classifier at several sizes, which no other method does: it runs alone."""
        return None

    @torch.no_grad()
    def __call__(self, model: Any, images: Any, target: Any = None) -> Attribution:
        """Explain images; see `attribute` for the arguments. The target is a text, or one for each image."""
        concepts = getattr(model, "concepts", None)
        if concepts is None:
            raise NotSupported(
                f"{getattr(model, 'name', type(model).__name__)} has no classifier beside its image tower, which this "
                "method asks; everyday has one"
            )
        texts = [target] if isinstance(target, str) else list(target) if isinstance(target, (list, tuple)) else []
        if not texts or not all(isinstance(text, str) for text in texts):
            raise UsageError(f"target={target!r}: this method explains a text, or one for each image")
        observer = Observer(model)
        batch = observer.images(images)
        if len(texts) not in (1, len(batch)):
            raise UsageError(f"{len(texts)} texts for {len(batch)} images: give one text, or one for each image")
        with observer.ready(), torch.no_grad():
            features = model.encode_image(batch).float()
            value = resolve(model, target, features)(features)
            rows = F.normalize(model.encode_text(texts).float(), dim=-1).expand(len(batch), -1)
            written = texts * len(batch) if len(texts) == 1 else texts
            near = word_weights(concepts, rows, written, self.sharpness)  # (B, K)
            drawn = [self._map(concepts, image[None], own[None]) for image, own in zip(batch, near, strict=True)]
        size = (batch.shape[-2], batch.shape[-1])
        return Attribution((torch.stack(drawn),), (whole(size),), size, value, "concepts", "relu")

    def _map(self, concepts: Any, image: torch.Tensor, near: torch.Tensor) -> torch.Tensor:
        maps = [place_logits(concepts, image, side) for side in self.sides]
        middle = maps[sorted(range(len(maps)), key=lambda i: self.sides[i])[len(maps) // 2]]
        found = word_maps(maps, near + self.picture * shown_concepts(middle), self.contrast)
        return (spread_maps(found, picture_patches(image), self.affinity) if self.affinity else found)[0]
