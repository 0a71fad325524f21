"""Pooling by attention with a learned query (SigLIP's MAP head, CoCa's pooler), token by token."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.models.tokens import Tokens


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


def mha_values(attention: nn.MultiheadAttention, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
    """What the attention module returns if its only key is this token: out_proj(W_v x + b_v)."""
    width = attention.embed_dim
    joint = attention.in_proj_weight
    weight = attention.v_proj_weight if joint is None else joint[2 * width :]
    bias = None if attention.in_proj_bias is None else attention.in_proj_bias[2 * width :]
    return attention.out_proj(F.linear(x, weight, bias))


def mha_qkv(attention: nn.MultiheadAttention, x: Float[Tensor, "B L D"]) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key, value (B, L, D) of a self-attention module with one joint input matrix."""
    q, k, v = F.linear(x, attention.in_proj_weight, attention.in_proj_bias).chunk(3, dim=-1)
    return q, k, v
