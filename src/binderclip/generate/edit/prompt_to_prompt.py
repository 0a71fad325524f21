"""Editing by the prompt: the attention of a picture, imposed on its edit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.generate.denoisers.attention import AttentionSite
from binderclip.generate.denoisers.context import SamplingHook, StepContext
from binderclip.generate.denoisers.prompts import PromptEncoder
from binderclip.generate.edit.alignment import refinement_mapper, replacement_mapper
from binderclip.generate.edit.pairs import grid_of, pair_blocks
from binderclip.numeric import check_number, check_whole

__all__ = ["AttentionEdit", "AttentionRefine", "AttentionReplace", "AttentionReweight", "LocalBlend"]


class AttentionEdit(SamplingHook, ABC):
    """Gives the edits of `edit_pair` the attention of the pictures, for the first steps; a control and a hook in one.

    Attention to words is edited by `edited`, by each subclass in its way; self-attention and attention to image tokens
    are copied.

    Args:
        cross_replace_steps: until which part of the steps attention to words is edited, `int(part * (steps + 1))` of
            them.
        self_replace_steps: until which part self-attention is the picture's.
        image_replace_steps: until which part attention to image tokens is the picture's.
        null_self_replace_steps: until which part the self-attention of the unconditional prediction is the picture's.
        largest: self- and image attention of more queries than this stays as it is.

    Raises:
        UsageError: parts outside [0, 1]; when it is called, a denoiser that is not sampled by `edit_pair`.

    Paper: Prompt-to-Prompt Image Editing with Cross Attention Control (arXiv 2208.01626); attention of the
    unconditional prediction: StyleDiffusion (arXiv 2303.15649), "P2Plus".
    """

    def __init__(
        self,
        *,
        cross_replace_steps: float = 0.8,
        self_replace_steps: float = 0.4,
        image_replace_steps: float = 0.0,
        null_self_replace_steps: float = 0.0,
        largest: int = 32 * 32,
    ) -> None:
        parts = {
            "cross_replace_steps": cross_replace_steps,
            "self_replace_steps": self_replace_steps,
            "image_replace_steps": image_replace_steps,
            "null_self_replace_steps": null_self_replace_steps,
        }
        for name, part in parts.items():
            check_number(name, part, least=0, most=1)
        check_whole("largest", largest, least=0)
        self.parts, self.largest = parts, largest
        self.i, self.n = 0, 0

    @abstractmethod
    def edited(
        self, source: Float[Tensor, "B heads Q L"], target: Float[Tensor, "B heads Q L"]
    ) -> Float[Tensor, "B heads Q L"]:
        """Attention of the edits to their words, from that of the pictures and their own."""

    def before(self, step: StepContext) -> Tensor:
        """Takes note of the step."""
        self.i, self.n = step.i, step.n
        return step.x

    def __call__(
        self, probabilities: Float[Tensor, "R heads Q K"], site: AttentionSite
    ) -> Float[Tensor, "R heads Q K"]:
        """The attention to be used."""
        blocks = pair_blocks(probabilities, site)
        if not self.n:
            raise UsageError(f"{type(self).__name__} does not know the step: give it to `sample` as a hook too")
        if site.kind == "text":
            # the published table of parts has a row more than there are steps
            if self.i >= int(self.parts["cross_replace_steps"] * (self.n + 1)):
                return probabilities
            blocks[1] = self.edited(blocks[0], blocks[1])
            return torch.cat(blocks)
        if probabilities.shape[2] > self.largest:
            return probabilities
        if self._lasts(f"{site.kind}_replace_steps"):
            blocks[1] = blocks[0]
        if site.kind == "self" and self._lasts("null_self_replace_steps"):
            for k in range(3, len(blocks), 2):
                blocks[k] = blocks[k - 1]
        return torch.cat(blocks)

    def _lasts(self, name: str) -> bool:
        return self.i < int(self.parts[name] * self.n)


class AttentionReplace(AttentionEdit):
    """A word for a word: the edit's new words look where the old ones looked.

    Args:
        text: tokenises the prompts, `LatentDenoiser.text`.
        source, target: prompts of as many words, see `replacement_mapper`.
        settings: as of `AttentionEdit`.

    Raises:
        UsageError: prompts of different numbers of words, or a setting out of range.

    Paper: Prompt-to-Prompt Image Editing with Cross Attention Control (arXiv 2208.01626), "word swap".
    """

    def __init__(self, text: PromptEncoder, source: str, target: str, **settings: float) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]
        self.mapper = replacement_mapper(text, source, target)

    def edited(
        self, source: Float[Tensor, "B heads Q L"], target: Float[Tensor, "B heads Q L"]
    ) -> Float[Tensor, "B heads Q L"]:
        """The pictures' attention, each token's handed to those that replace it."""
        return source @ self.mapper.to(source)


class AttentionRefine(AttentionEdit):
    """Words added to a prompt: what both prompts have looks where it looked, what is new looks freely.

    Args:
        text: tokenises the prompts, `LatentDenoiser.text`.
        source, target: prompts, see `refinement_mapper`.
        settings: as of `AttentionEdit`.

    Raises:
        UsageError: a setting out of range.

    Paper: Prompt-to-Prompt Image Editing with Cross Attention Control (arXiv 2208.01626), "adding a new phrase".
    """

    def __init__(self, text: PromptEncoder, source: str, target: str, **settings: float) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]
        self.mapper, self.aligned = refinement_mapper(text, source, target)

    def edited(
        self, source: Float[Tensor, "B heads Q L"], target: Float[Tensor, "B heads Q L"]
    ) -> Float[Tensor, "B heads Q L"]:
        """The pictures' attention where a token has a partner, else the edits' own."""
        return torch.where(self.aligned.to(source.device), source[..., self.mapper.to(source.device)], target)


class AttentionReweight(AttentionEdit):
    """Words made louder or softer: the attention that they get is multiplied; the rest is not made smaller for it.

    Args:
        text: tokenises the prompts, `LatentDenoiser.text`.
        target: the prompt that holds the words.
        factors: by word or phrase of the target.
        first: edits the attention before it is multiplied, its own steps left out; default: the pictures' attention is
            taken, for prompts of equal tokens.
        settings: as of `AttentionEdit`.

    Raises:
        UsageError: a word that the prompt lacks, a factor that is not finite, or a setting out of range.

    Paper: Prompt-to-Prompt Image Editing with Cross Attention Control (arXiv 2208.01626), "attention re-weighting".
    """

    def __init__(
        self,
        text: PromptEncoder,
        target: str,
        factors: Mapping[str, float],
        *,
        first: AttentionEdit | None = None,
        **settings: float,
    ) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]
        self.first, self.equalizer = first, torch.ones(text.length)
        for word, factor in factors.items():
            check_number(f"the factor of {word!r}", factor)
            self.equalizer[text.positions(target, word)] = float(factor)

    def edited(
        self, source: Float[Tensor, "B heads Q L"], target: Float[Tensor, "B heads Q L"]
    ) -> Float[Tensor, "B heads Q L"]:
        """The multiplied attention, whose rows need not add up to 1."""
        base = source if self.first is None else self.first.edited(source, target)
        return base * self.equalizer.to(base)


class LocalBlend(SamplingHook):
    """Keeps an edit where its words look: elsewhere the state is the picture's. A control and a hook in one.

    Attention to the words, of picture and edit, is summed over heads, layers of one grid (16 x 16 in Stable Diffusion)
    and all steps so far; spread by a maximum of 3 x 3, scaled to the latents and to a maximum of 1, and cut at a
    threshold. The mask is the union of picture and edit. It comes after the controls that change attention.

    Args:
        text: tokenises the prompts, `LatentDenoiser.text`.
        source, target: the prompts.
        source_words, target_words: a word or several of each, whose place is edited.
        threshold: of the scaled attention.
        start: part of the steps that goes by before it blends.

    Raises:
        UsageError: a prompt without the word, or a number outside [0, 1]; when it is called, a denoiser that is not
            sampled by `edit_pair`.

    Paper: Prompt-to-Prompt Image Editing with Cross Attention Control (arXiv 2208.01626), "local editing".
    """

    def __init__(
        self,
        text: PromptEncoder,
        source: str,
        target: str,
        source_words: str | Sequence[str],
        target_words: str | Sequence[str],
        *,
        threshold: float = 0.3,
        start: float = 0.2,
    ) -> None:
        check_number("threshold", threshold, least=0, most=1)
        check_number("start", start, least=0, most=1)
        self.words = prompt_positions(text, source, source_words), prompt_positions(text, target, target_words)
        self.threshold, self.start = threshold, start
        self.maps: dict[tuple[int, int], Float[Tensor, "C Q"]] = {}  # rows: pictures, then edits

    def before(self, step: StepContext) -> Tensor:
        """Forgets what an earlier sampling left."""
        if step.i == 0:
            self.maps = {}
        return step.x

    def __call__(
        self, probabilities: Float[Tensor, "R heads Q K"], site: AttentionSite
    ) -> Float[Tensor, "R heads Q K"]:
        """The same attention, taken note of."""
        if site.kind == "text":
            noted = word_attention(probabilities, site, self.words)
            self.maps[site.size] = self.maps[site.size] + noted if site.size in self.maps else noted
        return probabilities

    def mask(self, size: tuple[int, int]) -> Bool[Tensor, "B 1 h w"]:
        """Where the edit belongs.

        Args:
            size: (h, w) of the latents.

        Raises:
            NotSupported: no attention has been seen.
        """
        grid = grid_of(list(self.maps), size, 4)
        spread = F.max_pool2d(self.maps[grid].unflatten(1, grid)[:, None], 3, stride=1, padding=1)
        spread = F.interpolate(spread, size)  # nearest, as published
        inside = spread > self.threshold * spread.amax((2, 3), keepdim=True)
        source, target = inside.chunk(2)
        return source | target

    def after(self, step: StepContext, x: Tensor) -> Tensor:
        """The edits' states, outside of the mask the pictures'."""
        if step.i < int(self.start * step.n):
            return x
        return blend_pair(x, self.mask((x.shape[-2], x.shape[-1])))


def blend_pair(x: Float[Tensor, "R C h w"], mask: Bool[Tensor, "B 1 h w"]) -> Float[Tensor, "R C h w"]:
    """Pictures and edits, whose edits are the pictures outside of a mask."""
    source, target = x.chunk(2)
    return torch.cat([source, torch.where(mask, target, source)])


def prompt_positions(text: PromptEncoder, prompt: str, words: str | Sequence[str]) -> list[int]:
    """Positions of a word's tokens, or of several words'.

    Raises:
        UsageError: no word, or one that the prompt lacks.
    """
    listed = [words] if isinstance(words, str) else list(words)
    if not listed:
        raise UsageError("no word is named: name the words whose place is edited")
    return [token for word in listed for token in text.positions(prompt, word)]


def word_attention(
    probabilities: Float[Tensor, "R heads Q L"], site: AttentionSite, words: tuple[list[int], list[int]]
) -> Float[Tensor, "C Q"]:
    """Attention of pictures and edits to their words, averaged over heads and summed over tokens, without a graph."""
    blocks = pair_blocks(probabilities.detach(), site)[:2]
    return torch.cat([block[..., tokens].sum(-1).mean(1) for block, tokens in zip(blocks, words, strict=True)])
