"""The table of the published clipping methods, lists of clips, and torch's function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.optim.clip.attach import Attachment, attach
from binderclip.optim.clip.clippers.adagc import AdaGC
from binderclip.optim.clip.clippers.agc import AGC
from binderclip.optim.clip.clippers.autoclip import AutoClip
from binderclip.optim.clip.clippers.coordinate import CoordinateClip
from binderclip.optim.clip.clippers.norm import NormClip, ValueClip
from binderclip.optim.clip.clippers.zclip import ZClip
from binderclip.optim.clip.clipping import Clip
from binderclip.optim.clip.report import ClipReport
from binderclip.optim.gradients.collect import KeyedParameter, Parameters, entries_of
from binderclip.optim.gradients.nonfinite import NonFiniteGradient

__all__ = ["METHODS", "ClipList", "as_clip", "clip_grad_norm_"]


class ClipList:
    """Several clips, one after the other; has the face of one.

    Args:
        clips: in the order in which they act.
    """

    def __init__(self, clips: Iterable[Clip]) -> None:
        self.clips = tuple(clips)
        if not self.clips:
            raise UsageError("a list of clips needs at least one")

    def __call__(self, params: Parameters) -> list[ClipReport]:
        """Apply each in turn; the reports in the same order."""
        return self.run(entries_of(params), None)

    def run(self, entries: Sequence[KeyedParameter], target: Any) -> list[ClipReport]:
        """The work behind `__call__` and `attach`."""
        return [clip.run(entries, target) for clip in self.clips]

    @property
    def report(self) -> list[ClipReport | None]:
        """The last reports."""
        return [clip.report for clip in self.clips]

    @property
    def exclude(self) -> tuple[Any, ...]:
        """What any of them excludes."""
        return tuple(clip.exclude for clip in self.clips if clip.exclude)

    def attach(self, optimizer: Any, names: nn.Module | Iterable[tuple[str, Tensor]] | None = None) -> Attachment:
        """As `Clip.attach`."""
        return attach(self, optimizer, names)

    def state_dict(self) -> dict[str, Any]:
        """The states of all, in order."""
        return {"clips": [clip.state_dict() for clip in self.clips]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state exactly."""
        if len(state["clips"]) != len(self.clips):
            raise UsageError(f"the saved state is of {len(state['clips'])} clips, this list has {len(self.clips)}")
        for clip, saved in zip(self.clips, state["clips"], strict=True):
            clip.load_state_dict(saved)

    def __repr__(self) -> str:
        return repr(list(self.clips))


def as_clip(value: Clip | ClipList | str | float | Iterable[Clip | str | float]) -> Clip | ClipList:
    """What a user may call a clip, as a clip: itself, a name of `METHODS`, a number (its `NormClip`), or a list.

    Raises:
        UsageError: none of these.
    """
    if isinstance(value, Clip | ClipList):
        return value
    if isinstance(value, str):
        if value not in METHODS:
            raise UsageError(f"clip {value!r} is unknown: choose one of {', '.join(sorted(METHODS))}")
        return METHODS[value]()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return NormClip(value)
    if isinstance(value, Iterable):
        clips = [as_clip(item) for item in value]
        if all(isinstance(clip, Clip) for clip in clips):
            return ClipList(clips)  # type: ignore[arg-type]
    raise UsageError(f"a clip is a Clip, a name, a number or a list of clips, got {value!r}")


def clip_grad_norm_(
    parameters: Parameters,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Float[Tensor, ""]:
    """Drop-in for `torch.nn.utils.clip_grad_norm_`: same arguments, same return value, the same numbers.

    On a CPU the 2-norm of tensors with 32,768 entries or more is summed on all threads, which torch's is not: there the
    last digits differ, everywhere else it is torch's result bit for bit.

    Args:
        parameters: tensors or (name, tensor) pairs.
        max_norm: largest norm.
        norm_type: order p of the norm, may be inf.
        error_if_nonfinite: raise where the norm is NaN or infinite, gradients untouched; else they become NaN or 0.
        foreach: None or True for fused calls.

    Returns:
        The norm before clipping, 0-dim.

    Raises:
        NonFiniteGradient: (a RuntimeError) with `error_if_nonfinite`.
    """
    entries = [entry for entry in entries_of(parameters) if entry.parameter.grad is not None]
    if not entries:
        return torch.tensor(0.0)
    if error_if_nonfinite:
        norm = NormClip(float("inf"), norm_type, observe=True, foreach=foreach).run(entries, None).norm
        if not bool(norm.isfinite()):
            raise NonFiniteGradient(
                f"the norm of order {norm_type} of the gradients is {float(norm)}, so they cannot be clipped; "
                "error_if_nonfinite=False lets them pass"
            )
    return NormClip(max_norm, norm_type, nonfinite="propagate", foreach=foreach).run(entries, None).norm


METHODS: dict[str, Callable[..., Clip]] = {
    "norm": NormClip,
    "value": ValueClip,
    "zclip": ZClip,
    "autoclip": AutoClip,
    "adagc": AdaGC,
    "agc": AGC,
    "coordinate": CoordinateClip,
}
