"""Prompts whose words are learned: vectors in the place of words, in front of (or behind) the name of each class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from binderclip.errors import UsageError
from binderclip.models.checks import refuse_bare_module
from binderclip.models.text.tokenize import TokenIds
from binderclip.settings import check_choice

if TYPE_CHECKING:
    from binderclip.models.image_text.model import ImageTextModel
    from binderclip.models.towers import TextTower

Position = Literal["end", "middle", "front"]

STD = 0.02
"""Standard deviation that CLIP's word vectors, and CoOp's context vectors, begin with."""
AT_ONCE = 512
"""Prompts that keep their activations at the same time; more are recomputed in the backward pass."""


class PromptContext(nn.Module):
    """Learned context vectors that stand where the words of a prompt would, for every class of a list.

    The prompt of a class is `[start, v_1 .. v_M, name, ".", end]`, with real word vectors for the name, read off where
    the text tower reads any sentence. The vectors are the only parameters; the model is used, neither held as a
    submodule nor changed: freeze it (`models.layers.freezing.frozen`) while training. All prompts go through the text
    tower together, cut to the longest of them where the tower does not look at padding.

    Args:
        model: its tokenizer and text tower.
        class_names: C names, as the prompt says them; underscores are read as spaces.
        n_ctx: M, vectors a prompt. M, the longest name and the special tokens must fit into the tower's context.
        n_prompts: P, contexts side by side.
        init: words whose vectors fill the last places of the first context, zeros before them ("a photo of a"); or
            such a text for each context. The others, and all where it is None, are drawn at random, as large as words.
        position: where the name stands: `end` (after the vectors), `middle` or `front` (before them).
        class_specific: own vectors for each class, (P, C, M, D), instead of shared ones, (P, M, D).
        generator: of the draw; None: torch's own stream.

    Attributes:
        weight: the parameter, (P, M, D) or (P, C, M, D): the vectors in units of `unit`, in which the standard
            deviation of the model's word vectors is 0.02, as it was for CLIP's. So a draw from N(0, 0.02^2), learning
            rates and weight decay mean the same for every model.
        unit: that factor, 1 for word vectors of standard deviation 0.02.
        n_ctx, n_prompts, class_names: as given.

    Raises:
        UsageError: a prompt that does not fit, words in `init` that do not, or another wrong argument.
        NotSupported: a text tower that cannot be opened.

    Paper: Learning to Prompt for Vision-Language Models (arXiv 2109.01134).

    Examples:
        >>> prompts = PromptContext(model, ["cat", "dog"], n_ctx=4, init="a photo of a")  # doctest: +SKIP
        >>> prompts().shape  # as model.encode_text(["a photo of a cat.", "a photo of a dog."])  # doctest: +SKIP
        torch.Size([1, 2, 384])
    """

    def __init__(
        self,
        model: ImageTextModel,
        class_names: Sequence[str],
        *,
        n_ctx: int = 4,
        n_prompts: int = 1,
        init: str | Sequence[str] | None = None,
        position: Position = "end",
        class_specific: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        refuse_bare_module(model, "PromptContext")
        super().__init__()
        if n_ctx < 1 or n_prompts < 1:
            raise UsageError(f"n_ctx and n_prompts must be at least 1, not {n_ctx} and {n_prompts}")
        check_choice("position", position, get_args(Position))
        self.class_names, self.n_ctx, self.n_prompts = _names(class_names), n_ctx, n_prompts
        self.position: Position = position
        self.class_specific = class_specific
        self._tower: TextTower = model.text_tower
        # Kept out of the module's reach: neither trained nor saved with the vectors.
        self._ids, slots = _assemble(model, self.class_names, n_ctx, position)
        self._slots = slots.to(self._tower.device)
        with torch.no_grad():
            self._words = self._tower.embed_tokens(self._ids.ids.to(self._tower.device)).float()
            self.unit = word_std(self._tower) / STD
        self.weight = nn.Parameter(self._first(model, init, generator))

    @property
    def context(self) -> Float[Tensor, "P *C M D"]:
        """The vectors themselves, as they stand among the words."""
        return self.weight * self.unit

    @torch.no_grad()
    def load(self, context: Float[Tensor, "P *C M D"]) -> PromptContext:
        """Take over vectors that were learned before, such as another list's; they are copied.

        Raises:
            UsageError: another shape.
        """
        if context.shape != self.weight.shape:
            raise UsageError(f"context has shape {tuple(context.shape)}, this one needs {tuple(self.weight.shape)}")
        self.weight.copy_(context / self.unit)
        return self

    def _first(
        self, model: ImageTextModel, init: str | Sequence[str] | None, generator: torch.Generator | None
    ) -> Tensor:
        shape = (self.n_prompts, self.n_ctx, self._tower.width)
        texts = [] if init is None else [init] if isinstance(init, str) else list(init)
        if len(texts) > self.n_prompts:
            raise UsageError(f"init holds {len(texts)} texts for n_prompts={self.n_prompts}")
        place = None if generator is None else generator.device
        context = STD * torch.randn(shape, generator=generator, device=place)
        for index, text in enumerate(texts):
            ids = words_of(model, text)
            if not 1 <= len(ids) <= self.n_ctx:
                raise UsageError(
                    f"init {text!r} has {len(ids)} tokens, which do not fit n_ctx={self.n_ctx}: use "
                    f"n_ctx={len(ids)}, or init=None"
                )
            context[index] = 0
            with torch.no_grad():
                vectors = self._tower.embed_tokens(ids[None].to(self._tower.device))[0]
            context[index, self.n_ctx - len(ids) :] = vectors.float().to(context.device) / self.unit
        if self.class_specific:
            context = context.unsqueeze(1).repeat(1, len(self.class_names), 1, 1)
        return context.to(self._tower.device)

    @property
    def ids(self) -> TokenIds:
        """The C prompts, with an ordinary word in the places of the vectors."""
        return self._ids

    def words(self) -> Float[Tensor, "P C L D"]:
        """Word vectors of all prompts, the learned ones in their places."""
        context = self.context if self.class_specific else self.context.unsqueeze(1)
        count = (self.n_prompts, len(self.class_names))
        table = self._words.to(context).expand(*count, -1, -1)
        places = self._slots.view(1, *self._slots.shape, 1).expand(self.n_prompts, -1, -1, table.shape[-1])
        return table.scatter(2, places, context.expand(*count, -1, -1))

    def forward(self) -> Float[Tensor, "P C E"]:
        """Text features of every prompt, raw, float32 or better; gradients reach the vectors."""
        words = self.words()
        prompts, classes = words.shape[:2]
        ids = self._ids.ids.to(words.device).repeat(prompts, 1)
        ends = self._ids.position.to(words.device).repeat(prompts)
        flat = words.flatten(0, 1)
        if len(flat) <= AT_ONCE:
            features = self._encode(flat, ids, ends)
        else:
            parts = [part.split(AT_ONCE) for part in (flat, ids, ends)]
            features = torch.cat(
                [
                    checkpoint(self._encode, *part, use_reentrant=False, preserve_rng_state=False)
                    for part in zip(*parts, strict=True)
                ]
            )
        return features.unflatten(0, (prompts, classes))

    def _encode(
        self, words: Float[Tensor, "Q L D"], ids: Int[Tensor, "Q L"], ends: Int[Tensor, "Q"]
    ) -> Float[Tensor, "Q E"]:
        tower = self._tower
        features = tower.project(tower.pool(tower.run(tower.embed(ids, override=words, pool_at=ends))))
        return features.float() if features.dtype in (torch.float16, torch.bfloat16) else features


@torch.no_grad()
def word_std(tower: TextTower, sample: int = 1024) -> float:
    """Standard deviation of the word table, from rows all over it; CLIP's for a model without weights."""
    if tower.device.type == "meta":
        return STD
    rows = torch.linspace(0, tower.vocab_size - 1, min(sample, tower.vocab_size)).long()
    return float(tower.lookup(rows[None].to(tower.device)).float().std())


