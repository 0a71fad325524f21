"""Contrastive losses that walk over the logit matrix in square blocks and never hold it.

Forward keeps a running maximum and sum per row and per column; backward computes each block again. That costs one
more matrix product than the dense form and saves all of its B x B memory. Logits are kept in base 2, because exp2 is
the cheapest exponential there is; the factor is folded into the scale.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from binderclip.losses.contrastive.share import Share
from binderclip.losses.contrastive.targets import Positives

__all__ = ["BlockPlan", "blockwise_sigmoid", "blockwise_softmax"]

_LOG2E = 1.0 / math.log(2.0)
_LN2 = math.log(2.0)


@dataclass(frozen=True)
class BlockPlan:
    """What both links need besides the features.

    Args:
        share: how the batch is spread over processes.
        positives: targets of this batch.
        chunk: side of a block.
        smoothing: label smoothing, in [0, 1) (softmax only).
        rows, columns: weights of the image-to-text and of the text-to-image side (softmax only).
        metrics: whether to count hits.
    """

    share: Share
    positives: Positives
    chunk: int
    smoothing: float = 0.0
    rows: float = 0.5
    columns: float = 0.5
    metrics: bool = True


class _Blocks:
    """The blocks of `scale * a @ b.T`, each written into the same piece of memory."""

    def __init__(self, a: Tensor, b: Tensor, scale: Tensor, plan: BlockPlan, bias: Tensor | None = None) -> None:
        self.a, self.b, self.scale, self.plan, self.bias = a, b, scale, plan, bias
        side_a, side_b = min(plan.chunk, len(a)), min(plan.chunk, len(b))
        self.memory = a.new_empty(side_a * side_b)
        self.spare_memory = a.new_empty(side_a * side_b)

    def __iter__(self) -> Iterator[tuple[slice, slice, Tensor]]:
        n, total, chunk = len(self.a), len(self.b), self.plan.chunk
        for start in range(0, n, chunk):
            i = slice(start, min(start + chunk, n))
            rows = self.a[i] * self.scale
            for begin in range(0, total, chunk):
                j = slice(begin, min(begin + chunk, total))
                shape = (i.stop - i.start, j.stop - j.start)
                block = self.memory[: shape[0] * shape[1]].view(shape)
                torch.mm(rows, self.b[j].T, out=block)
                if self.bias is not None:
                    block.add_(self.bias)
                self.plan.positives.mask_(block, i, j)
                yield i, j, block

    def spare(self, block: Tensor) -> Tensor:
        """A second piece of memory of the block's shape."""
        return self.spare_memory[: block.numel()].view(block.shape)


