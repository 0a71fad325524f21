"""Prompts as a diffusion network reads them: a state for every token, and where each word is."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.models.image_text.model import ImageTextModel

__all__ = ["ImageTextPromptEncoder", "Prompt", "PromptEncoder", "TransformersPromptEncoder"]


@dataclass(frozen=True, eq=False)
class Prompt:
    """A condition of a network: what its cross-attention sees. Two prompts are the same only if they are one object.

    Args:
        text: what it was made from.
        keys: states of the tokens, from which the keys of text attention are made.
        values: states from which values are made; equal to `keys` unless a method sets them apart.
        image_tokens: further tokens, of an image; None for none.
        image_scale: factor of their attention.
    """

    text: str
    keys: Float[Tensor, "L D"]
    values: Float[Tensor, "L D"]
    image_tokens: Float[Tensor, "N D"] | None = None
    image_scale: float = 1.0


class PromptEncoder(nn.Module, ABC):
    """Turns prompts into states of their tokens."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Length of a state."""

    @abstractmethod
    def states(self, texts: Sequence[str]) -> Float[Tensor, "N L D"]:
        """States of every token, padding included."""

    @abstractmethod
    def tokens(self, text: str) -> list[int]:
        """Ids of a text's tokens between the start and the end token."""

    def count(self, text: str) -> int:
        """How many tokens a text has between the start and the end token."""
        return len(self.tokens(text)) if text.strip() else 0

    @property
    @abstractmethod
    def length(self) -> int:
        """Tokens of every prompt, padding included."""

    def positions(self, text: str, word: str) -> list[int]:
        """Where the tokens of a word, or of several, stand in a prompt: where they occur first.

        Raises:
            UsageError: an empty word, a prompt without it, or a place beyond the last token that is read.
        """
        needle, hay = word.strip().lower(), text.lower()
        if not needle:
            raise UsageError("word is empty: name a word of the prompt")
        first = hay.find(needle)
        while first > 0 and hay[first - 1].isalnum():  # inside another word
            first = hay.find(needle, first + 1)
        if first < 0:
            raise UsageError(f"the prompt {text!r} has no word {word!r}")
        before, upto = self.count(text[:first].rstrip()), self.count(text[: first + len(needle)])
        positions = list(range(1 + before, 1 + upto))  # token 0 is the start token
        if positions[-1] >= self.length - 1:
            raise UsageError(f"{word!r} stands beyond the {self.length - 2} tokens that are read of {text!r}")
        return positions


class ImageTextPromptEncoder(PromptEncoder):
    """States of the text tower of a contrastive model, such as the bundled `small`.

    Args:
        model: with a text tower.
    """

    def __init__(self, model: ImageTextModel) -> None:
        super().__init__()
        self.model = model.requires_grad_(False).eval()

    @property
    def width(self) -> int:
        return self.model.text_tower.width

    @property
    def length(self) -> int:
        return self.model.text_tower.context_length

    def states(self, texts: Sequence[str]) -> Float[Tensor, "N L D"]:
        tower = self.model.text_tower
        return tower.states(tower.run(tower.embed(self.model.tokenize(list(texts)).to(self.model.device))))

    def tokens(self, text: str) -> list[int]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a part of a prompt that is too long has been warned about
            tokens = self.model.tokenize([text])
        return tokens.ids[0][tokens.mask[0]].tolist()[1:-1]


class TransformersPromptEncoder(PromptEncoder):
    """States of a transformers text model, as Stable Diffusion's pipelines hold it.

    Args:
        tokenizer: of transformers.
        model: of transformers, with `last_hidden_state`.
    """

    def __init__(self, tokenizer: Any, model: Any) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.model = model.requires_grad_(False).eval()

    @property
    def width(self) -> int:
        return self.model.config.hidden_size

    @property
    def length(self) -> int:
        return self.tokenizer.model_max_length

    def states(self, texts: Sequence[str]) -> Float[Tensor, "N L D"]:
        ids = self.tokenizer(
            list(texts), padding="max_length", max_length=self.length, truncation=True, return_tensors="pt"
        ).input_ids
        return self.model(ids.to(self.model.device)).last_hidden_state

    def tokens(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)
