"""Several processes under `torchrun`: how they find each other, and how a module is spread over them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from binderclip.errors import NotSupported
from binderclip.models.files.devices import resolve_device
from binderclip.settings import check_choice

__all__ = ["Parallel", "World", "check_parallel", "join_world", "spread"]

Parallel = Literal["ddp", "fsdp"]


@dataclass(frozen=True)
class World:
    """This process among the others.

    Args:
        rank: number of this process, 0 leads (it alone writes files and prints).
        size: number of processes.
        device: where this process computes.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This process's part of `count` things."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()

    def agree(self, value: Any) -> Any:
        """The leader's value, everywhere."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]


@contextlib.contextmanager
def join_world(device: str = "cpu") -> Iterator[World]:
    """Join the processes that `torchrun` started; alone where there are none.

    Args:
        device: `cpu`, `cuda`, `cuda:1`, `mps`; under torchrun `cuda` becomes this process's own card.

    Raises:
        UsageError: a device that does not exist.
        NotSupported: one that is not on this machine.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    where = resolve_device(device)
    if where.type == "cuda" and size > 1:
        where = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(where)
    if size == 1 and not dist.is_initialized():
        yield World(device=where)
        return
    own = not dist.is_initialized()
    if own:
        dist.init_process_group("nccl" if where.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size(), where)
        if own:
            # A process that leaves while another still talks to it can take it down.
            dist.barrier()
    finally:
        if own:
            dist.destroy_process_group()


def spread(module: nn.Module, world: World, parallel: Parallel = "ddp") -> nn.Module:
    """Wrap a module whose `forward` is the whole training step; call what is returned.

    Args:
        module: the step; parameters already on `world.device`.
        world: the processes.
        parallel: `ddp` keeps a copy in each process, `fsdp` cuts weights, gradients and moments into shards.

    Raises:
        UsageError: unknown `parallel`.
        NotSupported: `fsdp` in a torch without `fully_shard`.
    """
    check_parallel(parallel)
    if world.size == 1:
        return module
    if parallel == "ddp":
        if not any(p.requires_grad for p in module.parameters()):
            return module
        ids = [world.device.index] if world.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(module, device_ids=ids, gradient_as_bucket_view=True)
    return _shard(module, world)


def check_parallel(parallel: str) -> None:
    """Refuse an unknown way.

    Raises:
        UsageError: neither `ddp` nor `fsdp`.
    """
    check_choice("parallel", parallel, ("ddp", "fsdp"))


def _shard(module: nn.Module, world: World) -> nn.Module:
    """`fully_shard` block by block, then the rest; scalars stay whole and have their gradients averaged here."""
    try:
        from torch.distributed.fsdp import fully_shard
    except ImportError as error:
        raise NotSupported(f"fsdp needs torch 2.6 or newer, this is {torch.__version__}; use ddp") from error
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh(world.device.type, (world.size,))
    # A 0-dim tensor (the logit scale, its bias) cannot be cut.
    scalars = {p for p in module.parameters() if p.ndim == 0}
    for scalar in scalars:
        dist.broadcast(scalar.data, src=0)
        if scalar.requires_grad:
            scalar.register_post_accumulate_grad_hook(_average)
    for block in _blocks(module):
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh, ignored_params=scalars)
    return module


def _blocks(module: nn.Module) -> list[nn.Module]:
    """The members of every stack of layers, the units whose weights are gathered together."""
    stacks = [m for m in module.modules() if isinstance(m, (nn.ModuleList, nn.Sequential)) and len(m) > 1]
    blocks = [b for stack in stacks for b in stack if len(list(b.parameters())) > 4]
    inner = {id(m) for block in blocks for m in block.modules() if m is not block}
    return [block for block in blocks if id(block) not in inner]


def _average(parameter: Tensor) -> None:
    if parameter.grad is not None:
        dist.all_reduce(parameter.grad)
        parameter.grad /= dist.get_world_size()
