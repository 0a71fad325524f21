"""Additive attention biases: forbidden keys, and a bias that follows tokens when some are dropped."""

from __future__ import annotations

import torch
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.models.towers.tokens import Tokens


def forbid(total: Tensor | None, where: Tensor, like: Tensor) -> Tensor:
    """The bias `total` (None = zeros) with -inf at `where`, in the type of `like`."""
    base = like.new_zeros(()) if total is None else total.to(like.dtype)
    return torch.where(where, base.new_full((), float("-inf")), base)


def fit_bias(bias: Tensor, tokens: Tokens) -> Tensor:
    """Bring a bias on the whole sequence to the tokens that are left; accept one of the current length as it is."""
    if bias.dim() != 4:
        raise UsageError(f"attn_bias must be (B or 1, H or 1, Lq, Lk), got shape {tuple(bias.shape)}")
    current, rows, columns = tokens.x.shape[1], *bias.shape[-2:]
    full = tokens.length
    if not tokens.whole and rows in (1, full) and columns == full and not tokens.extra:
        batch = max(bias.shape[0], tokens.positions.shape[0])
        index = tokens.positions.expand(batch, -1)
        bias = bias.expand(batch, -1, -1, -1)
        heads = bias.shape[1]
        if rows > 1:
            bias = bias.gather(2, index[:, None, :, None].expand(-1, heads, -1, full))
        return bias.gather(3, index[:, None, None, :].expand(-1, heads, bias.shape[2], -1))
    if rows in (1, current) and columns in (1, current):
        return bias
    raise UsageError(
        f"attn_bias of shape {tuple(bias.shape)} fits neither the {current} tokens nor the whole sequence of {full}"
    )
