"""What happens to the part of the gradient that clipping cut off: DiceSGD's error feedback."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from binderclip.errors import CheckpointError, UsageError
from binderclip.numeric import check_number
from binderclip.settings import check_choice

__all__ = ["DiceFeedback", "Feedback"]


class Feedback:
    """Changes the clipped sum before noise is added; its state reads raw gradients and is private."""

    hidden_state: str = ""
    """How the report names the analysis this feedback rests on; empty where epsilon needs no special one."""

    def combine(self, clipped: Sequence[Tensor], raw: Sequence[Tensor], batch_size: float) -> list[Tensor]:
        """What is released instead of the clipped sum.

        Args:
            clipped: sum of the clipped gradients, one tensor a parameter. raw: sum of the raw ones.
            batch_size: expected batch size, for what works on means.
        """
        raise UsageError(f"{type(self).__name__} defines no combine()")

    def sensitivity(self, clip_norm: float) -> float:
        """What takes the place of the rule's sensitivity in the noise."""
        return clip_norm

    def state_dict(self) -> dict[str, Any]:
        """What `combine` remembers: private."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave."""


class DiceFeedback(Feedback):
    """Keep what clipping cut off and feed a clipped copy of it back, so that the fixed point is unbiased.

    With e the error and clip(x, C) = min(1, C / ||x||) x over all parameters jointly:
    v = mean of clip(g_i, C1) + clip(e, C2);  e <- e + mean of g_i - v; the noise is added to v and never enters e.
    Zhang et al., "Differentially Private SGD Without Clipping Bias: An Error-Feedback Approach", ICLR 2024,
    arXiv 2311.14632.

    The error is a hidden state that reads raw gradients: epsilon of the ledger is then the one that is quoted for the
    method (a Gaussian accountant with multiplier sigma and the larger sensitivity below), not plain DP-SGD's theorem.
    That sensitivity is no worst case: a record that has driven the error to its threshold moves every later sum by up
    to C1 + 2 B C2 ("mean", B the expected batch size) or C1 + 2 C2 ("sum"), whether it is drawn or not. The error is
    kept in the optimizer's state, for resuming, and never becomes part of the model's weights; do not publish such a
    checkpoint.

    Args:
        C2: threshold of the error; "mean": on the mean-scale error, C2 >= C1 is recommended.
        convention: "mean" is the paper's form, with noise sigma * sqrt(C1^2 + 2 C2^2) on the sum; "sum" the authors'
            code: everything in sums, the retained error is capped at C2 as well, the first step has no feedback, and
            the noise is sigma * sqrt(C1^2 + 2 C1 C2).

    Raises:
        UsageError: a negative C2 or an unknown convention.
    """

    def __init__(self, C2: float = 1.0, *, convention: Literal["mean", "sum"] = "mean") -> None:
        check_number("C2", C2, least=0)
        check_choice("convention", convention, ("mean", "sum"))
        self.C2, self.convention = float(C2), convention
        self.error: list[Tensor] | None = None
        noise, most = {
            "mean": ("C1^2 + 2 C2^2 of the published theorem", "C1 + 2 B C2, with B the expected batch size"),
            "sum": ("C1^2 + 2 C1 C2 of the authors' code", "C1 + 2 C2"),
        }[convention]
        self.hidden_state = (
            "error feedback (DiceSGD) keeps a hidden state that reads raw gradients: epsilon is a Gaussian "
            f"accountant's at the squared sensitivity {noise} and relies on the paper's analysis of that state; in "
            f"the worst case one record moves the sum by {most}, in steps that do not draw it too; checkpoints with "
            "the state must stay private"
        )

    def sensitivity(self, clip_norm: float) -> float:
        """Sensitivity that the noise is scaled by, see the class."""
        other = self.C2 if self.convention == "mean" else clip_norm
        return math.sqrt(clip_norm**2 + 2 * other * self.C2) if self.C2 else clip_norm

    def combine(self, clipped: Sequence[Tensor], raw: Sequence[Tensor], batch_size: float) -> list[Tensor]:
        """v on the scale of the sum; updates the error."""
        if self.convention == "sum":
            return self._as_released(clipped, raw)
        if self.error is None:
            self.error = [torch.zeros_like(value) for value in clipped]
        norm = _norm(self.error)
        factor = min(1.0, self.C2 / norm) if norm else 1.0
        fed = [error * factor for error in self.error]
        cut = [(r - c) / batch_size for r, c in zip(raw, clipped, strict=True)]
        # e - clip(e) + what was cut: the same as e + mean of g - v, without cancellation
        self.error = [e - f + d for e, f, d in zip(self.error, fed, cut, strict=True)]
        return [c + batch_size * f for c, f in zip(clipped, fed, strict=True)]

    def _as_released(self, clipped: Sequence[Tensor], raw: Sequence[Tensor]) -> list[Tensor]:
        cut = [r - c for r, c in zip(raw, clipped, strict=True)]
        if self.error is None:
            self.error = cut
            return list(clipped)
        ratio = self.C2 / (_norm(self.error) + 1e-6)
        fed = min(1.0, ratio)
        kept = min(ratio, 1 - fed)
        result = [c + fed * e for c, e in zip(clipped, self.error, strict=True)]
        self.error = [kept * e + d for e, d in zip(self.error, cut, strict=True)]
        return result

    def state_dict(self) -> dict[str, Any]:
        """The error: private."""
        return {"error": self.error}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put the error back.

        Raises:
            CheckpointError: a state that is not this feedback's.
        """
        if "error" not in state:
            raise CheckpointError("the checkpoint holds no error buffer of DiceFeedback")
        error = state["error"]
        self.error = None if error is None else [value.clone() for value in error]


def _norm(tensors: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float(torch.linalg.vector_norm(value)) ** 2 for value in tensors))
