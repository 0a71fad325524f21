"""The gradients that a clip is asked to look at."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from binderclip.errors import BinderclipError, NotSupported, UsageError

__all__ = [
    "Entry",
    "NonFiniteGradient",
    "Parameters",
    "dense_grad",
    "entries_of",
    "explain_nonfinite",
    "reads_are_free",
    "zero_nonfinite_",
]

Parameters = Tensor | Iterable[Tensor] | Iterable[tuple[str, Tensor]]


class NonFiniteGradient(BinderclipError, RuntimeError):
    """The gradient holds NaN or infinity, and the clip was told to raise."""


@dataclass
class Entry:
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


def entries_of(params: Parameters) -> list[Entry]:
    """Parameters with their keys, each tensor once; the key of a tensor without a name is its position.

    Raises:
        UsageError: something else than tensors.
    """
    if isinstance(params, Tensor):
        return [Entry("0", params)]
    result, seen = [], set()
    for position, item in enumerate(params):
        key, tensor = item if isinstance(item, tuple) else (str(position), item)
        if not isinstance(tensor, Tensor):
            raise UsageError(
                f"clip takes tensors or (name, tensor) pairs, such as model.parameters(); item {position} is a "
                f"{type(tensor).__name__}"
            )
        if id(tensor) not in seen:
            seen.add(id(tensor))
            result.append(Entry(key, tensor))
    return result


def dense_grad(entry: Entry) -> Tensor:
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


def zero_nonfinite_(grads: Sequence[Tensor]) -> None:
    """Replace NaN and infinities by 0."""
    for grad in grads:
        grad.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)


def reads_are_free(grads: Sequence[Tensor]) -> bool:
    """Whether looking at a value costs nothing, because everything is on the host anyway."""
    return all(grad.device.type == "cpu" for grad in grads)


def explain_nonfinite(bad: Sequence[str], when: str = "") -> str:
    """The message: where the trouble is, and when it was found."""
    where = f" in {len(bad)} tensors ({', '.join(bad[:3])}{', ...' if len(bad) > 3 else ''})" if bad else ""
    return (
        f"the gradient is NaN or infinite{where}{' ' + when if when else ''}; that step was not taken. Use "
        "nonfinite='skip' to pass over such steps"
    )
