"""Which layers contribute to the dense map, and how their maps become one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeAlias, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.segment.parts.context import Context, head
from binderclip.segment.parts.last_block import LastBlock
from binderclip.segment.parts.text import BoundText

#: Context -> patch tokens (B, D, gh, gw) before the final norm; an attribute `record` names what it wants recorded.
Reader: TypeAlias = "Callable[[Context], Tensor]"


@runtime_checkable
class Fusion(Protocol):
    """From one batch of windows to scores of words; an attribute `record` names what it wants of earlier blocks.

    One that needs no tower with attention says so by `needs_attention = False`; one that needs more of the model than a
    tower has `check_model(model)`, which raises before a picture is opened.
    """

    def __call__(self, context: Context, last_block: Reader, text: BoundText) -> Float[Tensor, "B Q gh gw"]: ...


@dataclass(frozen=True)
class LastOnly:
    """The last block alone: cosines of its projected tokens with the words."""

    needs_attention: ClassVar[bool] = False

    def __call__(self, context: Context, last_block: Reader, text: BoundText) -> Float[Tensor, "B Q gh gw"]:
        """Cosines."""
        return text.cosines(head(context.tower, last_block(context)))


@dataclass(frozen=True)
class ClassTokenProduct:
    """Logits of patches times those of the class token, word by word: what the picture shows counts more.

    Both are cosines times the model's scale, and the rule scales the product once more, as in the released code. It is
    meant for models whose cosines are positive, as CLIP's are: two negative logits multiply to a positive one.

    Raises:
        UsageError: (when called) a last block that is no `LastBlock`.
        NotSupported: (when called) no class token goes through the last block.

    Paper: CLIPtrase (arXiv 2407.08268), for pictures whose every pixel is one of the labels (VOC20).
    """

    def __call__(self, context: Context, last_block: Reader, text: BoundText) -> Float[Tensor, "B Q gh gw"]:
        """Products of cosines, times the scale."""
        if not isinstance(last_block, LastBlock):
            raise UsageError(f"ClassTokenProduct reads the class token of a LastBlock, not of {last_block!r}")
        maps, token = last_block.with_class_token(context)
        patches = text.cosines(head(context.tower, maps))
        return patches * text.scale * text.cosines(head(context.tower, token[:, :, None, None]))
