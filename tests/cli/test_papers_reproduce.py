"""`binderclip papers` and `binderclip reproduce`: what they print, write and return."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from types import ModuleType

import pytest
from typer.testing import CliRunner

from binderclip.cli import app
from binderclip.errors import DataError, UsageError
from binderclip.papers import papers
from binderclip.studies import Criterion, Pilot, Row, Study, criteria_hash, read, value_of
from binderclip.studies.harness import run

runner = CliRunner()


def test_papers_lists_finds_and_describes() -> None:
    every = json.loads(runner.invoke(app, ["papers", "--json"]).stdout)
    assert len(every) == 182
    card = runner.invoke(app, ["papers", "p092"])
    assert card.exit_code == 0
    for part in (
        "Rethinking FID",
        "CVPR 2024",
        "quality.CMMD",
        "binderclip reproduce p092",
        "tests/quality/test_mmd.py",
    ):
        assert part in card.stdout
    by_name = json.loads(runner.invoke(app, ["papers", "GaussianHead", "--json"]).stdout)
    assert [entry["id"] for entry in by_name] == ["p162"]
    several = runner.invoke(app, ["papers", "gradient", "clipping"])
    assert "p005" in several.stdout
    done = json.loads(runner.invoke(app, ["papers", "--status", "done", "--json"]).stdout)
    assert {"p092", "p147", "p162"} <= {entry["id"] for entry in done}
    unknown = runner.invoke(app, ["papers", "xyzzy"])
    assert isinstance(unknown.exception, UsageError)
    assert unknown.exception.exit_code == 2


def test_without_words_the_index_is_a_page_and_all_lists_every_paper() -> None:
    shown = runner.invoke(app, ["papers"]).stdout
    assert len(shown) < 6000
    assert len(shown.splitlines()) < 32
    rows = re.findall(r"^ (\w+)  +\S.*?  +(\d+)  +(\d+)  +\S", shown, re.MULTILINE)
    assert {room for room, *_ in rows} == {entry.packages[0] for entry in papers()}
    assert sum(int(of) for *_, of in rows) == len(papers()) == 182
    assert sum(int(done) for _, done, _ in rows) == len(papers(status="done"))
    every = runner.invoke(app, ["papers", "--all"]).stdout
    assert all(entry.id in every for entry in papers())


ABOVE = Criterion.at_least("above 0", value_of("m", "a"), 0.0, claimed=0.5, pilot=Pilot(0.1, (0, 1)), essential=True)


@pytest.fixture
def two_studies(monkeypatch):
    def put(identifier: str, value: float) -> None:
        module = ModuleType(f"fake_{identifier}")
        module.STUDY = Study(  # type: ignore[attr-defined]
            identifier, "c.", "p.", "b.", "l.", "", lambda seed: [Row("m", "a", value)], (ABOVE,), lambda t, f: None,
            seeds=tuple(range(10, 18)), stand_in=("s",),
        )  # fmt: skip
        module.STUDY = replace(module.STUDY, registered=criteria_hash(module.STUDY))  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)

    put("p092", float("nan"))
    put("p162", 1.0)
    names = {"p092": "fake_p092", "p162": "fake_p162"}
    monkeypatch.setattr(run, "available", lambda: names)
    monkeypatch.setattr("binderclip.studies.available", lambda: names)


@pytest.mark.usefixtures("two_studies")
def test_one_failing_study_does_not_stop_the_others_and_sets_the_exit_code(tmp_path) -> None:
    done = runner.invoke(app, ["reproduce", "--all", "--out", str(tmp_path), "--json", "--seeds", "3,4"])
    assert done.exit_code == 1
    documents = json.loads(done.stdout)
    assert [(d["paper"], d["verdict"]) for d in documents] == [("p092", "failed"), ("p162", "undecided")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p092.json", "p162.json", "p162.md", "p162.png"]
    assert json.loads((tmp_path / "p162.json").read_text())["seeds"] == [3, 4]


@pytest.mark.usefixtures("two_studies")
def test_one_study_by_name_prints_bounds_and_stand_ins(tmp_path) -> None:
    done = runner.invoke(app, ["reproduce", "gaussianhead", "--out", str(tmp_path)])
    assert done.exit_code == 0
    for part in ("p162: reproduced", "above 0", "baseline: b.", "lower bound: l.", "not the real thing: s"):
        assert part in done.stdout


@pytest.mark.usefixtures("two_studies")
def test_quick_prints_the_rows_of_one_seed_and_writes_nothing(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = runner.invoke(app, ["reproduce", "p162", "--quick"])
    assert done.exit_code == 0
    assert "no verdict (quick run)" in done.stdout
    assert "reproduced" not in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("two_studies")
def test_a_second_measurement_keeps_the_former_verdict_and_the_reason(tmp_path) -> None:
    arguments = ["reproduce", "p162", "--out", str(tmp_path)]
    runner.invoke(app, [*arguments, "--seeds", "20,21"])
    assert read(tmp_path / "p162.json").verdict == "undecided"
    runner.invoke(app, [*arguments, "--again", "more seeds"])
    found = read(tmp_path / "p162.json")
    assert found.verdict == "reproduced"
    assert [(former.verdict, former.why) for former in found.history] == [
        ("undecided", f"by criteria {found.criteria}; more seeds")
    ]


@pytest.mark.usefixtures("two_studies")
def test_a_run_that_fails_leaves_what_was_measured_before(tmp_path, monkeypatch) -> None:
    arguments = ["reproduce", "p162", "--out", str(tmp_path)]
    runner.invoke(app, arguments)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    working = sys.modules["fake_p162"].STUDY

    def without_data(seed: int) -> list[Row]:
        if seed == 12:
            raise DataError("there is no such data set here")
        return working.measure(seed)

    monkeypatch.setattr(sys.modules["fake_p162"], "STUDY", replace(working, measure=without_data))
    done = runner.invoke(app, arguments)
    assert done.exit_code == 1
    assert "no such data set" in done.stdout
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    kept = read(tmp_path / "failed" / "p162.json")
    assert (kept.verdict, [row.seed for row in kept.rows]) == ("failed", [10, 11])


def test_the_card_says_how_to_go_on_at_paper_scale_and_what_stood_first() -> None:
    card = runner.invoke(app, ["papers", "p105"])
    assert "segment-evaluate VOC" in card.stdout
    assert "--preset plain,maskclip,clip_dinoiser" in card.stdout
    assert "before     holds, " in runner.invoke(app, ["papers", "p147"]).stdout


def test_misuse_is_refused(planned_paper: str) -> None:
    for arguments, words in [
        (["reproduce"], "name one paper, or give --all"),
        (["reproduce", "p162", "--all"], "name one paper"),
        (["reproduce", "p162", "--seeds", "a"], "whole numbers"),
        (["reproduce", "p162", "--quick", "--again", "why"], "--quick writes nothing"),
        (["reproduce", planned_paper], f"no study of {planned_paper}"),
        (["reproduce", "nonsense words"], "no paper matches"),
    ]:
        found = runner.invoke(app, arguments)
        assert isinstance(found.exception, UsageError), arguments
        assert words in str(found.exception), arguments
