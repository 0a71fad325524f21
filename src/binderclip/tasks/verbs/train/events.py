"""The display of a training that a task has: events."""

from __future__ import annotations

import math

from binderclip.fit import Callback, FitResult, StepRecord
from binderclip.tasks.events import Counted, Reported, emit, start


class StageEvents(Callback):
    """Emits the steps of a stage, with their loss and speed.

    Args:
        title: name of the stage.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.steps = 0
        self.figures: dict[str, float] = {}
        self._first: tuple[int, float] | None = None

    def on_start(self, step: int, steps: int) -> None:
        self.steps = steps
        if step:
            start(f"{self.title}: going on from step {step} of {steps}")

    def on_step(self, record: StepRecord) -> None:
        if math.isfinite(record.loss):
            self.figures["loss"] = record.loss
        if self._first is None:
            self._first = (record.samples, record.seconds)
        elif record.seconds > self._first[1]:
            self.figures["images/s"] = (record.samples - self._first[0]) / (record.seconds - self._first[1])

    def after_step(self, step: int) -> None:
        emit(Counted(step, self.steps, f"{self.title}: step", dict(self.figures)))

    def say(self, text: str) -> None:
        """Emit what is said between steps."""
        emit(Reported(text))

    def on_end(self, result: FitResult) -> None:
        """Nothing is left open."""

    def close(self) -> None:
        """Nothing is left open."""
