"""What people see of a run while it goes on: a progress line, a metrics file, TensorBoard."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from binderclip.documents import parse_json
from binderclip.files import write_whole
from binderclip.fit import Callback, FitResult, StepRecord

__all__ = ["MetricsFile", "ProgressDisplay", "ProgressOption", "TensorBoard"]

ProgressOption: TypeAlias = "bool | Callable[[str], Any]"
"""Whether a `ProgressDisplay` is shown; or what gives another display for a stage's name, with the same methods."""
_PLAIN_SECONDS = 10.0


class MetricsFile(Callback):
    """One JSON object a line: a step's figures, or an evaluation's.

    On a resume the lines after the checkpoint are dropped, so no step occurs twice.

    Args:
        path: `metrics.jsonl` of the run.
        stage: index of the stage.
        name: its name.
    """

    def __init__(self, path: Path, stage: int, name: str) -> None:
        self.path, self.stage, self.name = path, stage, name

    def on_start(self, step: int, steps: int) -> None:
        kept = []
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    row = parse_json(line)
                    before = (row["stage"], row["step"]) <= (self.stage, step)
                except (ValueError, KeyError, TypeError, RecursionError):
                    continue  # the last line of a killed process, or damage
                if before:
                    kept.append(line)
        write_whole(self.path, "".join(f"{line}\n" for line in kept))

    def on_step(self, record: StepRecord) -> None:
        figures = {"loss": record.loss, "lr": record.lr, "samples": record.samples, **record.metrics}
        self.write(record.step, figures)

    def write(self, step: int, figures: Mapping[str, Any]) -> None:
        """Append one line."""
        row = {"stage": self.stage, "name": self.name, "step": step, **figures}
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


class TensorBoard(Callback):
    """Curves for TensorBoard's SummaryWriter.

    Args:
        folder: log folder.
        stage: name of the stage, in front of every curve where there are several; "" otherwise.
    """

    def __init__(self, folder: Path, stage: str = "") -> None:
        self.folder, self.prefix = folder, f"{stage}/" if stage else ""
        self.writer: Any = None

    @staticmethod
    def available() -> bool:
        """Whether the `tensorboard` package is installed."""
        from importlib.util import find_spec

        return find_spec("tensorboard") is not None

    def on_start(self, step: int, steps: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(self.folder), purge_step=step + 1 if step else None)

    def on_step(self, record: StepRecord) -> None:
        for name, value in {"loss": record.loss, "lr": record.lr, **record.metrics}.items():
            self.writer.add_scalar(f"{self.prefix}train/{name}", value, record.step)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """One point, as a `ClipLog` gives it; the norm is a figure of the step already."""
        if self.writer is not None and name != "clip/norm":
            self.writer.add_scalar(f"{self.prefix}{name}", value, step)

    def write(self, step: int, figures: Mapping[str, Any]) -> None:
        """Add the figures of an evaluation."""
        for name, value in figures.items():
            self.writer.add_scalar(f"{self.prefix}{name}", value, step)
        self.writer.flush()

    def on_end(self, result: FitResult) -> None:
        self.close()

    def close(self) -> None:
        """Flush and close the file."""
        if self.writer is not None:
            self.writer.close()


class ProgressDisplay(Callback):
    """A bar with loss, images/s and time left; a line every ten seconds where the output is not a terminal.

    Args:
        title: name of the stage.
        console: where to.
    """

    def __init__(self, title: str, console: Console | None = None) -> None:
        self.title = title
        # A stage's name is printed as it is, whatever brackets it has.
        self.console = console or Console(stderr=True, markup=False, emoji=False)
        self.bar: Progress | None = None
        self.task: TaskID | None = None
        self.steps = self.first = 0
        self.loss, self.samples, self._speed = float("nan"), 0, 0.0
        self._began = self._said = time.perf_counter()
        self._first_samples: int | None = None

    def on_start(self, step: int, steps: int) -> None:
        self.steps, self.first, self._began = steps, step, time.perf_counter()
        if step:
            self.console.print(f"{self.title}: going on from step {step} of {steps}", highlight=False)
        if self.console.is_terminal:
            self.bar = Progress(
                TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}", markup=False),
                TimeRemainingColumn(), console=self.console,
            )  # fmt: skip
            self.task = self.bar.add_task(self.title, total=steps, completed=step, figures="")
            self.bar.start()

    def after_step(self, step: int) -> None:
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=step)
        elif time.perf_counter() - self._said > _PLAIN_SECONDS:
            self._said = time.perf_counter()
            self.console.print(self.line(step), highlight=False)

    def on_step(self, record: StepRecord) -> None:
        self.loss = record.loss
        if self._first_samples is None:
            self._first_samples, self._first_seconds = record.samples, record.seconds
        elif record.seconds > self._first_seconds:
            self._speed = (record.samples - self._first_samples) / (record.seconds - self._first_seconds)
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, figures=self._figures())

    def _figures(self) -> str:
        loss = "" if self.loss != self.loss else f"loss {self.loss:.3f}"
        return f"{loss}  {self._speed:.0f} images/s" if self._speed else loss

    def line(self, step: int) -> str:
        """The plain form of the bar."""
        left = (time.perf_counter() - self._began) / max(1, step - self.first) * (self.steps - step)
        clock = f"{int(left) // 3600}:{int(left) // 60 % 60:02d}:{int(left) % 60:02d}"
        return f"{self.title}: step {step}/{self.steps}  {self._figures()}  {clock} left"

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        (self.bar.console if self.bar is not None else self.console).print(text, highlight=False)

    def on_end(self, result: FitResult) -> None:
        self.close()

    def close(self) -> None:
        """Take the bar down, also after an error."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
