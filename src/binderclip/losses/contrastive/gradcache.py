"""One optimizer step's gradients for a contrastive batch that does not fit through the encoders at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.losses.contrastive.loss import ContrastiveLoss, LossOutput

__all__ = ["contrastive_step"]

Encoders = Mapping[str, Callable[[Any], Tensor]] | Callable[[Mapping[str, Any]], Mapping[str, Tensor]]
_ARGUMENTS = {"image": "image_features", "text": "text_features"}


def contrastive_step(
    encoders: Encoders,
    batch: Mapping[str, Any],
    loss: ContrastiveLoss | Callable[..., LossOutput],
    micro_batch: int | None = None,
    *,
    backward: Callable[[Tensor], Any] | None = None,
    **settings: Any,
) -> LossOutput:
    """Forward and backward of a whole contrastive batch with the encoders' memory of a micro-batch.

    Embeds the batch piece by piece without a graph, takes the loss's gradient with respect to the embeddings, then
    embeds each piece again, from the same random state, and sends that gradient through. The parameters' `.grad` are
    those of the unsplit batch, at the price of one more forward pass. Layers that mix the rows of a batch (BatchNorm
    in training mode) see the micro-batch, and update their running statistics twice.

    Args:
        encoders: functions by name, each applied to the batch's entry of that name; or one function from a (part of
            the) batch to a mapping of features, which is what DistributedDataParallel needs. Modules that can
            postpone their gradient synchronisation do so until the last piece.
        batch: inputs by name, each a tensor or sequence of B rows.
        loss: called as `loss(image_features=..., text_features=..., **others, **settings)`.
        micro_batch: rows encoded at once; None or at least B: the ordinary way.
        backward: called with the loss instead of `loss.backward()`, for instance to scale it; the pieces follow
            its scaling.
        settings: passed on to the loss (`logit_scale=`, `keys=`, ...).

    Returns:
        The loss's output, detached; the gradients are in the parameters.

    Raises:
        UsageError: an empty batch, entries of different length, or a micro-batch below 1.

    Paper: Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup, arXiv 2101.06983.
    """
    run = backward if backward is not None else Tensor.backward
    rows = _rows(batch)
    if micro_batch is not None and micro_batch < 1:
        raise UsageError(f"micro_batch must be at least 1, got {micro_batch}")
    if micro_batch is None or micro_batch >= rows:
        output = loss(**_named(_encode(encoders, batch)), **settings)
        run(output.total)
        return _detached(output)
    pieces = [slice(start, min(start + micro_batch, rows)) for start in range(0, rows, micro_batch)]
    device = next((value.device for value in batch.values() if isinstance(value, Tensor)), torch.device("cpu"))
    features, states = _embed(encoders, batch, pieces, device)
    output = loss(**_named(features), **settings)
    run(output.total)
    after = _random_state(device)
    for number, (piece, state) in enumerate(zip(pieces, states, strict=True)):
        _restore(state, device)
        with _unsynchronised(encoders) if number < len(pieces) - 1 else nullcontext():
            _send_back(_encode(encoders, _part(batch, piece)), features, piece)
        torch.clear_autocast_cache()
    _restore(after, device)
    return _detached(output)


def _embed(
    encoders: Encoders, batch: Mapping[str, Any], pieces: list[slice], device: torch.device
) -> tuple[dict[str, Tensor], list[Any]]:
    """All embeddings as leaves, made without a graph, and the random state before each piece."""
    states, parts = [], []
    with torch.no_grad():
        for piece in pieces:
            states.append(_random_state(device))
            parts.append(_encode(encoders, _part(batch, piece)))
    # autocast remembers its casts of the weights, and those made without a graph would swallow the weights' gradients
    torch.clear_autocast_cache()
    return {name: torch.cat([part[name] for part in parts]).requires_grad_() for name in parts[0]}, states


def _send_back(encoded: Mapping[str, Tensor], features: Mapping[str, Tensor], piece: slice) -> None:
    """Send the embeddings' gradients through one piece's graph, all names in one backward."""
    outputs, grads = [], []
    for name, value in encoded.items():
        grad = features[name].grad
        if value.requires_grad and grad is not None:
            outputs.append(value)
            grads.append(grad[piece].to(value.dtype))
    if outputs:
        torch.autograd.backward(outputs, grads)


def _encode(encoders: Encoders, batch: Mapping[str, Any]) -> dict[str, Tensor]:
    if callable(encoders):
        return dict(encoders(batch))
    missing = set(encoders) - set(batch)
    if missing:
        raise UsageError(f"the batch has no entry for the encoders {sorted(missing)}, only {sorted(batch)}")
    return {name: encoder(batch[name]) for name, encoder in encoders.items()}


def _named(features: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {_ARGUMENTS.get(name, name): value for name, value in features.items()}


def _rows(batch: Mapping[str, Any]) -> int:
    lengths = {name: len(value) for name, value in batch.items()}
    if len(set(lengths.values())) != 1 or not next(iter(lengths.values())):
        raise UsageError(f"every entry of the batch needs the same number of rows, at least 1, got {lengths}")
    return next(iter(lengths.values()))


def _part(batch: Mapping[str, Any], piece: slice) -> dict[str, Any]:
    return {name: value[piece] for name, value in batch.items()}


def _detached(output: LossOutput) -> LossOutput:
    return LossOutput(
        output.total.detach(), {name: value.detach() for name, value in output.terms.items()}, output.metrics
    )


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _restore(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)


@contextmanager
def _unsynchronised(encoders: Encoders) -> Iterator[None]:
    """No gradient exchange inside, for encoders that exchange gradients at each backward (DDP, FSDP2)."""
    modules = [encoders] if callable(encoders) else list(encoders.values())
    entered: list[AbstractContextManager[Any]] = []
    sharded = []
    for module in modules:
        if not isinstance(module, nn.Module):
            continue
        if callable(quiet := getattr(module, "no_sync", None)):
            entered.append(quiet())
        elif callable(switch := getattr(module, "set_requires_gradient_sync", None)):
            sharded.append(switch)
    for context in entered:
        context.__enter__()
    for switch in sharded:
        switch(False)
    try:
        yield
    finally:
        for switch in sharded:
            switch(True)
        for context in reversed(entered):
            context.__exit__(None, None, None)
