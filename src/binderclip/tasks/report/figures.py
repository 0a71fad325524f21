"""The figures on a model's card as rows of a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def figure_rows(figures: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(data, measure, value) for every figure of a card.

    Args:
        figures: data -> measure -> a number, or three of them, which are R@1, R@5 and R@10; or measure -> number.
    """
    rows = []
    for data, measures in figures.items():
        if not isinstance(measures, Mapping):
            rows.append((data, "", _shown(measures)))
            continue
        for measure, value in measures.items():
            name = measure.replace("_", " ") + (" R@1/5/10" if isinstance(value, (list, tuple)) else "")
            rows.append((data, name, _shown(value)))
    return rows


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " / ".join(_shown(item) for item in value)
    return str(value)
