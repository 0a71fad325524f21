"""Prompts as a diffusion network reads them: a state for every token, and where each word is."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.models.checks import refuse_bare_module
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

    @property
    @abstractmethod
    def frame(self) -> tuple[int, int, int]:
        """Ids of the start token, the end token, and padding."""

    @property
    @abstractmethod
    def vocabulary(self) -> int:
        """How many ids there are; this number itself stands for a new token in `states_of`."""

    @abstractmethod
    def word_vectors(self, ids: Int[Tensor, " L"]) -> Float[Tensor, "L D"]:
        """Rows of the table of tokens, before positions."""

    @abstractmethod
    def states_of(
        self, ids: Int[Tensor, "N L"], vector: Float[Tensor, " D"], *, positioned: bool = True
    ) -> Float[Tensor, "N L D"]:
        """States of sequences in which the id `vocabulary` stands for a new token; gradients flow into its vector.

        Args:
            ids: whole sequences, start, end and padding among them.
            vector: of the new token.
            positioned: False leaves out the new token's position embedding.
        """

    def read_at(self, ids: Int[Tensor, "N L"]) -> Int[Tensor, " N"]:
        """Where a sentence is read off: at its end token."""
        return ids.eq(self.frame[1]).int().argmax(1)

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
        if not positions or positions[-1] >= self.length - 1:  # tokens beyond may not even be counted
            raise UsageError(f"{word!r} stands beyond the {self.length - 2} tokens that are read of {text!r}")
        return positions


class ImageTextPromptEncoder(PromptEncoder):
    """States of the text tower of a contrastive model, such as the bundled `small`.

    Args:
        model: with a text tower.
    """

    def __init__(self, model: ImageTextModel) -> None:
        refuse_bare_module(model, "ImageTextPromptEncoder")
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

    @property
    def frame(self) -> tuple[int, int, int]:
        row = self.model.tokenize(["a"]).ids[0].tolist()
        return row[0], row[1 + self.count("a")], row[-1]

    @property
    def vocabulary(self) -> int:
        return self.model.text_tower.vocab_size

    def word_vectors(self, ids: Int[Tensor, " L"]) -> Float[Tensor, "L D"]:
        return self.model.text_tower.embed_tokens(ids[None].to(self.model.device))[0]

    def states_of(
        self, ids: Int[Tensor, "N L"], vector: Float[Tensor, " D"], *, positioned: bool = True
    ) -> Float[Tensor, "N L D"]:
        tower = self.model.text_tower
        ids = ids.to(self.model.device)
        words = tower.embed_tokens(ids, {self.vocabulary: vector})  # (N, L, D)
        if not positioned:
            places = tower.position_table()[: ids.shape[1]].to(words.dtype)
            words = words - (ids == self.vocabulary)[..., None] * places
        return tower.states(tower.run(tower.embed(ids, override=words)))

    def read_at(self, ids: Int[Tensor, "N L"]) -> Int[Tensor, " N"]:
        """Where the tower reads a sentence off by its own rule, which for most is the end token."""
        return self.model.text_tower.pool_position(ids.masked_fill(ids == self.vocabulary, 0))


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

    @property
    def frame(self) -> tuple[int, int, int]:
        return self.tokenizer.bos_token_id, self.tokenizer.eos_token_id, self.tokenizer.pad_token_id

    @property
    def vocabulary(self) -> int:
        return self.model.get_input_embeddings().num_embeddings

    def word_vectors(self, ids: Int[Tensor, " L"]) -> Float[Tensor, "L D"]:
        return self.model.get_input_embeddings()(ids.to(self.model.device))

    def states_of(
        self, ids: Int[Tensor, "N L"], vector: Float[Tensor, " D"], *, positioned: bool = True
    ) -> Float[Tensor, "N L D"]:
        ids = ids.to(self.model.device)
        new = (ids == self.vocabulary)[..., None]  # (N, L, 1)

        def replaced(module: nn.Module, inputs: Any, words: Float[Tensor, "N L D"]) -> Float[Tensor, "N L D"]:
            row = vector.to(words)
            if not positioned:
                row = row - self._positions()[: ids.shape[1]]  # (L, D); the model adds them again
            return torch.where(new, row, words)

        handle = self.model.get_input_embeddings().register_forward_hook(replaced)
        try:
            return self.model(ids.masked_fill(new[..., 0], self.frame[0])).last_hidden_state
        finally:
            handle.remove()

    def _positions(self) -> Float[Tensor, "L D"]:
        tables = [layer for name, layer in self.model.named_modules() if name.endswith("position_embedding")]
        return tables[0].weight  # CLIP's text models have one
