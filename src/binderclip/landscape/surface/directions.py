"""Directions in the space of a model's weights: random ones in the weights' own scale, and from model to model."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.landscape.surface.moving import Direction
from binderclip.numeric import check_whole
from binderclip.settings import check_choice

Normalize = Literal["filter", "layer", "weight", "dfilter", "dlayer"]
NORMALIZE = ("filter", "layer", "weight", "dfilter", "dlayer")
TINY = 1e-10
"""Of the official code, beside the norm of a filter of the direction."""


def random_direction(
    model: nn.Module,
    normalize: Normalize | None = "filter",
    ignore: Literal["bias_bn"] | None = "bias_bn",
    *,
    seed: int = 0,
) -> dict[str, Float[Tensor, "..."]]:
    """Draw a Gaussian direction in weight space and scale it as the weights are.

    A network with ReLU or batch norm computes the same when one layer is multiplied and the next divided, yet plain
    random directions then show another sharpness. With filters scaled to the lengths of the weight's own, they do not.

    Args:
        model: its parameters, each once where modules share one. Filters are the entries of axis 0: output channels of
            convolutions, output neurons of linear layers (three times the width for a fused query, key and value), rows
            of embeddings.
        normalize: of weights with 2 axes and more: "filter" gives each filter the length of the weight's, d_j *=
            |w_j| / (|d_j| + 1e-10); "layer" the whole tensor that of the weight; "weight" multiplies by it entry by
            entry; "dfilter" and "dlayer" bring filters and tensors to length 1; None leaves the draw.
        ignore: "bias_bn" makes all entries 0 for tensors of no or one axis (biases, norms, logit scales); None takes
            their values as the direction, as the official code does (with `normalize=None` the draw).
        seed: of the draw, made on the CPU, so that every device has the same.

    Returns:
        A tensor by the name of each parameter, of its shape, dtype and device.

    Raises:
        UsageError: another word for `normalize` or `ignore`, no parameter, or weights that are not finite.

    Paper: Visualizing the Loss Landscape of Neural Nets (arXiv 1712.09913).

    Examples:
        >>> net = torch.nn.Linear(3, 2)
        >>> direction = random_direction(net)
        >>> torch.allclose(direction["weight"].norm(dim=1), net.weight.norm(dim=1)), direction["bias"].tolist()
        (True, [0.0, 0.0])
    """
    check_choice("normalize", normalize, (*NORMALIZE, None))
    check_choice("ignore", ignore, ("bias_bn", None))
    check_whole("seed", seed, least=0)
    generator = torch.Generator().manual_seed(int(seed))
    direction = {}
    for name, weight in model.named_parameters():
        origin = weight.detach()
        if not bool(origin.isfinite().all()):
            raise UsageError(f"{name} holds NaN or infinity: there is no landscape around it")
        # drawn for ignored tensors as well, so that `ignore` does not change the others
        drawn = torch.randn(origin.shape, generator=generator, dtype=torch.float64)
        drawn = drawn.to(device=origin.device, dtype=torch.promote_types(origin.dtype, torch.float32))
        if origin.ndim > 1:
            drawn = _scaled(drawn, origin.to(drawn.dtype), normalize)
        elif ignore is not None:
            drawn = torch.zeros_like(drawn)
        elif normalize is not None:
            drawn = origin.to(drawn.dtype).clone()
        direction[name] = drawn.to(origin.dtype)
    if not direction:
        raise UsageError(f"{type(model).__name__} has no parameter, so it has no direction")
    return direction


def direction_between(model: nn.Module, other: nn.Module, *, buffers: bool = False) -> dict[str, Float[Tensor, "..."]]:
    """The direction from one model's weights to another's: w_other - w.

    Args:
        model, other: of one architecture.
        buffers: whether running statistics move as well, as with `dir_type="states"` of the official code.

    Returns:
        A tensor by name of each parameter (and floating buffer); step 1 along it ends at the other model, up to
        rounding (`interpolate_weights` ends there exactly).

    Raises:
        UsageError: names or shapes differ, or the models are equal.

    Paper: as `random_direction`.
    """
    start, end = (
        {**dict(each.named_parameters()), **(_statistics(each) if buffers else {})} for each in (model, other)
    )
    require_same_tensors(start, end)
    direction = {name: end[name].detach().to(own) - own.detach() for name, own in start.items()}
    if not any(bool(step.count_nonzero()) for step in direction.values()):
        raise UsageError("both models have the same weights: there is no direction between them")
    return direction


def direction_cosine(first: Direction, second: Direction) -> float:
    """The cosine of two directions, over the weights that both name; near 0 for random ones in many dimensions.

    Raises:
        UsageError: one of length 0.
    """
    dot = sum(float((step.double() * second[name].double()).sum()) for name, step in first.items() if name in second)
    lengths = [sum(float(step.double().square().sum()) for step in each.values()) ** 0.5 for each in (first, second)]
    if not min(lengths) > 0:
        raise UsageError(f"a direction of length {min(lengths)} has no angle")
    return dot / (lengths[0] * lengths[1])


def require_same_tensors(first: Direction, second: Direction) -> None:
    """Refuse two models, by their tensors, that are not of one architecture.

    Raises:
        UsageError: names the first difference.
    """
    if apart := sorted(set(first) ^ set(second)):
        raise UsageError(f"the models differ in architecture: only one has {', '.join(apart[:3])}")
    for name, tensor in first.items():
        if tensor.shape != second[name].shape:
            raise UsageError(f"{name} has shape {tuple(tensor.shape)} in one model, {tuple(second[name].shape)} in the "
                             "other")  # fmt: skip


def _statistics(model: nn.Module) -> dict[str, Tensor]:
    return {name: buffer for name, buffer in model.named_buffers() if buffer.is_floating_point()}


def _scaled(
    drawn: Float[Tensor, "filters *axes"], weight: Float[Tensor, "filters *axes"], normalize: Normalize | None
) -> Float[Tensor, "filters *axes"]:
    if normalize is None:
        return drawn
    if normalize == "weight":
        return drawn * weight
    first = 1 if "filter" in normalize else 0  # the axes from here on are one filter; 0 takes the tensor as one
    rows, own = (tensor.reshape(len(drawn) if first else 1, -1) for tensor in (drawn, weight))
    length = rows.norm(dim=1, keepdim=True) + (TINY if "filter" in normalize else 0)
    scale = (1 if normalize.startswith("d") else own.norm(dim=1, keepdim=True)) / length
    return (rows * scale).reshape(drawn.shape)
