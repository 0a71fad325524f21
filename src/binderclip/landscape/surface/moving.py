"""A model whose weights are moved along directions and put back, and what it is measured on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import UsageError

ModelLoss: TypeAlias = "Callable[[nn.Module, Any], Tensor | tuple[Tensor, Tensor]]"
"""From a model and a batch to the batch's mean loss, or to (loss, accuracy)."""
Direction: TypeAlias = "Mapping[str, Tensor]"
"""A tensor for each weight (or floating buffer) that moves, by its name in the model."""
Progress: TypeAlias = "Callable[[int, int], object]"
"""Called with (points that are done, points in all)."""
OnPoint: TypeAlias = "Callable[[tuple[float, ...], Float[Tensor, '2']], object]"
"""Called with a point's steps along the directions, and its loss and accuracy on the model's device."""


def classification_figures(model: nn.Module, batch: Any) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean cross-entropy and accuracy of a batch (inputs, labels), of a model that maps inputs to logits.

    Args:
        model: called with the inputs; gives logits [n, classes].
        batch: inputs and labels [n].
    """
    inputs, labels = batch
    logits = model(inputs)
    return nn.functional.cross_entropy(logits, labels), (logits.argmax(-1) == labels).float().mean()


class FixedBatches:
    """Batches that are read once, held where the model is, and looked at again at every point.

    Args:
        model: whose first parameter says the device.
        batches: of anything that `loss` takes; the first tensor of each has its samples on axis 0.
        loss: from model and batch to the batch's mean loss, or to (loss, accuracy).

    Raises:
        UsageError: no batch, one without a tensor, or one of no sample.
    """

    def __init__(self, model: nn.Module, batches: Iterable[Any], loss: ModelLoss = classification_figures) -> None:
        first = next(iter(model.parameters()), None)
        if first is None:
            raise UsageError(f"{type(model).__name__} has no parameter, so there is no loss surface")
        self.model, self.loss = model, loss
        self.batches = [_moved(batch, first.device) for batch in batches]
        self.sizes = [_size(batch) for batch in self.batches]
        if not self.batches or min(self.sizes) < 1:
            raise UsageError("batches holds no batch, or one of no sample: there is nothing to measure the loss on")

    def __call__(self) -> Float[Tensor, "2"]:
        """Mean loss and accuracy over all samples, on the device; the accuracy is NaN where `loss` gives none."""
        total: Tensor | None = None
        for batch, size in zip(self.batches, self.sizes, strict=True):
            figures = self.loss(self.model, batch)
            # a `LossOutput` is its total
            figures = getattr(figures, "total", figures)
            loss, accuracy = figures if isinstance(figures, tuple) else (figures, torch.full_like(figures, torch.nan))
            if loss.numel() != 1:
                raise UsageError(f"loss gave shape {tuple(loss.shape)}; it is the batch's mean, one number")
            pair = torch.stack([loss.reshape(()), accuracy.reshape(()).to(loss)])
            # half precision would round a sum over many batches
            pair = pair.to(torch.promote_types(pair.dtype, torch.float32)) * size
            total = pair if total is None else total + pair
        assert total is not None
        return total / sum(self.sizes)

    def mean_loss(self) -> Float[Tensor, ""]:
        """Mean loss over all samples, with its graph."""
        return self()[0]


class Displaced:
    """A model in evaluation mode whose weights are moved to points of the space that directions span.

    As a context: when it is left, every parameter, buffer and `training` flag is as before, bit for bit.

    Args:
        model: any module; a weight that several modules share moves once.
        directions: one, or two; weights that are named in none stay.

    Raises:
        UsageError: a name that the model does not have or that counts in whole numbers, another shape, NaN or infinity
            in a direction, or directions that are 0 everywhere.
    """

    def __init__(self, model: nn.Module, *directions: Direction) -> None:
        self.model = model
        tensors = dict(model.named_parameters()) | {
            name: buffer for name, buffer in model.named_buffers() if buffer.is_floating_point()
        }
        for number, direction in enumerate(directions):
            _require_fitting(tensors, direction, number)
        names = [n for n in tensors if any(n in d and bool(d[n].count_nonzero()) for d in directions)]
        if not names:
            raise UsageError("the direction is 0 everywhere, so nothing would move")
        self._moving = [tensors[name] for name in names]
        self._steps = [[_step(tensors[name], direction.get(name)) for name in names] for direction in directions]
        self._at: float | None = None

    def __enter__(self) -> Displaced:
        self._modes = [(module, module.training) for module in self.model.modules()]
        kept = [*self.model.parameters(), *self.model.buffers()]
        self._kept = [(tensor, tensor.detach().clone()) for tensor in kept]
        copies = {id(tensor): copy for tensor, copy in self._kept}
        self._origins = [copies[id(tensor)] for tensor in self._moving]
        self.model.eval()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with torch.no_grad():
            for tensor, copy in self._kept:
                tensor.copy_(copy)
        for module, training in self._modes:
            module.training = training
        self._at = None

    @torch.no_grad()
    def at(self, *coordinates: float) -> None:
        """Move to w + a d1 (+ b d2).

        Args:
            coordinates: one for each direction; points that share the first one are cheaper in a row.
        """
        *first, last = coordinates
        base = self._origins
        if first:
            if self._at != first[0]:
                self._row = list(torch._foreach_add(self._origins, self._steps[0], alpha=first[0]))
                self._at = first[0]
            base = self._row
        torch._foreach_copy_(self._moving, torch._foreach_add(base, self._steps[-1], alpha=last))

    @property
    def moving(self) -> list[Tensor]:
        """The tensors that move."""
        return self._moving


def checked_grid(name: str, values: Sequence[float] | Float[Tensor, "_"]) -> list[float]:
    """The coordinates of a grid as finite numbers that rise.

    Raises:
        UsageError: none, one that is not finite, or two that do not rise.
    """
    grid = [float(value) for value in values]
    finite = all(abs(value) < float("inf") for value in grid)
    if not grid or not finite or any(b <= a for a, b in itertools.pairwise(grid)):
        raise UsageError(f"{name} must be finite numbers that rise, got {grid[:5]}{'...' if len(grid) > 5 else ''}")
    return grid


def _require_fitting(tensors: Mapping[str, Tensor], direction: Direction, number: int) -> None:
    for name, step in direction.items():
        if name not in tensors:
            raise UsageError(f"direction {number} has {name!r}, which is no parameter or floating buffer of the model")
        if step.shape != tensors[name].shape:
            raise UsageError(
                f"direction {number}: {name} has shape {tuple(step.shape)}, the weight {tuple(tensors[name].shape)}"
            )
        if not bool(step.isfinite().all()):
            raise UsageError(f"direction {number}: {name} holds NaN or infinity")


def _step(weight: Tensor, step: Tensor | None) -> Tensor:
    return torch.zeros_like(weight) if step is None else step.detach().to(weight)


def _moved(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: _moved(value, device) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        return tuple(_moved(value, device) for value in batch)
    return batch


def _size(batch: Any) -> int:
    """Samples of a batch: the length of its first tensor."""
    if isinstance(batch, Tensor) and batch.ndim:
        return len(batch)
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple) else ()
    for part in parts:
        if isinstance(part, Tensor) and part.ndim:
            return len(part)
    raise UsageError(f"a batch is a {type(batch).__name__} without a tensor, so its samples cannot be counted")
