"""Threshold rules: how large a block of the gradient may be, possibly judged by the past."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from binderclip.errors import UsageError

__all__ = ["Constant", "Memory", "Reading", "Threshold", "as_threshold"]


@dataclass
class Reading:
    """What a threshold rule sees of one step; everything is a tensor on the gradients' device.

    Args:
        stat: the statistic of each block.
        slots: for each block, its place in a rule's memory: the same parameter has the same slot at every step,
            whichever others have no gradient.
        capacity: number of slots given out so far.
        norm: the statistic of the whole gradient.
        finite: whether it is finite. Rules must not let anything else into their memory (`torch.where(finite, ...)`);
            on a CPU they are not asked then.
        weights: computes the same statistic of the weights, block by block.
        entries: the gradients themselves, for rules that need order statistics; a DTensor as such. Read only.
        owner: for each of them, the block it belongs to; None where a tensor has several (units).
        scale: what `entries` are still multiplied by (a GradScaler's factor), 0-dim; None for nothing.
    """

    stat: Float[Tensor, "blocks"]
    slots: Int[Tensor, "blocks"]
    capacity: int
    norm: Float[Tensor, ""]
    finite: Bool[Tensor, ""]
    weights: Callable[[], Float[Tensor, "blocks"]]
    entries: Sequence[Tensor] = ()
    owner: Sequence[int] | None = None
    scale: Tensor | None = None


class Threshold:
    """Base of the rules: tensors in, tensors out, never a host read.

    A subclass gives `limit` and, if it remembers anything, `observe`, `state_dict` and `load_state_dict`.
    """

    def limit(self, reading: Reading) -> Float[Tensor, "blocks"] | Float[Tensor, ""]:
        """The largest statistic allowed, per block (or one for all, 0-dim); +inf leaves a block alone."""
        raise TypeError(f"{type(self).__name__} gives no limit(): a threshold rule needs one")

    def observe(self, reading: Reading, clipped: Float[Tensor, "blocks"]) -> None:
        """Called once a step, after the limit was applied.

        Args:
            reading: as it was given to `limit`.
            clipped: the statistic of each block after clipping.
        """

    def state_dict(self) -> dict[str, Any]:
        """The memory, as tensors and plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a memory saved by `state_dict`."""


class Constant(Threshold):
    """The same limit for every block at every step.

    Args:
        value: the limit, in units of the statistic; not negative, may be inf.

    Raises:
        UsageError: negative or NaN.
    """

    def __init__(self, value: float) -> None:
        if not value >= 0:
            raise UsageError(f"a clipping threshold must be a number of at least 0, got {value}")
        self.value = float(value)
        self._tensor = torch.tensor(self.value)

    def limit(self, reading: Reading) -> Float[Tensor, ""]:
        """The constant, 0-dim."""
        stat = reading.stat
        if self._tensor.dtype != stat.dtype or self._tensor.device != stat.device:
            self._tensor = torch.full((), self.value, dtype=stat.dtype, device=stat.device)
        return self._tensor

    def __repr__(self) -> str:
        return f"Constant({self.value:g})"


class Memory:
    """One remembered number per block, for rules that judge by the past.

    Places for blocks that were never seen hold `fill`. Nothing that comes from a gradient that is not finite is kept.

    Args:
        fill: the value before the first observation.
        dtype: of the numbers; None takes the statistic's.
    """

    def __init__(self, fill: float = 0.0, dtype: torch.dtype | None = None) -> None:
        self.fill, self.dtype = fill, dtype
        self.values = torch.zeros(0, dtype=dtype)

    def read(self, reading: Reading) -> Tensor:
        """The numbers of this step's blocks."""
        dtype = self.dtype or reading.stat.dtype
        if self.values.device != reading.stat.device or self.values.dtype != dtype:
            self.values = self.values.to(reading.stat.device, dtype)
        missing = reading.capacity - len(self.values)
        if missing > 0:
            self.values = torch.cat([self.values, self.values.new_full((missing,), self.fill)])
        return self.values[reading.slots]

    def write(self, reading: Reading, new: Tensor, keep: Tensor | None = None) -> None:
        """Replace the numbers of this step's blocks.

        Args:
            reading: of this step.
            new: (blocks,) what to remember.
            keep: (blocks,) where true, the old number stays.
        """
        old = self.read(reading)
        change = reading.finite if keep is None else reading.finite & ~keep
        self.values[reading.slots] = torch.where(change, new.to(old.dtype), old)

    def state_dict(self) -> Tensor:
        """A copy of the numbers."""
        return self.values.clone()

    def load_state_dict(self, state: Tensor) -> None:
        """Take over saved numbers."""
        self.values = state.clone()


def as_threshold(value: Threshold | float) -> Threshold:
    """A rule as it is, a number as a constant one."""
    return value if isinstance(value, Threshold) else Constant(value)
