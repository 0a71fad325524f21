"""Label maps with the edges of the picture, from the maps of any preset."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.segment.cut.labels import CutSettings, cut_labels
from binderclip.segment.parts.context import Frame

__all__ = ["GrabCut"]


@dataclass(frozen=True)
class GrabCut(CutSettings):
    """A `relabel` part: every label's map is split, its colours are learned, and a minimum cut draws the edges.

    Works with the maps of any preset. The map of a label is how far its logit is above those of all other classes, of
    the background too; alone, or without `margin`, it is the logit itself. Otsu's threshold splits it; its highest
    `inside` is surely the label, its lowest `outside` surely is not; colour models of both sides and the edges of the
    picture decide the rest, in some rounds. Several labels are cut at once, against each other and against one
    background, which is what no label takes. A constant map is of a label that is not there.

    Args:
        inside, outside: shares of the picture's pixels.
        margin: whether maps are margins between logits, or logits, where those of each label make a map of their own.

    Raises:
        UsageError: shares out of order.
    """

    inside: float = 0.03
    outside: float = 0.2
    margin: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.inside > 0 and self.outside >= 0 and self.inside + self.outside < 1):
            raise UsageError(f"inside {self.inside} and outside {self.outside} are shares that leave some pixels over")

    def __call__(self, labels: Int[Tensor, "H W"], logits: Float[Tensor, "C h w"], frame: Frame) -> Int[Tensor, "H W"]:
        """The label map, anew from the logits; -1, or 0 where there is a background, is none of the labels."""
        first = int(frame.background)
        maps = logits[first:].float()
        if self.margin and len(logits) > 1:
            maps = torch.stack([own - _best_other(logits, place + first) for place, own in enumerate(maps)])
        label_map = cut_labels(frame.image[0], maps, self, inside=self.inside, outside=self.outside)
        return (label_map + first).to(labels)


def _best_other(logits: Float[Tensor, "C h w"], place: int) -> Float[Tensor, "h w"]:
    return torch.cat([logits[:place], logits[place + 1 :]]).float().amax(dim=0)
