"""Words of a caption that do not fit the image, found without training."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.explain.words.text_tokens import TextTokenAttribution, WordScorer
from binderclip.models.checks import refuse_bare_module
from binderclip.settings import check_choice

Decision = Literal["threshold", "most-negative"]
EPS = -5e-5
"""The published threshold, for OpenAI's and LAION's ViT-B/32 to ViT-H/14 in half precision."""


@dataclass(frozen=True)
class Misalignment:
    """What `DenseMisalignment` found, caption by caption.

    Attributes:
        texts: the captions, without the template.
        scores: (word, score) in order; the score is None for a word that the model did not see.
        flagged: for each word whether it is called misaligned.
        cosine: (B,) of image and whole text, template included.
        eps: the threshold that was used, None for `most-negative`.
        layers: the blocks of the text tower that were read.
    """

    texts: tuple[str, ...]
    scores: tuple[tuple[tuple[str, float | None], ...], ...]
    flagged: tuple[tuple[bool, ...], ...]
    cosine: Float[Tensor, "B"]
    eps: float | None
    layers: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.texts)

    def words(self) -> list[list[tuple[str, float | None]]]:
        """For each caption its words in order, each with its score (below zero: it speaks against the match)."""
        return [list(row) for row in self.scores]

    def misaligned(self) -> list[list[str]]:
        """For each caption the words that do not fit."""
        return [
            [word for (word, _), wrong in zip(row, flags, strict=True) if wrong]
            for row, flags in zip(self.scores, self.flagged, strict=True)
        ]

    def lost(self) -> list[list[str]]:
        """For each caption the words that the model did not see: beyond its context, or dropped by the tokenizer."""
        return [[word for word, score in row if score is None] for row in self.scores]

    @property
    def sum_negative(self) -> Float[Tensor, "B"]:
        """The sum of the flagged words' scores, 0 where nothing is flagged."""
        sums = [
            sum(score for (_, score), wrong in zip(row, flags, strict=True) if wrong and score is not None)
            for row, flags in zip(self.scores, self.flagged, strict=True)
        ]
        return torch.tensor(sums, dtype=torch.float64)


@dataclass(frozen=True)
class DenseMisalignment:
    """CLIP4DM: words whose attention lowers the cosine are called misaligned; nothing is trained.

    Args:
        decision: `threshold` flags the words below `eps`, pure punctuation excepted; `most-negative` exactly one word
            a caption, the lowest.
        eps: threshold, below or at zero. It depends on the model: `calibrate` finds one from pairs that fit. The
            default is the published one for OpenAI's and LAION's models.
        prompt: put in front of every caption and left out of the result; whole words with a space behind, or nothing.
        scores: how words are scored; `LeaveOneWordOut()` and other rules of `TextTokenAttribution` are alternatives.

    Raises:
        UsageError: an unknown decision, a positive `eps`, a prompt that does not end in a space; when called, what
            `TextTokenAttribution` raises.

    Examples:
        >>> found = DenseMisalignment(decision="most-negative")(model, image, "a dog on a sofa")  # doctest: +SKIP
        >>> found.misaligned()  # doctest: +SKIP

    Paper: Extract Free Dense Misalignment from CLIP (arXiv 2412.18404).
    """

    decision: Decision = "threshold"
    eps: float = EPS
    prompt: str = "A photo depicts "
    scores: WordScorer = field(default_factory=TextTokenAttribution)

    def __post_init__(self) -> None:
        check_choice("decision", self.decision, ("threshold", "most-negative"))
        if not self.eps <= 0:
            raise UsageError(f"eps must be zero or below, not {self.eps}: words above zero support the match")
        if self.prompt.strip() and not self.prompt[-1].isspace():
            raise UsageError(f"prompt {self.prompt!r} must end in a space, or it would grow into the caption")

    def __call__(self, model: Any, images: Any, texts: str | Sequence[str]) -> Misalignment:
        """Find the words that do not fit.

        Args:
            model: an `ImageTextModel`.
            images: one for all captions or one each, anything the model takes, or their features (B, E).
            texts: one caption or several.
        """
        refuse_bare_module(model, "DenseMisalignment")
        captions = [texts] if isinstance(texts, str) else list(texts)
        for caption in captions:
            if not caption.strip():
                raise UsageError("a caption is empty: give words")
        misalignment = self.scores(model, images, [self.prompt + caption for caption in captions])
        skip = len(self.prompt.split())
        rows = tuple(tuple(row[skip:]) for row in misalignment.words())
        plain = tuple(text[len(self.prompt) :] for text in misalignment.texts)
        flagged = tuple(self._flags(row) for row in rows)
        eps = self.eps if self.decision == "threshold" else None
        return Misalignment(plain, rows, flagged, misalignment.cosine, eps, misalignment.layers)

    def calibrate(self, model: Any, images: Any, texts: Sequence[str], *, quantile: float = 0.05) -> DenseMisalignment:
        """The same with `eps` set so that this share of the words of fitting pairs would be called misaligned.

        Args:
            model: an `ImageTextModel`.
            images: one for each caption, or their features (B, E).
            texts: captions that fit.
            quantile: share of their words, in (0, 1).

        Raises:
            UsageError: quantile out of range, or no word was seen.
        """
        refuse_bare_module(model, "DenseMisalignment.calibrate")
        if not 0 < quantile < 1:
            raise UsageError(f"quantile must lie between 0 and 1, not {quantile}")
        scores = [s for row in self(model, images, texts).scores for word, s in row if s is not None and _counts(word)]
        if not scores:
            raise UsageError("calibrate: the model saw no word of these captions")
        # A model that speaks for nearly every word has its quantile above zero; what supports is never misaligned.
        return replace(self, eps=min(0.0, float(torch.tensor(scores, dtype=torch.float64).quantile(quantile))))

    def _flags(self, row: Sequence[tuple[str, float | None]]) -> tuple[bool, ...]:
        if self.decision == "threshold":
            return tuple(score is not None and score < self.eps and _counts(word) for word, score in row)
        seen = [(score, place) for place, (_, score) in enumerate(row) if score is not None]
        lowest = min(seen)[1] if seen else -1
        return tuple(place == lowest for place in range(len(row)))


def _counts(word: str) -> bool:
    return any(letter not in string.punctuation for letter in word)
