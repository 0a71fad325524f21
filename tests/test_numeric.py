"""Numbers of settings: what passes, and what is refused by name."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from binderclip.errors import UsageError
from binderclip.numeric import check_fields, check_finite_numbers, check_number, check_present, check_whole


@dataclass
class Settings:
    steps: int = 1
    rate: float = 0.1
    most: int | None = None
    share: float | None = None
    name: str = "a"


@pytest.mark.parametrize("value", [0, 3, np.int64(3), np.uint8(3)])
def test_whole_numbers_pass(value: Any) -> None:
    check_whole("steps", value, least=0)
    check_fields(Settings(steps=value, most=value))


@pytest.mark.parametrize("value", [2.5, 2.0, math.nan, math.inf, "3", None, [3], -1, np.float32(3)])
def test_what_is_no_whole_number_or_too_small_is_refused(value: Any) -> None:
    with pytest.raises(UsageError, match="steps must be a whole number of at least 0, got"):
        check_whole("steps", value, least=0)
    with pytest.raises(UsageError, match="got a number far too large"):
        check_whole("steps", -(10**5000), least=0)


@pytest.mark.parametrize("value", [0, 0.5, np.float32(0.5), torch.tensor(0.5), np.int64(2)])
def test_finite_numbers_pass(value: Any) -> None:
    check_number("rate", value, least=0)
    check_fields(Settings(rate=value, share=value))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "0.5", b"1", None, [0.5, 1], 1j, object()])
def test_what_is_no_finite_number_is_refused(value: Any) -> None:
    with pytest.raises(UsageError, match="rate must be a finite number, got"):
        check_number("rate", value)
    with pytest.raises(UsageError, match="rate must be a finite number"):
        check_fields(Settings(rate=value))
    with pytest.raises(UsageError, match="got a number far too large"):
        check_number("rate", 10**5000)


def test_bounds_are_said() -> None:
    check_number("rate", 1e-9, above=0)
    with pytest.raises(UsageError, match="rate must be above 0, got 0"):
        check_number("rate", 0, above=0)
    with pytest.raises(UsageError, match=r"rate must be at least 1, got 0\.5"):
        check_number("rate", 0.5, least=1)


def test_fields_are_judged_by_their_annotations() -> None:
    check_fields(Settings(most=None, share=None, name=math.nan))  # type: ignore[arg-type]
    for wrong, name in (({"most": 2.5}, "most"), ({"share": math.inf}, "share"), ({"steps": None}, "steps")):
        with pytest.raises(UsageError, match=name):
            check_fields(Settings(**wrong))


def test_numbers_inside_lists_are_looked_at() -> None:
    check_finite_numbers("Cs", [1.0, 2, "x", None])
    check_finite_numbers("C", math.inf, infinite=True)
    for value in ([1.0, math.nan], (math.inf,), math.nan):
        with pytest.raises(UsageError, match="Cs must be finite"):
            check_finite_numbers("Cs", value)


@pytest.mark.parametrize("missing", [None, math.nan, pd.NA, pd.NaT])
def test_a_value_that_is_missing_among_words_is_found(missing: Any) -> None:
    for values in (["a", missing], ("a", missing), np.array(["a", missing], dtype=object), pd.Series(["a", missing])):
        with pytest.raises(UsageError, match="a label is None or NaN"):
            check_present("a label", values)
    check_present("a label", ["a", "nan", math.inf, np.ones(2), [math.nan]])
    check_present("a label", torch.tensor([1, 2]))
    check_present("a label", 3)
