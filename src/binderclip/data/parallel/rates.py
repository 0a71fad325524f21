"""What operations cost on one core, in seconds and bytes, as `python -m benchmarks.plan_rates` measured them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from binderclip.documents import parse_json
from binderclip.errors import DataError, UsageError

__all__ = ["MeasuredRates", "Rate", "measured_rates", "read_rates"]

STORED = Path(__file__).with_name("rates.json")


@dataclass(frozen=True)
class Rate:
    """What one operation costs for each unit of work; everything linear in units beyond the sizes is extrapolated.

    Attributes:
        name: of the operation.
        terms: unit -> seconds or bytes for one of it, fitted to three sizes.
        error: how far a fit to the two smaller sizes was from what the third took, as a share of it.
    """

    name: str
    terms: Mapping[str, float]
    error: float

    def of(self, **amounts: float) -> float:
        """Seconds or bytes of so many units, one amount for each term.

        Raises:
            UsageError: a term without an amount, or an amount without a term.
        """
        if set(amounts) != set(self.terms):
            raise UsageError(f"rate {self.name!r} is for {', '.join(self.terms)}; got {', '.join(amounts)}")
        return sum(cost * amounts[term] for term, cost in self.terms.items())


@dataclass(frozen=True)
class MeasuredRates:
    """All rates of one measurement.

    Attributes:
        machine, date, load: where and when it was, and how busy the machine was.
        seconds: operation -> seconds on one core.
        bytes: operation -> bytes of memory, or on disk.
    """

    machine: str
    date: str
    load: str
    seconds: Mapping[str, Rate]
    bytes: Mapping[str, Rate]

    @property
    def worst(self) -> Rate:
        """The rate of time whose third size was predicted worst."""
        return max(self.seconds.values(), key=lambda rate: rate.error)


def read_rates(path: str | Path) -> MeasuredRates:
    """Rates from a file of `benchmarks.plan_rates`.

    Raises:
        DataError: no such file, or another content.
    """
    try:
        document = parse_json(Path(path).read_text(encoding="utf-8"))
        tables = [{name: _rate(name, entry) for name, entry in document[kind].items()} for kind in ("seconds", "bytes")]
        return MeasuredRates(str(document["machine"]), str(document["date"]), str(document["load"]), *tables)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: no file of measured rates ({error})") from error


@lru_cache(maxsize=1)
def measured_rates() -> MeasuredRates:
    """The rates that come with the package."""
    return read_rates(STORED)


def _rate(name: str, entry: Mapping[str, Any]) -> Rate:
    return Rate(name, {str(term): float(cost) for term, cost in entry["terms"].items()}, float(entry["error"]))
