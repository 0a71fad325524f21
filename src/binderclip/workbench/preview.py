"""What a diffusion task shows on the page while it works: the predicted pictures, now and then."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from binderclip.data.images import contained
from binderclip.tasks.events import Event, Previewed

OFTEN = 0.4
"""Seconds between two looks: drawing one takes time from the run."""
MOST, SIDE = 8, 256
"""Pictures in a look, and the longer side of each on the page."""


class PreviewListener:
    """Hands the predicted pictures of a run to the page, and every event to whoever listened before.

    Args:
        hear: of the run.
        show: given the pictures, enlarged without smoothing.
    """

    def __init__(self, hear: Callable[[Event], object], show: Callable[[list[Any]], object]) -> None:
        self.hear, self.show = hear, show
        self._next = 0.0

    def __call__(self, event: Event) -> None:
        """Take one event."""
        self.hear(event)
        if isinstance(event, Previewed) and time.monotonic() >= self._next:
            self.show([contained(picture, SIDE) for picture in event.render()[:MOST]])
            self._next = time.monotonic() + OFTEN
