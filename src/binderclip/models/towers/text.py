"""The text side of the tower interface: words that may be replaced, and a sentence read off at an explicit place."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.models.towers.base import Stack
from binderclip.models.towers.block import Backbone, Block
from binderclip.models.towers.tokens import Tokens

#: Replacement of word vectors: token id -> (D,) or (B, D), or the whole (B or 1, L, D).
Override: TypeAlias = Mapping[int, Tensor] | Tensor


@runtime_checkable
class HasIds(Protocol):
    """What `tokenize` returns: ids and the pooling position."""

    @property
    def ids(self) -> Int[Tensor, "B L"]:
        """(B, L) vocabulary indices."""
        ...

    @property
    def position(self) -> Int[Tensor, "B"]:
        """(B,) pooled token."""
        ...


class TextTower(Stack):
    """A text tower: ids -> word vectors -> tokens -> blocks -> pooled -> shared space.

    Attributes:
        context_length: most words a sentence may have.
        vocab_size: ids below it are in the table; ids above are free for pseudo-tokens.
        causal: whether words see only earlier words.
        pooling: "argmax", "eos", "last", "first" or "appended" (a class token after the last word).
        pad_id, eos_id: the ids that padding masks and "eos" pooling look for.
    """

    def __init__(
        self,
        module: Backbone,
        blocks: Sequence[Block],
        width: int,
        *,
        context_length: int,
        vocab_size: int,
        causal: bool,
        pooling: str,
        pad_id: int = 0,
        eos_id: int | None = None,
    ) -> None:
        super().__init__(module, blocks, width)
        self.context_length = context_length
        self.vocab_size = vocab_size
        self.causal = causal
        self.pooling = pooling
        self.pad_id = pad_id
        self.eos_id = eos_id

    @abstractmethod
    def lookup(self, ids: Int[Tensor, "B L"]) -> Float[Tensor, "B L D"]:
        """Rows of the word table, in the tower's type."""

    @abstractmethod
    def position_table(self) -> Float[Tensor, "L D"]:
        """Positional embedding, one row a place."""

    def norm_pre(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """The norm (and dropout) between embedding and blocks (BERT); identity where there is none."""
        return x

    def appended(self) -> Float[Tensor, "D"] | None:
        """The class token that follows the words (CoCa), or None."""
        return None

    def own_mask(self, ids: Int[Tensor, "B L"]) -> Bool[Tensor, "B L"] | Bool[Tensor, "B L+1"] | None:
        """The padding mask that the backbone's own forward applies to these ids (over words and appended token)."""
        return None

    def embed_tokens(self, ids: Int[Tensor, "B L"], override: Override | None = None) -> Float[Tensor, "B L D"]:
        """Word vectors without positions, some of them replaced.

        Args:
            ids: (B, L) vocabulary indices; ids from `vocab_size` on are pseudo-tokens and must be overridden.
            override: {id: vector (D,) or one a row (B, D)} puts the vector wherever that id stands; a tensor
                (B or 1, L, D) replaces the table altogether. Gradients flow into it.

        Raises:
            UsageError: ids of the wrong shape, out of the table, or an override of the wrong shape.
        """
        if ids.dim() != 2 or ids.is_floating_point():
            raise UsageError(f"ids must be integers (B, L), got {ids.dtype} of shape {tuple(ids.shape)}")
        if isinstance(override, Tensor):
            shape = (ids.shape[0], ids.shape[1], self.width)
            if override.dim() != 3 or override.shape[1:] != shape[1:] or override.shape[0] not in (1, shape[0]):
                raise UsageError(f"override must be (B or 1, L, D) = {shape}, got {tuple(override.shape)}")
            return override.to(self.dtype).expand(shape)
        known, override = self.known(ids, override), override or {}
        if known.numel() and not known.is_meta and not 0 <= int(known.min()) <= int(known.max()) < self.vocab_size:
            id_range = f"{int(known.min())}..{int(known.max())}"
            raise UsageError(f"token ids must be in 0..{self.vocab_size - 1} or overridden; got {id_range}")
        words = self.lookup(known)
        for token, vector in override.items():
            if tuple(vector.shape) not in ((self.width,), (ids.shape[0], self.width)):
                raise UsageError(
                    f"override[{token}] must be ({self.width},) or ({ids.shape[0]}, {self.width}), "
                    f"got {tuple(vector.shape)}"
                )
            row = vector.to(words.dtype)
            row = row if row.dim() == 1 else row.unsqueeze(1)
            words = torch.where((ids == token).unsqueeze(-1), row, words)
        return words

    def known(self, ids: Int[Tensor, "B L"], override: Override | None) -> Int[Tensor, "B L"]:
        """The ids with overridden ones out of the way (0), so that a pseudo-token is never taken for the end."""
        if not isinstance(override, Mapping) or not override:
            return ids
        replaced = torch.zeros_like(ids, dtype=torch.bool)
        for token in override:
            replaced |= ids == token
        return ids.masked_fill(replaced, 0)

    def pool_position(self, ids: Int[Tensor, "B L"]) -> Int[Tensor, "B"]:
        """Where the backbone's own rule reads the sentence off."""
        batch, length = ids.shape
        fixed = {"first": 0, "last": length - 1, "appended": length}
        if self.pooling in fixed:
            return torch.full((batch,), fixed[self.pooling], dtype=torch.long, device=ids.device)
        if self.pooling == "argmax":
            return ids.int().argmax(1)
        return ids.eq(-1 if self.eos_id is None else self.eos_id).int().argmax(1)

    def embed(  # type: ignore[override]
        self,
        ids: Int[Tensor, "B L"] | HasIds,
        *,
        override: Override | None = None,
        mask: Bool[Tensor, "B L"] | None = None,
        pool_at: Int[Tensor, "B"] | None = None,
    ) -> Tokens:
        """Ids -> tokens entering block 0.

        Args:
            ids: (B, L) ids, or what `tokenize` returns (its pooling position is then used; its mask is not: whether
                padding is attended to is the backbone's own rule).
            override: see `embed_tokens`.
            mask: (B, L) True for words that may be attended to; None = the backbone's own rule.
            pool_at: (B,) place of the pooled word; None = the backbone's own rule on the ids.

        Raises:
            UsageError: more words than `context_length`, or see `embed_tokens`.
        """
        if not isinstance(ids, Tensor):
            pool_at = ids.position if pool_at is None else pool_at
            ids = ids.ids
        ids = ids.to(self.device)
        words = self.embed_tokens(ids, override)
        batch, length = ids.shape
        if length > self.context_length:
            raise UsageError(f"{length} words are too many: this text tower takes {self.context_length}")
        tail = self.appended()
        if tail is not None:
            words = torch.cat([words, tail.to(words.dtype).expand(batch, 1, -1)], 1)
        if mask is None:
            mask = self.own_mask(ids)
        else:
            mask = mask.to(self.device, torch.bool)
            mask = mask if tail is None else torch.cat([mask, mask.new_ones(batch, 1)], 1)
        if pool_at is None:
            pool_at = self.pool_position(self.known(ids, override))
        total = words.shape[1]
        x = self.norm_pre(words + self.position_table()[:total].to(words.dtype))
        positions = torch.arange(total, device=x.device).unsqueeze(0)
        return Tokens(
            x, positions, mask, pool_at=pool_at.to(x.device), causal=self.causal, span=total
        )  # fmt: skip

    def pool(self, tokens: Tokens) -> Float[Tensor, "B D"]:
        """The final norm of the state at `tokens.pool_at`."""
        if tokens.pool_at is None:
            raise UsageError("these tokens carry no pooling position; embed() sets it")
        rows = torch.arange(tokens.x.shape[0], device=tokens.x.device)
        return self.norm(tokens.x[rows, tokens.pool_at])

    def pool_weights(self, tokens: Tokens) -> Float[Tensor, "B L"]:
        """One on the pooled word."""
        if tokens.pool_at is None:
            raise UsageError("these tokens carry no pooling position; embed() sets it")
        places = torch.arange(tokens.x.shape[1], device=tokens.x.device)
        return (places == tokens.pool_at.unsqueeze(1)).to(tokens.x.dtype)

    def states(self, tokens: Tokens) -> Float[Tensor, "B L D"]:
        """Every word's state after the last block and the final norm; `project(states)` puts them in shared space."""
        return self.norm(tokens.x)
