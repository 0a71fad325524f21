"""The gradients that a clip is asked to look at."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from binderclip.errors import NotSupported, UsageError
from binderclip.optim.gradients.measure import local_shard

__all__ = [
    "KeyedParameter",
    "Parameters",
    "copy_to_host",
    "dense_grad",
    "entries_of",
    "gradients_of",
    "names_of",
    "reads_are_free",
    "real_only",
    "shrink_",
]

Parameters = Tensor | Iterable[Tensor] | Iterable[tuple[str, Tensor]] | nn.Module


@dataclass(slots=True)
class KeyedParameter:
    """One parameter with the key its memory goes by.

    Args:
        key: its name, else its position.
        parameter: the parameter.
        label: its group, "" for none.
        update: what is clipped in place of its gradient, None for the gradient.
    """

    key: str
    parameter: Tensor
    label: str = ""
    update: Tensor | None = None

    @property
    def grad(self) -> Tensor | None:
        """What is clipped."""
        return self.parameter.grad if self.update is None else self.update

    def drop(self) -> None:
        """Take it away, so that nothing uses it."""
        if self.update is None:
            self.parameter.grad = None
        self.update = None

    def matches(self, patterns: Iterable[str], setting: str) -> str | None:
        """The first of these shell patterns that fits its name.

        Raises:
            UsageError: it has no name.
        """
        patterns = tuple(patterns)
        if patterns and self.key.isdigit():
            raise UsageError(f"{setting}= goes by name: pass model.named_parameters(), or names= to attach()")
        return next((pattern for pattern in patterns if fnmatch.fnmatchcase(self.key, pattern)), None)


def entries_of(params: Parameters) -> list[KeyedParameter]:
    """Parameters with their keys, each tensor once; the key of a tensor without a name is its position.

    Raises:
        UsageError: something else than tensors.
    """
    if isinstance(params, Tensor):
        return [KeyedParameter("0", params)]
    if isinstance(params, nn.Module):
        params = params.named_parameters()
    result: dict[int, KeyedParameter] = {}
    for position, item in enumerate(params):
        key, tensor = item if isinstance(item, tuple) else (str(position), item)
        if not isinstance(tensor, Tensor):
            raise UsageError(
                f"clip takes tensors or (name, tensor) pairs, such as model.parameters(); item {position} is a "
                f"{type(tensor).__name__}"
            )
        result.setdefault(id(tensor), KeyedParameter(key, tensor))
    return list(result.values())


def names_of(named: nn.Module | Iterable[tuple[str, Tensor]] | None) -> dict[int, str]:
    """The name of each parameter, by its identity.

    Raises:
        UsageError: tensors without names.
    """
    pairs = named.named_parameters() if isinstance(named, nn.Module) else (named or ())
    names = {}
    for pair in pairs:
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[1], Tensor)):
            kind = "a tensor without a name" if isinstance(pair, Tensor) else f"a {type(pair).__name__}"
            raise UsageError(
                f"attach takes names beside the optimizer: model.named_parameters() or the model itself, got {kind} "
                "(model.parameters() is known to the optimizer already)"
            )
        # a module under torch.compile puts `_orig_mod.` into its names; memory and exclusions go by the plain ones
        names[id(pair[1])] = pair[0].replace("_orig_mod.", "")
    return names


def gradients_of(
    entries: Iterable[KeyedParameter], excluded: Callable[[KeyedParameter], bool] | None = None
) -> tuple[list[KeyedParameter], list[Tensor]]:
    """The entries that have a gradient, and their gradients.

    Args:
        entries: parameters with keys.
        excluded: which of them are left alone; None for none.

    Raises:
        NotSupported: a sparse gradient.
    """
    chosen, grads = [], []
    for entry in entries:
        grad = entry.parameter.grad if entry.update is None else entry.update
        if grad is None or (excluded is not None and excluded(entry)):
            continue
        chosen.append(entry)
        grads.append(grad if grad.layout is torch.strided else dense_grad(entry))
    return chosen, grads


def real_only(entries: Iterable[KeyedParameter]) -> None:
    """Refuse complex gradients.

    Raises:
        NotSupported: a complex one, which has no largest coordinate that a clamp could cut.
    """
    for entry in entries:
        if entry.grad is not None and entry.grad.is_complex():
            raise NotSupported(
                f"parameter {entry.key!r} has a complex gradient, whose coordinates cannot be clamped: exclude it, or "
                "take a clip that scales, such as NormClip"
            )


def dense_grad(entry: KeyedParameter) -> Tensor:
    """Its gradient.

    Raises:
        NotSupported: it is sparse.
    """
    grad = entry.grad
    assert grad is not None
    if grad.layout != torch.strided:
        raise NotSupported(
            f"parameter {entry.key!r} has a sparse gradient ({grad.layout}), which cannot be clipped: use "
            "sparse=False in its Embedding, or exclude it"
        )
    return grad


def shrink_(
    entries: Iterable[KeyedParameter],
    shrunk: Callable[[KeyedParameter], bool],
    rate: float,
    *,
    finite: Tensor | None = None,
    scale: Tensor | None = None,
) -> None:
    """Replace the gradients by `rate` times the weights where `shrunk` says so, and by 0 elsewhere.

    Args:
        entries: whose gradients, those without one are passed over.
        shrunk: which parameters a step shall make smaller.
        rate: share of the weight.
        finite: 0-dim; where true, everything stays as it is. None for false.
        scale: what the optimizer will divide the gradients by.
    """
    for entry in entries:
        if entry.grad is None:
            continue
        grad, factor = local_shard(entry.grad), rate if shrunk(entry) else 0.0
        new = factor * local_shard(entry.parameter).detach().to(grad.dtype)
        new = new if scale is None else new * scale.to(grad)
        grad.copy_(new if finite is None else torch.where(finite.to(grad.device), grad, new))


def reads_are_free(grads: Sequence[Tensor]) -> bool:
    """Whether looking at a value costs nothing, because everything is on the host anyway."""
    return all(map(attrgetter("is_cpu"), grads))


def copy_to_host(flag: Tensor) -> tuple[Tensor, Any]:
    """A copy that arrives by itself, and the event that says when."""
    host = torch.empty((), dtype=flag.dtype, pin_memory=True)
    host.copy_(flag, non_blocking=True)
    event = torch.get_device_module(flag.device).Event()
    event.record()
    return host, event