def words_of(model: ImageTextModel, text: str) -> Int[Tensor, "n"]:
    """The tokens of a text without those that the tokenizer puts around every sentence."""
    parts = _parts(model, [text])[0]
    return parts.words


def trimmed(tower: TextTower, tokens: TokenIds) -> TokenIds:
    """The same sentences without the columns that are padding in all of them, where the tower never looks at padding.

    Exact: a causal tower, or one that masks padding, gives the same features; any other gets its tokens back whole, and
    so does one that reads a sentence at the last place.
    """
    blind = tower.causal or tower.own_mask(tokens.ids) is not None
    if tower.pooling not in ("argmax", "eos", "first") or not blind:
        return tokens
    longest = int(tokens.mask.sum(1).max())
    return TokenIds(tokens.ids[:, :longest], tokens.mask[:, :longest], tokens.position)


@dataclass(frozen=True)
class _Parts:
    """One tokenised text: what stands before its words, they, and what stands behind."""

    before: Int[Tensor, "a"]
    words: Int[Tensor, "n"]
    behind: Int[Tensor, "b"]


def _parts(model: ImageTextModel, texts: Sequence[str]) -> list[_Parts]:
    around = _real(model.tokenize([""]))[0].tolist()
    parts = []
    for row in _real(model.tokenize(texts)):
        ids = row.tolist()
        # The tokens around a text are those of the empty one: all before its words, or some before and some behind.
        before = next((i for i, (a, b) in enumerate(zip(ids, around, strict=False)) if a != b), min(len(ids), 1))
        before = min(before, len(around))
        behind = len(around) - before
        end = len(ids) - behind
        parts.append(_Parts(row[:before], row[before:end], row[end:]))
    return parts


