"""What a run writes down: figures of each step, read from the device only every few steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from binderclip.errors import BinderclipError

__all__ = ["Callback", "Diverged", "FitResult", "History", "StepRecord"]


SKIPPED = 50
"""Steps in a row that a clip may skip for a loss that is not finite before the run is given up."""


class Diverged(BinderclipError, ArithmeticError):
    """The loss became NaN or infinite; the message names the step and the checkpoint that is left."""


@dataclass(frozen=True)
class StepRecord:
    """Figures of one optimizer step.

    Args:
        step: 1-based number of the step; after it, `step` steps are done.
        loss: mean loss over the micro-batches (and over the processes).
        lr: learning rate of the first parameter group.
        samples: training samples seen so far, over all processes.
        seconds: wall time since `fit` began, at the time the step was issued.
        metrics: everything else that the step function or the clip reported.
    """

    step: int
    loss: float
    lr: float
    samples: int
    seconds: float
    metrics: Mapping[str, float] = field(default_factory=dict)


class Callback:
    """What `fit` calls during a run; subclass and override, or pass any object with some of these methods.

    A plain function counts as `on_step`. Where a callback has `state_dict` and `load_state_dict`, its state travels in
    the checkpoints.
    """

    def on_start(self, step: int, steps: int) -> None:
        """Once, before the first step: `step` steps are done already (0 unless resumed), `steps` are to be done."""

    def before_step(self, step: int) -> None:
        """Before optimizer step number `step`: gradients are in `.grad`, transformed and not yet clipped."""

    def after_step(self, step: int) -> bool | None:
        """Right after optimizer step number `step`; reading a tensor here stalls the device. True ends the run."""

    def on_step(self, record: StepRecord) -> None:
        """Take the figures of one step: once a step, in order, as soon as they were read (every `log_every` steps)."""

    def on_end(self, result: FitResult) -> None:
        """Take the outcome, after the last step."""


@dataclass
class FitResult:
    """Outcome of `fit`.

    Args:
        steps: optimizer steps done in all, those before a resume included.
        seconds: wall time of this call.
        images_per_second: samples of this call over its seconds, all processes together.
        history: one float array per figure, with one entry a step: `loss`, `lr`, `samples`, and the metrics (NaN where
            a step reported none).
        resumed_from: the step the run was continued from; 0 for a fresh one.
        ema: the averaged module, where one was asked for.
    """

    steps: int
    seconds: float
    images_per_second: float
    history: dict[str, np.ndarray]
    resumed_from: int = 0
    ema: torch.optim.swa_utils.AveragedModel | None = None


class History:
    """Collects 0-dim tensors on their device and reads them together.

    Args:
        log_every: steps between two reads; each read is the only host synchronisation of those steps.
        on_record: called once a step, in order, at each read.
    """

    def __init__(self, log_every: int, on_record: Iterable[Callable[[StepRecord], Any]] = ()) -> None:
        self.log_every = log_every
        self.on_record = list(on_record)
        self.columns: dict[str, list[float]] = {}
        self.length = 0
        self._waiting: list[tuple[int, float, int, float, dict[str, Any]]] = []
        self._suspect, self._skipped = False, 0
        self._began = time.perf_counter()

    def add(self, step: int, lr: float, samples: int, figures: Mapping[str, Any]) -> None:
        """Note a step; `figures` holds floats or 0-dim tensors and must contain `loss`."""
        figures = {name: value.detach() if isinstance(value, Tensor) else value for name, value in figures.items()}
        self._waiting.append((step, lr, samples, time.perf_counter() - self._began, figures))
        loss = figures["loss"]
        # on a CPU looking costs nothing; several processes read together, so none may read earlier than the others
        if not (isinstance(loss, Tensor) and loss.device.type != "cpu") and _processes() == 1:
            self._suspect = self._suspect or not math.isfinite(float(loss))

    @property
    def full(self) -> bool:
        """Whether `log_every` steps wait to be read, or, in one process on a CPU, one whose loss is not finite."""
        return len(self._waiting) >= self.log_every or self._suspect

    def flush(self, kept: str = "") -> None:
        """Read what waits, hand it to the callbacks, append it to the columns.

        Args:
            kept: which checkpoint is left, for the message.

        Raises:
            Diverged: a loss is not finite, and no clip skipped that step, or a clip skipped `SKIPPED` in a row.
        """
        waiting, self._waiting, self._suspect = self._waiting, [], False
        for (step, lr, samples, seconds, _), metrics in zip(waiting, _read([w[4] for w in waiting]), strict=True):
            loss = metrics.pop("loss")
            self._check(step, loss, bool(metrics.get("skipped", 0.0)), kept or "no checkpoint was written")
            record = StepRecord(step, loss, lr, samples, seconds, metrics)
            self._append({"loss": loss, "lr": lr, "samples": float(samples), **metrics})
            for call in self.on_record:
                call(record)

    def _check(self, step: int, loss: float, skipped: bool, kept: str) -> None:
        self._skipped = self._skipped + 1 if skipped and not math.isfinite(loss) else 0
        if self._skipped >= SKIPPED:
            raise Diverged(f"the loss is {loss} at step {step}, and the clip skipped {SKIPPED} steps in a row; {kept}")
        if not math.isfinite(loss) and not skipped:
            raise Diverged(
                f"the loss is {loss} at step {step}; {kept}. Try a lower learning rate, a longer warm-up, a clip, or "
                "float32"
            )

    def _append(self, row: Mapping[str, float]) -> None:
        for name in row:
            self.columns.setdefault(name, [math.nan] * self.length)
        self.length += 1
        for name, column in self.columns.items():
            column.append(row.get(name, math.nan))

    def arrays(self) -> dict[str, np.ndarray]:
        """The columns as float64 arrays."""
        return {name: np.asarray(column, dtype=np.float64) for name, column in self.columns.items()}

    def state_dict(self) -> dict[str, Any]:
        """The columns as tensors."""
        return {name: torch.tensor(column, dtype=torch.float64) for name, column in self.columns.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state_dict` gave."""
        self.columns = {name: column.tolist() for name, column in state.items()}
        self.length = max(map(len, self.columns.values()), default=0)


def _processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _read(rows: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Floats of all rows with one device-to-host copy; averaged over the processes where there are several."""
    tensors = [value for row in rows for value in row.values() if isinstance(value, Tensor)]
    if not tensors:
        return [{name: float(value) for name, value in row.items()} for row in rows]
    device = tensors[0].device
    stacked = torch.stack([t.to(device, torch.float64 if device.type == "cpu" else torch.float32) for t in tensors])
    if _processes() > 1:
        # Each process holds the loss of its own rows; their mean is the loss of the whole batch. A NaN anywhere makes
        # it NaN everywhere, so all processes stop together.
        dist.all_reduce(stacked)
        stacked /= _processes()
    values = iter(stacked.tolist())
    return [{n: next(values) if isinstance(v, Tensor) else float(v) for n, v in row.items()} for row in rows]
