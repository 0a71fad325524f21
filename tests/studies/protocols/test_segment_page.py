"""The page of all presets: order, bounds and intervals by hand."""

from __future__ import annotations

import pytest

from binderclip.errors import UsageError
from binderclip.studies.harness.table import Row, Table
from binderclip.studies.protocols.segment_page import lines_of, rows_of, segment_page
from binderclip.studies.protocols.tables.segment_table import CHANCE, ONE_LABEL, ORACLE, SETS


def test_presets_stand_by_their_mean_with_differences_and_bounds() -> None:
    values = {"value": 0.4, "vv": 0.5, "kk": 0.1, CHANCE: 0.03, ONE_LABEL: 0.2, ORACLE: 0.9}
    rows = []
    for seed, shift in ((0, -0.02), (1, 0.02)):
        for name in SETS:
            rows += [Row("mIoU", method, value + shift, name, seed) for method, value in values.items()]
            for other in ("vv", "kk"):
                rows.append(Row("gain", f"{other} - value", values[other] - 0.4, name, seed))
                rows.append(Row("gain, half its interval", f"{other} - value", 0.08, name, seed))
    lines = segment_page(Table(rows), seeds=(0, 1), scenes=5).splitlines()
    body = [line.split(" | ") for line in lines if line.startswith("| ")][2:]
    assert [line[0].strip("| `") for line in body] == ["vv", "value", "kk", ORACLE, ONE_LABEL, CHANCE]
    # Two values 0.02 off the mean on either side deviate by 0.02 * sqrt(2).
    assert body[0][1:5] == ["50.0 ± 2.8"] * 4
    # Eight means with halves of 8 points: 8 / sqrt(8).
    assert body[0][5].strip(" |") == "+10.0 (+7.2 to +12.8)"
    assert body[1][5].strip(" |") == ""
    # Measured alone, a preset takes its place among lines that stay.
    again = [Row(row.metric, row.method, 0.45, row.setting, row.seed) if row.method == "kk" else row for row in rows]
    page = segment_page(Table(rows), seeds=(0, 1), scenes=5)
    alone = Table(row for row in again if not row.method.startswith("vv"))
    assert lines_of(page)["vv"] == lines_of(segment_page(alone, kept=lines_of(page)))["vv"]
    assert list(lines_of(segment_page(alone, kept=lines_of(page)))) == ["vv", "kk", "value"]


def test_the_base_must_be_there() -> None:
    with pytest.raises(UsageError, match="name it among the presets"):
        rows_of(0, presets=("vv",))
