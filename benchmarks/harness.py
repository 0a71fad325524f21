"""Timing in pairs: warm-up, interleaved repetitions, the median of the paired ratios with its spread.

Where other work runs on the machine, medians are of that work too: `fastest=True` compares the fastest runs instead.
"""

from __future__ import annotations

import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """One comparison.

    Args:
        name: what is measured.
        ours: median of our runs, in `unit`; the fastest where the note says so.
        peer: the same of the peer's runs.
        ratio: median over pairs of `ours / peer`, or of `peer / ours` where `higher_is_better` (so that above 1 is a
            gain in speed); that of the fastest runs where the note says so.
        low: smallest paired ratio.
        high: largest paired ratio.
        goal: what was aimed at, in words.
        limit: the physical limit in `unit`, where one is known.
        note: what a reader must know to judge the row.
        met: whether the goal is met; None without a goal.
    """

    name: str
    ours: float
    peer: float
    unit: str
    ratio: float
    low: float
    high: float
    goal: str = ""
    limit: float | None = None
    note: str = ""
    met: bool | None = None
    peer_name: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The row as plain values."""
        return asdict(self)


def timed(function: Callable[[], Any]) -> float:
    """Seconds of one call, with a collected heap before it."""
    gc.collect()
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def compare(
    name: str,
    ours: Callable[[], Any],
    peer: Callable[[], Any],
    *,
    repeats: int = 7,
    warmup: int = 1,
    unit: str = "ms",
    speedup: bool = True,
    goal: str = "",
    target: float | None = None,
    limit: float | None = None,
    note: str = "",
    peer_name: str = "",
    fastest: bool = False,
) -> Row:
    """Time two functions in alternation.

    Args:
        repeats: counted pairs; the order within a pair alternates.
        speedup: report `peer / ours` (above 1: we are faster); otherwise `ours / peer`.
        target: the goal as a number: at least this for a speed-up, at most this otherwise.
        limit: the physical limit in `unit`.
        fastest: compare the fastest run of each side, for a machine that others use; the note says so.
    """
    for _ in range(warmup):
        ours()
        peer()
    first, second = [], []
    for turn in range(repeats):
        if turn % 2:
            second.append(timed(peer))
            first.append(timed(ours))
        else:
            first.append(timed(ours))
            second.append(timed(peer))
    return row(
        name,
        first,
        second,
        unit=unit,
        speedup=speedup,
        goal=goal,
        target=target,
        limit=limit,
        note=note,
        peer_name=peer_name,
        fastest=fastest,
    )


def row(
    name: str,
    ours: Sequence[float],
    peer: Sequence[float],
    *,
    unit: str = "ms",
    speedup: bool = True,
    goal: str = "",
    target: float | None = None,
    limit: float | None = None,
    note: str = "",
    peer_name: str = "",
    fastest: bool = False,
) -> Row:
    """A row from seconds that were measured in pairs; `fastest` as of `compare`."""
    ratios = [b / a if speedup else a / b for a, b in zip(ours, peer, strict=True)]
    ratio = statistics.median(ratios)
    summary = min if fastest else statistics.median
    if fastest:
        ratio = min(peer) / min(ours) if speedup else min(ours) / min(peer)
        sentence = f"the fastest of {len(ratios)} interleaved runs of each side, on a machine that others used"
        note = f"{note}; {sentence}" if note else sentence
    met = None if target is None else (ratio >= target if speedup else ratio <= target)
    factor = {"ms": 1e3, "s": 1.0}[unit]
    return Row(
        name=name,
        ours=summary(ours) * factor,
        peer=summary(peer) * factor,
        unit=unit,
        ratio=ratio,
        low=min(ratios),
        high=max(ratios),
        goal=goal,
        limit=limit,
        note=note,
        met=met,
        peer_name=peer_name,
    )


def in_child(code: str, *arguments: str) -> dict[str, Any]:
    """Run Python code in a fresh process and read the JSON of its last line; for memory peaks and import times."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"benchmark child failed ({done.returncode}):\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])
