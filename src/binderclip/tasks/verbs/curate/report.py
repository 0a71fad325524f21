"""The page of `binderclip curate`: what each stage dropped, where its threshold lies, and pictures on either side."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from binderclip.display import number_of
from binderclip.errors import DataError
from binderclip.tasks.report.page import Page
from binderclip.tasks.report.sheet import figure_picture

if TYPE_CHECKING:
    from PIL import Image

    from binderclip.curate import BoundarySample, Curated, SampleTable, StageReport

SIDE = 132
"""Side of a picture at a threshold, in pixels."""


def write_report(curated: Curated, table: SampleTable, data: str, path: Path) -> Path:
    """Write the page, self-contained.

    Args:
        curated: what a pipeline found.
        table: the pool, whose pictures are shown.
        data: its name.
        path: of the page.
    """
    report = curated.report
    page = Page(
        f"What was kept of {data}",
        f"{report.kept:,} of {number_of(report.entered, 'sample')} "
        f"({report.kept / max(report.entered, 1):.1%}). Made by "
        "<code>binderclip curate</code>.",
    )
    page.section("Stages", "Each stage sees what those before it kept; a dropped sample does not meet the condition.")
    page.table(
        ["stage", "in", "dropped", "out", "share of the pool"],
        [[s.name, s.entered, s.dropped, s.kept, f"{s.kept / max(report.entered, 1):.1%}"] for s in report.stages],
    )
    for number, stage in enumerate(report.stages, 1):
        if stage.entered and (stage.column or stage.figures):
            _stage(page, number, stage, table)
    if report.skipped:
        page.section("Not read", f"Could not be read, and were never samples: {len(report.skipped)}.")
        page.table(["what", "why"], [list(entry) for entry in report.skipped[:50]])
    return page.save(path)


def _stage(page: Page, number: int, stage: StageReport, table: SampleTable) -> None:
    page.section(f"{number} {stage.name}", f"Keeps {escape(stage.reason)}: {stage.kept:,} of {stage.entered:,}.")
    if stage.column and len(stage.values):
        page.picture(figure_picture(stage.plot()), f"{stage.column} of what entered the stage, and the threshold")
    plain = [[name, value] for name, value in stage.figures.items() if not isinstance(value, (list, dict))]
    if plain:
        page.table(["figure", "value"], [[name, _shown(value)] for name, value in plain])
    for title, kept in (("Kept, nearest to the threshold", True), ("Dropped, nearest to the threshold", False)):
        side = [sample for sample in stage.boundary if sample.kept == kept]
        if side:
            page.text(f"{title}:")
            _samples(page, side, table, stage.column)


def _samples(page: Page, side: Sequence[BoundarySample], table: SampleTable, column: str) -> None:
    cards = [(picture_of(table, sample), sample) for sample in side]
    shown = [(picture, f"{sample.value:.4g}  {sample.text[:80]}") for picture, sample in cards if picture is not None]
    if shown:
        page.strip(shown, width=SIDE)
    rest = [[sample.value, sample.name, sample.text[:120]] for picture, sample in cards if picture is None]
    if rest:
        page.table([column, "name", "caption"], rest)


def picture_of(table: SampleTable, sample: BoundarySample) -> Image.Image | None:
    """The picture of a sample, small; None where the pool has none or it cannot be read."""
    from binderclip.data.images import contained, open_image

    shard = table.load(sample.shard)
    if shard.pictures is None:
        return None
    try:
        source = next(iter(shard.take(np.array([sample.row])).open_pictures()))
        picture = open_image(source).convert("RGB")
    except (DataError, StopIteration):
        return None
    return contained(picture, SIDE)


def _shown(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
