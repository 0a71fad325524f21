"""The arguments of a watched operation: which are parameters, which are data, and what stands in for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from binderclip.errors import NotSupported

if TYPE_CHECKING:
    from binderclip.privacy.per_sample.recorded import RecordedPass
    from binderclip.privacy.per_sample.sources import Source

__all__ = ["any_source", "argument", "fixed", "flattened", "mapped", "swapped", "unknown"]


def flattened(values: Any) -> list[Any]:
    leaves: list[Any] = []
    for value in values:
        if isinstance(value, (list, tuple)):
            leaves.extend(value)
        else:
            leaves.append(value)
    return leaves


def mapped(tree: Any, change: Callable[[Tensor], Any]) -> Any:
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, (list, tuple)) and not isinstance(tree, torch.Size):
        return type(tree)(mapped(value, change) for value in tree)
    if isinstance(tree, dict):
        return {key: mapped(value, change) for key, value in tree.items()}
    return tree


def swapped(recorder: RecordedPass, tree: Any) -> Any:
    """The same arguments with sources detached and other parameters frozen."""

    def change(tensor: Tensor) -> Tensor:
        source = recorder.sources.get(id(tensor))
        return tensor if source is None else source.value

    return mapped(tree, change)


def argument(args: tuple[Any, ...], kwargs: dict[str, Any], name: str, place: int) -> Any:
    return args[place] if len(args) > place else kwargs.get(name)


def fixed(recorder: RecordedPass, tensor: Tensor) -> bool:
    return id(tensor) in recorder.sources or id(tensor) in recorder.constants


def any_source(recorder: RecordedPass, args: Any, kwargs: Any) -> Source:
    tensors = [t for t in flattened((*args, *kwargs.values())) if isinstance(t, Tensor)]
    return next(recorder.sources[id(t)] for t in tensors if id(t) in recorder.sources)


def unknown(source: Source, what: str) -> NotSupported:
    return NotSupported(
        f"parameter {source.name!r} meets the data in {what}, for which per-sample gradients are not known here; "
        "known are linear, convolution, embedding, layer/group/RMS normalisation, attention, LSTM, GRU, RNN, x @ W and "
        "elementwise arithmetic. per_sample_grads(method='vmap') may handle it"
    )
