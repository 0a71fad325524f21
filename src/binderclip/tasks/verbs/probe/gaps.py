"""Gaps between groups as rows of a table."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from binderclip.evaluate import GroupReport

GAP_COLUMNS = ("measure", "gap", "95%", "by chance", "p", "finding", "smallest", "largest")


def gap_rows(report: GroupReport) -> list[tuple[Any, ...]]:
    """One row a gap, in the order of `GAP_COLUMNS`."""
    rows = []
    for gap in report.gaps.values():
        if gap.reason:
            rows.append((gap.measure, "", "", "", "", gap.finding, "", ""))
            continue
        ends = (" / ".join(map(str, gap.smallest)), " / ".join(map(str, gap.largest)))
        limits = "" if math.isnan(gap.low) else f"{gap.low:.3f} to {gap.high:.3f}"
        chance, p = ("" if math.isnan(value) else f"{value:.3f}" for value in (gap.chance, gap.p_adjusted))
        rows.append((gap.measure, f"{gap.difference:.3f}", limits, chance, p, gap.finding, *ends))
    return rows
