"""Clipping inside other people's training loops, where attaching to the optimizer needs a hook of theirs."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from binderclip.errors import MissingDependency, UsageError
from binderclip.optim.clip.attach import attach

__all__ = ["lightning_callback"]


def lightning_callback(clip: Any, optimizer: int = 0) -> Any:
    """A Lightning callback that attaches a clip when training starts, before a checkpoint is read back.

    `Trainer(callbacks=[lightning_callback(ZClip())])` clips a module whose `configure_optimizers` stays as it is; its
    memory travels in Lightning's checkpoints with the optimizer's state. Inside `configure_optimizers` of a module of
    your own, `clip.attach(optimizer)` does the same without it.

    Args:
        clip: a `Clip`, a list of them made by `as_clip`, or a `ClipLog`.
        optimizer: which one of `configure_optimizers`; a callback for each where there are several.

    Returns:
        A `lightning.pytorch.Callback` (of `pytorch_lightning`, where only that is in use).

    Raises:
        MissingDependency: Lightning is not installed.
        UsageError: at the start of training: no such optimizer, or the Trainer clips as well.
    """

    class LightningClip(_callback_class()):  # type: ignore[misc]
        """Attaches at the start of training, detaches at its end."""

        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.gradient_clip_val:
                raise UsageError(
                    f"Trainer(gradient_clip_val={trainer.gradient_clip_val}) would clip before {clip!r} sees the "
                    "gradient: leave it out"
                )
            if optimizer >= len(trainer.optimizers):
                raise UsageError(f"optimizer={optimizer}: configure_optimizers gave {len(trainer.optimizers)}")
            self.handle = attach(clip, trainer.optimizers[optimizer], pl_module.named_parameters())

        def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
            self.handle.remove()

        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            if hasattr(self, "handle"):
                self.handle.remove()

    return LightningClip()


def _callback_class() -> Any:
    """Lightning's base class, of the package under whose name Lightning is in use."""
    only_old = "pytorch_lightning" in sys.modules and "lightning" not in sys.modules
    try:
        return importlib.import_module("pytorch_lightning" if only_old else "lightning.pytorch").Callback
    except ImportError as error:
        raise MissingDependency(f"Lightning is not installed: pip install lightning ({error})") from error
