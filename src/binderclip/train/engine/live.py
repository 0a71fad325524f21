"""A run while it goes on, read from its directory: how far it is, its curves so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from binderclip.documents import parse_json
from binderclip.errors import DataError
from binderclip.optim import ClipHistory, read_clip_log
from binderclip.train.engine.plots import plot_run

__all__ = ["RunProgress", "read_progress"]


@dataclass(frozen=True)
class RunProgress:
    """What a run has written so far.

    Attributes:
        steps: optimizer steps noted, of all stages.
        samples: pictures seen in the present stage.
        stage: name of the present stage; empty before the first note. index: its place.
        history: one array a figure, an entry for each noted step; `loss` at least.
        evaluations: measurements, each with its `step`, counted over all stages.
        boundaries: first step and name of each stage.
        clipping: for each log of a clip the steps before it, and what it noted.
    """

    steps: int = 0
    samples: int = 0
    stage: str = ""
    index: int = 0
    history: dict[str, np.ndarray] = field(default_factory=dict)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    boundaries: list[tuple[int, str]] = field(default_factory=list)
    clipping: list[tuple[int, ClipHistory]] = field(default_factory=list)

    def plot(self, folder: str | Path) -> list[Path]:
        """Draw the curves as `plot_run` does; no file where nothing is noted yet."""
        if not self.history:
            return []
        return plot_run(self.history, self.evaluations, folder, boundaries=self.boundaries, clipping=self.clipping)


def read_progress(out: str | Path) -> RunProgress:
    """Read the metrics and clip logs of a run directory; what is half written or damaged is passed over.

    Args:
        out: the directory, of a run that goes on, was stopped, or has ended; one without anything is a run that has
            not begun.
    """
    out = Path(out)
    rows = _rows(out / "metrics.jsonl")
    steps = [row for row in rows if "loss" in row]
    names: dict[int, str] = {}
    last: dict[int, int] = {}
    for row in steps:
        names[row["stage"]] = str(row.get("name", ""))
        last[row["stage"]] = max(last.get(row["stage"], 0), row["step"])
    before, boundaries = 0, []
    starts: dict[int, int] = {}
    for index in sorted(names):
        starts[index] = before
        boundaries.append((before, names[index]))
        before += last[index]
    figures = sorted({key for row in steps for key, value in row.items() if isinstance(value, (int, float))})
    history = {
        key: np.array([float(row.get(key, np.nan)) for row in steps])
        for key in figures
        if key not in ("stage", "step", "samples")
    }
    evaluations = [
        {**{k: v for k, v in row.items() if k not in ("stage", "name")}, "step": starts[row["stage"]] + row["step"]}
        for row in rows
        if "loss" not in row and row["stage"] in starts
    ]
    clipping = []
    for index, name in names.items():
        try:
            clipping.append((starts[index], read_clip_log(out / "clipping" / f"{index:02d}-{name}")))
        except DataError:
            continue  # not begun, or its first line is half written
    if not steps:
        return RunProgress()
    now = steps[-1]
    return RunProgress(
        before, int(now.get("samples", 0)), names[now["stage"]], now["stage"], history, evaluations, boundaries,
        clipping if len(clipping) == len(names) else [],
    )  # fmt: skip


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    rows = []
    for line in text.splitlines():
        try:
            row = parse_json(line)
        except (ValueError, RecursionError):
            continue  # the line that is being written
        if isinstance(row, dict) and isinstance(row.get("stage"), int) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows
