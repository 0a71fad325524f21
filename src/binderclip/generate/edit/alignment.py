"""Which token of one prompt stands for which token of another."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.generate.denoisers.prompts import PromptEncoder

__all__ = ["refinement_mapper", "replacement_mapper"]


def replacement_mapper(text: PromptEncoder, source: str, target: str) -> Float[Tensor, "L L"]:
    """How much of each source token's attention each target token takes, for prompts that differ in words alone.

    A replaced word of as many tokens hands token to token; otherwise each token of the new word takes an equal part of
    every token of the old one. Behind the last replaced word a token keeps its position, as in the published code, also
    where words of different lengths have moved the rest.

    Args:
        text: tokenises the prompts.
        source, target: prompts of as many words, parted by spaces.

    Raises:
        UsageError: prompts of different numbers of words, or a replaced word beyond the tokens that are read.

    Paper: Prompt-to-Prompt Image Editing with Cross Attention Control (arXiv 2208.01626), "word swap".
    """
    old, new = source.split(), target.split()
    if len(old) != len(new):
        raise UsageError(
            f"replacing words needs prompts of as many words: {source!r} has {len(old)} and {target!r} {len(new)}; "
            "use AttentionRefine"
        )
    changed = [place for place, (one, other) in enumerate(zip(old, new, strict=True)) if one != other]
    spans = [(_word_tokens(text, old, place), _word_tokens(text, new, place)) for place in changed]
    mapper = torch.zeros(text.length, text.length)
    i = j = 0
    for gone, come in spans:
        between = gone.start - i
        mapper[torch.arange(i, i + between), torch.arange(j, j + between)] = 1
        if len(gone) == len(come):
            mapper[list(gone), list(come)] = 1
        else:
            mapper[gone.start : gone.stop, come.start : come.stop] = 1 / len(come)
        i, j = gone.stop, come.stop
    rest = torch.arange(j, min(text.length, text.length - i + j))
    mapper[rest, rest] = 1
    return mapper


def refinement_mapper(text: PromptEncoder, source: str, target: str) -> tuple[Int[Tensor, " L"], Bool[Tensor, " L"]]:
    """For each target token the source token that it stands for, by global alignment, and whether there is one.

    Needleman and Wunsch's alignment of the token ids with the published scores: gap 0, match 1, mismatch -1. Where
    paths tie, a token is added rather than left out, and either rather than paired. Padding stands for itself.

    Args:
        text: tokenises the prompts.
        source, target: prompts.

    Returns:
        Positions, -1 where there is none, and which are not.

    Paper: Prompt-to-Prompt Image Editing with Cross Attention Control (arXiv 2208.01626), "adding a new phrase".
    """
    # ids cannot be below 0, so that the start and end tokens, -1 and -2, match each other alone
    old, new = ([-1, *text.tokens(prompt)[: text.length - 2], -2] for prompt in (source, target))
    score = [[0] * (len(new) + 1) for _ in range(len(old) + 1)]
    for i, one in enumerate(old, 1):
        for j, other in enumerate(new, 1):
            score[i][j] = max(score[i][j - 1], score[i - 1][j], score[i - 1][j - 1] + (1 if one == other else -1))
    mapper = torch.arange(text.length)
    mapper[: len(new)] = -1
    i, j = len(old), len(new)
    while i > 0 and j > 0:  # at the border the rest of the target has no partner
        if score[i][j] == score[i][j - 1]:
            j -= 1
        elif score[i][j] == score[i - 1][j]:
            i -= 1
        else:
            i, j = i - 1, j - 1
            mapper[j] = i
    return mapper, mapper >= 0


def _word_tokens(text: PromptEncoder, words: list[str], place: int) -> range:
    """Positions of a word's tokens."""
    before, upto = text.count(" ".join(words[:place])), text.count(" ".join(words[: place + 1]))
    if upto > text.length - 2:
        raise UsageError(f"{words[place]!r} stands beyond the {text.length - 2} tokens that are read")
    return range(1 + before, 1 + upto)  # token 0 is the start token
