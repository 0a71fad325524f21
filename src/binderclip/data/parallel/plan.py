"""What work will cost on machines that are not there yet: passes, bytes, memory, hours and money, before anything runs.

A pass is one or more phases, one after the other. In a phase processors, storage and training operations work at the
same time, so that it takes as long as the slowest of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from binderclip.errors import UsageError

__all__ = ["ClusterPlan", "Machines", "Phase", "PlannedPass", "checked_samples", "first_limit", "hours_text"]

MOST_SAMPLES = 1e15
MOST_MACHINES = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Machines:
    """Machines of one kind.

    Args:
        count: how many, at least 1.
        cores: of each; one worker runs on each core.
        memory: bytes of each.
        price: of a machine for an hour, in any currency.
        bandwidth: bytes a second between a machine and storage or the other machines.
        operations: floating-point operations a second that a machine reaches in training; None: those of its cores.

    Raises:
        UsageError: a number that is not finite, or not above 0 (price: below 0).
    """

    count: int = 1
    cores: int = 16
    memory: float = 64e9
    price: float = 1.0
    bandwidth: float = 1.25e9
    operations: float | None = None

    def __post_init__(self) -> None:
        for name in ("count", "cores", "memory", "bandwidth", "operations", "price"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and (value > 0 or (name == "price" and value == 0))):
                raise UsageError(f"{name} of machines is {value}; it is a finite number above 0")
        if self.count > MOST_MACHINES or self.cores > MOST_MACHINES:
            raise UsageError(f"{self.count} machines of {self.cores} cores: at most {MOST_MACHINES:,} of each")


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What is done at the same time.

    Args:
        seconds: of one core, as the rates have them; None where no rate is known.
        operations: floating-point operations of training; None where they are not counted.
        read, written: bytes from and to storage.
        exchanged: bytes that each machine sends to the others.
        alone: it is one process's, which no further machine helps.
    """

    seconds: float | None = 0.0
    operations: float | None = 0.0
    read: float = 0.0
    written: float = 0.0
    exchanged: float = 0.0
    alone: bool = False

    def times(self, machines: Machines, operations_rate: float = math.inf) -> dict[str, float]:
        """Seconds by resource; NaN where they are unknown.

        Args:
            machines: that it runs on.
            operations_rate: operations a second of a core, where the machines do not say theirs.
        """
        count, cores = (1, 1) if self.alone else (machines.count, machines.count * machines.cores)
        rate = machines.operations or operations_rate * machines.cores
        network = (self.read + self.written) / count + self.exchanged
        return {
            "one process" if self.alone else "processors": math.nan if self.seconds is None else self.seconds / cores,
            "operations": math.nan if self.operations is None else self.operations / (rate * count),
            "network": network / machines.bandwidth,
        }


@dataclass(frozen=True, kw_only=True)
class PlannedPass:
    """One row of a plan.

    Args:
        name: of the pass.
        passes: how often the data are gone through.
        phases: one after the other.
        worker: bytes of memory of each of a machine's processes; None where they are not known.
        processes: of them on a machine.
        single: bytes of memory of the one process that decides, 0 where there is none; None where they are not known.
        note: what is to be said of it.
    """

    name: str
    passes: float
    phases: Sequence[Phase]
    worker: float | None = 0.0
    processes: int = 1
    single: float | None = 0.0
    note: str = ""

    @property
    def read(self) -> float:
        """Bytes read, by all machines."""
        return sum(phase.read for phase in self.phases)

    @property
    def written(self) -> float:
        """Bytes written, by all machines."""
        return sum(phase.written for phase in self.phases)

    @property
    def memory(self) -> float:
        """Bytes that the machine with most of it needs, as far as they are known."""
        return (self.worker or 0.0) * self.processes + (self.single or 0.0)


