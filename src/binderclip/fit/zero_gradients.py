"""Parameters that never move, found by name in the first steps of a run."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from binderclip.errors import CheckpointError
from binderclip.fit.records import Callback, FitResult

__all__ = ["WATCHED_STEPS", "ZeroGradients"]

# Long enough for a factor that starts at zero (LoRA's B, a residual gate) to let its partner's gradient through.
WATCHED_STEPS = 10

# timm (`attn.qkv`) and torch (`in_proj_weight`): queries, keys and values in one tensor, one below the other.
_FUSED = re.compile(r"(^|[._])(qkv|in_proj)([._](weight|bias))?$")
_SHOWN = 5


class ZeroGradients(Callback):
    """Find parameters whose gradient is exactly zero, or missing, in every one of the first steps of `fit`.

    Such a parameter learns nothing. The usual cause is a product of two factors that both start at zero: each one's
    gradient is a multiple of the other, so neither ever moves. Queries, keys and values in one tensor are looked at
    apart, as `NAME[q]`, `NAME[k]` and `NAME[v]`; a bias of keys is left out, because softmax takes no notice of it.

    Whether a gradient is zero is noted on its device and read once, after the last watched step or at the end of a
    shorter run. The state travels in checkpoints.

    Args:
        named: names and parameters, as `module.named_parameters()` gives them; those that need no gradient are left
            out.
        steps: how many first steps of the run to look at.
        report: called with one sentence where something was found; default `warnings.warn`.
    """

    def __init__(
        self,
        named: Iterable[tuple[str, Tensor]],
        *,
        steps: int = WATCHED_STEPS,
        report: Callable[[str], Any] | None = None,
    ) -> None:
        self.steps, self.report = steps, report
        self.names: list[str] = []
        self._seen = 0
        self._parts = [part for name, p in named if p.requires_grad and p.numel() for part in _parts(name, p)]
        self._moved: list[Tensor | None] = [None] * len(self._parts)

    def before_step(self, step: int) -> None:
        if self._seen >= self.steps:
            return
        grads: dict[int, Tensor | None] = {}
        for index, (_, parameter, which) in enumerate(self._parts):
            if id(parameter) not in grads:
                grads[id(parameter)] = _values(parameter.grad)
            grad = grads[id(parameter)]
            if grad is None:
                continue
            some = (grad if which is None else grad.chunk(3)[which]).any()
            before = self._moved[index]
            self._moved[index] = some if before is None else before | some
        self._seen += 1
        if self._seen == self.steps:
            self._read()

    def on_end(self, result: FitResult) -> None:
        if 0 < self._seen < self.steps:
            self._read()

    def _read(self) -> None:
        """The one host synchronisation."""
        moved = self._flags()
        self.names = [name for (name, _, _), one in zip(self._parts, moved.tolist(), strict=True) if not one]
        if self.names:
            message = self.describe()
            warnings.warn(message, stacklevel=2) if self.report is None else self.report(message)

    def _flags(self) -> Tensor:
        if not self._moved:
            return torch.zeros(0, dtype=torch.bool)
        some = next((one for one in self._moved if one is not None), torch.zeros((), dtype=torch.bool))
        none = torch.zeros((), dtype=torch.bool, device=some.device)
        return torch.stack([none if one is None else one.to(some.device) for one in self._moved]).cpu()

    def describe(self) -> str:
        """What was found, in one sentence; "" where every parameter had a gradient."""
        if not self.names:
            return ""
        shown = ", ".join(self.names[:_SHOWN])
        more = f" and {len(self.names) - _SHOWN} more" if len(self.names) > _SHOWN else ""
        steps = "step" if self._seen == 1 else f"{self._seen} steps"
        return (
            f"exactly zero gradient in the first {steps}, so nothing is learned there: {shown}{more}; freeze it if it "
            "is meant to rest, otherwise look for two factors that both start at zero"
        )

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self._seen, "moved": self._flags()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        moved = state["moved"].tolist()
        if len(moved) != len(self._parts):
            raise CheckpointError(f"the checkpoint watched {len(moved)} parameters, this run has {len(self._parts)}")
        self._seen = int(state["seen"])
        devices = [parameter.device for _, parameter, _ in self._parts]
        self._moved = [torch.tensor(one, device=device) for one, device in zip(moved, devices, strict=True)]
        if self._seen >= self.steps:
            # It was reported when it was found.
            self.names = [name for (name, _, _), one in zip(self._parts, moved, strict=True) if not one]


def _parts(name: str, parameter: Tensor) -> list[tuple[str, Tensor, int | None]]:
    """The parameter whole, or its thirds where it holds queries, keys and values."""
    if not _FUSED.search(name) or parameter.shape[0] % 3:
        return [(name, parameter, None)]
    thirds = [(f"{name}[{letter}]", parameter, third) for third, letter in enumerate("qkv")]
    return [thirds[0], thirds[2]] if parameter.ndim == 1 else thirds  # type: ignore[return-value]


def _values(grad: Tensor | None) -> Tensor | None:
    """The gradient as a dense tensor: of a sparse one what it holds, of a sharded one the whole."""
    if grad is None:
        return None
    if grad.is_sparse:
        return grad.coalesce().values()
    return grad.full_tensor() if hasattr(grad, "full_tensor") else grad
