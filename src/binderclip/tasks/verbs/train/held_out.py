"""What a run measured on held-out pictures, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from binderclip.display import number_of

FEW_HELD_OUT = 50
"""Below this many pictures a share of them is told with its interval: of 50, one half is known to 14 points."""
WAYS = ("image_to_text", "text_to_image")
Figures = Mapping[str, float]
NamedTable = tuple[str, tuple[str, ...], list[tuple[Any, ...]]]


def heads_table(stages: Sequence[Mapping[str, Any]]) -> list[NamedTable]:
    """A table of what stages say that trained a head beside the model, on pictures that were held out; or none.

    Args:
        stages: of a run's `summary.json`.
    """
    rows: list[tuple[Any, ...]] = []
    for stage in stages:
        held = stage["notes"].get("held out") or {}
        rows += [
            (stage["name"], measure, f"{value:.3f}", str(held["pictures"]))
            for measure, value in held.items()
            if measure != "pictures"
        ]
        own = stage["notes"].get("accuracy") or {}
        rows += [(stage["name"], f"accuracy, {data}", f"{value:.3f}", "") for data, value in own.items()]
    return [("held out", ("head", "measure", "value", "pictures"), rows)] if rows else []


def by_data(figures: Figures) -> dict[str, dict[str, float]]:
    """Figures by the short name of the data they are of, and then by measure."""
    from binderclip.train.engine.evaluator import short_names, split_figure

    figures_of: dict[str, dict[str, float]] = {}
    for name, value in figures.items():
        data, measure = split_figure(name)
        figures_of.setdefault(data, {})[measure] = value
    short = short_names(figures_of)
    return {short[data]: measures for data, measures in figures_of.items()}


def held_out_table(figures: Figures) -> list[NamedTable]:
    """A table of recall and zero-shot accuracy, a column a set; or none.

    Args:
        figures: of `RunResult`.
    """
    figures_of = by_data(figures)
    measures = {f"{way.replace('_', ' ')} R@{k}": f"{way}/R@{k}" for way in WAYS for k in (1, 5, 10)}
    measures |= {"zero-shot accuracy": "zero_shot/accuracy", "commonest class": "zero_shot/majority"}
    rows: list[tuple[Any, ...]] = [
        (label, *(f"{own[measure]:.3f}" if measure in own else "" for own in figures_of.values()))
        for label, measure in measures.items()
        if any(measure in own for own in figures_of.values())
    ]
    if not rows:
        return []
    counts = [_pictures(own) for own in figures_of.values()]
    rows.append(("pictures", *("" if count is None else str(count) for count in counts)))
    title = "held out (an equal caption counts as found; of several, the picture's own)"
    return [(title, ("share", *figures_of), rows)]


def few_pictures(figures: Figures) -> list[str]:
    """Between which limits a share lies that few pictures gave, a sentence a set."""
    from binderclip.evaluate.probes import wilson

    lines = []
    for name, own in by_data(figures).items():
        count = _pictures(own)
        measure = next((m for m in ("zero_shot/accuracy", "image_to_text/R@1") if m in own), None)
        if count is None or count >= FEW_HELD_OUT or measure is None:
            continue
        low, high = (float(limit) for limit in wilson(own[measure] * count, count))
        lines.append(
            f"warning: {number_of(count, 'picture')} of {name} measure little: {measure.replace('_', ' ')} "
            f"{own[measure]:.3f} says that it lies between {low:.2f} and {high:.2f} (95 %)"
        )
    return lines


def _pictures(figures: Figures) -> int | None:
    """How many pictures stand behind the figures of a set."""
    count = figures.get("zero_shot/count", figures.get("count"))
    return None if count is None else int(count)
