"""`nn.MultiheadAttention` as the operations that per-sample gradients are known for."""

from __future__ import annotations

import inspect
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from binderclip.errors import NotSupported
from binderclip.privacy.per_sample.watch import linear_like

if TYPE_CHECKING:
    from binderclip.privacy.per_sample.recorded import RecordedPass

__all__ = ["attention"]


@lru_cache(maxsize=1)
def _signature() -> inspect.Signature:
    return inspect.signature(F.multi_head_attention_forward)


def attention(recorder: RecordedPass, func: Any, args: Any, kwargs: Any) -> tuple[Tensor, Any]:
    """`F.multi_head_attention_forward`, whose arguments are position first, with the projections watched.

    Args:
        recorder: of the pass.
        func, args, kwargs: the call.

    Raises:
        NotSupported: learned or static keys (add_bias_kv, static_k), is_causal without a mask, or unbatched input.
    """
    bound = _signature().bind(*args, **kwargs)
    bound.apply_defaults()
    given = bound.arguments
    extras = [n for n in ("bias_k", "bias_v", "static_k", "static_v") if given[n] is not None]
    if extras or given["query"].ndim != 3:
        raise NotSupported(f"private training knows no attention with {', '.join(extras) or 'unbatched input'}")
    # (L, B, E) as nn.MultiheadAttention hands it over -> batch first
    same = given["query"] is given["key"] and given["key"] is given["value"]
    x = given["query"].transpose(0, 1)
    others = [x, x] if same else [given[n].transpose(0, 1) for n in ("key", "value")]
    q, k, v = _projected(recorder, given, [x, *others], same)
    heads = given["num_heads"]
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    mask = _mask(given, q, k)
    if given["add_zero_attn"]:
        # one more key that every query may look at, whose key and value are zero
        k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
        mask = None if mask is None else F.pad(mask, (0, 1))
    dropout = given["dropout_p"] if given["training"] else 0.0
    weights = None
    if given["need_weights"]:
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
        mixed = F.dropout(weights, dropout) @ v
        weights = weights.mean(1) if given["average_attn_weights"] else weights
    else:
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
    mixed = mixed.transpose(1, 2).flatten(2)
    out = linear_like(recorder, mixed, given["out_proj_weight"], given["out_proj_bias"], "attention's output")
    return out.transpose(0, 1), weights


def _projected(recorder: RecordedPass, given: Any, inputs: list[Tensor], same: bool) -> tuple[Tensor, ...]:
    bias = given["in_proj_bias"]
    if given["use_separate_proj_weight"]:
        if bias is not None:
            raise NotSupported("private training knows no attention with separate projections and a shared bias")
        names = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
        return tuple(linear_like(recorder, x, given[n], None, n) for x, n in zip(inputs, names, strict=True))
    weight = given["in_proj_weight"]
    if same:
        return linear_like(recorder, inputs[0], weight, bias, "attention's input").chunk(3, dim=-1)
    # each input meets the whole packed projection, of which it needs a third
    size = weight.shape[0] // 3
    parts = [linear_like(recorder, x, weight, bias, "attention's input") for x in inputs]
    return tuple(part[..., i * size : (i + 1) * size] for i, part in enumerate(parts))


def _mask(given: Any, q: Tensor, k: Tensor) -> Tensor | None:
    """The additive mask, (1 or B, 1 or H, Lq, Lk)."""
    batch, heads = q.shape[:2]
    total: Tensor | None = None
    mask, padding = given["attn_mask"], given["key_padding_mask"]
    if given["is_causal"] and mask is None:
        raise NotSupported("is_causal is a hint beside attn_mask: pass the mask")
    if mask is not None:
        mask = _additive(mask, q)
        total = mask[None, None] if mask.ndim == 2 else mask.view(batch, heads, *mask.shape[1:])
    if padding is not None:
        padding = _additive(padding, q)[:, None, None, :]
        total = padding if total is None else total + padding
    return total


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, float("-inf"))
