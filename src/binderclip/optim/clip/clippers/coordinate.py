"""CoordinateClip: the largest coordinates are brought down to the largest of the rest."""

from __future__ import annotations

from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from binderclip.errors import NotSupported
from binderclip.numeric import check_number
from binderclip.optim.clip.clipping import Clip
from binderclip.optim.clip.threshold import Reading, Threshold
from binderclip.optim.gradients.quantile import kth_largest

__all__ = ["CoordinateClip", "TopFraction"]


class TopFraction(Threshold):
    """A limit at the k-th largest absolute coordinate of the block, k = max(1, round(fraction * entries)).

    Exact, no interpolation; k = 1 limits nothing.

    Args:
        fraction: share of the coordinates that are brought down, in [0, 1].

    Raises:
        UsageError: a share outside [0, 1].

    Paper: Toward Understanding Why Adam Converges Faster Than SGD for Transformers, arXiv 2306.00204.
    """

    def __init__(self, fraction: float = 0.1) -> None:
        check_number("fraction", fraction, least=0, most=1)
        self.fraction = fraction

    def limit(self, reading: Reading) -> Float[Tensor, "blocks"]:
        """The k-th largest absolute coordinate of each block.

        Raises:
            NotSupported: blocks are units.
        """
        if reading.owner is None:
            raise NotSupported("TopFraction looks at whole tensors: use granularity 'coordinate', 'group' or 'global'")
        blocks: list[list[Tensor]] = [[] for _ in range(len(reading.stat))]
        for tensor, owner in zip(reading.entries, reading.owner, strict=True):
            blocks[owner].append(tensor)
        kth = kth_largest(blocks, self.fraction).to(reading.stat.dtype)
        return kth if reading.scale is None else kth / reading.scale.to(kth)

    def __repr__(self) -> str:
        return f"TopFraction({self.fraction:g})"


class CoordinateClip(Clip):
    """Clamp the largest coordinates of every tensor to the magnitude of the k-th largest.

    A few coordinates cause most of the curvature along SGD's direction; without them it takes larger steps.
    `fraction` .1 suits SGD, up to .5 optimizers that scale coordinates themselves; 1 is nearly sign descent.

    Args:
        fraction: share of the coordinates that are brought down, in [0, 1].
        granularity: "tensor", or "global" for the k-th largest of all tensors together.
        where: "gradient", or "update" for the optimizer's step over its learning rate (through `attach` only).
        settings: further arguments of `Clip` (`nonfinite`, `observe`, `exclude`, ...).

    Raises:
        UsageError: a value outside its range.

    Examples:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.zeros(5))
        >>> weight.grad = torch.tensor([9.0, -1.0, 2.0, -7.0, 3.0])
        >>> report = CoordinateClip(0.4)([weight])
        >>> weight.grad.tolist()
        [7.0, -1.0, 2.0, -7.0, 3.0]

    Paper: Toward Understanding Why Adam Converges Faster Than SGD for Transformers, arXiv 2306.00204.
    """

    def __init__(
        self,
        fraction: float = 0.1,
        *,
        granularity: Literal["tensor", "coordinate", "global", "group"] = "tensor",
        where: Literal["gradient", "update"] = "gradient",
        **settings: Any,
    ) -> None:
        # one limit per tensor, compared with each of its coordinates
        covered: Any = "coordinate" if granularity == "tensor" else granularity
        fixed: dict[str, Any] = {"granularity": covered, "statistic": "max", "action": "clamp", "where": where}
        super().__init__(TopFraction(fraction), **fixed | settings)
