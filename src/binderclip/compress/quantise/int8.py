"""Inference with int8 weights and activations on the CPU, through PyTorch's own kernels."""

from __future__ import annotations

import fnmatch
import math
import warnings
from collections.abc import Iterable
from typing import Any, NoReturn, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import NotSupported, UsageError

__all__ = ["Int8Attention", "Int8Linear", "quantize_dynamic"]

M = TypeVar("M", bound=nn.Module)


class Int8Linear(nn.Module):
    """A linear layer whose product is one of int8 weights and int8 activations, accumulated in int32.

    Weights are symmetric about 0 with a scale for every output; activations are quantised at every call, within the
    range of the batch. It runs on the CPU, passes no gradient, and cannot be saved: save the float model instead.

    Args:
        weight: float32, of shape (out, in).
        bias: of shape (out,), added in float32, or None.

    Attributes:
        weight: the quantised weights as float32, made anew at every access.

    Raises:
        NotSupported: a weight that is no float32 on the CPU; saving it.
        UsageError: weights that are not finite, or an input that asks for a gradient.
    """

    # What open_clip asks for the dtype to compute in, instead of `weight`.
    int8_original_dtype = torch.float32

    def __init__(self, weight: Float[Tensor, "O I"], bias: Float[Tensor, "O"] | None = None) -> None:
        super().__init__()
        if weight.device.type != "cpu" or weight.dtype != torch.float32:
            raise NotSupported(f"int8 kernels take float32 on the CPU, got {weight.dtype} on {weight.device}")
        weight = weight.detach()
        largest = weight.abs().amax(dim=1)
        if not bool(largest.isfinite().all()):
            raise UsageError("the weights are not all finite")
        # As torch.ao's PerChannelMinMaxObserver: 255 steps from -largest to largest; a row of zeros needs some step.
        scale = (largest / 127.5).clamp(min=torch.finfo(torch.float32).eps).double()
        with warnings.catch_warnings():
            # PyTorch warns that it will drop this tensor type; the kernel has no other input yet.
            warnings.simplefilter("ignore", UserWarning)
            codes = torch.quantize_per_channel(weight, scale, torch.zeros_like(scale).long(), 0, torch.qint8)
        self.out_features, self.in_features = weight.shape
        self._packed = torch.ops.quantized.linear_prepack(codes, None if bias is None else bias.detach().float())

    @property
    def weight(self) -> Float[Tensor, "O I"]:
        """The weights that it computes with, in float32."""
        return torch.ops.quantized.linear_unpack(self._packed)[0].dequantize()

    @property
    def bias(self) -> Float[Tensor, "O"] | None:
        """The bias, in float32, or None."""
        return torch.ops.quantized.linear_unpack(self._packed)[1]

    def forward(self, x: Float[Tensor, "*batch I"]) -> Float[Tensor, "*batch O"]:
        """Outputs in float32."""
        if x.requires_grad and torch.is_grad_enabled():
            raise UsageError("int8 layers pass no gradient: call the model under torch.no_grad()")
        # Activations of 7 bits: on CPUs without VNNI two products of 8 bits overflow the int16 that they are added in.
        return torch.ops.quantized.linear_dynamic(x.float(), self._packed, True)

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotSupported("int8 layers cannot be saved: save the float model, and call quantize_dynamic after loading")

    def __deepcopy__(self, memo: dict[int, Any]) -> Int8Linear:
        # The packed weights never change, and rounding them anew would not give the same codes.
        duplicate = Int8Linear.__new__(Int8Linear)
        nn.Module.__init__(duplicate)
        for name in ("in_features", "out_features", "_packed", "training"):
            setattr(duplicate, name, getattr(self, name))
        return duplicate

    def extra_repr(self) -> str:
        """The sizes."""
        return f"{self.in_features}, {self.out_features}"


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
        self.in_proj = Int8Linear(attention.in_proj_weight, attention.in_proj_bias)
        self.out_proj = Int8Linear(attention.out_proj.weight, attention.out_proj.bias)

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


def quantize_dynamic(module: M, *, exclude: str | Iterable[str] = ()) -> M:
    """Let every linear layer and every attention of a model compute in int8 on the CPU.

    Linear layers become `Int8Linear`, `torch.nn.MultiheadAttention` becomes `Int8Attention`: `torch.ao.quantization`
    leaves the projections of the latter in float32, most of a text tower's weights. Convolutions, norms, embeddings and
    everything else stay in float32. The weights take a quarter of the memory.

    Args:
        module: changed in place, and put into evaluation mode.
        exclude: name patterns (shell wildcards) of layers that stay as they are.

    Returns:
        The module.

    Raises:
        UsageError: there is nothing to quantise.
        NotSupported: layers that are not in float32 on the CPU, or an attention that `Int8Attention` cannot stand for.

    Examples:
        >>> net = nn.Sequential(nn.Linear(64, 8), nn.GELU(), nn.Linear(8, 2))
        >>> quantize_dynamic(net, exclude="2")
        Sequential(
          (0): Int8Linear(64, 8)
          (1): GELU(approximate='none')
          (2): Linear(in_features=8, out_features=2, bias=True)
        )
    """
    patterns = (exclude,) if isinstance(exclude, str) else tuple(exclude)
    chosen: dict[str, nn.Linear | nn.MultiheadAttention] = {}
    skipped: tuple[str, ...] = ()
    for name, layer in module.named_modules():
        if name and not name.startswith(skipped or "\0") and isinstance(layer, (nn.Linear, nn.MultiheadAttention)):
            if isinstance(layer, nn.MultiheadAttention):  # its output projection is a Linear of its own
                skipped += (f"{name}.",)
            if not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
                chosen[name] = layer
    if not chosen:
        raise UsageError("there is nothing to quantise: no nn.Linear or nn.MultiheadAttention lies inside this module")
    # All are made before the first is put in: a layer that is refused leaves the model as it was.
    made = {
        name: Int8Attention(layer) if isinstance(layer, nn.MultiheadAttention) else Int8Linear(layer.weight, layer.bias)
        for name, layer in chosen.items()
    }
    for name, layer in made.items():
        parent, _, last = name.rpartition(".")
        setattr(module.get_submodule(parent), last, layer)
    return module.eval()