@dataclass(frozen=True)
class ClusterPlan:
    """A plan; `rows` are its table.

    Attributes:
        samples: of the pool.
        machines: that it is for.
        passes: in order.
        notes: what was assumed.
        stops: which step stops scaling first, and where.
        operations_rate: operations a second of a core.
    """

    samples: float
    machines: Machines
    passes: tuple[PlannedPass, ...]
    notes: tuple[str, ...] = ()
    stops: str = ""
    operations_rate: float = math.inf

    def hours(self, one: PlannedPass) -> float | None:
        """Of a pass; None where they are unknown."""
        longest = [
            max(phase.times(self.machines, self.operations_rate).values(), key=_nan_last) for phase in one.phases
        ]
        total = sum(longest)
        return None if math.isnan(total) else total / 3600

    def binds(self, one: PlannedPass) -> str:
        """The resource that takes longest; `memory` where it does not fit; `unknown` where a rate is missing."""
        if one.memory > self.machines.memory:
            return "memory: does not fit"
        if self.hours(one) is None:
            return "unknown"
        total: dict[str, float] = {}
        for phase in one.phases:
            times = phase.times(self.machines, self.operations_rate)
            name = max(times, key=lambda key: times[key])
            total[name] = total.get(name, 0.0) + times[name]
        return max(total, key=lambda key: total[key]) if any(total.values()) else ""

    @property
    def unknown(self) -> list[str]:
        """Names of passes whose hours or memory are not known."""
        return [one.name for one in self.passes if None in (self.hours(one), one.worker, one.single)]

    @property
    def total_hours(self) -> float:
        """Of all passes whose hours are known: with `unknown` ones it is at least this."""
        return sum(self.hours(one) or 0.0 for one in self.passes)

    @property
    def single_hours(self) -> float:
        """Of these, those in which one process works alone."""
        phases = [phase for one in self.passes for phase in one.phases if phase.alone and phase.seconds is not None]
        return sum(max(phase.times(self.machines, self.operations_rate).values()) for phase in phases) / 3600

    @property
    def cost(self) -> float:
        """Of all machines for these hours."""
        return self.price(self.total_hours)

    def price(self, hours: float) -> float:
        """Of all machines for so many hours."""
        return hours * self.machines.count * self.machines.price

    def rows(self) -> tuple[list[str], list[list[str]]]:
        """(names of the columns, rows as texts), the last row together."""
        names = ["pass", "over the data", "read", "written", "a worker", "one process", "hours", "cost", "binds"]
        table = []
        for one in self.passes:
            hours = self.hours(one)
            table.append(
                [
                    one.name, f"{one.passes:.3g}x", _size(one.read), _size(one.written),
                    _size(one.worker), _size(one.single), hours_text(hours),
                    "?" if hours is None else f"{self.price(hours):,.2f}", self.binds(one),
                ]
            )  # fmt: skip
        passes = sum(one.passes for one in self.passes)
        workers = [one.worker for one in self.passes if one.worker is not None]
        more = "at least " if self.unknown else ""
        table.append(
            [
                "together", f"{passes:.3g}x", _size(sum(one.read for one in self.passes)),
                _size(sum(one.written for one in self.passes)), _size(max(workers, default=0.0)),
                _size(max((one.single for one in self.passes if one.single is not None), default=0.0)),
                more + hours_text(self.total_hours), f"{more}{self.cost:,.2f}", "",
            ]
        )  # fmt: skip
        return names, table

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "samples": self.samples, "machines": vars(self.machines), "hours": self.total_hours, "cost": self.cost,
            "at_least": bool(self.unknown), "unknown": self.unknown, "stops": self.stops, "notes": list(self.notes),
            "passes": [
                {
                    "name": one.name, "passes": one.passes, "bytes_read": one.read, "bytes_written": one.written,
                    "worker_bytes": one.worker, "single_process_bytes": one.single, "hours": (hours := self.hours(one)),
                    "cost": None if hours is None else self.price(hours), "binds": self.binds(one), "note": one.note,
                }
                for one in self.passes
            ],
        }  # fmt: skip


def checked_samples(samples: float) -> float:
    """A number of samples.

    Raises:
        UsageError: not a number from 1 to 10^15.
    """
    if not 1 <= samples <= MOST_SAMPLES:
        raise UsageError(f"samples is {samples}; a plan is for 1 to {MOST_SAMPLES:.0e} of them")
    return float(samples)


def first_limit(passes: Callable[[float], Sequence[PlannedPass]], memory: float) -> tuple[PlannedPass, float] | None:
    """The pass that needs more than the memory of a machine first, and up to how many samples it does not.

    Args:
        passes: of a pool of so many samples; their memory never falls with it.
        memory: bytes of a machine.

    Returns:
        (pass, samples); None where none does up to 10^15.
    """

    def over(samples: float) -> list[PlannedPass]:
        return [one for one in passes(samples) if one.memory > memory]

    low, high = 0.0, math.log10(MOST_SAMPLES)
    if not over(10**high):
        return None
    if over(1.0):
        return over(1.0)[0], 0.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if over(10**middle) else (middle, high)
    return over(10**high)[0], 10**low


def _nan_last(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _size(count: float | None) -> str:
    """Bytes for people: 3.2 GB."""
    if count is None:
        return "?"
    if not count:
        return "-"
    power = min(max(int(math.log10(max(count, 1.0)) // 3), 0), 6)
    return f"{count / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB', 'PB', 'EB')[power]}"


def hours_text(hours: float | None) -> str:
    """Hours for people; `?` where they are unknown."""
    if hours is None:
        return "?"
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"
