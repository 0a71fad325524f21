"""From gradients to one statistic per block, and the places that blocks own in a threshold's memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.optim.gradients.measure import (
    combine_norms,
    is_one_unit,
    join_shards,
    local_shards,
    shard_cuts,
    tensor_norms,
    unit_norms,
)

__all__ = ["Slots", "StepStatistics", "block_stat", "measure"]


@dataclass(frozen=True)
class StepStatistics:
    """Statistics of one step.

    Args:
        norm: of everything.
        stat: per block.
        tensors: per tensor.
        sizes: number of entries of `stat` per key (per tensor, per group, or one for all).
        owner: for each tensor, the entry of `sizes` it belongs to.
        labels: the groups, in the order of `sizes` (granularity "group").
    """

    norm: Float[Tensor, ""]
    stat: Float[Tensor, "blocks"]
    tensors: Float[Tensor, "tensors"]
    sizes: list[int]
    owner: list[int]
    labels: list[str]

    def divided_by(self, scale: Tensor) -> StepStatistics:
        """The same gradients without a loss scale."""
        scale = scale.to(device=self.stat.device, dtype=self.stat.dtype).reshape(())
        return replace(self, norm=self.norm / scale, stat=self.stat / scale, tensors=self.tensors / scale)

    def per_tensor(self, values: Float[Tensor, "blocks"]) -> list[Tensor]:
        """One value per block, handed out to the tensors the blocks belong to."""
        parts = values.split(self.sizes)
        return [parts[owner] for owner in self.owner]


def measure(
    tensors: Sequence[Tensor],
    granularity: str,
    order: float,
    *,
    labels: Sequence[str] = (),
    unit_dims: Sequence[int] = (),
    foreach: bool = True,
    like: Sequence[Tensor] | None = None,
) -> StepStatistics:
    """Read the tensors once and return the p-norm of every block; shards of DTensors are joined.

    Args:
        tensors: gradients or weights, plain or DTensor, at least one.
        granularity: as in `Clip`; "coordinate" gives one number per tensor.
        order: p.
        labels: group of each tensor, for granularity "group".
        unit_dims: for each tensor, the dimension that counts the units, for granularity "unit".
        foreach: one fused call for many tensors.
        like: the parameters whose shards these tensors are parts of; default the tensors themselves.
    """
    count = len(tensors)
    local = local_shards(tensors)
    cuts = shard_cuts(tensors if like is None else like)
    if granularity == "unit":
        return _by_unit(tensors, local, cuts, order, unit_dims or [0] * count, foreach)
    norms = tensor_norms(local, order, foreach=foreach)
    if cuts:
        pairs = [tuple((mesh, axis) for mesh, axis, _ in cut) for cut in cuts]
        norms = torch.cat(join_shards(list(norms.split(1)), pairs, order))
    whole = combine_norms(norms, order)
    if granularity == "global":
        return StepStatistics(whole[0], whole, norms, [1], [0] * count, [])
    if granularity == "group":
        names = list(dict.fromkeys(labels))
        owner = [names.index(label) for label in labels]
        into = torch.tensor(owner, device=norms.device)
        return StepStatistics(
            whole[0], combine_norms(norms, order, into, len(names)), norms, [1] * len(names), owner, names
        )
    return StepStatistics(whole[0], norms, norms, [1] * count, list(range(count)), [])


def block_stat(
    tensors: Sequence[Tensor],
    granularity: str,
    order: float,
    *,
    labels: Sequence[str] = (),
    unit_dims: Sequence[int] = (),
    foreach: bool = True,
) -> Float[Tensor, "blocks"]:
    """The statistic of every block alone; arguments as of `measure`."""
    if granularity != "unit":
        return measure(tensors, granularity, order, labels=labels, foreach=foreach).stat
    dims = unit_dims or [0] * len(tensors)
    return torch.cat(_unit_norms(tensors, local_shards(tensors), shard_cuts(tensors), order, dims, foreach)[0])


def _unit_norms(
    tensors: Sequence[Tensor],
    local: Sequence[Tensor],
    cuts: Sequence[Any],
    order: float,
    dims: Sequence[int],
    foreach: bool,
) -> tuple[list[Tensor], list[Any]]:
    """The norms of each tensor's units, and over which mesh dimensions those units are spread."""
    one = [is_one_unit(tensor) for tensor in tensors]
    norms = [torch.empty(0)] * len(local)
    vectors = [index for index, whole in enumerate(one) if whole]
    if vectors:
        # one call for all that are one unit each
        parts = tensor_norms([local[index] for index in vectors], order, foreach=foreach).split(1)
        for index, part in zip(vectors, parts, strict=True):
            norms[index] = part
    for index, whole in enumerate(one):
        if not whole:
            norms[index] = unit_norms(local[index], order, whole=False, unit_dim=dims[index])
    if len({(part.device, part.dtype) for part in norms}) > 1:
        widest = torch.float64 if any(part.dtype == torch.float64 for part in norms) else norms[0].dtype
        norms = [part.to(norms[0].device, widest, non_blocking=True) for part in norms]
    through: list[Any] = []
    along: list[Any] = []
    if cuts:
        # a cut along the units leaves each unit whole; any other cut goes through them
        for tensor, cut, whole, unit_dim in zip(tensors, cuts, one, dims, strict=True):
            units = unit_dim % tensor.ndim if tensor.ndim else 0
            through.append(tuple((mesh, axis) for mesh, axis, dim in cut if whole or dim != units))
            along.append(tuple((mesh, axis) for mesh, axis, dim in cut if not whole and dim == units))
        norms = join_shards(norms, through, order)
    return norms, along


def _by_unit(
    tensors: Sequence[Tensor],
    local: Sequence[Tensor],
    cuts: Sequence[Any],
    order: float,
    dims: Sequence[int],
    foreach: bool,
) -> StepStatistics:
    norms, along = _unit_norms(tensors, local, cuts, order, dims, foreach)
    together = tensor_norms(norms, order, foreach=foreach)
    if cuts:
        together = torch.cat(join_shards(list(together.split(1)), along, order))
    sizes = [len(part) for part in norms]
    return StepStatistics(
        combine_norms(together, order)[0], torch.cat(norms), together, sizes, list(range(len(norms))), []
    )


class Slots:
    """Gives every key a fixed range of places, so that memory survives parameters that come and go."""

    def __init__(self) -> None:
        self._start: dict[str, tuple[int, int]] = {}
        self.capacity = 0
        self._last: tuple[Any, Tensor] | None = None

    def find(self, keys: Sequence[str], sizes: Sequence[int], device: torch.device) -> Tensor:
        """The places of these keys, one after the other; unknown keys get new ones.

        Args:
            keys: one per tensor, group, or one for all.
            sizes: number of blocks of each.
            device: where the result shall live.
        """
        slot_key = (tuple(keys), tuple(sizes), device)
        if self._last is not None and self._last[0] == slot_key:
            return self._last[1]
        places: list[Tensor] = []
        for key, size in zip(keys, sizes, strict=True):
            start, known = self._start.get(key, (self.capacity, -1))
            if known != size:
                start, self.capacity = self.capacity, self.capacity + size
                self._start[key] = (start, size)
            places.append(torch.arange(start, start + size))
        self._last = (slot_key, torch.cat(places).to(device, non_blocking=True))
        return self._last[1]

    def state_dict(self) -> dict[str, Any]:
        """Keys with their places."""
        return {"places": {key: list(place) for key, place in self._start.items()}, "capacity": self.capacity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over saved places."""
        self._start = {key: (place[0], place[1]) for key, place in state["places"].items()}
        self.capacity, self._last = state["capacity"], None
