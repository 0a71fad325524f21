"""Maps of words from a classifier beside the image tower: where a picture shows a concept near the word."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from binderclip.errors import NotSupported, UsageError
from binderclip.models.image_text.word_maps import SIDES, place_logits, shown_concepts, word_closeness, word_maps
from binderclip.segment.parts.context import Context, Frame
from binderclip.segment.parts.fusion import Reader
from binderclip.segment.parts.text import BoundText

__all__ = ["ABSENT", "ConceptMaps"]

ABSENT = -100.0
"""Score of a word that the gate holds to be absent, at every place."""


@dataclass(frozen=True)
class ConceptMaps:
    """A `fusion` part for models with `concepts`: how much of what a place shows is near each word.

    The classifier is applied at each place of its last map, at several sizes of the picture. With the logit l(c) of
    concept c at a place and the cosine s(c) of the concept with the word, the evidence is the soft maximum

        log sum_c exp(l(c) + sharpness (s(c) - max s) + picture log p(c)) - contrast log sum_c exp(l(c)),

    p(c) the largest probability of the concept anywhere in the picture: what the picture shows elsewhere for certain
    counts more here. Each size's map is standardised (mean 0, variance 1 over the picture), the maps are averaged, and
    the log of the word's `presence` is added, so that where words compete the one that the picture shows wins.
    All words share the passes, and no block of the image tower runs.

    Args:
        sides: long sides in pixels at which the classifier sees the picture.
        sharpness: how near a concept must be, per unit of cosine.
        picture: weight of the concepts that the picture shows.
        contrast: weight of what the place shows of anything.
        gate: a word of whose concepts no place shows as much (`presence`, a probability) is absent: its map is
            constant, and parts that cut out take nothing. 0 or None lets every word through.

    Raises:
        UsageError: no side, one below 32, or a number that is not finite; (when called) several windows.
        NotSupported: (`check_model`) a model without concepts.
    """

    needs_attention: ClassVar[bool] = False

    sides: tuple[int, ...] = SIDES
    sharpness: float = 15.0
    picture: float = 1.0
    contrast: float = 0.5
    gate: float | None = 0.05

    def __post_init__(self) -> None:
        if not self.sides or min(self.sides) < 32 or max(self.sides) > 4096:
            raise UsageError(f"sides are long sides of 32 to 4096 pixels, not {self.sides}")
        numbers = (self.sharpness, self.picture, self.contrast, 0.0 if self.gate is None else self.gate)
        if not all(abs(each) < 1e6 for each in numbers):
            raise UsageError(f"sharpness, picture, contrast and gate must be finite, not {numbers}")

    def check_model(self, model: Any) -> None:
        """Refuse a model without concepts."""
        if getattr(model, "concepts", None) is None:
            raise NotSupported(
                f"{getattr(model, 'name', 'this model')} has no classifier beside its image tower, whose classes this "
                "preset looks for; `everyday` has one: --model everyday"
            )

    def __call__(self, context: Context, last_block: Reader, text: BoundText) -> Float[Tensor, "1 Q h w"]:
        """Evidence, on the finest map's grid."""
        if len(context.places) != 1:
            raise UsageError("ConceptMaps sees the picture as a whole: take a resolution of one window")
        maps = [self._logits(context.frame, side) for side in self.sides]
        near = self.sharpness * word_closeness(context.frame.model.concepts, text.rows)  # (Q, K)
        weights = near + self.picture * shown_concepts(self._middle(context.frame))
        total = word_maps(maps, weights, self.contrast)[None]
        presence = self._presence(context.frame, near)
        total += presence.clamp(min=1e-12).log()[:, None, None]
        if self.gate:
            total[:, presence < self.gate] = ABSENT
        return total

    def presence(self, frame: Frame, text: BoundText) -> Float[Tensor, "Q"]:
        """The largest probability of concepts near each word at any place, in (0, 1], at the middle one of `sides`.

        It is max over places of sum_c p(c) exp(sharpness (s(c) - max s)).
        """
        return self._presence(frame, self.sharpness * word_closeness(frame.model.concepts, text.rows))

    def _presence(self, frame: Frame, near: Float[Tensor, "Q K"]) -> Float[Tensor, "Q"]:
        return (near.exp() @ self._middle(frame).flatten(1).softmax(0)).amax(1)

    def _middle(self, frame: Frame) -> Float[Tensor, "K h w"]:
        return self._logits(frame, sorted(self.sides)[len(self.sides) // 2])

    def _logits(self, frame: Frame, side: int) -> Float[Tensor, "K h w"]:
        return frame.once(("concept logits", side), lambda: place_logits(frame.model.concepts, frame.image, side))
