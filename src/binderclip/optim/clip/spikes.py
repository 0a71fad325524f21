"""Spikes of a gradient's norm: what counts as one, the record of a run read back, and its picture."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from binderclip.documents import parse_json
from binderclip.errors import DataError
from binderclip.files import write_whole

__all__ = ["ClipHistory", "Spike", "SpikeDetector", "plot_clipping", "read_clip_log"]

FILE = "clip.jsonl"
_TINY = 1e-45
MOST_STEPS = 2**62
"""Larger numbers of steps are damage: those of several stages are added up in 64 bits."""
_INK, _LIGHT, _LIMIT, _ACCENT = "#1f4e79", "#7ba7cf", "#666666", "#c0504d"


class SpikeDetector:
    """Says of each norm whether it stands out from those before it; looks backwards only.

    A norm is a spike where it exceeds `factor` times the median of the last 20 norms, and its logarithm lies more than
    six robust standard deviations above that. The deviation is that of the changes from step to step (1.4826 times
    their median absolute deviation, over the last `window` steps), so that a norm which decays fast hides nothing.
    Both are free of the gradient's scale and hold for any clip. A norm that is not finite always is a spike, and is not
    remembered.

    Args:
        window: norms that are remembered.
        factor: smallest ratio to the median.
        least: norms needed before anything can stand out.
    """

    def __init__(self, window: int = 50, factor: float = 2.0, least: int = 10) -> None:
        self.factor, self.least = factor, least
        self._past: deque[float] = deque(maxlen=window)
        self._recent: deque[float] = deque(maxlen=min(window, 20))
        self._sorted: list[float] = []

    def __call__(self, norm: float) -> tuple[bool, float | None]:
        """Whether this norm is a spike, and the median of those before it (None before there are enough)."""
        usual = self._median() if len(self._sorted) >= self.least else None
        if not math.isfinite(norm):
            return True, usual
        # few norms get as far as the second, dearer condition
        spike = usual is not None and norm > self.factor * usual and math.log(norm / max(usual, _TINY)) > self._width()
        self._remember(norm)
        return bool(spike), usual

    def _remember(self, norm: float) -> None:
        if len(self._recent) == self._recent.maxlen:
            self._sorted.pop(bisect_left(self._sorted, self._recent[0]))
        self._recent.append(norm)
        self._past.append(norm)
        insort(self._sorted, norm)

    def _median(self) -> float:
        middle = len(self._sorted) // 2
        odd = len(self._sorted) % 2
        return self._sorted[middle] if odd else (self._sorted[middle - 1] + self._sorted[middle]) / 2

    def _width(self) -> float:
        changes = np.diff(np.log(np.maximum(self._past, _TINY)))
        return float(6 * 1.4826 * np.median(np.abs(changes - np.median(changes))))

    def restart(self, norms: Iterable[float]) -> None:
        """Remember these norms instead."""
        self._past.clear()
        self._recent.clear()
        self._sorted = []
        for norm in norms:
            if math.isfinite(norm):
                self._remember(norm)


@dataclass(frozen=True)
class Spike:
    """A step whose gradient stood out.

    Args:
        step: 1-based number of the step.
        norm: of the whole gradient before clipping; NaN where it was not finite.
        usual: median of the norms before it; NaN at the very start.
        limit: what the clip allowed (of its worst block, where it has several); inf where it would allow anything.
        scale: what was left of it: the smallest factor applied, of all clips together; 0 for a skipped step.
        skipped: whether the step was not taken.
        top: (parameter, its norm, its share) of the largest contributors, largest first. The share is that of the
            whole norm to the power of its order (of the squared norm, for an L2 norm).
        note: what the clip said, where it raised an error.
    """

    step: int
    norm: float
    usual: float
    limit: float
    scale: float
    skipped: bool
    top: tuple[tuple[str, float, float], ...] = ()
    note: str = ""

    @property
    def ratio(self) -> float:
        """How many times the usual norm; NaN where either is not known."""
        return self.norm / self.usual if self.usual else math.nan


@dataclass
class ClipHistory:
    """What a `ClipLog` wrote, read back; one entry a step.

    Args:
        clips: descriptions of the clips, in order.
        step: step numbers.
        norm: norms of the whole gradient before clipping; NaN where not finite.
        limit: of the clip, or of the first global one of several (of the block that exceeded it most); inf where it
            allowed everything.
        stat: of that block: the norm itself for a global clip.
        scale: smallest factor applied.
        share: largest share of blocks that were clipped, over the clips.
        skipped: whether the step was not taken.
        spikes: the steps that stood out.
        whole: whether that clip looks at the whole gradient, so that `norm` and `limit` compare.
    """

    clips: list[str]
    step: np.ndarray
    norm: np.ndarray
    limit: np.ndarray
    stat: np.ndarray
    scale: np.ndarray
    share: np.ndarray
    skipped: np.ndarray
    spikes: list[Spike] = field(default_factory=list)
    whole: bool = True

    @property
    def clipped(self) -> np.ndarray:
        """Whether anything was clipped."""
        return self.share > 0

    def plot(self) -> Any:
        """A matplotlib figure: norm, limit, clipped steps and spikes.

        Raises:
            DataError: nothing was recorded.
        """
        return clipping_figure(self)

    def _repr_html_(self) -> str:
        """The figure and the spikes, in a notebook."""
        from binderclip.display import figure_html, table_html

        fraction = self.clipped.mean() if len(self.step) else 0.0
        summary = f"{len(self.step)} steps, {len(self.spikes)} spikes, {fraction:.1%} clipped"
        drawn = figure_html(self.plot(), "gradient norm over the run") if len(self.step) else ""
        rows = [
            (s.step, f"{s.norm:.4g}", f"{s.usual:.4g}", f"{s.limit:.4g}", ", ".join(name for name, _, _ in s.top[:3]))
            for s in self.spikes
        ]
        return drawn + table_html(("step", "norm", "usual", "limit", "largest parts"), rows, caption=summary)


def read_clip_log(path: str | Path) -> ClipHistory:
    """Read what a `ClipLog` wrote.

    Args:
        path: the file, or the folder that was its `out`.

    Raises:
        DataError: there is none, or it is not one.
    """
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        raise DataError(f"there is no record of clipping at {path}")
    rows = list(read_log_lines(path))
    if not rows or "clips" not in rows[0]:
        raise DataError(f"{path} is not a record of clipping")
    try:
        return history_of(rows[0], rows[1:])
    except (KeyError, TypeError, ValueError) as error:
        reason = f"a line without {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(f"{path} is damaged: {reason}") from error


def read_log_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a log; one that a killed process left half is passed over."""
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                row = parse_json(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                yield row


def history_of(head: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> ClipHistory:
    """Columns from the lines of a log. JSON has neither NaN nor infinity: null is an infinite limit, else NaN."""

    def column(name: str, null: float = math.nan) -> np.ndarray:
        return np.array([_number(row[name], null) for row in rows], dtype=np.float64)

    clips = head["clips"]
    if not (isinstance(clips, list) and all(isinstance(text, str) for text in clips)):
        raise ValueError(f"its clips are {clips!r}, not a list of texts")
    return ClipHistory(
        clips=clips,
        step=np.array([_step(row["step"]) for row in rows], dtype=np.int64),
        norm=column("norm"),
        limit=column("limit", math.inf),
        stat=column("stat"),
        scale=column("scale"),
        share=column("clipped"),
        skipped=np.array([row["skipped"] for row in rows], dtype=bool),
        spikes=[_spike(row) for row in rows if "top" in row],
        whole=bool(head["whole"]),
    )


def join_histories(parts: Sequence[tuple[int, ClipHistory]]) -> ClipHistory:
    """Histories of several stages as one.

    Args:
        parts: for each, the number of steps before it, and the history.
    """

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(history, name) for _, history in parts])

    # a limit that is not one of the whole gradient's norm has no place among norms
    limits = [history.limit if history.whole else np.full(len(history.limit), math.inf) for _, history in parts]
    return ClipHistory(
        clips=list(dict.fromkeys(text for _, history in parts for text in history.clips)),
        step=np.concatenate([history.step + start for start, history in parts]),
        limit=np.concatenate(limits),
        spikes=[replace(spike, step=spike.step + start) for start, history in parts for spike in history.spikes],
        whole=any(history.whole for _, history in parts),
        **{name: joined(name) for name in ("norm", "stat", "scale", "share", "skipped")},
    )


