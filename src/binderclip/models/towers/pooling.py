"""Pooling by attention with a learned query (SigLIP's MAP head, CoCa's pooler), token by token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.models.towers.tokens import Tokens


def patch_mask(tokens: Tokens) -> Bool[Tensor, "B N"] | None:
    """The mask on the patches alone, or None."""
    if tokens.mask is None:
        return None
    return tokens.mask[:, tokens.prefix : tokens.x.shape[1] - tokens.extra]


def mean_of(x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None = None) -> Float[Tensor, "B D"]:
    """Mean over tokens; masked ones do not count.

    Raises:
        UsageError: a row has no token left.
    """
    if mask is None:
        return x.mean(1)
    count = mask.sum(1, keepdim=True)
    if not bool((count > 0).all()):
        raise UsageError("mean pooling: an image has no unmasked patch left")
    return torch.where(mask.unsqueeze(-1), x, x.new_zeros(())).sum(1) / count.to(x.dtype)


def mha_values(attention: Any, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B E"]:
    """What the attention module returns if its only key is this token: out_proj(W_v x + b_v)."""
    width = attention.embed_dim
    joint = attention.in_proj_weight
    weight = attention.v_proj_weight if joint is None else joint[2 * width :]
    bias = None if attention.in_proj_bias is None else attention.in_proj_bias[2 * width :]
    return attention.out_proj(F.linear(x, weight, bias))


def mha_qkv(attention: Any, x: Float[Tensor, "B L D"]) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key, value (B, L, D) of a self-attention module with one joint input matrix."""
    q, k, v = F.linear(x, attention.in_proj_weight, attention.in_proj_bias).chunk(3, dim=-1)
    return q, k, v


class AttentionPool(NamedTuple):
    """Pooling by one learned query, taken apart: y = sum_r maps[r] @ (weights[:, r] @ x) + bias, result = y + tail(y).

    Attributes:
        weights: (B, R, L) attention of the query's R heads over the tokens (0 on those that are not pooled).
        maps: (R, D', D) value and output projection of each head.
        bias: (D',) what the value and output biases add.
        tail: the MLP branch on y, or None.
    """

    weights: Float[Tensor, "B R L"]
    maps: Float[Tensor, "R E D"]
    bias: Float[Tensor, "E"]
    tail: Callable[[Tensor], Tensor] | None


def split_mha(attention: Any, probe: Float[Tensor, "1 1 D"], x: Float[Tensor, "B L D"]) -> Any:
    """Weights, maps and bias of a MultiheadAttention that pools tokens `x` with one query."""
    heads, width = attention.num_heads, attention.embed_dim
    w_q, w_k, w_v = attention.in_proj_weight.chunk(3)
    b_q, b_k, b_v = attention.in_proj_bias.chunk(3)
    query = F.linear(probe, w_q, b_q).view(heads, 1, -1)
    key = F.linear(x, w_k, b_k).unflatten(-1, (heads, -1)).transpose(1, 2)
    weights = _softmax_rows(query, key, (width // heads) ** -0.5)
    return _assemble(weights, w_v, b_v, attention.out_proj, heads)


def split_latent(pool: Any, x: Float[Tensor, "B L D"]) -> Any:
    """The same for timm's AttentionPoolLatent with one latent."""
    heads = pool.num_heads
    query = pool.q_norm(pool.q(pool.latent).view(1, 1, heads, -1).transpose(1, 2))[0]
    joint = pool.kv(x)
    key = pool.k_norm(joint[..., : joint.shape[-1] // 2].unflatten(-1, (heads, -1)).transpose(1, 2))
    _, w_v = pool.kv.weight.chunk(2)
    b_v = None if pool.kv.bias is None else pool.kv.bias.chunk(2)[1]
    return _assemble(_softmax_rows(query, key, pool.scale), w_v, b_v, pool.proj, heads)


def _softmax_rows(query: Tensor, key: Tensor, scale: float) -> Float[Tensor, "B R L"]:
    logits = (query * scale) @ key.transpose(-2, -1)
    return logits.softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32)).squeeze(2)


def _assemble(weights: Tensor, w_v: Tensor, b_v: Tensor | None, out: nn.Linear, heads: int) -> Any:
    exact = weights.dtype
    w_o = out.weight.to(exact)
    maps = torch.einsum("erk,rkd->red", w_o.unflatten(1, (heads, -1)), w_v.to(exact).unflatten(0, (heads, -1)))
    bias = w_o.new_zeros(w_o.shape[0]) if out.bias is None else out.bias.to(exact)
    return weights, maps, bias if b_v is None else bias + w_o @ b_v.to(exact)
