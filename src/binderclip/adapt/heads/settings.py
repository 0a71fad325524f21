"""Settings of heads that cannot be meant, refused before any work."""

from __future__ import annotations

import inspect
from numbers import Integral, Real
from typing import Any

from binderclip.errors import UsageError
from binderclip.numeric import check_finite_numbers

UNBOUNDED = ("C",)
"""Settings that may be infinite: no penalty at all."""


def check_settings(estimator: Any) -> None:
    """Refuse numbers that are NaN or infinite, and counts that are no whole numbers.

    A count is a parameter of the constructor that is annotated `int` or `int | None`; numbers inside lists and tuples
    are looked at too.

    Args:
        estimator: with scikit-learn's `get_params`.

    Raises:
        UsageError: names the setting and its value.
    """
    annotated = inspect.signature(type(estimator).__init__).parameters
    for name, value in estimator.get_params(deep=False).items():
        check_setting(name, value, whole=str(annotated[name].annotation) in ("int", "int | None"))


def check_setting(name: str, value: Any, *, whole: bool = False) -> None:
    """Refuse one setting; anything but numbers, and lists and tuples of them, passes.

    Args:
        name: of the setting.
        value: what was given.
        whole: it must be a whole number.

    Raises:
        UsageError: NaN, infinite, or no whole number where there must be one.
    """
    if whole and isinstance(value, Real) and not isinstance(value, Integral):
        raise UsageError(f"{name} must be a whole number, not {value}")
    check_finite_numbers(name, value, infinite=name in UNBOUNDED)
