"""Windows over images and maps: where they lie, cutting them out, and putting their values back together.

The last window of each row and column is flush with the border, so every pixel is covered and no window is padded
(a picture smaller than the window makes the window smaller). The count map says how many windows cover a pixel; the
mean of what they say is the sum over the count. Tokens, features, logits and probabilities use the same geometry.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError


@dataclass(frozen=True)
class WindowGrid:
    """The windows over maps of one size.

    Args:
        size: (h, w) of the map.
        window: (h, w) of a window.
        tops: first row of each row of windows.
        lefts: first column of each column of windows.
    """

    size: tuple[int, int]
    window: tuple[int, int]
    tops: tuple[int, ...]
    lefts: tuple[int, ...]

    @classmethod
    def over(cls, size: tuple[int, int], window: int | tuple[int, int], stride: int | tuple[int, int]) -> WindowGrid:
        """Lay windows over a map: every `stride` pixels, the last flush with the border.

        Args:
            size: (h, w) of the map.
            window: side or (h, w) of a window; where the map is smaller the window shrinks to it.
            stride: step or (rows, columns) between windows; at most the window, or pixels would be left out.

        Raises:
            UsageError: sizes below 1, or a stride above the window.
        """
        height, width = _pair(size, "size")
        step, full = _pair(stride, "stride"), _pair(window, "window")
        if step[0] > full[0] or step[1] > full[1]:
            raise UsageError(f"stride {stride} is above the window {window}: pixels between windows would be left out")
        shape = (min(full[0], height), min(full[1], width))
        return cls((height, width), shape, _starts(height, shape[0], step[0]), _starts(width, shape[1], step[1]))

    def __len__(self) -> int:
        return len(self.tops) * len(self.lefts)

    @property
    def boxes(self) -> list[tuple[int, int, int, int]]:
        """Windows as half-open (x0, y0, x1, y1), row by row."""
        height, width = self.window
        return [(left, top, left + width, top + height) for top in self.tops for left in self.lefts]

    def count(self, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Float[Tensor, "H W"]:
        """How many windows cover each pixel; at least 1 everywhere."""
        rows, columns = (torch.zeros(side, dtype=dtype, device=device) for side in self.size)
        for top in self.tops:
            rows[top : top + self.window[0]] += 1
        for left in self.lefts:
            columns[left : left + self.window[1]] += 1
        return rows[:, None] * columns

    def scaled(self, factor: int) -> WindowGrid:
        """The same windows on a grid that is `factor` times coarser (patch tokens of pixels).

        Raises:
            UsageError: a size, window or place is not a multiple of `factor`.
        """
        for value in (*self.size, *self.window, *self.tops, *self.lefts):
            if value % factor:
                raise UsageError(f"windows of {self.window} over {self.size} do not lie on a grid of {factor} pixels")
        height, width = self.size
        return WindowGrid(
            (height // factor, width // factor),
            (self.window[0] // factor, self.window[1] // factor),
            tuple(top // factor for top in self.tops),
            tuple(left // factor for left in self.lefts),
        )


def _pair(value: int | tuple[int, int], name: str) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))
    if min(pair) < 1:
        raise UsageError(f"{name} {value!r} must be at least 1")
    return pair


def _starts(length: int, window: int, stride: int) -> tuple[int, ...]:
    last = length - window
    return (*range(0, last, stride), last)


def unfold(maps: Float[Tensor, "B C H W"], layout: WindowGrid) -> Float[Tensor, "B V C h w"]:
    """Cut the windows out of maps; windows are axis 1, row by row.

    Raises:
        UsageError: the maps are not of the layout's size.
    """
    if tuple(maps.shape[-2:]) != layout.size:
        raise UsageError(f"maps of {tuple(maps.shape[-2:])} do not fit windows over {layout.size}")
    return torch.stack([maps[..., y0:y1, x0:x1] for x0, y0, x1, y1 in layout.boxes], 1)


def fold(
    values: Float[Tensor, "B V C h w"], layout: WindowGrid, *, weight: Float[Tensor, "h w"] | None = None
) -> Float[Tensor, "B C H W"]:
    """Put window values back in place and average them where windows overlap.

    Args:
        values: one map a window, in the order of `unfold`.
        layout: where the windows lie.
        weight: positive weight of each pixel of a window (a taper towards its border); None for equal weights.

    Returns:
        Weighted mean over the covering windows. Merging the windows of a map gives the map back.

    Raises:
        UsageError: the number or size of the windows is not the layout's.
    """
    batch, count, channels, height, width = values.shape
    if count != len(layout) or (height, width) != layout.window:
        raise UsageError(
            f"{count} windows of {(height, width)} do not fit a layout of {len(layout)} windows of {layout.window}"
        )
    window_weight = torch.ones(layout.window, dtype=values.dtype, device=values.device)
    if weight is not None:
        if tuple(weight.shape) != layout.window or not bool((weight > 0).all()):
            raise UsageError(f"weight must be positive and of shape {layout.window}, got {tuple(weight.shape)}")
        window_weight = weight.to(values)
    total = values.new_zeros(batch, channels, *layout.size)
    cover = values.new_zeros(layout.size)
    for number, (x0, y0, x1, y1) in enumerate(layout.boxes):
        total[..., y0:y1, x0:x1] += values[:, number] * window_weight
        cover[y0:y1, x0:x1] += window_weight
    return total / cover
