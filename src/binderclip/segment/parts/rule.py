"""From scores of words to logits of classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.segment.parts.text import BoundText


@dataclass(frozen=True)
class ClassRule:
    """From cosines of words (or probabilities, where the fusion gives them) to class logits.

    Args:
        scale: factor on the cosines; None for the model's own.
        threshold: pixels whose best probability is below it become `below`.
        over: `classes`: each class takes the best of its words, the softmax is over classes; `words`: the softmax is
            over all words, and each class takes the best probability of its words.
        below: `none` (-1, unsegmented) or `background` (class 0, where there is one).

    Raises:
        UsageError: an unknown option.
    """

    scale: float | None = None
    threshold: float = 0.0
    over: Literal["classes", "words", "given"] = "classes"
    below: Literal["none", "background"] = "none"

    def __post_init__(self) -> None:
        if self.over not in ("classes", "words", "given") or self.below not in ("none", "background"):
            raise UsageError(
                f"over is classes, words or given, below is none or background; got {self.over!r}, {self.below!r}"
            )

    def __call__(self, scores: Float[Tensor, "Q h w"], text: BoundText) -> Float[Tensor, "C h w"]:
        """Logits whose softmax is the probability; with `words` and `given` they are log probabilities."""
        if self.over == "classes":
            return (text.scale if self.scale is None else self.scale) * self._best(scores, text)
        if self.over == "words":
            scores = ((text.scale if self.scale is None else self.scale) * scores).softmax(dim=0)
        return self._best(scores, text).clamp(min=1e-12).log()

    @property
    def absolute(self) -> bool:
        """Whether the threshold is held against the probability itself, not renormalised over classes."""
        return self.over != "classes"

    @staticmethod
    def _best(scores: Tensor, text: BoundText) -> Tensor:
        count = len(text.classes)
        if len(text.owner) == count:
            return scores
        index = text.owner.to(scores.device)[:, None, None].expand_as(scores)
        best = scores.new_full((count, *scores.shape[1:]), -torch.inf)
        return best.scatter_reduce(0, index, scores, "amax")
