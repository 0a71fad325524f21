"""Maps of words from a classifier beside the image tower: where a picture shows a concept near the word."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from binderclip.errors import NotSupported, UsageError
from binderclip.models.image_text.regions import RegionWord
from binderclip.models.image_text.word_maps import ConceptEvidence, PictureConcepts, region_words, word_weights
from binderclip.segment.parts.context import Context, Frame
from binderclip.segment.parts.fusion import Reader
from binderclip.segment.parts.text import BoundText

__all__ = ["ABSENT", "ConceptMaps"]

ABSENT = -100.0
"""Score of a word that the gate holds to be absent, at every place."""


@dataclass(frozen=True)
class ConceptMaps(ConceptEvidence):
    """A `fusion` part for models with `concepts`: how much of what a place shows is near each word.

    The classifier is applied at each place of its last map, at several sizes of the picture. With the logit l(c) of
    concept c at a place and the cosine s(c) of the concept with the word, the evidence is the soft maximum

        log sum_c exp(l(c) + sharpness (s(c) - max s) + picture log p(c)) - contrast log sum_c exp(l(c)),

    p(c) the largest probability of the concept anywhere in the picture: what the picture shows elsewhere for certain
    counts more here. For a word that names concepts, or kinds of them, these take the place of the nearest
    (`word_weights`). A word for a region without an outline of its own, such as sky or grass, is where
    `concepts.regions` says; one for a kind of region (a castle, a woman) where that and the evidence are. Each map is
    standardised (mean 0, variance 1 over the picture), those of the sizes are averaged and spread over patches that
    look alike to `small-dino`, and the log of the word's `presence` is added, so that where words compete the one that
    the picture shows wins. All words share the passes, and no block of the image tower runs.

    Args:
        sides, sharpness, picture, contrast, affinity: see `models.image_text.word_maps.ConceptEvidence`.
        gate: a word whose `presence`, a probability, is lower is absent: its map is constant, and parts that cut out
            take nothing. 0 or None lets every word through.

    Raises:
        UsageError: as of `ConceptEvidence`, or a gate that is no probability; (when called) several windows.
        NotSupported: (`check_model`) a model without concepts.
    """

    needs_attention: ClassVar[bool] = False

    gate: float | None = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= (self.gate or 0.0) <= 1:
            raise UsageError(f"gate={self.gate}: a finite probability, from 0 to 1")

    def check_model(self, model: Any) -> None:
        """Refuse a model without concepts."""
        if getattr(model, "concepts", None) is None:
            raise NotSupported(
                f"{getattr(model, 'name', 'this model')} has no classifier beside its image tower, whose classes this "
                "preset looks for; `everyday` has one: --model everyday"
            )

    def __call__(self, context: Context, last_block: Reader, text: BoundText) -> Float[Tensor, "1 Q h w"]:
        """Evidence, on the grid of the patches, or without `affinity` on the finest map's."""
        if len(context.places) != 1:
            raise UsageError("ConceptMaps sees the picture as a whole: take a resolution of one window")
        frame = context.frame
        near, words = self._near(frame, text)

        def similar(crop: Float[Tensor, "1 3 _ _"]) -> Float[Tensor, "Q"]:
            return frame.model.similarity(frame.model.encode_image(crop).float(), text.rows.float())[0]

        total = self.maps(near, words, self._picture(frame), similar)
        presence = self.shown(frame, text)
        total += presence.clamp(min=1e-12).log()[:, None, None]
        if self.gate:
            total[presence < self.gate] = ABSENT
        return total[None]

    def shown(self, frame: Frame, text: BoundText) -> Float[Tensor, "Q"]:
        """Probability that the picture shows each word (`presence`)."""
        near, words = self._near(frame, text)
        return self.presence(text.rows, near, words, self._picture(frame))

    def _near(self, frame: Frame, text: BoundText) -> tuple[Float[Tensor, "Q K"], list[RegionWord | None]]:
        concepts = frame.model.concepts
        # Words with a template around them, or none at all, are known by their place among texts alone.
        words: list[RegionWord | None] = [None] * len(text.rows)
        if text.words:
            words = region_words(concepts, text.words)
        return word_weights(concepts, text.rows, text.words, self.sharpness), words

    def _picture(self, frame: Frame) -> PictureConcepts:
        return frame.once(("picture of concepts",), lambda: PictureConcepts(frame.model.concepts, frame.image))
