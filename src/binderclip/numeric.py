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


def check_number(name: str, value: Any, *, least: float | None = None, above: float | None = None) -> None:
    """Refuse what is no finite number, and one out of range.

    Args:
        name: of the setting, for the message.
        value: what was given; a tensor or array of one element counts as its number.
        least: the smallest that is meant. above: what it must exceed. None for any.

    Raises:
        UsageError: names the setting and its value.
    """
    try:
        number = math.nan if isinstance(value, (str, bytes)) else float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        number = math.nan
    if least is not None:
        bound, fine = f" of at least {least}", number >= least
    elif above is not None:
        bound, fine = f" above {above}", number > above
    else:
        bound, fine = "", True
    if not (math.isfinite(number) and fine):
        raise UsageError(f"{name} must be a finite number{bound}, got {brief(value)}")


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
