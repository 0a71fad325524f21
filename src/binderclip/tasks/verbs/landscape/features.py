"""Features of a model whose weights move, computed again only where weights that they come from have changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from torch import Tensor, nn


class KeptFeatures:
    """Rows of the towers of one model, kept for as long as the weights of the tower have the same values.

    Which weights a tower has is seen at one forward of each. A weight that none is seen to read belongs to all.

    Args:
        model: whose weights move, in evaluation mode.
        forwards: tower's name -> a function that runs it on something small.
    """

    def __init__(self, model: nn.Module, forwards: Mapping[str, Callable[[], object]]) -> None:
        self._tensors = dict(model.named_parameters()) | dict(model.named_buffers())
        read = {tower: weights_read(self._tensors, forward) for tower, forward in forwards.items()}
        unread = self._tensors.keys() - frozenset().union(*read.values())
        self._names = {tower: sorted(names | unread) for tower, names in read.items()}
        self._weights: dict[str, list[Tensor]] = {}
        self._rows: dict[str, list[tuple[Tensor | None, Tensor]]] = {tower: [] for tower in forwards}

    @torch.no_grad()
    def __call__(self, tower: str, batch: Tensor | None, forward: Callable[[], Tensor]) -> Tensor:
        """What `forward` gives, or gave for the same batch with weights of the same values.

        Args:
            tower: a name of `forwards`.
            batch: what goes through the tower, told apart by identity; None where it is always the same.
            forward: computes the rows.
        """
        self._forget_if_moved(tower)
        for own, rows in self._rows[tower]:
            if own is batch:
                return rows
        rows = forward()
        self._rows[tower].append((batch, rows))
        return rows

    def _forget_if_moved(self, tower: str) -> None:
        tensors = [self._tensors[name] for name in self._names[tower]]
        weights = self._weights.get(tower)
        if weights is None:
            self._weights[tower] = [tensor.detach().clone() for tensor in tensors]
        elif not all(map(torch.equal, weights, tensors)):
            self._rows[tower].clear()
            torch._foreach_copy_(weights, tensors)


def weights_read(tensors: Mapping[str, Tensor], forward: Callable[[], object]) -> frozenset[str]:
    """Names of those tensors that a function computes with.

    Args:
        tensors: by name, such as parameters and buffers.
        forward: called once, without gradients.
    """
    with torch.no_grad(), _ReadRecorder(tensors) as recorder:
        forward()
    return frozenset(recorder.read)


class _ReadRecorder(TorchFunctionMode):
    """Notes which tensors operations take, while it is entered."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._names = {id(tensor): name for name, tensor in tensors.items()}
        self.read: set[str] = set()

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        # a shape, a dtype or a device is asked for without a look at the values
        if next(_tensors_in(result), None) is not None:
            self.read.update(self._names[id(t)] for t in _tensors_in((args, kwargs)) if id(t) in self._names)
        return result


def _tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors_in(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors_in(part)
