"""How far a training is, in percent and time."""

from __future__ import annotations

import time
from collections.abc import Callable

from binderclip.display import time_left
from binderclip.fit import Callback

__all__ = ["StepsSaid"]


class StepsSaid(Callback):
    """Says "the network, 12 %, about 3 min left" at each new percent of the steps of `fit`.

    Args:
        say: is called with it.
        text: what is done.
    """

    def __init__(self, say: Callable[[str], object], text: str) -> None:
        self.say, self.text = say, text
        self.began, self.first, self.steps, self.percent = 0.0, 0, 1, -1

    def on_start(self, step: int, steps: int) -> None:
        self.began, self.first, self.steps, self.percent = time.monotonic(), step, steps, -1
        self._tell(step)

    def after_step(self, step: int) -> None:
        self._tell(step)

    def _tell(self, step: int) -> None:
        if (percent := 100 * step // self.steps) > self.percent:
            self.percent = percent
            left = time_left(self.began, step - self.first, self.steps - self.first)
            self.say(f"{self.text}, {percent} %{left}")
