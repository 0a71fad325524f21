"""This process's share of a batch that is spread over several processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Shaped
from torch import Tensor

from binderclip.errors import UsageError

__all__ = ["Share", "share_of"]

GATHER = ("auto", "equal", "none")


@dataclass(frozen=True)
class Share:
    """Which rows of the whole batch live here.

    The losses use it so that every process computes its own rows only, and so that the average of the processes'
    parameter gradients (what DDP and FSDP form) is the gradient of one process holding the whole batch.

    Args:
        counts: rows per process, in rank order.
        rank: this process's position in `counts`.
        group: the process group, None for the default one.
    """

    counts: tuple[int, ...]
    rank: int = 0
    group: Any = None

    @property
    def size(self) -> int:
        """Number of processes."""
        return len(self.counts)

    @property
    def total(self) -> int:
        """Rows of the whole batch."""
        return sum(self.counts)

    @property
    def offset(self) -> int:
        """Index in the whole batch of this process's first row."""
        return sum(self.counts[: self.rank])

    @property
    def local(self) -> slice:
        """This process's rows in the whole batch."""
        return slice(self.offset, self.offset + self.counts[self.rank])

    @property
    def even(self) -> bool:
        """Whether all processes hold equally many rows."""
        return len(set(self.counts)) == 1

    def gather(self, rows: Shaped[Tensor, "n *rest"]) -> Shaped[Tensor, "N *rest"]:
        """Everybody's rows in rank order, without a graph."""
        if self.size == 1:
            return rows
        longest = max(self.counts)
        padded = rows.new_zeros(longest, *rows.shape[1:])
        padded[: len(rows)] = rows
        full = rows.new_empty(self.size * longest, *rows.shape[1:])
        dist.all_gather_into_tensor(full, padded, group=self.group)
        if self.even:
            return full
        return torch.cat([part[:count] for part, count in zip(full.split(longest), self.counts, strict=True)])

    def scatter_sum(self, rows: Float[Tensor, "N d"]) -> Float[Tensor, "n d"]:
        """The sum over processes of their contributions to this process's rows."""
        if self.size == 1:
            return rows
        if self.even:
            own = rows.new_empty(self.counts[self.rank], *rows.shape[1:])
            dist.reduce_scatter_tensor(own, rows.contiguous(), group=self.group)
            return own
        return self.sum(rows)[self.local]

    def sum(self, value: Tensor) -> Tensor:
        """Sum over processes, in place."""
        if self.size > 1:
            dist.all_reduce(value, group=self.group)
        return value

    def max(self, value: Tensor) -> Tensor:
        """Maximum over processes, in place."""
        if self.size > 1:
            dist.all_reduce(value, op=dist.ReduceOp.MAX, group=self.group)
        return value

    def mean(self, per_row: Float[Tensor, "n"]) -> Float[Tensor, ""]:
        """Mean over the rows of the whole batch, differentiable in this process's rows."""
        return _GlobalMean.apply(per_row, self)

    def add(self, value: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """Sum over processes of what each computed of its rows, differentiable in this process's part.

        Its backward sums gradients over the processes, so that the sum may be used with rows of each process as well as
        in what all of them compute alike.
        """
        return value if self.size == 1 else _Add.apply(value, self)

    def average(self, parameter: Tensor) -> Tensor:
        """A parameter whose gradient is averaged over the processes, which makes it the whole batch's in each."""
        return parameter if self.size == 1 else _AverageGradient.apply(parameter, self)

    @property
    def doubled(self) -> Share:
        """The share of two views of every row, one after the other in each process."""
        return Share(tuple(2 * count for count in self.counts), self.rank, self.group)


class _AverageGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, share: Share) -> Tensor:
        ctx.share = share
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.share.sum(grad.clone()) / ctx.share.size, None


class _Add(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, share: Share) -> Tensor:
        ctx.share = share
        return share.sum(value.clone())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.share.sum(grads[0].clone()), None


class _GlobalMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, per_row: Tensor, share: Share) -> Tensor:
        ctx.share, ctx.shape = share, per_row.shape
        return share.sum(per_row.sum()) / share.total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        # times the number of processes, because the average over processes will divide by it
        return (grad * (ctx.share.size / ctx.share.total)).expand(ctx.shape), None


def share_of(rows: int, device: torch.device, gather: Any = "auto") -> Share:
    """Find out how the batch is spread.

    Args:
        rows: rows held here.
        device: where the exchanged counts live (the features' device).
        gather: "auto" exchanges the row counts where torch.distributed is initialised, so they may differ;
            "equal" promises that they do not and saves that exchange (one host read per step); "none" keeps
            to this process; a process group stands for "auto" within it.

    Raises:
        UsageError: an unknown word.
    """
    group = None
    if not isinstance(gather, str):
        group, gather = gather, "auto"
    if gather not in GATHER:
        raise UsageError(f"gather must be one of {', '.join(GATHER)} or a process group, got {gather!r}")
    if gather == "none" or not (dist.is_available() and dist.is_initialized()) or dist.get_world_size(group) == 1:
        return Share((rows,))
    size, rank = dist.get_world_size(group), dist.get_rank(group)
    if gather == "equal":
        return Share((rows,) * size, rank, group)
    counts = torch.empty(size, dtype=torch.int64, device=device)
    dist.all_gather_into_tensor(counts, torch.tensor([rows], device=device), group=group)
    return Share(tuple(counts.tolist()), rank, group)
