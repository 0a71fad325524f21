"""Self-attention of the libraries' modules, computed in the way that trains fastest; weights and results are theirs."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers import Attention
from torch import Tensor, nn

__all__ = ["PackedAttention", "ShortAttention", "attend"]

SHORT = {torch.float32: 80, torch.bfloat16: 128}
"""Sequence lengths up to which on a CPU the maps written out train faster than torch's fused kernel, whose backward
in bfloat16 takes 2 to 8 times as long. Longer ones would be faster too (up to 500), but their maps are large."""


def attend(
    q: Float[Tensor, "B H L d"], k: Float[Tensor, "B H L d"], v: Float[Tensor, "B H L d"], mask: Tensor | None = None
) -> Float[Tensor, "B H L d"]:
    """softmax(q k^T / sqrt(d) + mask) v, by the faster of two ways to compute it and its gradient.

    Args:
        q, k, v: unscaled, as a projection gives them.
        mask: additive, or boolean with True where a key counts; broadcast to (B, H, L, L). A query without any key
            gives 0, as torch's kernels do.
    """
    if not maps_are_faster(q):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    maps = (q * q.shape[-1] ** -0.5) @ k.mT  # (B, H, L, L)
    if mask is None:
        return maps.softmax(-1).to(v.dtype) @ v
    left_out = ~mask if mask.dtype == torch.bool else mask == -torch.inf
    empty = left_out.all(-1, keepdim=True)  # (..., L, 1)
    # The softmax of an empty row is NaN, and so is its gradient, even where it is covered afterwards.
    if mask.dtype == torch.bool:
        maps = maps.masked_fill(left_out & ~empty, -torch.inf)
    else:
        maps = maps + mask.masked_fill(empty, 0)
    return (maps.softmax(-1).to(v.dtype) @ v).masked_fill(empty, 0)


def maps_are_faster(q: Float[Tensor, "*B L d"]) -> bool:
    """Whether to write attention maps out: a short sequence on a CPU, on the way to a gradient."""
    casts = torch.is_autocast_enabled("cpu") and q.dtype != torch.float64  # which autocast leaves as it is
    dtype = torch.get_autocast_dtype("cpu") if casts else q.dtype
    return q.device.type == "cpu" and torch.is_grad_enabled() and q.shape[-2] <= SHORT.get(dtype, 0)


class PackedAttention(nn.MultiheadAttention):
    """A `MultiheadAttention` whose queries, keys and values are views of one product.

    torch's own copies them into a new tensor, and fills three more on the way back. What is not plain self-attention
    without dropout, and what runs without gradients, is left to torch.
    """

    @staticmethod
    def suits(attention: nn.MultiheadAttention) -> bool:
        """Whether it attends within one sequence of one width, batch first, without extra keys."""
        extra = attention.bias_k is not None or attention.add_zero_attn
        return attention.batch_first and attention._qkv_same_embed_dim and not extra

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        other = key is not query or value is not query or query.ndim != 3 or need_weights
        masked = key_padding_mask is not None or (attn_mask is not None and attn_mask.ndim != 2)
        masked = masked or (is_causal and attn_mask is None)
        dropped = self.dropout > 0 and self.training
        if other or masked or dropped or not torch.is_grad_enabled():
            rest: dict[str, Any] = {"average_attn_weights": average_attn_weights, "is_causal": is_causal}
            return super().forward(query, key, value, key_padding_mask, need_weights, attn_mask, **rest)
        packed = F.linear(query, self.in_proj_weight, self.in_proj_bias)  # (B, L, 3 E)
        q, k, v = packed.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)  # (B, H, L, d) each
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = ~attn_mask  # True leaves a key out here, and lets it count in `attend`
        mixed = attend(q, k, v, attn_mask)
        return self.out_proj(mixed.transpose(1, 2).flatten(2)), None


class ShortAttention(Attention):
    """timm's `Attention`, which writes its maps out where that is faster."""

    library_class: ClassVar[type[nn.Module]] = Attention

    def forward(self, x: Float[Tensor, "B L D"], *args: Any, **kwargs: Any) -> Float[Tensor, "B L D"]:
        own = self.fused_attn
        # timm's two ways differ where a mask leaves a query no key; a block names a mask also where it is None
        plain = all(value is None or value is False for value in (*args, *kwargs.values()))
        self.fused_attn = own and not (plain and maps_are_faster(x))  # type: ignore[misc]
        try:
            return super().forward(x, *args, **kwargs)
        finally:
            self.fused_attn = own  # type: ignore[misc]
