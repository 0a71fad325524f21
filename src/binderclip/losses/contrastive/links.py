"""Links: from similarities and targets to a loss, by the dense or by the blockwise way."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.losses.contrastive.blockwise import BlockPlan, blockwise_sigmoid, blockwise_softmax, reweighted
from binderclip.losses.contrastive.share import Share
from binderclip.losses.contrastive.targets import Positives
from binderclip.numeric import check_number
from binderclip.similarity.dot_functions import DotFunction

__all__ = [
    "ReweightedSoftmaxLink",
    "SigmoidLink",
    "SoftmaxLink",
    "block_side",
    "check_features",
    "check_loss_finite",
    "make_plan",
]


@dataclass(frozen=True)
class SoftmaxLink:
    """Cross-entropy of a softmax over each row and each column (InfoNCE; CLIP, arXiv 2103.00020)."""

    name: Literal["softmax"] = "softmax"

    def __call__(
        self, a: Float[Tensor, "n d"], b: Float[Tensor, "n d"], scale: Tensor, bias: Tensor | None, plan: BlockPlan
    ) -> tuple[Tensor, Tensor]:
        """Loss and figures (`_found`); a bias cancels in a softmax and is left out."""
        if plan.share.total < 2:
            raise UsageError("a softmax over one pair is always 1: InfoNCE needs a batch of at least 2")
        if not _small(plan):
            return blockwise_softmax(a, b, scale, plan)
        logits, whole, similarities = _logits(a, b, scale, None, plan)
        figures = _found(logits, similarities, plan, whole)
        by_row, by_column = logits.log_softmax(1), logits.log_softmax(0)
        keep, even = 1 - plan.smoothing, plan.smoothing
        rows = -keep * plan.positives.pull(by_row, whole, whole)[0]
        columns = -keep * plan.positives.pull(by_column, whole, whole)[1]
        if even:
            rows = rows - even * plan.positives.average(by_row, whole, whole)[0]
            columns = columns - even * plan.positives.average(by_column, whole, whole)[1]
        return plan.rows * rows.mean() + plan.columns * columns.mean(), figures


@dataclass(frozen=True)
class ReweightedSoftmaxLink:
    """Softmax cross-entropy of which each row and column is divided by its own 1 - P, P the positive's probability.

    The divisor carries no gradient. It cancels the 1 - P in the cross-entropy's gradient, so the pull on a positive is
    1 / tau however easy its batch is, and negatives share the same push by a softmax among themselves. The value is
    not comparable from batch to batch.

    Paper: Model-Aware Contrastive Learning: Towards Escaping the Dilemmas (arXiv 2207.07874).
    """

    name: Literal["reweighted-softmax"] = "reweighted-softmax"

    def __call__(
        self, a: Float[Tensor, "n d"], b: Float[Tensor, "n d"], scale: Tensor, bias: Tensor | None, plan: BlockPlan
    ) -> tuple[Tensor, Tensor]:
        """Loss and figures (`_found`)."""
        if plan.share.total < 2:
            raise UsageError("one pair has no negatives: the reweighted softmax needs a batch of at least 2")
        if plan.smoothing:
            raise UsageError("label smoothing belongs to the softmax link; the reweighted softmax has none")
        plan = replace(plan, reweighted=True)
        if not _small(plan):
            return blockwise_softmax(a, b, scale, plan)
        logits, whole, similarities = _logits(a, b, scale, None, plan)
        figures = _found(logits, similarities, plan, whole)
        pulled = plan.positives.pull(logits, whole, whole)
        negatives = logits.clone()
        plan.positives.exclude_(negatives, whole, whole)
        # the lowest finite number, not -inf, where a row has no negative
        negatives = negatives.clamp_min(torch.finfo(logits.dtype).min)
        leads = [positive - negatives.logsumexp(dim) for positive, dim in zip(pulled, (1, 0), strict=True)]
        # d/dd (-log P) / (1 - P) is -1 with the divisor held, equation 9
        rows, columns = (reweighted(lead).detach() - (lead - lead.detach()) for lead in leads)
        total = plan.rows * rows.mean()
        return (total + plan.columns * columns.mean() if plan.columns else total), figures


@dataclass(frozen=True)
class SigmoidLink:
    """Independent sigmoid per pair, summed and divided by the batch (SigLIP, arXiv 2303.15343)."""

    name: Literal["sigmoid"] = "sigmoid"

    def __call__(
        self, a: Float[Tensor, "n d"], b: Float[Tensor, "n d"], scale: Tensor, bias: Tensor | None, plan: BlockPlan
    ) -> tuple[Tensor, Tensor]:
        """Loss and figures (`_found`)."""
        if plan.smoothing:
            raise UsageError("label smoothing belongs to the softmax link; the sigmoid link has none")
        if not _small(plan):
            return blockwise_sigmoid(a, b, scale, bias, plan)
        logits, whole, similarities = _logits(a, b, scale, bias, plan)
        figures = _found(logits, similarities, plan, whole)
        plan.positives.flip_(logits, whole, whole)
        return F.softplus(logits, threshold=40.0).sum() / len(a), figures


def _small(plan: BlockPlan) -> bool:
    """Whether the whole logit matrix is one block anyway: then plain autograd, which can be differentiated twice."""
    return plan.share.size == 1 and plan.share.total <= plan.chunk


def _logits(a: Tensor, b: Tensor, scale: Tensor, bias: Tensor | None, plan: BlockPlan) -> tuple[Tensor, slice, Tensor]:
    """The logits, the slice of all rows, and the sum of f over all pairs (0 where f is the identity)."""
    whole, similarities = slice(0, len(a)), a.new_zeros(())
    with torch.autocast(a.device.type, enabled=False):
        if plan.of_dot is None:
            logits = (scale * a) @ b.T
        else:
            values = plan.of_dot.value(a @ b.T)
            logits, similarities = scale * values, values.detach().sum()
    if bias is not None:
        logits = logits + bias
    plan.positives.mask_(logits, whole, whole)
    return logits, whole, similarities


def _found(logits: Tensor, similarities: Tensor, plan: BlockPlan, whole: slice) -> Float[Tensor, "3"]:
    """Hits of the rows, hits of the columns, and the sum of f over all pairs."""
    with torch.no_grad():
        good, other, good_columns, other_columns = plan.positives.peaks(logits.detach(), whole, whole)
        hits = [(good > other).sum(), (good_columns > other_columns).sum()]
        return torch.stack([*(hit.to(logits.dtype) for hit in hits), similarities])


def block_side(chunk: int | None, device: torch.device) -> int:
    """Side of a block: as asked, or what keeps the matrix products fast (1,024 on a CPU, where a block of 4 MB stays
    in the cache; 4,096 elsewhere).

    Args:
        chunk: the side asked for, None for the default.
        device: where the features are.

    Raises:
        UsageError: not positive.
    """
    if chunk is None:
        return 1024 if device.type == "cpu" else 4096
    check_number("chunk", chunk, least=1)
    return int(chunk)


def check_features(a: Any, b: Any, names: tuple[str, str] = ("image", "text")) -> None:
    """Refuse what cannot be compared row by row.

    Args:
        a, b: the features of both sides.
        names: what to call them.

    Raises:
        UsageError: wrong type, rank, device or shape, or an empty batch.
    """
    for value, name in zip((a, b), names, strict=True):
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.ndim != 2:
            got = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise UsageError(f"{name} features must be a float tensor of shape (B, d), got {got}")
    if a.shape != b.shape:
        raise UsageError(
            f"{names[0]} and {names[1]} features must have one shape, got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    if not len(a):
        raise UsageError(f"the batch is empty: {names[0]} features have shape {tuple(a.shape)}")
    if a.device != b.device:
        raise UsageError(f"{names[0]} features are on {a.device}, {names[1]} features on {b.device}")


def check_loss_finite(loss: Tensor, features: dict[str, Tensor]) -> None:
    """On a CPU, where looking costs nothing, name the features that made the loss NaN; elsewhere let NaN speak.

    Args:
        loss: the value.
        features: what it was computed from.

    Raises:
        UsageError: the loss is not finite because some features are not.
    """
    if loss.device.type != "cpu" or bool(loss.detach().isfinite()):
        return
    for name, value in features.items():
        bad = (~value.detach().isfinite()).reshape(len(value), -1).any(1).nonzero().flatten().tolist()
        if bad:
            rows = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
            raise UsageError(f"{name} features are NaN or infinite in {len(bad)} of {len(value)} rows (row {rows})")


def make_plan(
    share: Share,
    positives: Positives,
    chunk: int,
    *,
    smoothing: float = 0.0,
    symmetric: bool = True,
    metrics: bool = True,
    of_dot: DotFunction | None = None,
) -> BlockPlan:
    """A `BlockPlan` with its numbers checked.

    Raises:
        UsageError: smoothing outside [0, 1).
    """
    if not 0 <= smoothing < 1:
        raise UsageError(f"label smoothing must lie in [0, 1), got {smoothing}")
    rows, columns = (0.5, 0.5) if symmetric else (1.0, 0.0)
    return BlockPlan(share, positives, chunk, smoothing, rows, columns, metrics, of_dot)