def _real(tokens: TokenIds) -> list[Tensor]:
    return [row[mask] for row, mask in zip(tokens.ids, tokens.mask, strict=True)]


def _names(class_names: Sequence[str]) -> list[str]:
    if isinstance(class_names, str):
        raise UsageError(f"class_names must be a list of names, not the single text {class_names!r}")
    names = [str(name).replace("_", " ").strip() for name in class_names]
    if not names or not all(names):
        raise UsageError("class_names needs at least one name, and no empty one")
    return names


def _assemble(
    model: ImageTextModel, names: list[str], n_ctx: int, position: Position
) -> tuple[TokenIds, Int[Tensor, "C M"]]:
    """Ids of the prompts, trimmed, and the places of the vectors in each."""
    tower = model.text_tower
    bare, dotted = _parts(model, names), _parts(model, [f"{name}." for name in names])
    rows, slots = [], []
    for name, plain, full in zip(names, bare, dotted, strict=True):
        if not len(plain.words):
            raise UsageError(f"class name {name!r} has no token: give it a name that the tokenizer knows")
        # The full stop ends the sentence, so it follows the vectors where they follow the name.
        same = len(full.words) > len(plain.words) and torch.equal(full.words[: len(plain.words)], plain.words)
        stem, stop = (plain.words, full.words[len(plain.words) :]) if same else (full.words, full.words[:0])
        first = {"end": n_ctx, "middle": n_ctx // 2, "front": 0}[position]
        # Any ordinary word holds the places: what matters is that it is neither padding nor the end.
        hold = stem[:1].expand(n_ctx)
        row = torch.cat([full.before, hold[:first], stem, hold[first:], stop, full.behind])
        start = len(full.before)
        places = torch.arange(n_ctx) + start
        places[first:] += len(stem)
        rows.append(row)
        slots.append(places)
    longest = max(range(len(rows)), key=lambda index: len(rows[index]))
    if len(rows[longest]) > tower.context_length:
        room = n_ctx + tower.context_length - len(rows[longest])
        raise UsageError(
            f"n_ctx={n_ctx} does not fit: with {names[longest]!r} the prompt has {len(rows[longest])} tokens and this "
            f"text tower takes {tower.context_length}; "
            + (f"use n_ctx={room} or less" if room > 0 else "shorten the name")
        )
    ids = _pad(model, rows)
    return trimmed(tower, ids), torch.stack(slots)


def _pad(model: ImageTextModel, rows: list[Tensor]) -> TokenIds:
    """Rows of ids as the tokenizer would have padded them, read off where the tower reads."""
    tower = model.text_tower
    empty = model.tokenize([""])
    # The tokenizer's own padding, which need not be the id that the tower calls padding.
    filler = int(empty.ids[0, -1]) if not bool(empty.mask[0, -1]) else tower.pad_id
    ids = torch.full((len(rows), empty.ids.shape[1]), filler, dtype=torch.long)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
        mask[index, : len(row)] = True
    return TokenIds(ids, mask, tower.pool_position(ids))
