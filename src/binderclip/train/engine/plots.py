"""Pictures of a run: loss, gradient norm, logit scale, recall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from binderclip.files import write_whole
from binderclip.optim import ClipHistory
from binderclip.optim.clip.spikes import draw_norms, join_histories
from binderclip.train.engine.evaluator import short_names, split_figure

__all__ = ["plot_run"]

_INK, _LIGHT, _ACCENT = "#1f4e79", "#9dbbd8", "#c0504d"


def plot_run(
    history: Mapping[str, np.ndarray],
    evaluations: Sequence[Mapping[str, Any]],
    folder: str | Path,
    *,
    boundaries: Sequence[tuple[int, str]] = (),
    clipping: Sequence[tuple[int, ClipHistory]] = (),
) -> list[Path]:
    """Draw what was measured as PNG files.

    Args:
        history: one array per figure with an entry a step; `loss` at least.
        evaluations: measurements, each with `step` and figures such as `openclipart/text_to_image/R@10`.
        folder: gets `loss.png`, `gradient-norm.png`, `scale.png`, `recall.png`, as far as there are figures.
        boundaries: first step and name of each stage, drawn where there are several.
        clipping: for each log of a clip, the number of steps before it, and what it noted: the limit and the spikes.

    Returns:
        The files.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    curves = (
        ("loss", "loss.png", "loss", "training loss", False),
        ("grad_norm", "gradient-norm.png", "gradient norm", "L2 norm of the gradient before clipping", True),
        ("scale", "scale.png", "logit scale", "logit scale (factor on the cosines)", False),
    )
    for key, file, label, title, logarithmic in curves:
        values = np.asarray(history.get(key, ()), dtype=float)
        if key == "grad_norm" and clipping:
            made.append(_gradient(clipping, folder / file, title, boundaries))
        elif np.isfinite(values).any():
            clipped = history.get("clip_scale") if key == "grad_norm" else None
            made.append(_curve(values, folder / file, label, title, logarithmic, boundaries, clipped))
    if evaluations:
        made += _recall(evaluations, folder / "recall.png", boundaries)
    return made


def _axes(title: str, ylabel: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel("step")
    axes.set_ylabel(ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _curve(
    values: np.ndarray,
    path: Path,
    label: str,
    title: str,
    logarithmic: bool,
    boundaries: Sequence[tuple[int, str]],
    clip_scale: Any,
) -> Path:
    figure, axes = _axes(title, label)
    steps = np.arange(1, len(values) + 1)
    window = max(1, len(values) // 50)
    axes.plot(steps, values, color=_LIGHT if window > 1 else _INK, lw=1.0, label="each step")
    if window > 1:
        axes.plot(steps, _smooth(values, window), color=_INK, lw=1.8, label=f"mean of {window} steps")
    if clip_scale is not None and (shrunk := np.asarray(clip_scale) < 1).any():
        axes.plot(steps[shrunk], values[shrunk], ".", color=_ACCENT, ms=4, label=f"clipped ({shrunk.mean():.0%})")
    if logarithmic and np.nanmin(values) > 0:
        from matplotlib.ticker import LogFormatter, NullFormatter

        axes.set_yscale("log")
        narrow = np.nanmax(values) < 30 * np.nanmin(values)
        axes.yaxis.set_major_formatter(LogFormatter())
        axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 1)) if narrow else NullFormatter())
    _mark(axes, boundaries)
    if len(axes.lines) > 1:
        axes.legend(frameon=False, fontsize=9)
    return write_whole(path, lambda draft: figure.savefig(draft, format="png"))


def _gradient(
    clipping: Sequence[tuple[int, ClipHistory]], path: Path, title: str, boundaries: Sequence[tuple[int, str]]
) -> Path:
    figure, axes = _axes(title, "gradient norm")
    draw_norms(axes, join_histories(clipping))
    _mark(axes, boundaries)
    return write_whole(path, lambda draft: figure.savefig(draft, format="png"))


def _smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Mean over the last `window` steps, fewer at the start; NaN left out."""
    good = np.isfinite(values)
    total = np.cumsum(np.where(good, values, 0.0))
    count = np.cumsum(good)
    before = np.concatenate([np.zeros(window), total[:-window]]), np.concatenate([np.zeros(window), count[:-window]])
    with np.errstate(invalid="ignore"):
        return (total - before[0]) / (count - before[1])


def _recall(evaluations: Sequence[Mapping[str, Any]], path: Path, boundaries: Sequence[tuple[int, str]]) -> list[Path]:
    names = [name for name in evaluations[-1] if str(name).endswith("/R@10")]
    if not names:
        return []
    from matplotlib.ticker import PercentFormatter

    figure, axes = _axes("held-out recall at 10", "share found among the first 10")
    steps = [int(row["step"]) for row in evaluations]
    sets = sorted({split_figure(name)[0] for name in names})
    labels = short_names(sets)
    for name in names:
        kind, measure = split_figure(name)
        direction = measure.split("/")[0]
        colour = f"C{sets.index(kind)}"
        style = "-" if direction == "text_to_image" else "--"
        values = [row.get(name, np.nan) for row in evaluations]
        label = f"{labels[kind]}, {direction.replace('_', ' ')}"
        axes.plot(steps, values, style, marker="o", ms=3.5, color=colour, label=label)
    top = max(float(row.get(name, 0.0)) for row in evaluations for name in names)
    axes.set_ylim(0, min(1.02, 1.12 * top) or 1)
    axes.set_xlim(0, max(steps) * 1.03)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    _mark(axes, boundaries)
    axes.legend(frameon=False, fontsize=8)
    return [write_whole(path, lambda draft: figure.savefig(draft, format="png"))]


def _mark(axes: Any, boundaries: Sequence[tuple[int, str]]) -> None:
    if len(boundaries) < 2:
        return
    for step, name in boundaries:
        axes.axvline(step, color="#888888", lw=0.8, ls=":")
        axes.annotate(name, (step, 1.0), xycoords=("data", "axes fraction"), fontsize=8, color="#666666", va="bottom")
