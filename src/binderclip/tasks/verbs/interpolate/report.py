"""The page of `binderclip interpolate`."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from binderclip.display import bars, new_figure, number_of
from binderclip.tasks.report.page import Page
from binderclip.tasks.report.sheet import figure_picture
from binderclip.tasks.verbs.interpolate.result import Interpolation

MOST = 20
"""Layers in the picture."""


def write_report(result: Interpolation, path: Path) -> Path:
    """Write the page, self-contained."""
    page = Page(
        f"From {result.first} to {result.second}",
        f"{number_of(result.count, 'picture')} of {escape(result.source)}, named by {result.named_by}. Made by "
        f"<code>binderclip interpolate</code>.",
    )
    conclusion = list(map(escape, result.conclusion()))
    page.section(
        "The models between",
        f"{' '.join(conclusion[:2])} One half of the pictures, every second one, chooses the weight; the other half is "
        "held out and says what it is worth.",
    )
    page.picture(
        figure_picture(_weights(result)),
        "accuracy and loss over the weight of the second model; dotted is the straight line between the ends, grey the "
        "weight that was chosen",
    )
    page.table(*result.table())
    if result.stragglers is not None:
        page.section(
            "Layer by layer",
            f"{conclusion[-1]} One layer at a time goes from the second model back to the first, all others stay. The "
            "barrier is the largest error above the straight line between both; criticality the largest above that of "
            "the second model. A layer breaks the way where its barrier exceeds two standard errors of a count of "
            "pictures: less may be chance.",
        )
        page.picture(figure_picture(_layers(result)), "barrier of each layer; the mark is what it must exceed")
        _, columns, rows = result.more_tables()[0]
        page.table(columns, rows)
    if result.skipped:
        page.section("Not read", f"{number_of(len(result.skipped), 'picture')} could not be read and count nowhere.")
        page.table(("picture", "why"), [list(entry) for entry in result.skipped[:50]])
    return page.save(path)


def _weights(result: Interpolation) -> Any:
    figure = result.curve.plot()
    for axes in figure.axes:
        axes.axvline(result.best, color="0.7", linewidth=0.8, zorder=0)
    return figure


def _layers(result: Interpolation) -> Any:
    shown = result.layers[:MOST]
    figure = new_figure(7, 0.8 + 0.25 * max(2, len(shown)))
    axes = figure.subplots()
    bars(axes, [one.layer for one in shown], [one.barrier for one in shown])
    axes.plot([one.must_exceed for one in shown], range(len(shown)), "|", color="#333333", markersize=12)
    axes.set_xlabel("error above the straight line")
    return figure
