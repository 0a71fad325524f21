"""The network of the ranking adapter: patches look at the words of a query, then are summed and compared."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.models.layers.relational import RelationalAttention


@dataclass(frozen=True)
class RankingShape:
    """The size of a `RankingNet`.

    Args:
        patch_width: of the image tower's tokens.
        word_width: of the text tower's tokens.
        width: d in between; both are mapped to it where theirs differs.
        heads: of every attention; a divisor of `width`.
        fusion: layers in which patches look at each other and then at the words.
        post: transformer layers behind them.
        queries: of the relational attention; 0 leaves the pair branch out.
        text_tokens: learned tokens before the words, a single number each.
        dropout: in the post layers.
    """

    patch_width: int
    word_width: int
    width: int
    heads: int = 8
    fusion: int = 2
    post: int = 2
    queries: int = 16
    text_tokens: int = 32
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.heads < 1 or self.width % self.heads:
            raise UsageError(f"heads {self.heads} does not divide width {self.width}")
        if self.fusion < 1 or self.post < 0 or self.queries < 0 or self.text_tokens < 0:
            raise UsageError(
                f"fusion {self.fusion} is at least 1; post {self.post}, queries {self.queries} and text_tokens "
                f"{self.text_tokens} at least 0"
            )


class _Attend(nn.Module):
    """A pre-norm attention block: queries from x, keys and values from x itself or from `y`, then an MLP."""

    def __init__(self, width: int, heads: int, *, cross: bool) -> None:
        super().__init__()
        self.norm, self.norm_y = nn.LayerNorm(width), nn.LayerNorm(width) if cross else None
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor, y: Tensor | None = None, hidden: Tensor | None = None) -> Tensor:
        query = self.norm(x)
        keys = query if y is None or self.norm_y is None else self.norm_y(y)
        x = x + self.attention(query, keys, keys, key_padding_mask=hidden, need_weights=False)[0]
        return x + self.mlp(x)


class RankingNet(nn.Module):
    """Patches and words -> fused tokens, a score of each image, and a logit of each pair.

    Args:
        shape: its size.

    Paper: Ranking-aware adapter for text-driven image ordering with CLIP (arXiv 2412.06760).
    """

    def __init__(self, shape: RankingShape) -> None:
        super().__init__()
        d = shape.width
        self.shape = shape
        self.from_patches = nn.Identity() if shape.patch_width == d else nn.Linear(shape.patch_width, d)
        self.from_words = nn.Identity() if shape.word_width == d else nn.Linear(shape.word_width, d)
        self.text_tokens = nn.Parameter(torch.randn(shape.text_tokens) * max(shape.text_tokens, 1) ** -0.5)
        self.look = nn.ModuleList([_Attend(d, shape.heads, cross=False) for _ in range(shape.fusion)])
        self.read = nn.ModuleList([_Attend(d, shape.heads, cross=True) for _ in range(shape.fusion)])
        self.norm = nn.LayerNorm(d)
        # The released program leaves this matrix to whatever memory holds.
        self.projection = nn.Parameter(torch.randn(d, d) * d**-0.5)
        layer = nn.TransformerEncoderLayer(d, shape.heads, d, shape.dropout, batch_first=True)
        self.post = nn.TransformerEncoder(layer, shape.post, enable_nested_tensor=False) if shape.post else None
        self.sum_norm, self.score_head = nn.LayerNorm(d), _head(d, 2)
        self.relation = RelationalAttention(d, heads=shape.heads, queries=shape.queries) if shape.queries else None
        self.pair_head = nn.Sequential(nn.LayerNorm(d), _head(d, 3)) if shape.queries else None

    def fuse(
        self, patches: Float[Tensor, "N P D"], words: Float[Tensor, "N M W"], mask: Bool[Tensor, "N M"]
    ) -> Float[Tensor, "N P d"]:
        """Patches that have looked at the words of their image's query; `mask` is True on words."""
        x, y = self.from_patches(patches), self.from_words(words)
        learned = self.text_tokens[None, :, None].expand(len(y), -1, y.shape[-1])
        y = torch.cat([learned, y], 1)
        hidden = torch.cat([mask.new_zeros(len(y), learned.shape[1]), ~mask], 1)
        for look, read in zip(self.look, self.read, strict=True):
            x = read(look(x), y, hidden)
        x = self.norm(x) @ self.projection
        return x if self.post is None else self.post(x)

    def score(self, fused: Float[Tensor, "N P d"]) -> Float[Tensor, "N"]:
        """The quantity in each image."""
        return self.score_head(self.sum_norm(fused).sum(1))[:, 0]

    def compare(
        self, fused: Float[Tensor, "N P d"], others: Float[Tensor, "M P d"] | None = None
    ) -> Float[Tensor, "N M"]:
        """Logit that an image has more than another; without a pair branch the difference of their scores."""
        if self.relation is None or self.pair_head is None:
            mine = self.score(fused)
            return mine[:, None] - (mine if others is None else self.score(others))
        return self.pair_head(self.relation(fused, others))[..., 0]


def _head(width: int, layers: int) -> nn.Sequential:
    parts: list[nn.Module] = []
    for _ in range(layers):
        parts += [nn.Linear(width, width), nn.LayerNorm(width), nn.ReLU()]
    head = nn.Sequential(*parts, nn.Linear(width, 1))
    for part in head:
        if isinstance(part, nn.Linear):
            nn.init.xavier_normal_(part.weight)
    return head
