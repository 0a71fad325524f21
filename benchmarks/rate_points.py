"""Points of measurement at three sizes, the costs that fit them, and pools in memory whose passes are timed."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import nnls

from binderclip.curate import CurationPipeline, KeepRule, RaggedColumn, ScoreThreshold, Shard
from binderclip.curate.engine.keys import KEY

SIZES = (80_000, 240_000, 720_000)
ROWS = 10_000
Amounts = dict[str, float]
Points = list[tuple[int, Amounts, float]]
"""(which of the three sizes, units of work, seconds or bytes)."""


@dataclass
class Found:
    """Points by operation."""

    seconds: dict[str, Points] = field(default_factory=dict)
    bytes: dict[str, Points] = field(default_factory=dict)

    def time(self, name: str, size: int, amounts: Amounts, work: Callable[[], object], repeats: int = 3) -> None:
        """Add the best of several calls."""
        self.seconds.setdefault(name, []).append((size, amounts, min(spent(work) for _ in range(repeats))))

    def hold(self, name: str, size: int, amounts: Amounts, count: float) -> None:
        """Add a number of bytes."""
        self.bytes.setdefault(name, []).append((size, amounts, count))


def spent(work: Callable[[], object]) -> float:
    """Seconds of processor time of a call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def fit(points: Sequence[tuple[int, Amounts, float]]) -> Amounts:
    """Costs of the units, none below 0, by least squares of relative errors."""
    terms = list(points[0][1])
    scale = np.array([1 / value for *_, value in points])
    rows = np.array([[amounts[term] for term in terms] for _, amounts, _ in points]) * scale[:, None]
    level = np.maximum(np.abs(rows).max(0), 1e-300)
    costs, _ = nnls(rows / level, np.ones(len(points)))
    return dict(zip(terms, (costs / level).tolist(), strict=True))


def error(points: Points) -> float:
    """How far the largest size is from what a fit to the two smaller ones says, as a share of it."""
    costs = fit([point for point in points if point[0] < 2])
    return max(
        abs(sum(costs[term] * amount for term, amount in amounts.items()) - value) / value
        for size, amounts, value in points if size == 2
    )  # fmt: skip


class Rows:
    """A pool in memory, cut into shards of `ROWS`; loading one costs next to nothing.

    Args:
        n: samples.
        matches: entries that each caption names.
    """

    def __init__(self, n: int, matches: int = 0, column: str = "") -> None:
        rng = np.random.default_rng(0)
        self.ids = [str(start) for start in range(0, n, ROWS)]
        self.skipped: list[tuple[str, str]] = []
        self.keys = np.empty(n, KEY)
        for word in ("f0", "f1"):
            self.keys[word] = rng.integers(0, 2**63, n, dtype=np.uint64)
        self.columns: dict[str, Any] = {
            "score": rng.random(n), "other": rng.random(n), "group": rng.integers(0, n, n),
            "kind": [("a", "b")[i] for i in rng.integers(0, 2, n).tolist()], "name": [""] * n, "text": [""] * n,
        }  # fmt: skip
        if matches:
            values = rng.zipf(1.3, n * matches).clip(max=10_000) - 1
            self.columns[column] = RaggedColumn(values, np.arange(n + 1) * matches)

    def load(self, id: str) -> Shard:
        """See `SampleTable`."""
        rows = slice(int(id), int(id) + ROWS)
        cut: dict[str, Any] = {}
        for name, column in self.columns.items():
            if isinstance(column, RaggedColumn):
                low, high = column.offsets[rows.start], column.offsets[min(rows.stop, len(column))]
                cut[name] = RaggedColumn(column.values[low:high], column.offsets[rows.start : rows.stop + 1] - low)
            else:
                cut[name] = column[rows]
        return Shard(id, self.keys[rows].copy(), cut, stamp=id)


def passes(rule: KeepRule, table: Rows, mark: Callable[[], Any]) -> dict[str, tuple[Any, Any]]:
    """What `mark` gave when each pass of a rule began and when the next one did."""
    marks: list[tuple[str, Any]] = []

    def began(doing: str, done: int, total: int) -> None:
        if done == 0:
            marks.append((doing, mark()))

    last = ScoreThreshold(column="other", minimum=2.0)
    CurationPipeline([("rule", rule), ("last", last)]).run(table, progress=began)
    names = [name for name, _ in marks]
    return {name: (marks[i][1], marks[i + 1][1]) for i, name in enumerate(names[:-1])}


def pipeline(
    found: Found, name: str, rule: KeepRule, make: Callable[[int], Rows], amounts: Callable[[int], Amounts]
) -> None:
    """The passes of a rule over pools of three sizes: `NAME: PASS`."""

    def peak() -> tuple[int, int]:
        now, most = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        return now, most

    for size, n in enumerate(SIZES):
        table, taken = make(n), {}
        for _ in range(3):
            for title, (start, end) in passes(rule, table, time.process_time).items():
                taken[title] = min(taken.get(title, np.inf), end - start)
        tracemalloc.start()
        traced = passes(rule, table, peak)
        tracemalloc.stop()
        for title, seconds in taken.items():
            kind = (
                "pool" if title == "reading" else f"{name}: {title.removeprefix('rule').removeprefix(': ') or 'keep'}"
            )
            if kind == "pool" and name != "threshold":
                continue
            units = amounts(n) if kind != "pool" else {"row": n, "sorted row": n * np.log2(n)}
            found.seconds.setdefault(kind, []).append((size, units, seconds))
            (before, _), (after, most) = traced[title]
            memory = {"pass": 1.0, **{term: units[term] for term in ("row", "match") if term in units}}
            found.hold(f"{kind}, held", size, memory, max(after - before, 1))
            found.hold(f"{kind}, most", size, memory, max(most - before, 1))


def captions(n: int) -> list[str]:
    """Texts of 60 bytes on average."""
    rng = np.random.default_rng(0)
    words = ["".join(chr(97 + i) for i in rng.integers(0, 26, 5)) for _ in range(20_000)]
    return [" ".join(words[i] for i in row) for row in rng.zipf(1.3, (n, 10)).clip(max=20_000) - 1]
