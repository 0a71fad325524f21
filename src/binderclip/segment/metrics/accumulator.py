"""What all segmentation metrics can do: be added, be saved as tensors, be collected over processes."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from binderclip.errors import UsageError

Self = TypeVar("Self", bound="Accumulator")


class Accumulator(ABC):
    """Update with pictures, compute at the end; parts that saw different pictures merge to what one had seen.

    Attributes:
        settings: names of the attributes that two accumulators must share to be merged.
        rows: names of the states that are lists (merged by joining them); the others are sums.
    """

    settings: ClassVar[tuple[str, ...]] = ()
    rows: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def reset(self) -> None:
        """Forget everything."""

    @abstractmethod
    def compute(self) -> Any:
        """The scores of everything seen."""

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """All that was seen, as tensors on the CPU: sums of any shape, and one-dimensional lists (`rows`)."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Put what another accumulator of the same settings had seen in the place of what this one has."""

    def merge(self: Self, other: Self) -> None:
        """Add what another accumulator has seen.

        Raises:
            UsageError: another kind of accumulator, or other settings.
        """
        if type(other) is not type(self):
            raise UsageError(f"cannot merge {type(self).__name__} and {type(other).__name__}")
        ours, theirs = (tuple(getattr(each, name) for name in self.settings) for each in (self, other))
        if ours != theirs:
            differ = [n for n, a, b in zip(self.settings, ours, theirs, strict=True) if a != b]
            pairs = ", ".join(f"{n}={getattr(self, n)} and {getattr(other, n)}" for n in differ)
            raise UsageError(f"cannot merge {type(self).__name__} of {pairs}")
        mine, new = self.state_dict(), other.state_dict()
        self.load_state_dict({n: torch.cat([v, new[n]]) if n in self.rows else v + new[n] for n, v in mine.items()})

    def __add__(self: Self, other: Self) -> Self:
        """A new accumulator that has seen what both have."""
        total = copy.deepcopy(self)
        total.merge(other)
        return total

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self.settings)})"

    def gathered(self: Self, group: Any = None) -> Self:
        """A new accumulator that has seen what those of all processes have, in the order of their ranks.

        Every process of the group must call it. Without an initialised process group it is a copy.

        Args:
            group: process group of `torch.distributed`; all processes by default.

        Raises:
            UsageError: the processes' accumulators differ in kind or settings.
        """
        import torch.distributed as dist

        whole = copy.deepcopy(self)
        if not (dist.is_available() and dist.is_initialized()):
            return whole
        parts: list[Any] = [None] * dist.get_world_size(group)
        dist.all_gather_object(parts, (repr(self), self.state_dict()), group=group)
        kinds = sorted({kind for kind, _ in parts})
        if len(kinds) > 1:
            raise UsageError(f"processes accumulate differently: {'; '.join(kinds)}")
        whole.reset()
        part = copy.deepcopy(whole)
        for _, state in parts:
            part.load_state_dict(state)
            whole.merge(part)
        return whole
