"""Shorter captions in training (CLIPA, arXiv 2305.07017): which of a caption's tokens are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from binderclip.data.uniform import uniform
from binderclip.errors import UsageError
from binderclip.models import TokenIds
from binderclip.train.tokens.word_classes import split_words, word_classes

__all__ = ["TextKind", "TextReduction"]

TextKind = Literal["truncate", "random", "block", "syntax"]


@dataclass(frozen=True)
class TextReduction:
    """How a caption that is longer than its budget loses tokens; shorter ones stay as they are.

    `truncate` keeps the first ones, `random` a random subset in its order, `block` a random run of them, and `syntax`
    keeps nouns before adjectives before verbs before the rest, in the caption's order, whole words before they become
    tokens. Start and end tokens always stay. Of a caption longer than the model's own context, `random` and `block`
    choose within that context.

    Args:
        kind: one of the four.
        seed: of the draws of `random` and `block`, which are a hash of (seed, key, epoch).
        tagger: words -> class of each, 1 noun, 2 adjective, 3 verb, 4 other. Default a lexicon with rules for endings
            (`word_classes`); the paper uses NLTK's tagger.

    Raises:
        UsageError: another kind.

    Paper: Li et al., "An Inverse Scaling Law for CLIP Training", arXiv 2305.07017.
    """

    kind: TextKind = "truncate"
    seed: int = 0
    tagger: Callable[[Sequence[str]], Sequence[int]] = word_classes

    def __post_init__(self) -> None:
        if self.kind not in get_args(TextKind):
            raise UsageError(f"text_tokens is {self.kind!r}; it is one of {', '.join(get_args(TextKind))}")

    @property
    def random(self) -> bool:
        """Whether it differs from pass to pass."""
        return self.kind in ("random", "block")

    def words(self, caption: str, budget: int) -> str:
        """The caption with at most `budget` words, by their class where `kind` is "syntax"; others keep it whole.

        Args:
            caption: a text.
            budget: words (and punctuation marks) that are kept.
        """
        if self.kind != "syntax":
            return caption
        words = split_words(caption)
        if len(words) <= budget:
            return caption
        classes = self.tagger(words)
        kept = sorted(sorted(range(len(words)), key=lambda i: classes[i])[:budget])  # a stable sort: ties in order
        return " ".join(words[i] for i in kept)

    def __call__(
        self, tokens: TokenIds, length: int, keys: Sequence[str], *, epoch: int = 0, start: int = 1
    ) -> TokenIds:
        """Cut a batch of captions to `length` tokens.

        Args:
            tokens: B captions of length L, the end token the last real one of each.
            length: T, at most L; start and end token included.
            keys: of the B pictures.
            epoch: of the draw.
            start: leading tokens that are no words.

        Raises:
            UsageError: a length that leaves no room for a word, or is above L.
        """
        full = tokens.ids.shape[1]
        if not start + 2 <= length <= full:
            raise UsageError(f"text_length {length} lies from {start + 2} to the model's context of {full} tokens")
        if length == full:
            return tokens
        index = torch.arange(length).repeat(len(tokens), 1)  # (B, T): which old token goes to each place
        real = tokens.mask.sum(1)  # (B,)
        long = real > length
        if bool(long.any()):
            keep, body = length - start - 1, real[long] - start - 1  # tokens between start and end
            chosen = [key for key, cut in zip(keys, long.tolist(), strict=True) if cut]
            index[long, start:-1] = start + self._chosen(body, keep, chosen, epoch)
            index[long, -1] = real[long] - 1
        # Where the pooled token was: an end token moves with the end; a place of its own (first, mean) stays.
        position = torch.where(
            tokens.position >= length, length - 1 + (tokens.position == full).long(), tokens.position
        )
        position = torch.where(long & (tokens.position == real - 1), length - 1, position)
        return TokenIds(tokens.ids.gather(1, index), tokens.mask.gather(1, index), position)

    def _chosen(self, body: Int[Tensor, "B"], keep: int, keys: list[str], epoch: int) -> Int[Tensor, "B k"]:
        """Which of `body` tokens of each caption are kept, in order."""
        if self.kind not in ("random", "block"):
            return torch.arange(keep).repeat(len(body), 1)
        most = int(body.max())
        draws: Float[Tensor, "B n"] = torch.from_numpy(
            uniform(self.seed, [f"text/{key}" for key in keys], epoch, most if self.kind == "random" else 1)
        )
        if self.kind == "block":
            first = (draws[:, 0] * (body - keep + 1)).long()
            return first[:, None] + torch.arange(keep)
        beyond: Bool[Tensor, "B n"] = torch.arange(most) >= body[:, None]
        return draws.masked_fill(beyond, torch.inf).topk(keep, dim=1, largest=False).indices.sort(dim=1).values
