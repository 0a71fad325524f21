"""One call of a clip: which gradients it works on, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from binderclip.optim.gradients.collect import KeyedParameter

if TYPE_CHECKING:
    from binderclip.optim.clip.target import StepTarget

__all__ = ["ClipCall"]


@dataclass(frozen=True)
class ClipCall:
    """What one call works on.

    Attributes:
        entries: all that were given. chosen: those that are clipped.
        grads: of the chosen ones, or what an action with a memory measures instead. local: this process's parts.
        on_host: reading a number back costs nothing.
        target: the optimizer that is about to step; None for a plain call.
        taken: false where the memory must not see this step; None for true.
        scaled: `grads` are still multiplied by the target's scale.
    """

    entries: Sequence[KeyedParameter]
    chosen: list[KeyedParameter]
    grads: list[Tensor]
    local: list[Tensor]
    on_host: bool
    target: StepTarget | None
    taken: Tensor | None
    scaled: bool = True

    @property
    def scale(self) -> Tensor | None:
        """What `grads` are multiplied by."""
        return None if self.target is None or not self.scaled else self.target.scale
