"""What a selection of tokens may look at, and the attention of one query by which most of them are scored."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.models.towers.base import Stack
from binderclip.models.towers.tokens import Tokens
from binderclip.settings import check_choice

__all__ = ["TokenContext", "attention_criterion"]

Over = Literal["image", "all"]


@dataclass(frozen=True)
class TokenContext:
    """The tokens that enter a layer, and those that entered the layer before, which they came of.

    Attributes:
        stack: the blocks that run: a vision-language decoder or an image tower.
        layer: the layer about to run.
        tokens: that enter it: `[prefix | image | extra]`, the question being `extra`.
        previous: that entered layer - 1; the same tokens, one layer earlier. None before the first layer.
        total: image tokens of the whole grid, N.
    """

    stack: Stack
    layer: int
    tokens: Tokens
    previous: Tokens | None
    total: int

    @property
    def hidden(self) -> Float[Tensor, "B n D"]:
        """The image tokens as they enter the layer."""
        return self.tokens.patches

    @property
    def count(self) -> int:
        """Columns n of image tokens that are left, padding of unequal counts included."""
        return self.tokens.patches.shape[1]

    @property
    def places(self) -> Int[Tensor, "#B n"]:
        """Index of each image token in the whole grid, row by row."""
        tokens = self.tokens
        return tokens.positions[:, tokens.prefix : tokens.positions.shape[1] - tokens.extra] - tokens.prefix

    @property
    def present(self) -> Bool[Tensor, "B n"]:
        """False on the padding of images that kept fewer tokens than others of the batch."""
        tokens = self.tokens
        if tokens.mask is None:
            return torch.ones(self.hidden.shape[:2], dtype=torch.bool, device=self.hidden.device)
        return tokens.mask[:, tokens.prefix : tokens.x.shape[1] - tokens.extra]

    @cached_property
    def _projected(self) -> tuple[Tensor, Tensor]:
        """Queries and keys of the layer before, not turned."""
        if self.previous is None:
            raise UsageError(f"attention is scored one layer before, and there is none before layer {self.layer}")
        block = self.stack.blocks[self.layer - 1]
        query, key, _ = block.project_qkv(block.norm1(self.previous.x))
        return query, key

    def query_keys(self, rope: bool) -> tuple[Float[Tensor, "B H 1 d"], Float[Tensor, "B H L d"]]:
        """Query of the last word (of the class token in an image tower) and the keys of all tokens, one layer before.

        Args:
            rope: turned by their places, as the layer itself uses them, or not.
        """
        query, key = self._projected
        if rope and self.previous is not None:
            query, key = self.stack.blocks[self.layer - 1].rotate(query, key, self.stack.rope(self.previous))
        last = query.shape[2] - 1 if self.tokens.extra else 0
        if not self.tokens.extra and not self.tokens.prefix:
            raise UsageError("attention is scored by the last word or the class token, and these tokens have neither")
        return query[:, :, last : last + 1], key


def attention_criterion(context: TokenContext, *, rope: bool = False, over: Over = "image") -> Float[Tensor, "B n"]:
    """Attention that the last word gives to each image token in the layer before, mean over heads.

    s = mean over heads of softmax(q K' / sqrt(d)). In an image tower the class token asks. Padding scores 0.

    Args:
        context: of the layer that is about to run; the layer before is scored.
        rope: False leaves out the rotary turn of queries and keys, which favours tokens by their distance.
        over: "image" takes the softmax over image tokens alone, "all" over all tokens. In each head both have one
            order; the mean over heads may differ.

    Raises:
        UsageError: there is no layer before, or neither words nor a class token.

    Paper: Endo et al., "Feather the Throttle: Revisiting Visual Token Pruning for Vision-Language Model Acceleration",
    arXiv 2412.13180.
    """
    check_choice("over", over, ("image", "all"))
    query, keys = context.query_keys(rope)
    tokens, image = context.tokens, slice(context.tokens.prefix, context.tokens.x.shape[1] - context.tokens.extra)
    logits = torch.matmul(query, keys.transpose(-2, -1))[:, :, 0].float() * context.stack.blocks[0].scale  # (B, H, L)
    if tokens.mask is not None:
        logits = logits.masked_fill(~tokens.mask[:, None], float("-inf"))
    if over == "image":
        return logits[..., image].softmax(-1).mean(1)
    return logits.softmax(-1)[..., image].mean(1)