def _number(value: Any, null: float = math.nan) -> float:
    """A number of a log, which may hold anything; null stands for `null`.

    Raises:
        ValueError: something else.
    """
    if value is None:
        return null
    if not isinstance(value, (int, float)):
        raise ValueError(f"could not be read as a number: {value!r}")
    return float(value)


def _step(value: Any) -> int:
    """The number of a step, which an array of 64 bits has to hold.

    Raises:
        ValueError: something else.
    """
    if not isinstance(value, int) or not 0 <= value < MOST_STEPS:
        raise ValueError(f"step {value!r} is no number of a step")
    return value


def _spike(row: Mapping[str, Any]) -> Spike:
    return Spike(
        step=_step(row["step"]),
        norm=_number(row["norm"]),
        usual=_number(row["usual"]),
        limit=_number(row["limit"], math.inf),
        scale=0.0 if row["skipped"] else _number(row["scale"]),
        skipped=bool(row["skipped"]),
        top=tuple((str(name), _number(norm), _number(fraction)) for name, norm, fraction in row["top"]),
        note=str(row.get("note", "")),
    )


def clipping_figure(history: ClipHistory, title: str = "") -> Any:
    """Norm, limit, clipped steps and spikes as a matplotlib figure; see `plot_clipping`.

    Raises:
        DataError: nothing was recorded.
    """
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    from binderclip.display import new_figure

    if not len(history.step):
        raise DataError("nothing was recorded yet: there is nothing to draw")
    figure = new_figure(8, 4 if history.whole else 5.5)
    panels = 1 if history.whole else 2
    grid = figure.subplots(panels, 1, sharex=True, squeeze=False, height_ratios=[3, 1][:panels])[:, 0]
    draw_norms(grid[0], history)
    # A name of a file need not be text, which no font can draw.
    name = (title or " then ".join(history.clips)).encode("utf-8", "backslashreplace").decode()
    grid[0].set_title(name if len(name) < 95 else f"{name[:92]}...", loc="left", fontsize=10)
    if panels == 2:
        grid[1].fill_between(history.step, history.share, step="mid", color=_LIGHT, lw=0)
        grid[1].set_ylabel("blocks clipped")
        grid[1].set_ylim(0, max(0.02, 1.1 * float(np.nanmax(history.share, initial=0.0))))
        grid[1].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    for axes in grid:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    grid[-1].set_xlabel("step")
    return figure


