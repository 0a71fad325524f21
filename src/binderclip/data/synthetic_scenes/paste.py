"""Putting one picture on another with the exact masks of both: what scenes and Copy-Paste share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class Piece:
    """What is pasted: premultiplied colour (h, w, 3), alpha (h, w) in [0, 1] and mask (h, w); arrays or tensors."""

    colour: Any
    alpha: Any
    mask: Any


def paste(image: Any, masks: Any, piece: Piece, y: int = 0, x: int = 0) -> None:
    """Lay a piece over a picture, in place, and take its pixels from the masks of what it hides.

    Args:
        image: (H, W, 3), an array or a tensor; floats.
        masks: (K, H, W) bool, of what lies below; K may be 0.
        piece: lies wholly within the picture.
        y, x: its top row and left column.
    """
    height, width = piece.mask.shape
    rows, columns = slice(y, y + height), slice(x, x + width)
    view = image[rows, columns]
    view += piece.colour - view * piece.alpha[..., None]
    masks[:, rows, columns] &= ~piece.mask


def boxes_of(masks: Bool[Tensor, "*N H W"]) -> Float[Tensor, "*N 4"]:
    """Tight half-open xyxy boxes of masks; zeros for empty ones."""
    ends = []
    for along in (masks.any(-2), masks.any(-1)):  # columns, rows
        seen = along.to(torch.uint8)
        ends.append((seen.argmax(-1), along.shape[-1] - seen.flip(-1).argmax(-1), along.any(-1)))
    (x0, x1, there), (y0, y1, _) = ends
    return torch.stack([x0, y0, x1, y1], -1).float() * there[..., None]
