"""Random numbers in the place of everything that some criteria compare: what no study may take for an effect."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from binderclip.studies.harness.criteria import Contrast, Criterion
from binderclip.studies.harness.quantities import Quantity
from binderclip.studies.harness.table import Row


def random_rows(criteria: Iterable[Criterion], seed: int, low: float = 0.0, high: float = 1.0) -> list[Row]:
    """A row, uniform between two numbers, for each that the criteria with quantities read.

    Args:
        criteria: those without quantities are left out.
        seed: of the numbers.
        low, high: their range.
    """
    draw = np.random.default_rng([seed, 11]).uniform
    parts = [part for each in criteria if isinstance(each, Contrast) for part in (each.a, each.b)]
    names = dict.fromkeys(name for part in parts for name in _read(part))
    return [Row(metric, method, draw(low, high), setting) for metric, method, setting in names]


def _read(quantity: Quantity) -> Iterator[tuple[str, str, str]]:
    """Metric, method and setting of every row behind a quantity."""
    if quantity.how == "rows":
        metric, method, *settings = quantity.parts
        yield from ((metric, method, setting) for setting in settings)
    elif quantity.how != "constant":
        for part in quantity.parts:
            yield from _read(part)
