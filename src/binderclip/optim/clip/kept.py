"""Actions that remember a tensor for every gradient: clipping around a centre, and error feedback."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from binderclip.optim.gradients.collect import KeyedParameter
from binderclip.optim.gradients.measure import accumulation_dtype

__all__ = ["KEEPING", "Kept"]

KEEPING = ("centre", "residual")


class Kept:
    """What is remembered of every gradient between two calls, in float32 or better: as large as the gradients.

    "centre": m; what is clipped is g - m, and m + clip(g - m) is the new m and the new gradient. m starts at the first
    gradient. "residual": e, what was cut off so far; what is clipped is g + e, and what that cuts off is the new e.

    Args:
        action: which of the two.
    """

    def __init__(self, action: Literal["centre", "residual"]) -> None:
        self.action = action
        self.values: dict[str, Tensor] = {}

    def vectors(self, entries: Sequence[KeyedParameter], grads: Sequence[Tensor], scale: Tensor | None) -> list[Tensor]:
        """What is measured and clipped in place of each gradient, in new tensors.

        Args:
            entries, grads: parameters and their gradients, plain or DTensor.
            scale: what the gradients are multiplied by; None for nothing.
        """
        sign = -1 if self.action == "centre" else 1
        return [plain + sign * past for _, plain, past in self._now(entries, grads, scale)]

    def finish(
        self,
        entries: Sequence[KeyedParameter],
        grads: Sequence[Tensor],
        vectors: Sequence[Tensor],
        scale: Tensor | None,
        finite: Bool[Tensor, ""],
        *,
        write: bool,
    ) -> None:
        """Remember, and make the gradients what is left.

        Args:
            entries, grads, scale: as given to `vectors`.
            vectors: what it returned, clipped.
            finite: where false, the memory stays as it was.
            write: whether the gradients are changed.
        """
        now = self._now(entries, grads, scale)
        for (entry, plain, past), grad, vector in zip(now, grads, vectors, strict=True):
            used = past + vector if self.action == "centre" else vector
            kept = used if self.action == "centre" else plain + past - vector
            # of a first gradient that is not finite on an accelerator the past would be that gradient
            old = self.values.get(entry.key, torch.zeros_like(kept))
            self.values[entry.key] = torch.where(finite, kept, old)
            if write:
                new = used if scale is None else used * scale.to(used.device)
                # a step that is given up may have put something else there
                grad.copy_(torch.where(finite, new.to(grad.dtype), grad))

    def _now(
        self, entries: Sequence[KeyedParameter], grads: Sequence[Tensor], scale: Tensor | None
    ) -> list[tuple[KeyedParameter, Tensor, Tensor]]:
        """Each entry with its gradient, unscaled, and what is remembered of it."""
        result = []
        for entry, grad in zip(entries, grads, strict=True):
            wide = grad.to(accumulation_dtype(grad.dtype))
            plain = wide if scale is None else wide / scale.to(wide.device)
            start = plain if self.action == "centre" else torch.zeros_like(plain)
            past = self.values.get(entry.key)
            result.append((entry, plain, start if past is None else past.to(plain.device)))
        return result

    def state_dict(self) -> dict[str, Any]:
        """A copy of the tensors, by the parameters' keys."""
        return {key: value.clone() for key, value in self.values.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over saved tensors."""
        self.values = {key: value.clone() for key, value in state.items()}
