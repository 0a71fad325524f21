"""What `binderclip probe` writes: one page, the table of predictions, and the figures for other programs."""

from __future__ import annotations

import math
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from binderclip.display import new_figure, number_of
from binderclip.tasks.files.writing import write_csv, write_json
from binderclip.tasks.report.page import Page
from binderclip.tasks.report.sheet import figure_picture, small_picture
from binderclip.tasks.verbs.probe.gaps import GAP_COLUMNS, gap_rows
from binderclip.tasks.verbs.probe.result import FIGURES, PAGE

if TYPE_CHECKING:
    from PIL import Image

    from binderclip.evaluate import GroupReport
    from binderclip.tasks.verbs.probe.result import Probe

SIDE, MOST, MOST_GROUPS = 132, 12, 24
"""Side of a picture in pixels, pictures of a group, and groups of a plot."""


def write_results(probe: Probe, folder: Path) -> Path:
    """Write `report.html`, `predictions.parquet`, `groups.csv` and `probe.json`; the path of the page.

    Raises:
        DataError: a file cannot be written.
    """
    # First what says whose the folder is: the next two files have no place for it.
    write_json(probe.figures(), folder / FIGURES)
    probe.predictions.save(folder / "predictions.parquet")
    rows = [(" x ".join(report.names), *row) for report in probe.reports for row in report.rows()]
    write_csv(("grouping", "measure", "group", "n", "value", "low", "high"), rows, folder / "groups.csv")
    return _page(probe).save(folder / PAGE)


def _page(probe: Probe) -> Page:
    gaps = [gap for report in probe.reports for gap in report.gaps.values() if not (gap.reason or gap.untested)]
    count = sum(gap.found for gap in gaps)
    summary = f"{count} of {len(gaps)} gaps found" if count else f"none of {len(gaps)} gaps is larger than chance makes"
    if not gaps:
        untested = any(gap.untested for report in probe.reports for gap in report.gaps.values())
        summary = f"no gap could be {'tested' if untested else 'measured'}"
    page = Page(
        f"Groups of pictures that {probe.model} treats unlike",
        f"{number_of(len(probe.predictions), 'picture')} of {escape(probe.source)}, "
        f"{number_of(len(probe.predictions.classes), 'class')}: {summary}. Made by "
        "<code>binderclip probe</code>.",
    )
    among = "within each class for accuracy and rates, so that an unequal mix of classes is not held against the model"
    if any(report.null == "all" for report in probe.reports):
        among = "over all pictures, so that an unequal mix of classes is held against the model"
    page.section(
        "How to read it",
        "A gap is the largest minus the smallest value over groups. It is never negative: chance alone makes one, the "
        "larger the fewer pictures there are. <em>By chance</em> is the mean gap where the groups of the pictures are "
        f"shuffled, {among}; <em>p</em> is how often that gap is at least as large, corrected for all gaps of this "
        "page by Holm's method. The interval is that of the largest true difference, whichever groups it is between.",
    )
    for report in probe.reports:
        _grouping(page, probe, report)
    if probe.mitigations:
        page.section(
            "What helps",
            "Fitted on one half of the pictures, measured on the other, whose number is in the last column: with few, "
            "chance makes the last points. A change that closes one gap may open another: with unequal base rates, "
            "selection rates and true positive rates cannot both be alike.",
        )
        columns = ("groups", "change", "accuracy", "measure", "smallest", "in", "gap", "pictures")
        page.table(columns, [
            (" x ".join(m.names), m.method, m.accuracy, m.measure, m.lowest, _label(m.lowest_group), m.gap, m.n)
            for m in probe.mitigations
        ])  # fmt: skip
    if probe.left_out:
        page.section("Not measured", "<br>".join(escape(line) for line in probe.left_out))
    if probe.skipped:
        page.section("Not read", f"{number_of(len(probe.skipped), 'picture')} could not be read and count nowhere.")
        page.table(("picture", "why"), [list(entry) for entry in probe.skipped[:50]])
    return page


def _grouping(page: Page, probe: Probe, report: GroupReport) -> None:
    small = ", ".join(map(_label, report.small[:10]))
    page.section(
        f"By {' x '.join(report.names)}",
        f"Compared: {number_of(report.compared, 'group')}."
        + (f" Too few pictures: {escape(small)}." if small else "")
        + (f" Without a group: {number_of(report.left_out, 'picture')}." if report.left_out else ""),
    )
    page.table(GAP_COLUMNS, gap_rows(report))
    page.picture(
        figure_picture(_dots(report)),
        "each measure by group with its 95 % interval; the line is the value of all pictures, the band as wide as "
        "the gap that shuffled groups stay below in 95 % of cases",
    )
    gap = report.gaps["accuracy"]
    if not gap.smallest:
        return
    shown = _worst(probe, report.names, gap.smallest)
    if shown:
        group = escape(_label(gap.smallest))
        page.text(f"Wrong answers the model is surest of, in the group with the lowest accuracy, {group}:")
        page.strip(shown, width=SIDE)


def _dots(report: GroupReport) -> Any:
    names = list(report.figures)
    groups = next(iter(report.figures.values()))[:MOST_GROUPS]
    columns = min(2, len(names))
    lines = -(-len(names) // columns)
    figure = new_figure(10, lines * (1.1 + 0.24 * len(groups)))
    flat = list(figure.subplots(lines, columns, squeeze=False, sharey=True).flat)
    for axes, name in zip(flat, names, strict=False):
        own, gap = report.figures[name][:MOST_GROUPS], report.gaps[name]
        whole = report.overall[name].value
        if not math.isnan(gap.chance_high):
            axes.axvspan(whole - gap.chance_high / 2, whole + gap.chance_high / 2, color="#e3e7ee", lw=0)
        axes.axvline(whole, color="#666666", lw=1)
        for place, one in enumerate(own):
            lowest = gap.found and one.group == gap.smallest
            colour = "#bbbbbb" if one.group in report.small else "C3" if lowest else "C0"
            axes.plot([one.low, one.high], [place, place], color=colour)
            axes.plot(one.value, place, "o", color=colour)
        axes.set_title(name, fontsize=10)
        axes.set_yticks(range(len(own)), [f"{_label(one.group)[:24]} ({one.n})" for one in own], fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    flat[0].invert_yaxis()
    for axes in flat[len(names) :]:
        axes.axis("off")
    return figure


def _worst(probe: Probe, names: tuple[str, ...], group: tuple[Any, ...]) -> list[tuple[Image.Image, str]]:
    """Pictures of a group that are wrong, the surest first, each with what was said and what it is."""
    table = probe.predictions
    grouping = table.groups(*names)
    mine = (grouping.index == grouping.values.index(group)) & table.known & (table.predicted >= 0) & ~table.correct
    confidence, shown = np.nan_to_num(table.confidence()), []
    for row in sorted(np.flatnonzero(mine).tolist(), key=lambda row: -confidence[row]):
        picture = small_picture(probe.data, row, SIDE)
        if picture is not None:
            answer, truth = table.classes[table.predicted[row]], table.classes[table.target[row]]
            shown.append((picture, f"{answer} {confidence[row]:.2f}, is {truth}"))
        if len(shown) == MOST:
            break
    return shown


def _label(group: tuple[Any, ...]) -> str:
    return " / ".join(map(str, group))