class _RunningLogSum:
    """Running log2-sum-exp2 of one side, as a maximum and a sum relative to it."""

    def __init__(self, like: Tensor, size: int) -> None:
        # the lowest finite number, not -inf: inf - inf would be NaN where a whole block is masked
        self.max = like.new_full((size,), torch.finfo(like.dtype).min)
        self.sum = like.new_zeros(size)
        self.pulled = like.new_zeros(size)
        self.plain = like.new_zeros(size)
        self.good = like.new_full((size,), -torch.inf)
        self.other = like.new_full((size,), -torch.inf)

    def add(self, at: slice, block: Tensor, dim: int, spare: Tensor) -> None:
        """Take in a block whose entries along `dim` belong to one row (dim 1) or column (dim 0)."""
        top = torch.maximum(self.max[at], block.amax(dim))
        torch.sub(block, top.unsqueeze(dim), out=spare)
        spare.exp2_()
        self.sum[at] = self.sum[at] * torch.exp2(self.max[at] - top) + spare.sum(dim)
        self.max[at] = top

    def pool(self, share: Share) -> None:
        """Join the column statistics of all processes."""
        if share.size == 1:
            return
        own = self.max.clone()
        share.max(peaks := torch.stack([self.max, self.good, self.other]))
        self.max, self.good, self.other = peaks.unbind()
        share.sum(sums := torch.stack([self.sum * torch.exp2(own - self.max), self.pulled, self.plain]))
        self.sum, self.pulled, self.plain = sums.unbind()

    def losses(self, smoothing: float, total: int) -> Tensor:
        """Cross-entropy of each row or column; (max - positive) first, so that a clear win is exactly 0."""
        target = self.pulled if not smoothing else self.pulled * (1 - smoothing) + self.plain * (smoothing / total)
        return _LN2 * ((self.max - target) + self.sum.log2())

    @property
    def log_sum(self) -> Tensor:
        return self.max + self.sum.log2()

    @property
    def hits(self) -> Tensor:
        """How many have a positive that beats every other entry; a tie is a miss."""
        return (self.good > self.other).sum()


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, own_b: Tensor, scale: Tensor, plan: BlockPlan) -> tuple[Tensor, Tensor]:
        share, smoothing = plan.share, plan.smoothing
        with torch.autocast(a.device.type, enabled=False):
            b = share.gather(own_b)
            rows, columns = _RunningLogSum(a, len(a)), _RunningLogSum(a, len(b))
            blocks = _Blocks(a, b, scale * _LOG2E, plan)
            for i, j, block in blocks:
                spare = blocks.spare(block)
                rows.add(i, block, 1, spare)
                columns.add(j, block, 0, spare)
                for side, at, part in zip((rows, columns), (i, j), plan.positives.pull(block, i, j), strict=True):
                    side.pulled[at] += part
                if smoothing:
                    rows.plain[i] += block.sum(1)
                    columns.plain[j] += block.sum(0)
                if plan.metrics:
                    peaks = plan.positives.peaks(block, i, j)
                    for side, at, (good, other) in ((rows, i, peaks[:2]), (columns, j, peaks[2:])):
                        side.good[at] = torch.maximum(side.good[at], good)
                        side.other[at] = torch.maximum(side.other[at], other)
            columns.pool(share)
            by_row = share.sum(rows.losses(smoothing, share.total).sum())
            loss = (plan.rows * by_row + plan.columns * columns.losses(smoothing, share.total).sum()) / share.total
            hits = torch.stack([share.sum(rows.hits), columns.hits])
        ctx.save_for_backward(a, b, scale, rows.log_sum, columns.log_sum)
        ctx.plan = plan
        ctx.mark_non_differentiable(hits)
        return loss, hits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        a, b, scale, row_log, column_log = ctx.saved_tensors
        plan: BlockPlan = ctx.plan
        need_a, need_b, need_scale = ctx.needs_input_grad[:3]
        into_a = torch.zeros_like(a) if need_a or need_scale else None
        into_b = torch.zeros_like(b) if need_b else None
        keep = 1 - plan.smoothing
        even = plan.smoothing * (plan.rows + plan.columns) / plan.share.total
        blocks = _Blocks(a, b, scale * _LOG2E, plan)
        for i, j, block in blocks:
            by_row = torch.sub(block, row_log[i, None], out=blocks.spare(block)).exp2_()
            block.sub_(column_log[None, j]).exp2_().mul_(plan.columns).add_(by_row, alpha=plan.rows)
            plan.positives.subtract_(block, i, j, keep * plan.rows, keep * plan.columns)
            if even:
                block.sub_(even)
            _accumulate(block, a, b, i, j, into_a, into_b)
        return *_finish(a, scale, grad, plan, into_a, into_b, ctx.needs_input_grad), None


def _accumulate(
    block: Tensor, a: Tensor, b: Tensor, i: slice, j: slice, into_a: Tensor | None, into_b: Tensor | None
) -> None:
    """Add a block of the logits' gradient to the features' gradients."""
    if into_a is not None:
        into_a[i].addmm_(block, b[j])
    if into_b is not None:
        into_b[j].addmm_(block.T, a[i])


