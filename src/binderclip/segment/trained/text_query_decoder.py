"""A decoder in which text queries look at patch features, and whose scores are masks."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import UsageError

__all__ = ["TextQueryDecoder"]


class QueryScores(nn.Module):
    """The scores of multi-head attention, before the softmax."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, queries: Float[Tensor, "B C E"], features: Float[Tensor, "B N E"]) -> Float[Tensor, "B H C N"]:
        """Scaled by the square root of a head's width."""
        q, k = self.heads_of(self.query(queries)), self.heads_of(self.key(features))
        return q @ k.mT / math.sqrt(q.shape[-1])

    def heads_of(self, x: Float[Tensor, "B L E"]) -> Float[Tensor, "B H L d"]:
        """Cut into heads."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class QueryAttention(QueryScores):
    """Multi-head attention of queries to features."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)

    def attended(self, queries: Float[Tensor, "B C E"], features: Float[Tensor, "B N E"]) -> Float[Tensor, "B C E"]:
        """What the queries take from the features."""
        weights = self(queries, features).softmax(-1)
        return self.out((weights @ self.heads_of(self.value(features))).transpose(1, 2).flatten(2))


class TextQueryDecoder(nn.Module):
    """Text queries that look at patch features; the last layer's scores are mask logits. No parameter knows a class.

    Each layer but the last: q <- LN(q + attention(q, F, F)); q <- LN(q + feed-forward(q)). Of the last the mean over
    heads of the scores is the answer, so that it has no values and no feed-forward; the released code makes them, and
    nothing reaches them. Queries do not see each other, so that classes may come and go.

    Args:
        width: E of queries and features.
        layers: of the decoder.
        heads: of the attention, a divisor of `width`.
        hidden: width of the feed-forward layer; default four times `width`.

    Raises:
        UsageError: heads that do not divide the width, or no layer.

    Paper: Cascade-CLIP: Cascaded Vision-Language Embeddings Alignment for Zero-Shot Semantic Segmentation (ICML 2024,
    arXiv 2406.00670).
    """

    def __init__(self, width: int, *, layers: int = 3, heads: int = 8, hidden: int | None = None) -> None:
        super().__init__()
        if layers < 1 or heads < 1 or width % heads:
            raise UsageError(f"layers must be at least 1 and heads divide the width, not {layers}, {heads} and {width}")
        inner = 4 * width if hidden is None else hidden
        self.attend = nn.ModuleList(QueryAttention(width, heads) for _ in range(layers - 1))
        self.feed = nn.ModuleList(
            nn.Sequential(nn.Linear(width, inner), nn.ReLU(), nn.Linear(inner, width)) for _ in range(layers - 1)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * layers - 2))
        self.scores = QueryScores(width, heads)

    def forward(self, queries: Float[Tensor, "B C E"], features: Float[Tensor, "B N E"]) -> Float[Tensor, "B C N"]:
        """Mask logits of each query over the patches."""
        for place, (attend, feed) in enumerate(zip(self.attend, self.feed, strict=True)):
            assert isinstance(attend, QueryAttention)
            queries = self.norms[2 * place](queries + attend.attended(queries, features))
            queries = self.norms[2 * place + 1](queries + feed(queries))
        return self.scores(queries, features).mean(1)
