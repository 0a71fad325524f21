"""AutoClip: the limit is a percentile of all norms seen so far."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.optim.clip.clipping import Clip
from binderclip.optim.clip.threshold import Memory, Reading, Threshold

__all__ = ["AutoClip", "HistoryQuantile"]

START = 256


class HistoryQuantile(Threshold):
    """A limit at a percentile of the block's past statistics, the current one included, unclipped.

    The percentile interpolates linearly between neighbours, as NumPy's does. The history is kept sorted: putting a
    value in its place is one pass (each place takes the middle one of its left neighbour, its own and the new value),
    and reading a percentile two look-ups. Its memory doubles when it is full: 8 bytes per step and block.

    Args:
        percentile: in [0, 100]; 100 limits nothing, 0 to the smallest ever seen.
        window: keep the last so many statistics only; None keeps all.

    Raises:
        UsageError: a value outside its range.

    Paper: AutoClip, arXiv 2007.14469.
    """

    def __init__(self, percentile: float = 10.0, *, window: int | None = None) -> None:
        if not 0 <= percentile <= 100:
            raise UsageError(f"percentile must lie in [0, 100], got {percentile}")
        if window is not None and window < 1:
            raise UsageError(f"window must be at least 1, got {window}")
        self.percentile, self.window = percentile, window
        self.count = Memory(dtype=torch.int64)
        # one row per block: -inf, its values in order, +inf up to the end
        self._sorted = torch.zeros(0, 0, dtype=torch.float64)
        self._recent = torch.zeros(0, window or 0, dtype=torch.float64)
        self._calls = 0

    def limit(self, reading: Reading) -> Float[Tensor, "blocks"]:
        """The percentile of the history with the current statistic in it."""
        rows, count = self._before(reading)
        new = reading.stat.to(rows.dtype).unsqueeze(1)
        place = count.to(rows.dtype) * (self.percentile / 100)
        low = place.floor()
        part = place - low
        # place j of the longer history is the middle one of old places j - 1, j and the new value
        index = torch.stack([low, low + 1, low + 2], 1).long().clamp(max=rows.shape[1] - 1)
        left, here, right = rows.gather(1, index).unbind(1)
        lower = torch.clamp(new[:, 0], left, here)
        upper = torch.where(part > 0, torch.clamp(new[:, 0], here, right), lower)
        # from the nearer end, as NumPy does
        step = upper - lower
        value = torch.where(part < 0.5, lower + step * part, upper - step * (1 - part))
        return value.to(reading.stat.dtype)

    def observe(self, reading: Reading, clipped: Float[Tensor, "blocks"]) -> None:
        """Put the statistics, as they were before clipping, in their places."""
        rows, count = self._before(reading)
        new = reading.stat.to(rows.dtype).unsqueeze(1)
        inserted = rows.clone()
        inserted[:, 1:] = torch.clamp(new, rows[:, :-1], rows[:, 1:])
        self._sorted[reading.slots] = torch.where(reading.finite, inserted, self._sorted[reading.slots])
        if self.window is not None:
            recent = self._recent[reading.slots]
            self._recent[reading.slots] = torch.where(
                reading.finite, torch.cat([recent[:, 1:], new.to(recent.dtype)], 1), recent
            )
        self.count.write(reading, count + 1)
        self._calls += 1

    def _before(self, reading: Reading) -> tuple[Float[Tensor, "blocks n"], Int[Tensor, "blocks"]]:
        """The sorted rows of these blocks without what leaves the window now, and how many values each holds."""
        self._grow(reading)
        rows, count = self._sorted[reading.slots], self.count.read(reading)
        if self.window is None:
            return rows, count
        oldest = self._recent[reading.slots][:, :1]
        full = (count >= self.window).unsqueeze(1)
        # the first place that holds the oldest value, and all after it, take their right neighbour's
        after = torch.cat([rows[:, 1:], rows.new_full((len(rows), 1), math.inf)], 1)
        rows = torch.where(full & (rows >= oldest), after, rows)
        return rows, count.clamp(max=self.window - 1)

    def _grow(self, reading: Reading) -> None:
        # double precision, so that percentiles are NumPy's; a device without it makes do with single
        wide = torch.float32 if reading.stat.device.type == "mps" else torch.float64
        if self._sorted.device != reading.stat.device or self._sorted.dtype != wide:
            self._sorted = self._sorted.to(reading.stat.device, wide)
            self._recent = self._recent.to(reading.stat.device, wide)
        blocks, width = self._sorted.shape
        # two places more than values: an end on either side of the one that is put in
        needed = min(self._calls, self.window or self._calls) + 3
        if needed > width:
            width = max(START, 2 * width) if self.window is None else self.window + 3
        if (reading.capacity, width) != (blocks, self._sorted.shape[1]):
            grown = self._sorted.new_full((reading.capacity, width), math.inf)
            grown[:, 0] = -math.inf
            grown[:blocks, : self._sorted.shape[1]] = self._sorted
            self._sorted = grown
            if self.window is not None:
                recent = self._recent.new_zeros(reading.capacity, self.window)
                recent[:blocks] = self._recent
                self._recent = recent

    def state_dict(self) -> dict[str, Any]:
        """The history in order, and for a window also in time."""
        used = min(self._calls, self.window or self._calls) + 1
        return {
            "sorted": self._sorted[:, :used].clone(),
            "recent": self._recent.clone(),
            "count": self.count.state_dict(),
            "calls": self._calls,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved history.

        Raises:
            UsageError: it was kept with another window.
        """
        window = state["recent"].shape[1] or None
        if window != self.window:
            raise UsageError(f"the saved history has window={window}, this rule window={self.window}")
        self._sorted, self._recent = state["sorted"].clone(), state["recent"].clone()
        self.count.load_state_dict(state["count"])
        self._calls = state["calls"]

    def __repr__(self) -> str:
        return f"HistoryQuantile({self.percentile:g}, window={self.window})"


class AutoClip(Clip):
    """Clip the gradient's norm at a percentile of all norms seen so far: choose 10 and forget about thresholds.

    With a low percentile almost every step is clipped, and what is left resembles a normalised gradient whose length
    adapts itself.

    Args:
        percentile: in [0, 100].
        window: judge by the last so many norms only; None by all.
        settings: further arguments of `Clip` (`nonfinite`, `observe`, `exclude`, `granularity`, ...).

    Raises:
        UsageError: a value outside its range.

    Examples:
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> clip = AutoClip(50)
        >>> for size in (1.0, 2.0, 3.0, 4.0):
        ...     weight.grad = torch.tensor([size, 0.0])
        ...     report = clip([weight])
        >>> float(report.limit)
        2.5

    Paper: AutoClip: Adaptive Gradient Clipping for Source Separation Networks, arXiv 2007.14469.
    """

    def __init__(self, percentile: float = 10.0, *, window: int | None = None, **settings: Any) -> None:
        super().__init__(HistoryQuantile(percentile, window=window), **{"eps": 1e-6, "only_above": False} | settings)
