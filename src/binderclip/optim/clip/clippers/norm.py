"""Constant limits: the norm of the whole gradient, or every coordinate."""

from __future__ import annotations

from typing import Any

from binderclip.optim.clip.clipping import Clip
from binderclip.optim.clip.threshold import Constant

__all__ = ["NormClip", "ValueClip"]


class NormClip(Clip):
    """Scale the whole gradient down to a norm: g <- g * min(1, max_norm / (||g|| + 1e-6)).

    The same numbers as `torch.nn.utils.clip_grad_norm_` (see `clip_grad_norm_` for the last digits); but on a CPU
    gradients that need no clipping are not written.

    Args:
        max_norm: largest norm, not negative; inf only measures.
        norm_type: order p of the norm, may be inf.
        settings: further arguments of `Clip` (`nonfinite`, `observe`, `exclude`, `granularity`, ...).

    Raises:
        UsageError: a negative norm, or an order that is not positive.

    Paper: On the difficulty of training recurrent neural networks, arXiv 1211.5063.
    """

    def __init__(self, max_norm: float = 1.0, norm_type: float = 2.0, **settings: Any) -> None:
        super().__init__(Constant(max_norm), **{"statistic": norm_type, "eps": 1e-6, "only_above": False} | settings)


class ValueClip(Clip):
    """Clamp every coordinate of the gradient to [-clip_value, clip_value].

    The same numbers as `torch.nn.utils.clip_grad_value_`.

    Args:
        clip_value: largest absolute value, not negative.
        settings: further arguments of `Clip`.

    Raises:
        UsageError: a negative value.
    """

    def __init__(self, clip_value: float = 1.0, **settings: Any) -> None:
        fixed: dict[str, Any] = {"granularity": "coordinate", "statistic": "max", "action": "clamp"}
        super().__init__(Constant(clip_value), **fixed | settings)