def plot_clipping(history: ClipHistory, path: str | Path, *, title: str = "") -> Path:
    """Draw norm, limit, clipped steps and spikes; for rules with many blocks also how many of them were clipped.

    Args:
        history: the record.
        path: a PNG.
        title: above the picture; default the clips.

    Returns:
        The file.

    Raises:
        DataError: nothing was recorded.
        OutputError: the file cannot be written.
    """
    figure = clipping_figure(history, title)
    return write_whole(path, lambda draft: figure.savefig(draft, dpi=120, format="png"))


def draw_norms(axes: Any, history: ClipHistory) -> None:
    """Norms, limits and marks on a logarithmic axis of matplotlib's, with a legend."""
    steps, norm = history.step, _drawable(history.norm)
    axes.plot(steps, norm, color=_LIGHT, lw=1.0, label="gradient norm", zorder=1)
    limit = _drawable(np.where(np.isfinite(history.limit), history.limit, np.nan))
    if history.whole and np.isfinite(limit).any():
        # a limit that applies to spikes only makes no line
        axes.plot(steps, limit, color=_LIMIT, lw=1.4, ls="--", marker="_", ms=5, mew=1.4, label="limit", zorder=2)
    at = history.clipped & np.isfinite(history.norm)
    if history.whole and at.any():
        label = f"clipped ({history.clipped.mean():.1%} of steps)"
        # many marks must not hide the curve
        size = 4 if at.mean() < 0.1 else 2
        axes.plot(steps[at], norm[at], ".", color=_INK, ms=size, label=label, zorder=3)
    seen = [spike for spike in history.spikes if math.isfinite(spike.norm)]
    if seen:
        heights = 1.25 * _drawable(np.array([spike.norm for spike in seen]))
        axes.plot(
            [spike.step for spike in seen], heights, "v", color=_ACCENT, ms=7, label=f"spike ({len(seen)})", zorder=4
        )
    gone = steps[history.skipped]
    for number, step in enumerate(gone):
        text = None if number else f"skipped ({len(gone)})"
        axes.axvline(step, color=_ACCENT, lw=1.0, ls=":", label=text, zorder=0)
    if (norm[np.isfinite(norm)] > 0).any():
        axes.set_yscale("log")
        _round_ticks(axes, norm, limit if history.whole else ())
    axes.set_ylabel("gradient norm before clipping")
    # below the axes, where it hides no spike
    axes.figure.legend(frameon=False, fontsize=8.5, ncols=5, loc="outside lower center")


def _drawable(norms: np.ndarray) -> np.ndarray:
    """Norms within 100 powers of ten either way: the ticks of a larger axis overflow."""
    return np.where(norms > 0, np.clip(norms, 1e-100, 1e100), norms)


def _round_ticks(axes: Any, *curves: Sequence[float] | np.ndarray) -> None:
    from matplotlib.ticker import LogFormatter, NullFormatter

    values = np.concatenate([np.asarray(curve, dtype=float) for curve in curves])
    values = values[np.isfinite(values) & (values > 0)]
    narrow = values.max() < 30 * values.min()
    axes.set_ylim(values.min() / 1.3, values.max() * 2)
    axes.yaxis.set_major_formatter(LogFormatter())
    axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 1)) if narrow else NullFormatter())
