"""Quantisation-aware fine-tuning: weights that are rounded in every forward as they will be stored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from binderclip.compress.quantise.weights import PackedWeights, pack_weight
from binderclip.compress.weights.sparse_weight import take_off
from binderclip.errors import UsageError
from binderclip.fit import FitResult, fit
from binderclip.models.files.compact import dequantise, quantise
from binderclip.numeric import check_whole

__all__ = ["fine_tune_rounded", "round_again"]


class _StraightThrough(torch.autograd.Function):
    """Another value forward, the gradient as it is backward."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, rounded: Tensor) -> Tensor:
        return rounded.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


class _Rounded(nn.Module):
    """A weight as it comes back from a folder."""

    def __init__(self, name: str, four: bool, size: int) -> None:
        super().__init__()
        self.name, self.four, self.size = name, four, size

    def packed(self, weight: Float[Tensor, "O *inputs"]) -> dict[str, Tensor]:
        """What is stored of a weight."""
        if self.four:
            return pack_weight(self.name, weight, self.size)
        return {key: value.clone() for key, value in quantise({self.name: weight.detach()}).items()}

    def forward(self, weight: Float[Tensor, "O *inputs"]) -> Float[Tensor, "O *inputs"]:
        rounded = dequantise(self.packed(weight))[self.name].to(weight.dtype)
        return _StraightThrough.apply(weight, rounded)


@contextmanager
def _rounding(module: nn.Module, roundings: Mapping[str, _Rounded]) -> Iterator[None]:
    """Round these weights at each forward, also where another layer is tied to them; afterwards they are as trained."""
    by_parameter = {id(parameter): roundings.get(name) for name, parameter in module.named_parameters()}
    layers = [
        (layer, name, rounding)
        for layer in list(module.modules())
        for name, parameter in list(layer.named_parameters(recurse=False))
        if (rounding := by_parameter[id(parameter)]) is not None
    ]
    parametrized: list[tuple[nn.Module, str]] = []
    try:
        for layer, name, rounding in layers:
            parametrize.register_parametrization(layer, name, rounding, unsafe=True)
            parametrized.append((layer, name))
        yield
    finally:
        for layer, name in parametrized:
            take_off(layer, name, baked=False)


def fine_tune_rounded(
    module: nn.Module,
    packed: PackedWeights,
    weights: Mapping[str, Tensor],
    loss: Callable[[Any], Any],
    batches: Iterable[Any],
    *,
    steps: int,
    lr: float = 5e-4,
    size: int = 64,
    **options: Any,
) -> tuple[PackedWeights, FitResult]:
    """Train a model whose weights were rounded by `quantize_weights`, so that it does its work with rounded weights.

    Float weights are trained. Each forward sees them rounded as `pack_weight` does, with scales found anew, and the
    gradient of a rounded weight goes to the float weight as it is (straight-through; Bengio et al., arXiv 1308.3432).
    The first forward is that of the model as it was rounded, with the biases that were corrected. The mode of the
    module is kept: in evaluation mode batch norms keep their statistics.

    Args:
        module: changed in place; at the end its weights are rounded.
        packed: what `quantize_weights` gave for it.
        weights: name -> weight before it was rounded, for all of `packed`.
        loss: batch -> loss of the module, as `fit` takes it.
        batches: of training data.
        steps: of the optimizer, at least 1.
        lr: learning rate of AdamW.
        size: most numbers in a block, as it was given to `quantize_weights`.
        options: of `fit`.

    Returns:
        What is to be stored in place of `packed`, and the record of the training.

    Raises:
        UsageError: a float weight is missing, or a setting out of range; and what `fit` raises.
    """
    check_whole("steps", steps, least=1)
    roundings = {name: _Rounded(name, name in packed.four, size) for name in [*packed.four, *packed.eight]}
    parameters = {name: parameter for name, parameter in module.named_parameters() if name in roundings}
    missing = [name for name in roundings if name not in weights or name not in parameters]
    if missing:
        raise UsageError(f"{missing[0]} has no float weight: give those of before quantize_weights")

    def step(batch: Any) -> Any:
        with parametrize.cached():  # attention of torch reads its weight several times in a forward
            return loss(batch)

    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    with _rounding(module, roundings):
        result = fit(step, module, batches, steps=steps, lr=lr, **options)
    return round_again(module, packed, size=size), result


def round_again(module: nn.Module, packed: PackedWeights, *, size: int = 64) -> PackedWeights:
    """Round the weights of a module, in place, that were rounded before and have changed since.

    `fine_tune_rounded` ends with it; one that was interrupted leaves the weights in float as far as they were trained.

    Args:
        module: with the weights of `packed`, in float.
        packed: says which weights have four bits and which eight.
        size: most numbers in a block, as it was given to `quantize_weights`.

    Returns:
        What is to be stored in place of `packed`.
    """
    tensors: dict[str, Tensor] = {}
    parameters = dict(module.named_parameters())
    for name in [*packed.four, *packed.eight]:
        tensors |= _Rounded(name, name in packed.four, size).packed(parameters[name])
    with torch.no_grad():
        for name, value in dequantise(tensors).items():
            parameters[name].copy_(value)
    return PackedWeights(tensors, packed.four, packed.eight)
