"""`binderclip papers` and `binderclip reproduce`: what they print, write and return."""

from __future__ import annotations

import json
import sys
from types import ModuleType

import pytest
from typer.testing import CliRunner

from binderclip.cli import app
from binderclip.errors import UsageError
from binderclip.papers import papers
from binderclip.studies import Criterion, Row, Study
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


@pytest.fixture
def two_studies(monkeypatch):
    def put(identifier: str, value: float) -> None:
        module = ModuleType(f"fake_{identifier}")
        module.STUDY = Study(  # type: ignore[attr-defined]
            identifier, "c.", "p.", "b.", "l.", "", lambda seed: [Row("m", "a", value)],
            (Criterion("above 0", lambda t: (t.mean("m", "a") > 0, "x"), True),), lambda t, f: None, stand_in=("s",),
        )  # fmt: skip
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
    assert [(d["paper"], d["verdict"]) for d in documents] == [("p092", "failed"), ("p162", "holds")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p092.json", "p162.json", "p162.md", "p162.png"]
    assert json.loads((tmp_path / "p162.json").read_text())["seeds"] == [3, 4]


@pytest.mark.usefixtures("two_studies")
def test_one_study_by_name_prints_bounds_and_stand_ins(tmp_path) -> None:
    done = runner.invoke(app, ["reproduce", "gaussianhead", "--out", str(tmp_path)])
    assert done.exit_code == 0
    for part in ("p162: holds", "above 0", "baseline: b.", "lower bound: l.", "not the real thing: s"):
        assert part in done.stdout


def test_misuse_is_refused() -> None:
    planned = next(entry.id for entry in papers() if entry.status == "planned")
    for arguments, words in [
        (["reproduce"], "name one paper, or give --all"),
        (["reproduce", "p162", "--all"], "name one paper"),
        (["reproduce", "p162", "--seeds", "a"], "whole numbers"),
        (["reproduce", planned], f"no study of {planned}"),
        (["reproduce", "nonsense words"], "no paper matches"),
    ]:
        found = runner.invoke(app, arguments)
        assert isinstance(found.exception, UsageError), arguments
        assert words in str(found.exception), arguments
