"""What a `Clip` can be asked for, and what goes with what."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TypeAlias

from torch import Tensor

from binderclip.errors import UsageError
from binderclip.optim.clip.kept import KEEPING

__all__ = ["Names", "check_choices", "order_of", "patterns"]

GRANULARITIES = ("global", "group", "tensor", "unit", "coordinate")
STATISTICS = {"l2": 2.0, "l1": 1.0, "max": math.inf}
ACTIONS = ("scale", "renormalise", "clamp", "rescale", *KEEPING)
NONFINITE = ("raise", "skip", "zero", "shrink", "propagate")

Names: TypeAlias = "str | Iterable[str] | Callable[[str, Tensor], bool]"
"""Shell patterns of names, or a predicate of name and tensor."""


def check_choices(granularity: str, action: str, eps_mode: str, nonfinite: str, where: str) -> None:
    """Refuse unknown words, and what acts on gradients alone where updates are clipped.

    Raises:
        UsageError: such a choice.
    """
    for name, value, known in (
        ("granularity", granularity, GRANULARITIES),
        ("action", action, ACTIONS),
        ("eps_mode", eps_mode, ("add", "max")),
        ("nonfinite", nonfinite, NONFINITE),
        ("where", where, ("gradient", "update")),
    ):
        if value not in known:
            raise UsageError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    if where == "update" and (action in KEEPING or nonfinite == "shrink"):
        unfit = f"action {action!r}" if action in KEEPING else f"nonfinite {nonfinite!r}"
        raise UsageError(f"{unfit} changes gradients, so it does not go with where='update'")


def order_of(statistic: str | float, granularity: str, action: str) -> float:
    """The order of the norm, if it goes with the other choices.

    Raises:
        UsageError: it does not.
    """
    order = STATISTICS.get(statistic) if isinstance(statistic, str) else float(statistic)
    if order is None or not order > 0:
        raise UsageError(f"statistic must be one of {', '.join(STATISTICS)} or an order p > 0, got {statistic!r}")
    single = action in ("clamp", "rescale")
    if granularity == "coordinate" and not ((single or action in KEEPING) and order == math.inf):
        raise UsageError(
            "granularity 'coordinate' goes with action='clamp', 'rescale', 'centre' or 'residual' and statistic='max'"
        )
    if single and (order != math.inf or granularity == "unit"):
        raise UsageError(
            f"action {action!r} compares single coordinates, so it goes with statistic='max' and not with units"
        )
    return order


def patterns(names: Names) -> tuple[str, ...] | Callable[[str, Tensor], bool]:
    """Several patterns, or the predicate."""
    return names if callable(names) else ((names,) if isinstance(names, str) else tuple(names))
