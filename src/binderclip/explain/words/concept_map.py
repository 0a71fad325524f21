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
from binderclip.models.image_text.word_maps import ConceptEvidence, PictureConcepts, region_words, word_weights

__all__ = ["ConceptMap"]


@dataclass(frozen=True)
class ConceptMap(ConceptEvidence):
    """Evidence of the concepts near a text at each place, for models with `concepts` such as `everyday`.

    The classifier is applied at each place of its last map at several sizes of the whole picture, and its logits are
    summed softly with weights that fall with a concept's distance from the text and rise with what the picture shows
    anywhere, and spread over patches that look alike to `small-dino`. A text that names a region without an outline of
    its own, such as sky or grass, is where the classifier of places sees it. No gradient is needed, nothing is cropped,
    and a picture takes half a second. It says where the classifier sees the thing, not what the image tower made of it.

    Args:
        sides, sharpness, picture, contrast, affinity: see `models.image_text.word_maps.ConceptEvidence`.

    Raises:
        UsageError: as of `ConceptEvidence`; (when called) a target that is no text.
        NotSupported: (when called) a model without concepts.
    """

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
            drawn = [
                self.maps(
                    own[None], region_words(concepts, [word]), PictureConcepts(concepts, image[None]), pointing=True
                )[0]
                for image, own, word in zip(batch, near, written, strict=True)
            ]
        size = (batch.shape[-2], batch.shape[-1])
        return Attribution((torch.stack(drawn),), (whole(size),), size, value, "concepts", "relu")
