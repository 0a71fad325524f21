"""Gradient norms per tensor, per unit and in all, read once; sharded gradients are joined by one all-reduce each."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import NotSupported

__all__ = ["combine_norms", "local_shard", "local_shards", "shard_cuts", "shard_dims", "tensor_norms", "unit_norms"]

LARGE = 32768
"""Entries from which on a CPU a norm is worth several threads."""


def _dtensor_type() -> Any:
    """`DTensor`, or None where it was never imported (then no tensor can be one)."""
    module = sys.modules.get("torch.distributed.tensor")
    return getattr(module, "DTensor", None)


def local_shard(tensor: Tensor) -> Tensor:
    """The part of a tensor that lives in this process: a DTensor's shard, any other tensor itself."""
    kind = _dtensor_type()
    return tensor.to_local() if kind is not None and isinstance(tensor, kind) else tensor  # type: ignore[attr-defined]


def local_shards(tensors: Sequence[Tensor]) -> list[Tensor]:
    """`local_shard` of each."""
    # asked once: in a program without DTensors nothing has to be looked at
    kind = _dtensor_type()
    if kind is None:
        return list(tensors)
    return [tensor.to_local() if isinstance(tensor, kind) else tensor for tensor in tensors]  # type: ignore[attr-defined]


def shard_cuts(tensors: Sequence[Tensor]) -> list[tuple[tuple[Any, int, int], ...]]:
    """`shard_dims` of each, or an empty list where none is cut."""
    kind = _dtensor_type()
    if kind is None or not any(isinstance(tensor, kind) for tensor in tensors):
        return []
    cuts = [shard_dims(tensor) for tensor in tensors]
    return cuts if any(cuts) else []


def shard_dims(tensor: Tensor) -> tuple[tuple[Any, int, int], ...]:
    """Over which mesh dimensions a tensor is cut: (mesh, mesh dimension, tensor dimension) each; () if whole.

    Raises:
        NotSupported: the gradient is a pending sum (`Partial`).
    """
    kind = _dtensor_type()
    if kind is None or not isinstance(tensor, kind):
        return ()
    cuts = []
    for axis, placement in enumerate(tensor.placements):  # type: ignore[attr-defined]
        if placement.is_partial():
            raise NotSupported(
                "a gradient is a pending sum over processes (DTensor Partial): redistribute it to Shard or Replicate "
                "before clipping"
            )
        if placement.is_shard():
            cuts.append((tensor.device_mesh, axis, placement.dim))  # type: ignore[attr-defined]
    return tuple(cuts)


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Norms of half-precision gradients are accumulated in float32."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def tensor_norms(tensors: Sequence[Tensor], order: float, *, foreach: bool = True) -> Float[Tensor, "n"]:
    """The p-norm of each tensor of this process, in one pass over memory; float32 or better, on the first's device.

    Args:
        tensors: plain tensors, at least one.
        order: p; `inf` for the largest absolute value.
        foreach: one fused call per device and dtype, else one call per tensor.
    """
    first = tensors[0].device
    one_kind = len(set(map(attrgetter("dtype", "device"), tensors))) == 1
    if one_kind and all(map(Tensor.numel, tensors)):
        return torch.stack(_norms(tensors, order, foreach))
    kinds: dict[tuple[torch.device, torch.dtype], list[int]] = defaultdict(list)
    for index, tensor in enumerate(tensors):
        kinds[tensor.device, tensor.dtype].append(index)
    result: list[Tensor] = [torch.empty(0)] * len(tensors)
    for (_, dtype), indices in kinds.items():
        filled = [index for index in indices if tensors[index].numel()]
        for index in indices:
            # an empty shard; its maximum is undefined, its share of any norm is 0
            result[index] = torch.zeros((), device=first, dtype=accumulation_dtype(dtype))
        if filled:
            for index, norm in zip(filled, _norms([tensors[i] for i in filled], order, foreach), strict=True):
                result[index] = norm.to(first, non_blocking=True)
    widest = torch.float64 if any(norm.dtype == torch.float64 for norm in result) else result[0].dtype
    return torch.stack([norm.to(widest) for norm in result])


def _norms(tensors: Sequence[Tensor], order: float, foreach: bool) -> list[Tensor]:
    dtype = accumulation_dtype(tensors[0].dtype)
    dtype_or_none = None if dtype == tensors[0].dtype else dtype
    if tensors[0].device.type == "cpu" and not dtype.is_complex:
        if order == float("inf"):
            return [_largest(tensor).to(dtype) for tensor in tensors]
        if order == 2 and dtype_or_none is None:
            return _euclidean(tensors, foreach)
    if foreach:
        return list(torch._foreach_norm(list(tensors), order, dtype=dtype_or_none))
    return [torch.linalg.vector_norm(tensor, order, dtype=dtype_or_none) for tensor in tensors]


