"""Per-sample norms and clipped sums from one forward and one backward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.privacy.clipping.rules import SensitivityRule
from binderclip.privacy.per_sample.recorder import PerSampleRecorder
from binderclip.privacy.per_sample.refusals import refuse_loss

__all__ = ["ClippedSum", "clipped_sum", "record_losses"]

LossFunction = Callable[..., Tensor]


@dataclass(frozen=True)
class ClippedSum:
    """What a batch gives.

    Attributes:
        grads: sum over samples of the clipped gradient, by parameter name.
        norms: per-sample gradient norms of each group before clipping, (B, J).
        scales: the factors, (B, J).
        losses: (B,).
    """

    grads: dict[str, Tensor]
    norms: Float[Tensor, "B J"]
    scales: Float[Tensor, "B J"]
    losses: Float[Tensor, "B"]


def clipped_sum(
    model: nn.Module,
    loss_fn: LossFunction,
    *batch: Any,
    rule: SensitivityRule,
    params: Mapping[str, Tensor] | None = None,
    check: bool = True,
) -> ClippedSum:
    """The clipped gradient sum of a batch by book-keeping: no second backward pass, no (B, P) memory.

    Args:
        model: a module without layers that mix samples.
        loss_fn: (model, *batch) -> losses (B,), each of one sample alone.
        batch: tensors whose dimension 0 is the batch.
        rule: what to clip to.
        params: parameters by name; default: all that require a gradient.
        check: verify that no sample's loss depends on another sample (half a backward pass more).

    Raises:
        NotSupported: coupled samples, or operations without known per-sample gradients.
        UsageError: losses that are not one a sample.

    Examples:
        >>> from binderclip.privacy import FlatClip
        >>> net, x = nn.Linear(3, 2), torch.randn(5, 3)
        >>> found = clipped_sum(net, lambda m, x: m(x).square().sum(1), x, rule=FlatClip(0.1))
        >>> found.norms.shape, float(torch.cat([g.flatten() for g in found.grads.values()]).norm()) <= 0.5
        (torch.Size([5, 1]), True)
    """
    recorder = PerSampleRecorder(model, params)
    groups = rule.assign(recorder.names)
    losses = record_losses(recorder, loss_fn, *batch, check=check)
    norms = recorder.squares(groups, rule.groups).sqrt()
    scales = rule.scales(norms)
    grads = recorder.weighted_sum(scales, groups, unusable(norms))
    return ClippedSum(dict(zip(recorder.names, grads, strict=True)), norms, scales, losses)


def record_losses(
    recorder: PerSampleRecorder, loss_fn: LossFunction, *batch: Any, check: bool = False
) -> Float[Tensor, "B"]:
    """Forward and backward pass of a batch under a recorder; the losses, detached."""
    refuse_loss(loss_fn)
    with recorder.recording():
        losses = loss_fn(recorder.model, *batch)
    recorder.backward(losses, check=check)
    return losses.detach()


def unusable(norms: Float[Tensor, "B J"]) -> Tensor | None:
    """Which samples have a gradient that is not finite; None where there is none."""
    bad = ~norms.isfinite().all(1)
    return bad if bool(bad.any()) else None


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """One vector of all of them."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])
