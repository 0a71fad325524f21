"""Attention with int8 projections, and the record of a model's int8 layers in its configuration."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import NotSupported, UsageError
from binderclip.models.layers.int8.layers import Int8Conv2d, Int8Embedding, Int8Layer, Int8Linear, put_layers
from binderclip.settings import brief

__all__ = ["Int8Attention", "int8_record", "set_int8"]


class Int8Attention(nn.Module):
    """`torch.nn.MultiheadAttention` with int8 projections; the attention itself is computed in float32.

    Args:
        attention: whose projections are taken, with keys and values of the queries' width.

    Raises:
        NotSupported: other widths of keys or values, or biases and zeros that are appended to them.
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        appended = attention.bias_k is not None or attention.add_zero_attn
        if attention.in_proj_weight is None or appended:
            raise NotSupported("int8 attention needs keys and values of the queries' width, nothing appended")
        self.num_heads, self.embed_dim, self.batch_first = (
            attention.num_heads, attention.embed_dim, attention.batch_first
        )  # fmt: skip
        self.dropout = 0.0  # there is no training
        self.in_proj = Int8Linear(attention.in_proj_weight, attention.in_proj_bias)
        self.out_proj = Int8Linear(attention.out_proj.weight, attention.out_proj.bias)

    @property
    def in_proj_weight(self) -> Float[Tensor, "O I"]:
        """Weights of queries, keys and values, in float32, one below the other."""
        return self.in_proj.weight

    @property
    def in_proj_bias(self) -> Float[Tensor, "O"] | None:
        """Their biases, or None."""
        return self.in_proj.bias

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
        """Outputs and, where asked for, attention; arguments and shapes of `torch.nn.MultiheadAttention`."""
        if query.ndim != 3:
            raise NotSupported(f"int8 attention takes batches of sequences, got shape {tuple(query.shape)}")
        if is_causal and attn_mask is None:
            raise UsageError("is_causal says of attn_mask that it is causal: give the mask")
        parts = self._projected(query, key, value)
        if not self.batch_first:
            parts = [part.transpose(0, 1) for part in parts]
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts)  # (B, H, L, D)
        mask = self._mask(attn_mask, key_padding_mask, q)
        weights = None
        if need_weights:
            logits = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
            weights = (logits if mask is None else logits + mask).softmax(dim=-1)
            mixed = weights @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, mask)
        out = self.out_proj(mixed.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(dim=1)
        return (out if self.batch_first else out.transpose(0, 1)), weights

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """Queries, keys and values behind their projections, by one product where they come from the same tokens."""
        if query is key and key is value:
            return list(self.in_proj(query).chunk(3, dim=-1))
        return [self.in_proj(x).chunk(3, dim=-1)[number] for number, x in enumerate((query, key, value))]

    def _mask(self, attn_mask: Tensor | None, padding: Tensor | None, q: Tensor) -> Tensor | None:
        """What is added to the logits, (L, S) or (B, H or 1, L or 1, S); boolean masks hide where they are true."""
        masks = []
        if attn_mask is not None:
            masks.append(attn_mask if attn_mask.ndim == 2 else attn_mask.unflatten(0, (-1, self.num_heads)))
        if padding is not None:
            masks.append(padding[:, None, None, :])
        added = [q.new_zeros(m.shape).masked_fill(m, -torch.inf) if m.dtype == torch.bool else m.to(q) for m in masks]
        return sum(added[1:], added[0]) if added else None


def int8_record(module: nn.Module) -> dict[str, Any]:
    """Which layers of a module compute in int8, as its configuration keeps it; empty where none does."""
    attentions = [name for name, layer in module.named_modules() if isinstance(layer, Int8Attention)]
    inside = tuple(f"{name}." for name in attentions)
    layers = [
        name
        for name, layer in module.named_modules()
        if isinstance(layer, (Int8Attention, Int8Layer)) and not name.startswith(inside or ("\0",))
    ]
    return {"layers": layers} if layers else {}


def set_int8(module: nn.Module, record: Any, *, where: str = "model_cfg.int8") -> None:
    """Let the layers of a record compute in int8, in place: their codes are to be loaded afterwards. Nothing trains.

    Args:
        module: as its configuration builds it.
        record: of `int8_record`.
        where: it stands, for the message.

    Raises:
        UsageError: the record does not fit: it names no layers, or what has no int8 kernel.
        NotSupported: the module is not in float32 on the CPU.
    """
    names = record.get("layers") if isinstance(record, Mapping) and set(record) == {"layers"} else None
    if not isinstance(names, list) or not names:
        raise UsageError(f"{where} must be a table with layers, a list of names, not {brief(record)}")
    modules = dict(module.named_modules())
    for name in names:
        if not isinstance(name, str) or not isinstance(modules.get(name), (*KINDS, nn.MultiheadAttention)):
            raise UsageError(f"{where}.layers: {brief(name)} is no layer that could compute in int8")
    put_layers(module, [(name, as_int8(modules[name])) for name in names])
    module.requires_grad_(False)  # what is left could not be trained behind such layers


KINDS = (nn.Linear, nn.Conv2d, nn.Embedding)
"""Layers with an int8 form, apart from attention."""


def as_int8(
    layer: nn.Module, inputs: tuple[float, float] = (0.0, 1.0), outputs: tuple[float, float] = (0.0, 1.0)
) -> nn.Module:
    """The int8 form of a layer.

    Args:
        layer: Linear, MultiheadAttention, Conv2d or Embedding.
        inputs, outputs: of a convolution, the ranges that were observed.

    Raises:
        NotSupported, UsageError: see the forms.
    """
    if isinstance(layer, nn.MultiheadAttention):
        return Int8Attention(layer)
    if isinstance(layer, nn.Conv2d):
        return Int8Conv2d(layer, inputs, outputs)
    if isinstance(layer, nn.Embedding):
        return Int8Embedding(layer.weight)
    if not isinstance(layer, nn.Linear):
        raise NotSupported(f"{type(layer).__name__} has no int8 form")
    return Int8Linear(layer.weight, layer.bias)
