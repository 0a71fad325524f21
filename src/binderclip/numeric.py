"""Numbers that settings may be: finite, whole, in range; anything else is refused by the setting's name."""

from __future__ import annotations

import dataclasses
import math
from numbers import Integral, Real
from typing import Any

from binderclip.errors import UsageError
from binderclip.settings import brief

__all__ = ["check_fields", "check_finite_numbers", "check_number", "check_present", "check_whole"]

WHOLE = ("int", "int | None")
FRACTIONAL = ("float", "float | None")


def check_whole(name: str, value: Any, *, least: int | None = None) -> None:
    """Refuse what is no whole number, and one below `least`; 2.0 is refused as 2.5 is, NumPy's integers pass.

    Args:
        name: of the setting, for the message.
        value: what was given.
        least: the smallest that is meant; None for any.

    Raises:
        UsageError: names the setting and its value.
    """
    if not isinstance(value, Integral) or (least is not None and value < least):
        bound = "" if least is None else f" of at least {least}"
        raise UsageError(f"{name} must be a whole number{bound}, got {brief(value)}")


def check_number(
    name: str, value: Any, *, least: float | None = None, above: float | None = None, most: float | None = None,
    below: float | None = None, infinite: bool = False,
) -> None:  # fmt: skip
    """Refuse what is no finite number, and one out of range.

    Args:
        name: of the setting, for the message.
        value: what was given; a tensor or array of one element counts as its number.
        least: the smallest that is meant. above: what it must exceed. most: the largest that is meant. below: what
            must exceed it. None for any.
        infinite: whether infinity is meant as well, as a limit that nothing reaches.

    Raises:
        UsageError: names the setting and its value.
    """
    try:
        number = math.nan if isinstance(value, (str, bytes)) else float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        number = math.nan
    bounds = _bounds(least, above, most, below)
    if not (math.isfinite(number) or (infinite and math.isinf(number))):
        kind = "a number" if infinite else "a finite number"
        raise UsageError(f"{name} must be {kind}{f' {bounds}' if bounds else ''}, got {brief(value)}")
    fine = (
        (least is None or number >= least)
        and (above is None or number > above)
        and (most is None or number <= most)
        and (below is None or number < below)
    )
    if not fine:
        raise UsageError(f"{name} must be {bounds}, got {brief(value)}")


def _bounds(least: float | None, above: float | None, most: float | None, below: float | None) -> str:
    """A range in words, "at least 1" or "in (0, 1]"; empty for all numbers."""
    low = "" if (least, above) == (None, None) else f"at least {least}" if least is not None else f"above {above}"
    high = "" if (most, below) == (None, None) else f"at most {most}" if most is not None else f"below {below}"
    if not (low and high):
        return low or high
    left = f"[{least}" if least is not None else f"({above}"
    return f"in {left}, {f'{most}]' if most is not None else f'{below})'}"


def check_finite_numbers(name: str, value: Any, *, infinite: bool = False) -> None:
    """Refuse NaN and infinity, also inside lists and tuples; anything that is no number passes.

    Args:
        name: of the setting, for the message.
        value: what was given.
        infinite: whether infinity is meant as well.

    Raises:
        UsageError: names the setting and the number.
    """
    for number in value if isinstance(value, (list, tuple)) else (value,):
        if isinstance(number, Real) and not isinstance(number, Integral):
            beyond = math.isinf(number) and not infinite
            if math.isnan(number) or beyond:
                raise UsageError(f"{name} must be finite, not {number}")


def check_present(name: str, values: Any) -> None:
    """Refuse lists in which a value is missing: beside words NumPy would make of NaN the word "nan".

    Args:
        name: of one value, for the message, such as "a label".
        values: a list, a tuple, an array or a series of any kind.

    Raises:
        UsageError: a value is None, NaN or NA.
    """
    listed = values.tolist() if hasattr(values, "tolist") else values
    if isinstance(listed, (list, tuple)) and any(_is_missing(value) for value in listed):
        raise UsageError(f"{name} is None or NaN: leave such rows out")


def _is_missing(value: Any) -> bool:
    if value is None:
        return True
    try:
        return bool(value != value)
    except TypeError:  # pandas' NA has no truth
        return True
    except ValueError:  # an array
        return False


def check_fields(settings: Any) -> None:
    """Look at every field of a dataclass: annotated `int` it must be whole, `float` finite; None passes where allowed.

    Args:
        settings: an instance, whose annotations are text (`from __future__ import annotations`).

    Raises:
        UsageError: names the first field that is neither.
    """
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if value is None and str(field.type).endswith("| None"):
            continue
        if field.type in WHOLE:
            check_whole(field.name, value)
        elif field.type in FRACTIONAL:
            check_number(field.name, value)
