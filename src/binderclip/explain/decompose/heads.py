"""What each attention head says, in words: its texts, its role, its share of the variance; and heads by role."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.explain.decompose.ablation import Head
from binderclip.explain.decompose.decomposition import Decomposition
from binderclip.explain.decompose.head_roles import OTHER, text_roles
from binderclip.explain.decompose.text_span import Span, TextSpan
from binderclip.models.text.textbank import TextBank
from binderclip.numeric import check_number

MIXED = "mixed"


@dataclass(frozen=True)
class NamedHead:
    """One head in words.

    Attributes:
        layer: block, from 0.
        head: in the block, from 0.
        span: its texts, and how much of its variance they explain.
        share: of the variance of all the heads that were named together.
        roles: of its texts.
        role: the one that more than half of what its texts explain is due to, or `mixed`.
    """

    layer: int
    head: int
    span: Span
    share: float
    roles: tuple[str, ...]
    role: str

    def weight(self, roles: Collection[str]) -> float:
        """Part, in [0, 1], of what the texts explain that is due to texts of these roles."""
        gains = self.span.gains
        total = float(gains.sum())
        return sum(float(g) for g, r in zip(gains, self.roles, strict=True) if r in roles) / total if total else 0.0


def name_heads(
    decomposition: Decomposition,
    texts: TextBank | Float[Tensor, "M E"],
    names: Sequence[str] | None = None,
    *,
    roles: Sequence[str] | None = None,
    span: TextSpan | None = None,
) -> list[NamedHead]:
    """`TextSpan` for every head of a decomposition, in the scale of unit embeddings.

    Args:
        found: many images, by="head".
        texts: the pool, a bank of single texts (see `description_pool`) or rows (M, E).
        names: of the rows; a bank has its own.
        roles: of the texts; None looks their words up (`text_roles`).
        span: number of texts and rank; None for `TextSpan()`.

    Returns:
        The heads, block by block.

    Raises:
        UsageError: another split, fewer than two images, or names and roles that do not fit the texts.
    """
    if decomposition.by != "head" or decomposition.texts:
        raise UsageError("name_heads needs whole outputs of heads: decompose with by='head' and without onto")
    rows: Any = texts.unit if isinstance(texts, TextBank) else texts
    words = list(texts.texts) if isinstance(texts, TextBank) else names
    if words is None or len(words) != len(rows):
        raise UsageError(f"names must name each of the {len(rows)} rows")
    own = text_roles(words) if roles is None else list(roles)
    if len(own) != len(words):
        raise UsageError(f"{len(own)} roles for {len(words)} texts")
    describe, unit = span or TextSpan(), decomposition.unit()
    spans = {
        (layer, head): describe(unit.values[:, place, head], rows, words)
        for place, layer in enumerate(decomposition.layers)
        for head in range(unit.values.shape[2])
    }
    total = sum(one.variance for one in spans.values()) or 1.0
    return [
        _named(layer, head, one, one.variance / total, tuple(own[i] for i in one.index))
        for (layer, head), one in spans.items()
    ]


def spurious_heads(
    named: Sequence[NamedHead], roles: Collection[str], *, layers: Collection[int] | None = None, least: float = 0.5
) -> list[Head]:
    """Heads that speak mostly of things that should not matter, such as places or colours, for `mean_ablate`.

    Args:
        named: what `name_heads` gave.
        roles: that should not matter.
        layers: blocks to choose from; None for all.
        least: part of what a head's texts explain that must be due to these roles, in [0, 1].

    Raises:
        UsageError: one role as a text, or `least` out of range.
    """
    if isinstance(roles, str):
        raise UsageError(f"roles must be a list of roles, not the single text {roles!r}")
    check_number("least", least, least=0, most=1)
    return [
        (one.layer, one.head)
        for one in named
        if (layers is None or one.layer in layers) and len(one.span) and one.weight(roles) >= least
    ]


def _named(layer: int, head: int, span: Span, share: float, roles: tuple[str, ...]) -> NamedHead:
    one = NamedHead(layer, head, span, share, roles, MIXED)
    ranked = sorted({r for r in roles if r != OTHER}, key=lambda role: -one.weight([role]))
    role = ranked[0] if ranked and one.weight(ranked[:1]) > 0.5 else MIXED
    return NamedHead(layer, head, span, share, roles, role)
