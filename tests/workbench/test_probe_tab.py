"""The tab Probe: the gaps of the verb, its report and lines; what cannot be compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from binderclip.errors import UsageError


def compared(run: Any, data: Any, **options: Any) -> Any:
    from binderclip.workbench.tabs.probe import work

    given = {"groups": "", "labels": "", "positive": "", "limit": 500, **options}
    return work(run, str(data), *given.values())


def test_the_planted_gap_is_found_as_by_the_verb(planted: Path, run_of: Any, command: Any, lines: Any) -> None:
    outcome = compared(run_of(folders=[planted]), planted, groups="light", positive="food")
    page, groups, figures, table = outcome.files
    assert [path.name for path in (page, groups, table)] == ["report.html", "groups.csv", "predictions.parquet"]
    here = json.loads(figures.read_text(encoding="utf-8"))
    gap = here["reports"][0]["measures"]["accuracy"]["gap"]
    assert (gap["found"], gap["smallest"]) == (True, ["night"])
    assert f"<td>{gap['difference']:.3f}</td>" in outcome.values[0]
    assert "<td>found</td>" in outcome.values[0]
    assert 'iframe sandbox title="Report"' in outcome.values[1]
    # The line of shell measures the same.
    there = command(*lines.words(outcome.again.shell), "--json").json()
    assert there["reports"] == here["reports"]
    assert there["mitigations"] == here["mitigations"]
    assert "'light'" in outcome.again.python


def test_every_column_is_a_grouping_and_combinations_are_taken(planted: Path, run_of: Any) -> None:
    both = compared(run_of(folders=[planted]), planted, limit=60).values[0]
    assert "by light:" in both
    assert "by camera:" in both
    joined = compared(run_of(folders=[planted]), planted, groups="light, camera; camera", limit=60).values[0]
    assert "by light x camera: " in joined
    assert "by light:" not in joined


def test_what_cannot_be_compared_is_said(planted: Path, run_of: Any, tmp_path: Path) -> None:
    run = run_of(folders=[planted])
    for options, said in (
        ({"groups": "weather"}, "no attribute 'weather'"),
        ({"positive": "car"}, "positive class car"),
        ({"labels": "food"}, "two labels or more"),
    ):
        with pytest.raises(UsageError, match=said):
            compared(run, planted, **options)
    for place, said in ((tmp_path, "was not opened on"), ("", "choose a folder")):
        with pytest.raises(UsageError, match=said):
            compared(run, place)


def test_the_page_compares_groups(view: Any) -> None:
    panel = view.tab("Probe")
    panel.get_by_label("Columns that make groups").fill("weather")
    panel.get_by_label("Pictures with classes").fill("openmoji")
    panel.get_by_label("Pictures with classes").press("Enter")
    assert "weather" in view.run(panel, "Probe")
    assert view.look("probe") == []
    assert view.axe() == []
