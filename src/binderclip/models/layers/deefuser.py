"""DeeFuser: tokens of a late layer attend to tokens of many earlier ones."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from binderclip.errors import UsageError


class DeeFuser(nn.Module):
    """Fuse tokens of several layers: deep tokens attend to shallow ones, then to each other.

    With LN the three layer norms and A(q, k, v) = softmax(q k^T / sqrt(D)) v, one head and no projections:
    C = MLP(A(LN2(deep), LN1(shallow), LN1(shallow))), S = A of LN3(C) to itself, and the result is
    LN2(deep) + g2 * (C + g1 * S). The residual is the normalised deep token, not the token.

    Args:
        width: D of the tokens.
        mlp_hidden: hidden width of the MLP; default 4 * width. The released program has 4, from `int(4.0)`.

    Raises:
        UsageError: a width below 1, or tokens of another width.

    Paper: DeeCLIP: A Robust and Generalizable Transformer-Based Framework for Detecting AI-Generated Images
    (arXiv 2504.19876).

    Examples:
        >>> DeeFuser(64)(torch.randn(2, 11 * 49, 64), torch.randn(2, 49, 64)).shape
        torch.Size([2, 49, 64])
    """

    def __init__(self, width: int, *, mlp_hidden: int | None = None) -> None:
        super().__init__()
        hidden = 4 * width if mlp_hidden is None else mlp_hidden
        if width < 1 or hidden < 1:
            raise UsageError(f"width {width} and mlp_hidden {hidden} must be at least 1")
        self.width = width
        self.norm_shallow, self.norm_deep, self.norm_fused = (nn.LayerNorm(width) for _ in range(3))
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.gain_self, self.gain = (nn.Parameter(torch.ones(width)) for _ in range(2))  # g1, g2

    def extra_repr(self) -> str:
        return f"width={self.width}"

    def forward(self, shallow: Float[Tensor, "B M D"], deep: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """Fused tokens.

        Args:
            shallow: tokens of the earlier layers, one layer's after the other's.
            deep: tokens of the late layer.
        """
        if shallow.shape[-1] != self.width or deep.shape[-1] != self.width:
            raise UsageError(f"tokens of width {shallow.shape[-1]} and {deep.shape[-1]}: {self.width} is asked for")
        keys, queries = self.norm_shallow(shallow), self.norm_deep(deep)
        crossed = self.mlp(functional.scaled_dot_product_attention(queries, keys, keys))  # C
        normal = self.norm_fused(crossed)
        within = functional.scaled_dot_product_attention(normal, normal, normal)  # S
        return queries + self.gain * (crossed + self.gain_self * within)
