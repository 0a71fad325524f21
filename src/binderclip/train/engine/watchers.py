"""Everything that watches a stage while it trains: metrics, TensorBoard, progress, measurements."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from binderclip.documents import parse_json
from binderclip.fit import FitResult, ZeroGradients
from binderclip.fit.loop import make_clip
from binderclip.optim import ClipLog, NormClip
from binderclip.train.engine.monitor import MetricsFile, ProgressDisplay, TensorBoard

if TYPE_CHECKING:
    from binderclip.train.engine.context import StageContext

__all__ = ["Watchers"]


class Watchers:
    """The callbacks of a stage, the log of its clip, and their end in any case.

    Args:
        context: of the stage.
        steps: optimizer steps in all.
        latest: gives the model as it would be saved now.
        named: what is trained, by name.
    """

    def __init__(
        self, context: StageContext, steps: int, latest: Callable[[], Any], named: Iterable[tuple[str, Tensor]] = ()
    ) -> None:
        self.context, self.steps, self.latest = context, steps, latest
        self.zero = ZeroGradients(named, report=self._say_zero)
        self.evaluations: list[dict[str, Any]] = []
        self.callbacks: list[Any] = [self]
        several = len(context.recipe.stage) > 1
        self.metrics = self.board = None
        self.display: Any = None
        if context.world.leads:
            self.metrics = MetricsFile(context.out / "metrics.jsonl", context.index, context.stage.name)
            self.callbacks.append(self.metrics)
            if TensorBoard.available():
                self.board = TensorBoard(context.out / "tensorboard", context.stage.name if several else "")
                self.callbacks.append(self.board)
            if context.progress:
                display = context.progress if callable(context.progress) else ProgressDisplay
                self.display = display(context.stage.name)
                self.callbacks.append(self.display)
        self.clip = self._clip_log()

    def _clip_log(self) -> ClipLog:
        """The recipe's clip, or one that only measures, with a log in the run directory."""
        clip = make_clip(self.context.stage.clip)
        if clip is None:
            clip = NormClip(max_norm=float("inf"), observe=True, nonfinite="propagate")
        return ClipLog(clip, out=self.context.folder("clipping"), writer=self.board)

    def _say_zero(self, message: str) -> None:
        message = f"stage {self.context.stage.name!r}: {message}"
        if self.display is not None:
            self.display.say(f"warning: {message}")
        elif self.context.world.leads:
            warnings.warn(message, stacklevel=2)

    def before_step(self, step: int) -> None:
        self.zero.before_step(step)

    def after_step(self, step: int) -> None:
        # a loss scaler leaves steps out without asking the clip
        self.clip.step = step
        every = self.context.recipe.evaluation.every
        if every and step % every == 0 and step < self.steps and self.context.recipe.evaluation.data:
            self.measure(step)

    def measure(self, step: int) -> dict[str, float]:
        """Measure the averaged model where there is one, note it, show it."""
        began = time.perf_counter()
        figures = self.context.evaluate(self.latest())
        self.evaluations.append({"step": step, **figures})
        for writer in (self.metrics, self.board):
            if writer is not None:
                writer.write(step, figures)
        if self.display is not None and figures:
            shown = ", ".join(f"{n} {v:.1%}" for n, v in figures.items() if n.endswith("text_to_image/R@10"))
            self.display.say(f"step {step}: {shown or 'measured'} ({time.perf_counter() - began:.1f} s)")
        return figures

    def on_end(self, result: FitResult) -> None:
        # before the board is closed
        self.clip.flush()
        self.zero.on_end(result)

    def state_dict(self) -> dict[str, Any]:
        return {"evaluations": json.dumps(self.evaluations), "zero_gradients": self.zero.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.evaluations = parse_json(state["evaluations"])
        if "zero_gradients" in state:  # checkpoints of earlier versions have none
            self.zero.load_state_dict(state["zero_gradients"])

    def close(self) -> None:
        self.clip.flush()
        for watcher in (self.board, self.display):
            if watcher is not None:
                watcher.close()
