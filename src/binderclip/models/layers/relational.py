"""Attention that compares two images: what one shows of a thing minus what the other shows of it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.numeric import check_number


class RelationalAttention(nn.Module):
    """The difference between the evidence of two images, for every ordered pair, by learned queries.

    A query attends to the tokens of both images at once, in one softmax; the values of the second count negatively. So
    the result of (i, j) is minus that of (j, i), and an image differs from itself by nothing, up to the output bias,
    which every query adds, as in the released program.

    The softmax over both images' tokens is split exactly: each image is attended to alone, and the share of the pair's
    attention that goes to the first is the sigmoid of the difference of the two log-sum-exps. Time and memory therefore
    grow with N P + N^2 instead of N^2 P.

    Args:
        width: d of tokens and results.
        heads: attention heads; a divisor of `width`.
        queries: learned queries R, whose results are summed.

    Raises:
        UsageError: `heads` does not divide `width`, or tokens of another width.

    Paper: Ranking-aware adapter for text-driven image ordering with CLIP (arXiv 2412.06760).

    Examples:
        >>> RelationalAttention(64, heads=4)(torch.randn(16, 49, 64)).shape
        torch.Size([16, 16, 64])
    """

    def __init__(self, width: int, *, heads: int = 8, queries: int = 16) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise UsageError(f"heads {heads} does not divide width {width}")
        check_number("queries", queries, least=1)
        self.width, self.heads = width, heads
        self.queries = nn.Parameter(torch.randn(queries, width) * width**-0.5)
        self.to_query, self.query_norm = nn.Linear(width, width), nn.LayerNorm(width)
        # One projection for keys and values; both norms act on the whole vector, before it is split into heads.
        self.to_key, self.key_norm = nn.Linear(width, width), nn.LayerNorm(width)
        self.out = nn.Linear(width, width)

    def extra_repr(self) -> str:
        return f"width={self.width}, heads={self.heads}, queries={len(self.queries)}"

    def forward(
        self, tokens: Float[Tensor, "N P d"], others: Float[Tensor, "M P2 d"] | None = None
    ) -> Float[Tensor, "N M d"]:
        """Differences of every image with every image (or every other one).

        Args:
            tokens: of N images.
            others: of M images; None compares the N with each other. Rows may be done in parts this way.
        """
        # The output map belongs to each query, before the sum: linear, so it is applied once, and its bias R times.
        return F.linear(self.values(tokens, others), self.out.weight, len(self.queries) * self.out.bias)

    def values(
        self, tokens: Float[Tensor, "N P d"], others: Float[Tensor, "M P2 d"] | None = None
    ) -> Float[Tensor, "N M d"]:
        """The differences before the output map; exactly antisymmetric where `others` is None."""
        mean, mass = self._alone(tokens)
        if others is None:
            mine = self._weighted(mass[:, None] - mass, mean)
            return mine - mine.transpose(0, 1)
        other_mean, other_mass = self._alone(others)
        gap = mass[:, None] - other_mass
        theirs = self._weighted(-gap.transpose(0, 1), other_mean).transpose(0, 1)
        return self._weighted(gap, mean) - theirs

    def attention(
        self, tokens: Float[Tensor, "N P d"], others: Float[Tensor, "M P2 d"]
    ) -> tuple[Float[Tensor, "N M H R P"], Float[Tensor, "N M H R P2"]]:
        """Weights on the tokens of the first and of the second image of each pair; both together sum to 1."""
        scores, theirs = self._scores(self._keys(tokens)), self._scores(self._keys(others))
        gate = (scores.logsumexp(-1)[:, None] - theirs.logsumexp(-1)).sigmoid()[..., None]
        return gate * scores.softmax(-1)[:, None], (1 - gate) * theirs.softmax(-1)

    def _keys(self, tokens: Float[Tensor, "N P d"]) -> Float[Tensor, "N H P c"]:
        if tokens.ndim != 3 or tokens.shape[-1] != self.width:
            raise UsageError(f"tokens are (N, P, {self.width}), got {tuple(tokens.shape)}")
        return self.key_norm(self.to_key(tokens)).unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _scores(self, keys: Float[Tensor, "N H P c"]) -> Float[Tensor, "N H R P"]:
        query = self.query_norm(self.to_query(self.queries)).unflatten(-1, (self.heads, -1)).transpose(0, 1)
        return query @ keys.transpose(-1, -2) * keys.shape[-1] ** -0.5

    def _alone(self, tokens: Float[Tensor, "N P d"]) -> tuple[Float[Tensor, "N H R c"], Float[Tensor, "N H R"]]:
        """What each query sees of one image, and the logarithm of how much it sees."""
        keys = self._keys(tokens)
        scores = self._scores(keys)
        return scores.softmax(-1) @ keys, scores.logsumexp(-1)

    @staticmethod
    def _weighted(gap: Float[Tensor, "N M H R"], mean: Float[Tensor, "N H R c"]) -> Float[Tensor, "N M d"]:
        """Sum over queries of the first image's share times what is seen of it."""
        return torch.einsum("nmhr,nhrc->nmhc", gap.sigmoid(), mean).flatten(2)
