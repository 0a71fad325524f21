"""Per-sample gradients in full, and their norms without them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import NotSupported, UsageError
from binderclip.privacy.per_sample.ghost import LossFunction, record_losses
from binderclip.privacy.per_sample.recorder import PerSampleRecorder
from binderclip.privacy.per_sample.refusals import refuse_loss, refuse_modules
from binderclip.settings import check_choice

__all__ = ["per_sample_grads", "per_sample_norms"]


def per_sample_grads(
    model: nn.Module,
    loss_fn: LossFunction,
    *batch: Any,
    params: Mapping[str, Tensor] | None = None,
    method: Literal["vmap", "hooks"] = "vmap",
    limit: float = 2e9,
) -> dict[str, Float[Tensor, "B ..."]]:
    """The gradient of every sample's loss.

    Args:
        model: without layers that mix samples.
        loss_fn: (model, *batch) -> losses (B,), each of one sample alone.
        batch: tensors whose dimension 0 is the batch.
        params: parameters of the model by name; default: all that require a gradient.
        method: "vmap" vectorises autograd over the samples and knows every operation that vmap knows; "hooks" takes one
            ordinary pass and is faster.
        limit: bytes that the result may take.

    Raises:
        UsageError: more than `limit` bytes, or losses of a wrong shape.
        NotSupported: coupled samples.

    Examples:
        >>> net, x = nn.Linear(3, 2), torch.randn(5, 3)
        >>> grads = per_sample_grads(net, lambda m, x: m(x).square().sum(1), x)
        >>> grads["weight"].shape
        torch.Size([5, 2, 3])
    """
    check_choice("method", method, ("vmap", "hooks"))
    named: dict[str, Tensor] = (
        {n: p for n, p in model.named_parameters() if p.requires_grad} if params is None else dict(params)
    )
    rows = next((len(value) for value in batch if isinstance(value, Tensor)), 0)
    size = rows * sum(p.numel() * p.element_size() for p in named.values())
    if size > limit:
        raise UsageError(
            f"per-sample gradients of {rows} samples take {size / 1e9:.1f} GB, more than {limit / 1e9:.1f}: take "
            "per_sample_norms or clipped_sum (ghost norms, no such memory), smaller micro-batches, or raise limit"
        )
    if method == "hooks":
        recorder = PerSampleRecorder(model, named)
        record_losses(recorder, loss_fn, *batch, check=True)
        return recorder.full()
    return _by_vmap(model, loss_fn, batch, named)


class _Bound(nn.Module):
    """The model inside a module that has the loss as its forward pass, for `functional_call`."""

    def __init__(self, model: nn.Module, loss_fn: LossFunction) -> None:
        super().__init__()
        self.model, self.loss_fn = model, loss_fn

    def forward(self, *batch: Any) -> Tensor:
        return self.loss_fn(self.model, *batch)


def _by_vmap(
    model: nn.Module, loss_fn: LossFunction, batch: tuple[Any, ...], named: dict[str, Tensor]
) -> dict[str, Float[Tensor, "B ..."]]:
    refuse_loss(loss_fn)
    refuse_modules(model)
    bound = _Bound(model, loss_fn)
    held = {name: p.detach() for name, p in named.items()}

    def loss(values: dict[str, Tensor], *row: Any) -> Tensor:
        single = [value[None] if isinstance(value, Tensor) else value for value in row]
        out = torch.func.functional_call(bound, {f"model.{n}": v for n, v in values.items()}, tuple(single))
        if out.shape != (1,):
            raise UsageError(
                f"loss_fn must give one loss a sample: for a batch of one it gave the shape {tuple(out.shape)}"
            )
        return out[0]

    dims = tuple(0 if isinstance(value, Tensor) else None for value in batch)
    try:
        return torch.func.vmap(torch.func.grad(loss), in_dims=(None, *dims), randomness="different")(held, *batch)
    except RuntimeError as error:
        raise NotSupported(f"vmap cannot go through this model: {str(error).splitlines()[0]}") from error


def per_sample_norms(
    model: nn.Module,
    loss_fn: LossFunction,
    *batch: Any,
    params: Mapping[str, Tensor] | None = None,
    method: Literal["ghost", "vmap"] = "ghost",
) -> Float[Tensor, "B"]:
    """The norm of every sample's gradient over all parameters together.

    Args:
        model, loss_fn, batch, params: as for `per_sample_grads`.
        method: "ghost" needs one ordinary pass and no (B, P) memory; "vmap" forms the gradients.

    Raises:
        UsageError, NotSupported: as `per_sample_grads`.
    """
    if method == "ghost":
        recorder = PerSampleRecorder(model, params)
        record_losses(recorder, loss_fn, *batch, check=True)
        return recorder.squares([0] * len(recorder.names), 1)[:, 0].sqrt()
    if method != "vmap":
        raise UsageError(f"method must be 'ghost' or 'vmap', got {method!r}")
    grads = per_sample_grads(model, loss_fn, *batch, params=params, method="vmap", limit=math.inf)
    total = sum(
        grad.reshape(len(grad), max(grad[0].numel(), 1) if len(grad) else 1).square().sum(1) for grad in grads.values()
    )
    return total.sqrt()  # type: ignore[union-attr]