def _finish(
    a: Tensor,
    scale: Tensor,
    grad: Tensor,
    plan: BlockPlan,
    into_a: Tensor | None,
    into_b: Tensor | None,
    needs: tuple[bool, ...],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Turn sums over blocks into gradients of images, own texts and scale.

    Features' gradients are multiplied by the number of processes, because their average will divide by it; the scale's
    gradient is summed over the processes here, so that every process already holds the whole one.
    """
    share = plan.share
    to_scale = None
    if needs[2] and into_a is not None:
        # logits are scale * <a, b>, so the sum of G * <a, b> is <a, G b>, already at hand
        to_scale = (share.sum((a * into_a).sum()) * grad / share.total).to(scale.dtype)
    factor = grad * scale * (share.size / share.total)
    to_a = into_a.mul_(factor) if needs[0] and into_a is not None else None
    to_b = share.scatter_sum(into_b).mul_(factor) if into_b is not None else None
    return to_a, to_b, to_scale


class _Sigmoid(torch.autograd.Function):
    """Has no normaliser, so the gradient is known with the value and one pass over the blocks does both."""

    @staticmethod
    def forward(
        ctx: Any, a: Tensor, own_b: Tensor, scale: Tensor, bias: Tensor | None, plan: BlockPlan, graph: bool
    ) -> tuple[Tensor, Tensor]:
        share, needs = plan.share, ctx.needs_input_grad
        graph = graph and any(needs)
        with torch.autocast(a.device.type, enabled=False):
            b = share.gather(own_b)
            into_a = torch.zeros_like(a) if graph and (needs[0] or needs[2]) else None
            into_b = torch.zeros_like(b) if graph and needs[1] else None
            loss, to_bias = a.new_zeros(()), a.new_zeros(())
            rows, columns = _RunningLogSum(a, len(a)), _RunningLogSum(a, len(b))
            for i, j, block in _Blocks(a, b, scale, plan, bias):
                if plan.metrics:
                    peaks = plan.positives.peaks(block, i, j)
                    for side, at, (good, other) in ((rows, i, peaks[:2]), (columns, j, peaks[2:])):
                        side.good[at] = torch.maximum(side.good[at], good)
                        side.other[at] = torch.maximum(side.other[at], other)
                plan.positives.flip_(block, i, j)
                # the default threshold of 20 would cut the tail off at 2e-9
                loss += F.softplus(block, threshold=40.0).sum()
                if graph:
                    block.sigmoid_()
                    plan.positives.flip_(block, i, j)
                    to_bias += block.sum()
                    _accumulate(block, a, b, i, j, into_a, into_b)
            loss = share.sum(loss) / share.total
            columns.pool(share)
            hits = torch.stack([share.sum(rows.hits), columns.hits])
        ctx.save_for_backward(a, scale, into_a, into_b, to_bias)
        ctx.plan = plan
        ctx.mark_non_differentiable(hits)
        return loss, hits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        a, scale, into_a, into_b, to_bias = ctx.saved_tensors
        plan: BlockPlan = ctx.plan
        # clones, so that a second backward through a retained graph finds the sums untouched
        clones = (None if into_a is None else into_a.clone(), None if into_b is None else into_b.clone())
        to_a, to_b, to_scale = _finish(a, scale, grad, plan, *clones, ctx.needs_input_grad)
        bias_grad = plan.share.sum(to_bias.clone()) * grad / plan.share.total if ctx.needs_input_grad[3] else None
        return to_a, to_b, to_scale, bias_grad, None, None


def blockwise_softmax(
    a: Float[Tensor, "n d"], b: Float[Tensor, "n d"], scale: Float[Tensor, ""], plan: BlockPlan
) -> tuple[Float[Tensor, ""], Tensor]:
    """Softmax cross-entropy over rows and columns of the whole batch; also the hits of both sides.

    Args:
        a: this process's embedded images.
        b: this process's embedded texts.
        scale: multiplies their dot products.
        plan: share, targets and block size.
    """
    return _Softmax.apply(a, b, scale, plan)


def blockwise_sigmoid(
    a: Float[Tensor, "n d"],
    b: Float[Tensor, "n d"],
    scale: Float[Tensor, ""],
    bias: Float[Tensor, ""] | None,
    plan: BlockPlan,
) -> tuple[Float[Tensor, ""], Tensor]:
    """Sigmoid cross-entropy of every pair, summed and divided by the number of rows; also the hits of both sides.

    Args:
        a: this process's embedded images.
        b: this process's embedded texts.
        scale: multiplies their dot products.
        bias: added to every logit, None for 0.
        plan: share, targets and block size.
    """
    return _Sigmoid.apply(a, b, scale, bias, plan, torch.is_grad_enabled())
