"""`binderclip probe`: finds a planted bias in a made set, and nothing in a fair control."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from binderclip.evaluate import PredictionTable

Command = Callable[..., Any]


@pytest.fixture(scope="module")
def found(program: Command, planted: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("out") / "probe"
    done = program("probe", "small", "--data", planted, "--positive", "food", "--draws", "400", "--out", out, "--json")
    assert done.code == 0, done.err
    return done.json(), out


def test_the_planted_bias_is_found_and_nothing_in_the_fair_control(found: tuple[dict[str, Any], Path]) -> None:
    document, _ = found
    reports = {tuple(one["groups"]): one["measures"] for one in document["reports"]}
    assert set(reports) == {("light",), ("camera",)}, "both columns were found without being named"
    night = reports[("light",)]["accuracy"]["gap"]
    assert night["found"]
    assert night["smallest"] == ["night"]
    assert night["low"] > 0
    assert not [name for name, own in reports[("camera",)].items() if own["gap"]["found"]]


def test_figures_are_those_of_the_table_that_is_kept(found: tuple[dict[str, Any], Path]) -> None:
    document, out = found
    table = PredictionTable.load(out / "predictions.parquet")
    assert len(table) == document["count"] == 90
    light = np.array(table.attributes["light"])
    by_group = document["reports"][0]["measures"]["accuracy"]["by_group"]
    for one in by_group:
        assert one["value"] == pytest.approx(table.correct[light == one["group"][0]].mean())
    rows = list(csv.reader((out / "groups.csv").open(encoding="utf-8")))
    assert rows[0] == ["grouping", "measure", "group", "n", "value", "low", "high"]
    assert ["light", "accuracy", "night", "45"] in [row[:4] for row in rows]
    methods = {one["method"]: one for one in document["mitigations"] if one["names"] == ["light"]}
    assert {"as it is", "last layer retrained", "last layer retrained, classes and groups reweighed"} <= set(methods)
    assert any("a threshold for each group" in name for name in methods)
    assert methods["as it is"]["n"] == 90 / 2


def test_the_page_shows_gaps_and_wrong_pictures_without_a_network(found: tuple[dict[str, Any], Path]) -> None:
    document, out = found
    page = (out / "report.html").read_text(encoding="utf-8")
    assert document["report"] == str(out / "report.html")
    wrong = document["reports"][0]["measures"]["accuracy"]["by_group"][1]
    assert page.count("data:image/png") > 2, "two plots and pictures"
    assert wrong["value"] < 1
    assert ", is food" in page or ", is animal" in page or ", is flag" in page
    assert '"http' not in page


def test_why_nothing_was_mitigated_is_true(command: Command, planted: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(planted, tmp_path / "set")
    rows = list(csv.reader((folder / "captions.csv").open(encoding="utf-8")))
    for number, row in enumerate(rows[1:]):
        row[4] = "many" if number % 15 else f"few {number}"  # one large group, and six pictures alone
    with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    words = ("--groups", "camera", "--draws", "100", "--out", tmp_path / "out", "--json")
    found = command("probe", "small", "--data", folder, *words).json()
    assert found["mitigations"] == []
    (said,) = (line for line in found["left_out"] if line.startswith("mitigations"))
    assert said == "mitigations by camera: fewer than two groups are large enough"
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "no gap could be measured" in page
    assert "larger than chance makes" not in page


def test_mistakes_are_named(command: Command, planted: Path, tmp_path: Path) -> None:
    for words, said in (
        (("--groups", "weather"), "no attribute 'weather'"),
        (("--positive", "car"), "positive class car: the classes are"),
        (("--labels", "food"), "give two labels or more"),
        (("--labels", "car,house", "--limit", "20"), "nothing is right"),
        (("--draws", "5"), "100"),
        (("--data", tmp_path / "nowhere"), "nowhere"),
    ):
        done = command("probe", "small", "--data", planted, "--out", tmp_path / "out", *words)
        assert done.code in (1, 2)
        assert said in " ".join(done.err.split()), done.err
        assert "Traceback" not in done.err
    assert not (tmp_path / "out").exists(), "nothing is made before the work is done"


def test_groups_that_share_no_class_are_said_not_to_be_tested_and_another_null_tests_them(
    command: Command, planted: Path, tmp_path: Path
) -> None:
    words = ("probe", "small", "--data", planted, "--groups", "label", "--draws", "100", "--out", tmp_path / "out")
    document = command(*words, "--json").json()
    gap = document["reports"][0]["measures"]["accuracy"]["gap"]
    assert gap["untested"].startswith("every true class lies in one group")
    assert gap["p"] is None
    assert not gap["found"]
    shown = command(*words)
    assert "not tested" in " ".join(shown.out.split())
    over_all = command(*words, "--null", "all", "--json").json()["reports"][0]
    assert over_all["null"] == "all"
    assert over_all["measures"]["accuracy"]["gap"]["p"] is not None
    assert "over all pictures" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    wrong = command(*words, "--null", "none")
    assert wrong.code == 2
    assert "--null 'none' is unknown: one of given, all" in wrong.err
