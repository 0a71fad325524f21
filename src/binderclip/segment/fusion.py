"""Which layers contribute to the dense map, and how their maps become one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from jaxtyping import Float
from torch import Tensor

from binderclip.segment.context import Context, head
from binderclip.segment.text import BoundText

#: Context -> patch tokens (B, D, gh, gw) before the final norm; an attribute `record` names what it wants recorded.
Reader: TypeAlias = "Callable[[Context], Tensor]"


class Fusion(Protocol):
    """From one batch of windows to scores of words; an attribute `record` names what it wants of earlier blocks."""

    def __call__(self, context: Context, last_block: Reader, text: BoundText) -> Float[Tensor, "B Q gh gw"]: ...


@dataclass(frozen=True)
class LastOnly:
    """The last block alone: cosines of its projected tokens with the words."""

    def __call__(self, context: Context, last_block: Reader, text: BoundText) -> Float[Tensor, "B Q gh gw"]:
        """Cosines."""
        return text.cosines(head(context.tower, last_block(context)))
