"""Order statistics of gradients: the k-th largest entry of blocks of tensors, whole or cut over processes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from binderclip.optim.gradients.measure import accumulation_dtype, local_shard, shard_dims

__all__ = ["kth_largest"]


def kth_largest(blocks: Sequence[Sequence[Tensor]], fraction: float) -> Float[Tensor, "blocks"]:
    """The k-th largest absolute value of each block, k = max(1, round(fraction * entries)); float32 or better.

    Of a DTensor every process contributes the k largest of its shard, which must hold the k largest of all; the
    candidates of all blocks travel in one all-gather per mesh dimension.

    Args:
        blocks: the tensors of each block, plain or DTensor, each block with at least one entry.
        fraction: share of the entries, in [0, 1].
    """
    counts = [max(1, round(fraction * sum(tensor.numel() for tensor in block))) for block in blocks]
    candidates: list[list[Tensor]] = [[] for _ in blocks]
    cut: dict[Any, list[tuple[int, Tensor]]] = defaultdict(list)
    for number, block in enumerate(blocks):
        for tensor in block:
            axes = tuple((mesh, axis) for mesh, axis, _ in shard_dims(tensor))
            if axes:
                cut[axes].append((number, local_shard(tensor)))
            else:
                candidates[number].append(local_shard(tensor).abs().flatten())
    for axes, parts in cut.items():
        for number, counts_of in _gathered(axes, parts, counts).items():
            candidates[number].append(counts_of)
    device = candidates[0][0].device
    result = [_kth(_joined(some, device), k) for some, k in zip(candidates, counts, strict=True)]
    widest = torch.float64 if any(value.dtype == torch.float64 for value in result) else torch.float32
    return torch.stack([value.to(device, widest, non_blocking=True) for value in result])


def _joined(parts: Sequence[Tensor], device: torch.device) -> Tensor:
    if len(parts) == 1:
        return parts[0]
    kinds = {part.dtype for part in parts}
    dtype = kinds.pop() if len(kinds) == 1 else max(map(accumulation_dtype, kinds), key=lambda kind: kind.itemsize)
    return torch.cat([part.to(device, dtype, non_blocking=True) for part in parts])


def _kth(values: Tensor, k: int) -> Tensor:
    """The k-th largest entry of a vector."""
    return values.max() if k == 1 else values.kthvalue(len(values) - k + 1).values


def _gathered(
    axes: Sequence[tuple[Any, int]], parts: Sequence[tuple[int, Tensor]], counts: Sequence[int]
) -> dict[int, Tensor]:
    """The k largest absolute entries of all processes' shards, by block."""
    shards: dict[int, list[Tensor]] = defaultdict(list)
    for number, local in parts:
        shards[number].append(local.abs().flatten())
    device = parts[0][1].device
    best = {number: _padded(_joined(some, device), counts[number]) for number, some in shards.items()}
    widest = max((values.dtype for values in best.values()), key=lambda kind: kind.itemsize)
    for mesh, axis in axes:
        group = mesh.get_group(axis)
        flat = torch.cat([values.to(widest) for values in best.values()])
        received = [torch.empty_like(flat) for _ in range(dist.get_world_size(group))]
        dist.all_gather(received, flat, group=group)
        sizes = [len(values) for values in best.values()]
        columns = zip(*(vector.split(sizes) for vector in received), strict=True)
        best = {
            number: _padded(torch.cat(column), counts[number]) for number, column in zip(best, columns, strict=True)
        }
    return best


def _padded(values: Tensor, k: int) -> Tensor:
    """The k largest, filled up with -1 (which no absolute value is) where there are fewer."""
    kept = values.topk(min(k, len(values)), sorted=False).values
    return torch.cat([kept, kept.new_full((k - len(kept),), -1.0)])
