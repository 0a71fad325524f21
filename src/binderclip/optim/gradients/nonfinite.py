"""Gradients that are not finite: zeroed, or refused by name."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from binderclip.errors import BinderclipError


class NonFiniteGradient(BinderclipError, RuntimeError):
    """The gradient holds NaN or infinity, and the clip was told to raise."""


def zero_nonfinite_(grads: Sequence[Tensor]) -> None:
    """Replace NaN and infinities by 0."""
    for grad in grads:
        grad.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)


def explain_nonfinite(bad: Sequence[str], when: str = "") -> str:
    """The message: where the trouble is, and when it was found."""
    where = f" in {len(bad)} tensors ({', '.join(bad[:3])}{', ...' if len(bad) > 3 else ''})" if bad else ""
    return (
        f"the gradient is NaN or infinite{where}{' ' + when if when else ''}; that step was not taken. Use "
        "nonfinite='skip' to pass over such steps"
    )
