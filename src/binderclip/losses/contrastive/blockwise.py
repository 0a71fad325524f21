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
from binderclip.similarity.dot_functions import DotFunction

__all__ = ["BlockPlan", "blockwise_sigmoid", "blockwise_softmax", "reweighted"]

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
        of_dot: from dot products to similarities; None where they are the same.
        reweighted: whether each row is divided by its detached 1 - P (MACL; softmax only), P of its positive.
    """

    share: Share
    positives: Positives
    chunk: int
    smoothing: float = 0.0
    rows: float = 0.5
    columns: float = 0.5
    metrics: bool = True
    of_dot: DotFunction | None = None
    reweighted: bool = False


def reweighted(d: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """-log P / (1 - P) where P = 1 / (1 + exp(-d)): MACL's loss of a row whose positive leads its negatives by d.

    (1 + e^d) log(1 + e^-d), which goes to 1 as d grows, where its factors would overflow and vanish.
    """
    low = d.clamp_max(30.0)
    return torch.where(d > 30, 1 + 0.5 * (-d).exp(), (1 + low.exp()) * F.softplus(-low, threshold=40.0))


class _Blocks:
    """The blocks of `scale * f(a @ b.T)`, each written into the same piece of memory.

    Attributes:
        dots: the dot products of the current block, where f is not the identity.
        similarities: sum of f over the blocks so far, where f is not the identity.
    """

    def __init__(self, a: Tensor, b: Tensor, scale: Tensor, plan: BlockPlan, bias: Tensor | None = None) -> None:
        self.a, self.b, self.scale, self.plan, self.bias = a, b, scale, plan, bias
        side_a, side_b = min(plan.chunk, len(a)), min(plan.chunk, len(b))
        self.memory = a.new_empty(side_a * side_b)
        self.spare_memory = a.new_empty(side_a * side_b)
        self.dots, self.similarities = a.new_empty(0), a.new_zeros(())

    def __iter__(self) -> Iterator[tuple[slice, slice, Tensor]]:
        n, total, chunk, of_dot = len(self.a), len(self.b), self.plan.chunk, self.plan.of_dot
        for start in range(0, n, chunk):
            i = slice(start, min(start + chunk, n))
            rows = self.a[i] * self.scale if of_dot is None else self.a[i]
            for begin in range(0, total, chunk):
                j = slice(begin, min(begin + chunk, total))
                shape = (i.stop - i.start, j.stop - j.start)
                block = self.memory[: shape[0] * shape[1]].view(shape)
                if of_dot is None:
                    torch.mm(rows, self.b[j].T, out=block)
                else:
                    self.dots = rows @ self.b[j].T
                    value = of_dot.value(self.dots)
                    self.similarities += value.sum()
                    torch.mul(value, self.scale, out=block)
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
        self.average = like.new_zeros(size)
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
        share.sum(sums := torch.stack([self.sum * torch.exp2(own - self.max), self.pulled, self.average]))
        self.sum, self.pulled, self.average = sums.unbind()

    def losses(self, smoothing: float, weighted: bool = False) -> Tensor:
        """Cross-entropy of each row or column; (max - positive) first, so that a clear win is exactly 0."""
        if weighted:
            return reweighted(_LN2 * (self.pulled - self.log_sum))
        target = self.pulled if not smoothing else self.pulled * (1 - smoothing) + self.average * smoothing
        return _LN2 * ((self.max - target) + self.sum.log2())

    @property
    def log_sum(self) -> Tensor:
        return (self.max + self.sum.log2()).clamp_min(torch.finfo(self.max.dtype).min)

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
                for side, at, part in zip((rows, columns), (i, j), plan.positives.pull(block, i, j), strict=True):
                    side.pulled[at] += part
                if smoothing:
                    for side, at, part in zip(
                        (rows, columns), (i, j), plan.positives.average(block, i, j), strict=True
                    ):
                        side.average[at] += part
                if plan.metrics:
                    _count(rows, columns, block, i, j, plan)
                if plan.reweighted:
                    plan.positives.exclude_(block, i, j)
                spare = blocks.spare(block)
                rows.add(i, block, 1, spare)
                columns.add(j, block, 0, spare)
            columns.pool(share)
            by_row = share.sum(rows.losses(smoothing, plan.reweighted).sum())
            by_column = columns.losses(smoothing, plan.reweighted).sum()
            loss = (plan.rows * by_row + plan.columns * by_column) / share.total
            totals = _found(rows, columns, blocks)
        ctx.save_for_backward(a, b, scale, rows.log_sum, columns.log_sum)
        ctx.plan = plan
        ctx.mark_non_differentiable(totals)
        return loss, totals

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        a, b, scale, row_log, column_log = ctx.saved_tensors
        plan: BlockPlan = ctx.plan
        need_a, need_b, need_scale = ctx.needs_input_grad[:3]
        sums = _GradientSums(a, b, plan, need_a or need_scale, need_b)
        keep = 1 - plan.smoothing
        even = plan.smoothing
        blocks = _Blocks(a, b, scale * _LOG2E, plan)
        for i, j, block in blocks:
            if plan.reweighted:
                plan.positives.exclude_(block, i, j)
            by_row = torch.sub(block, row_log[i, None], out=blocks.spare(block)).exp2_()
            block.sub_(column_log[None, j]).exp2_().mul_(plan.columns).add_(by_row, alpha=plan.rows)
            plan.positives.subtract_(block, i, j, keep * plan.rows, keep * plan.columns)
            if even:
                plan.positives.subtract_average_(block, i, j, even * plan.rows, even * plan.columns)
            sums.add(block, blocks, i, j)
        return *_finish(a, scale, grad, plan, sums.tensors, ctx.needs_input_grad), None


def _count(rows: _RunningLogSum, columns: _RunningLogSum, block: Tensor, i: slice, j: slice, plan: BlockPlan) -> None:
    """Take in the largest positive and the largest other entry of each row and column of a block."""
    peaks = plan.positives.peaks(block, i, j)
    for side, at, (good, other) in ((rows, i, peaks[:2]), (columns, j, peaks[2:])):
        side.good[at] = torch.maximum(side.good[at], good)
        side.other[at] = torch.maximum(side.other[at], other)


def _found(rows: _RunningLogSum, columns: _RunningLogSum, blocks: _Blocks) -> Float[Tensor, "3"]:
    """Hits of the rows, hits of the columns, and the sum of f over all pairs (0 where f is the identity)."""
    share, kind = blocks.plan.share, blocks.a.dtype
    return torch.stack([share.sum(rows.hits.to(kind)), columns.hits.to(kind), share.sum(blocks.similarities)])


class _GradientSums:
    """Sums over the blocks of the logits' gradient G: into the features of both sides, and of G * f for the scale."""

    def __init__(self, a: Tensor, b: Tensor, plan: BlockPlan, need_a: bool, need_b: bool) -> None:
        self.a, self.b, self.of_dot = a, b, plan.of_dot
        self.into_a = torch.zeros_like(a) if need_a else None
        self.into_b = torch.zeros_like(b) if need_b else None
        # with the identity this sum is <a, G b>, already at hand in the end
        self.along = None if plan.of_dot is None else a.new_zeros(())

    def add(self, block: Tensor, blocks: _Blocks, i: slice, j: slice) -> None:
        """Take in a block of G, which is overwritten."""
        if self.of_dot is not None and self.along is not None:
            self.along += (block * self.of_dot.value(blocks.dots)).sum()
            block.mul_(self.of_dot.slope(blocks.dots))
        if self.into_a is not None:
            self.into_a[i].addmm_(block, self.b[j])
        if self.into_b is not None:
            self.into_b[j].addmm_(block.T, self.a[i])

    @property
    def tensors(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Into a, into b, along the similarities."""
        return self.into_a, self.into_b, self.along


def _finish(
    a: Tensor,
    scale: Tensor,
    grad: Tensor,
    plan: BlockPlan,
    sums: tuple[Tensor | None, Tensor | None, Tensor | None],
    needs: tuple[bool, ...],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Turn sums over blocks into gradients of images, own texts and scale.

    Features' gradients are multiplied by the number of processes, because their average will divide by it; the scale's
    gradient is summed over the processes here, so that every process already holds the whole one.
    """
    share, (into_a, into_b, along), to_scale = plan.share, sums, None
    if needs[2] and into_a is not None:
        # logits are scale * <a, b>, so the sum of G * <a, b> is <a, G b>
        whole = (a * into_a).sum() if along is None else along.clone()
        to_scale = (share.sum(whole) * grad / share.total).to(scale.dtype)
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
            sums = _GradientSums(a, b, plan, graph and (needs[0] or needs[2]), graph and needs[1])
            loss, to_bias = a.new_zeros(()), a.new_zeros(())
            rows, columns = _RunningLogSum(a, len(a)), _RunningLogSum(a, len(b))
            blocks = _Blocks(a, b, scale, plan, bias)
            for i, j, block in blocks:
                if plan.metrics:
                    _count(rows, columns, block, i, j, plan)
                plan.positives.flip_(block, i, j)
                # the default threshold of 20 would cut the tail off at 2e-9
                loss += F.softplus(block, threshold=40.0).sum()
                if graph:
                    block.sigmoid_()
                    plan.positives.flip_(block, i, j)
                    to_bias += block.sum()
                    sums.add(block, blocks, i, j)
            loss = share.sum(loss) / share.total
            columns.pool(share)
            totals = _found(rows, columns, blocks)
        ctx.save_for_backward(a, scale, *sums.tensors, to_bias)
        ctx.plan = plan
        ctx.mark_non_differentiable(totals)
        return loss, totals

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        a, scale, into_a, into_b, along, to_bias = ctx.saved_tensors
        plan: BlockPlan = ctx.plan
        # clones, so that a second backward through a retained graph finds the sums untouched
        clones = (None if into_a is None else into_a.clone(), None if into_b is None else into_b.clone(), along)
        to_a, to_b, to_scale = _finish(a, scale, grad, plan, clones, ctx.needs_input_grad)
        bias_grad = plan.share.sum(to_bias.clone()) * grad / plan.share.total if ctx.needs_input_grad[3] else None
        return to_a, to_b, to_scale, bias_grad, None, None


def blockwise_softmax(
    a: Float[Tensor, "n d"], b: Float[Tensor, "n d"], scale: Float[Tensor, ""], plan: BlockPlan
) -> tuple[Float[Tensor, ""], Tensor]:
    """Softmax cross-entropy over rows and columns of the whole batch; also hits and sums, see `_found`.

    Args:
        a: this process's embedded images.
        b: this process's embedded texts.
        scale: multiplies their similarities, f of the dot products.
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
    """Sigmoid cross-entropy of every pair, summed and divided by the number of rows; also hits and sums, see `_found`.

    Args:
        a: this process's embedded images.
        b: this process's embedded texts.
        scale: multiplies their similarities, f of the dot products.
        bias: added to every logit, None for 0.
        plan: share, targets and block size.
    """
    return _Sigmoid.apply(a, b, scale, bias, plan, torch.is_grad_enabled())
