"""Random numbers in the place of everything that some criteria compare: what no study may take for an effect."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from binderclip.errors import UsageError
from binderclip.studies.harness.criteria import Contrast, Criterion
from binderclip.studies.harness.quantities import rows_of
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
    names = dict.fromkeys(name for part in parts for name in rows_of(part))
    return [Row(metric, method, draw(low, high), setting) for metric, method, setting in names]


def in_place(rows: Iterable[Row], null: Mapping[str, str], *, same_seeds: bool = False) -> list[Row]:
    """The rows that a study gives when a random method, measured beside the others, takes the place of the method.

    Of the method nothing is left: what was not measured of the random one is missing. Each method gets the random one's
    rows of other seeds (the next, the one after, ...): where a criterion holds two of them against each other, or one
    against the random method itself, it compares different draws and not one with itself.

    Args:
        rows: of a measurement.
        null: from the name of a method to that of the random one.
        same_seeds: give rows of the same seeds instead: paired with all else, their intervals are the narrower ones.

    Raises:
        UsageError: nothing was measured of a random one.
    """
    kept = list(rows)
    if missing := sorted(set(null.values()) - {row.method for row in kept}):
        raise UsageError(f"nothing was measured of {', '.join(map(repr, missing))}, which is to stand for a method")
    seeds = sorted({row.seed for row in kept})
    found = [row for row in kept if row.method not in null]
    for number, (name, random) in enumerate(null.items()):
        shift = 0 if same_seeds else number + 1
        before = {seed: seeds[(place - shift) % len(seeds)] for place, seed in enumerate(seeds)}
        found += [replace(row, method=name, seed=before[row.seed]) for row in kept if row.method == random]
    return found