def _euclidean(tensors: Sequence[Tensor], foreach: bool) -> list[Tensor]:
    """The 2-norms of tensors on a CPU, large ones as the root of a dot product: torch's own norm of a whole tensor runs
    on one thread however many there are, and loses digits with every repetition of an expanded one."""
    large = {}
    for index, tensor in enumerate(tensors):
        if tensor.numel() >= LARGE:
            once, times = _unexpanded(tensor)
            followed = torch.is_grad_enabled() and tensor.requires_grad  # the root has no gradient at 0, the norm has 0
            if not followed and (flat := _flat(once)) is not None:
                large[index] = torch.dot(flat, flat).mul_(times).sqrt_()
            elif times > 1:
                large[index] = torch.linalg.vector_norm(once) * times**0.5
    rest = [tensor for index, tensor in enumerate(tensors) if index not in large]
    if foreach and rest:
        small = iter(torch._foreach_norm(rest, 2))
    else:
        small = (torch.linalg.vector_norm(tensor) for tensor in rest)
    return [large[index] if index in large else next(small) for index in range(len(tensors))]


def _unexpanded(tensor: Tensor) -> tuple[Tensor, int]:
    """The entries that are stored, and how often an expanded tensor repeats each."""
    times = 1
    for dim, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        if stride == 0 and size > 1:
            tensor, times = tensor.narrow(dim, 0, 1), times * size
    return tensor, times


def _flat(tensor: Tensor) -> Tensor | None:
    """A view of all its entries as a vector in the order of memory; None where there are gaps between them."""
    if tensor.is_contiguous():
        return tensor.view(-1)
    if tensor.ndim == 2 and tensor.mT.is_contiguous():
        return tensor.mT.view(-1)
    if tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        return tensor.permute(0, 2, 3, 1).view(-1)
    return None


def _largest(tensor: Tensor) -> Tensor:
    """The largest absolute value; on a CPU torch's own infinity norm takes four times as long, because it does not
    vectorise."""
    low, high = torch.aminmax(tensor)
    return torch.maximum(-low, high)


def is_one_unit(tensor: Tensor) -> bool:
    """Whether a tensor counts as a single unit: vectors and scalars, however many dimensions of size 1 they carry."""
    return tensor.ndim < 2 or sum(size != 1 for size in tensor.shape) <= 1


def unit_norms(tensor: Tensor, order: float, *, whole: bool, unit_dim: int = 0) -> Float[Tensor, "units"]:
    """The p-norm of each slice along `unit_dim` (rows of a Linear, filters of a convolution).

    Args:
        tensor: this process's part of a gradient or a weight.
        order: p.
        whole: treat it as one unit.
        unit_dim: the dimension that counts the units.
    """
    dtype = accumulation_dtype(tensor.dtype)
    if not tensor.numel():
        return tensor.new_zeros(1 if whole else tensor.shape[unit_dim], dtype=dtype)
    if whole:
        return tensor_norms([tensor], order)
    dims = [dim for dim in range(tensor.ndim) if dim != unit_dim % tensor.ndim]
    return torch.linalg.vector_norm(tensor, order, dim=dims, dtype=dtype)


def combine_norms(norms: Tensor, order: float, into: Tensor | None = None, size: int = 1) -> Tensor:
    """The p-norm of concatenated vectors from their p-norms.

    Args:
        norms: (n,) p-norms.
        order: p.
        into: (n,) index of the block each belongs to; None: all to one.
        size: number of blocks.

    Returns:
        (size,) norms of the blocks.
    """
    if into is None:
        return torch.linalg.vector_norm(norms, order).reshape(1)
    if order == float("inf"):
        return norms.new_zeros(size).scatter_reduce(0, into, norms, "amax")
    return norms.new_zeros(size).index_add(0, into, norms**order) ** (1 / order)


def join_shards(norms: list[Tensor], cuts: Sequence[tuple[tuple[Any, int], ...]], order: float) -> list[Tensor]:
    """Norms of whole tensors from the norms of their shards: one all-reduce per set of mesh dimensions.

    Args:
        norms: one vector of this process's norms per tensor.
        cuts: per tensor, the (mesh, mesh dimension) pairs over which its norms must be joined; () for none.
        order: p.
    """
    batches: dict[Any, list[int]] = defaultdict(list)
    for index, cut in enumerate(cuts):
        if cut:
            batches[cut].append(index)
    result = list(norms)
    for cut, indices in batches.items():
        flat = torch.cat([norms[index] for index in indices])
        largest = order == float("inf")
        flat = flat if largest else flat**order
        for mesh, axis in cut:
            dist.all_reduce(flat, dist.ReduceOp.MAX if largest else dist.ReduceOp.SUM, group=mesh.get_group(axis))
        flat = flat if largest else flat ** (1 / order)
        for index, part in zip(indices, flat.split([len(norms[index]) for index in indices]), strict=True):
            result[index] = part
    return result
