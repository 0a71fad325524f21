"""The study framework: verdicts follow the rule, failures are results, and what is written is read back."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest

from binderclip.errors import DataError, UsageError
from binderclip.papers import papers
from binderclip.studies import Criterion, Row, Study, Table, available, load_study, read, run_study, save
from binderclip.studies.harness import run
from binderclip.studies.harness.report import markdown, pivot
from binderclip.studies.harness.study import decide


def criterion(met: bool, essential: bool) -> Criterion:
    return Criterion("c", lambda table: (met, "m"), essential)


@pytest.mark.parametrize(
    ("checks", "verdict"),
    [
        ([(True, True), (True, False)], "holds"),
        ([(True, True), (False, False)], "weak"),
        ([(False, True), (True, False)], "not shown at this scale"),
        ([(True, True), (False, True)], "not shown at this scale"),
    ],
)
def test_the_verdict_follows_the_rule(checks: list[tuple[bool, bool]], verdict: str) -> None:
    found, listed = decide([criterion(met, essential) for met, essential in checks], Table([]))
    assert found == verdict
    assert [(c.met, c.essential) for c in listed] == checks


def study(measure) -> Study:
    return Study(
        paper="p162",
        claim="claim.",
        protocol="protocol.",
        baseline="baseline.",
        lower_bound="lower.",
        upper_bound="",
        measure=measure,
        criteria=(Criterion("a beats b", lambda t: (t.mean("acc", "a") > t.mean("acc", "b"), "measured"), True),),
        draw=lambda table, figure: figure.subplots().plot(table.values("acc", "a")),
        stand_in=("tiny",),
    )


@pytest.fixture
def registered(monkeypatch):
    """Put a study under the id p162."""

    def put(made: Study) -> None:
        module = ModuleType("fake_study")
        module.STUDY = made  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "fake_study", module)
        monkeypatch.setattr(run, "available", lambda: {"p162": "fake_study"})

    return put


def test_a_study_runs_over_its_seeds_and_is_read_back_as_it_was(registered, tmp_path) -> None:
    registered(study(lambda seed: [Row("acc", "a", 0.5 + 0.1 * seed), Row("acc", "b", 0.4)]))
    seen: list[str] = []
    result = run_study("p162", progress=seen.append)
    assert (result.verdict, result.seeds, len(result.rows)) == ("holds", [0, 1, 2], 6)
    assert result.table.values("acc", "a").tolist() == pytest.approx([0.5, 0.6, 0.7])
    assert len(seen) == 3
    written = save(result, tmp_path)
    assert [path.suffix for path in written] == [".json", ".md", ".png"]
    again = read(written[0])
    assert (again.verdict, again.checks, again.rows) == (result.verdict, result.checks, result.rows)
    text = written[1].read_text(encoding="utf-8")
    for part in ("**holds**", "claim.", "baseline.", "lower.", "tiny", "a beats b", "arxiv.org/abs/2402.04087"):
        assert part in text
    assert markdown(again, load_study("p162")) == text
    assert run_study("p162", [5]).rows[0].seed == 5


@pytest.mark.parametrize(
    ("measure", "reason"),
    [
        (lambda seed: [Row("acc", "a", float("nan"), "4 shots")], "ArithmeticError: acc of a 4 shots is nan"),
        (lambda seed: [Row("acc", "b", 1.0)], "UsageError: the study measured no 'acc' of 'a'"),
        (lambda seed: (_ for _ in ()).throw(DataError("no such set")), "DataError: no such set"),
    ],
)
def test_what_goes_wrong_inside_is_the_result(registered, measure, reason: str, tmp_path) -> None:
    registered(study(measure))
    result = run_study("p162")
    assert result.verdict == "failed"
    assert reason in result.reason
    assert [path.name for path in save(result, tmp_path)] == ["p162.json"]
    assert read(tmp_path / "p162.json").reason == result.reason


def test_a_study_that_cannot_be_imported_fails_with_the_reason(monkeypatch) -> None:
    monkeypatch.setattr(run, "available", lambda: {"p162": "absent_module_of_a_study"})
    assert "No module named 'absent_module_of_a_study'" in run_study("p162").reason


def test_misuse_is_named(tmp_path) -> None:
    planned = next(entry.id for entry in papers() if entry.status == "planned")
    with pytest.raises(UsageError, match=f"no study of {planned} yet"):
        run_study(planned)
    with pytest.raises(UsageError, match="at least one seed"):
        run_study("p162", [])
    with pytest.raises(UsageError, match="must be essential"):
        Study("p1", "", "", "", "", "", lambda seed: [], (criterion(True, False),), lambda t, f: None)
    (tmp_path / "p162.json").write_text("{}")
    with pytest.raises(DataError, match="not the result of a study"):
        read(tmp_path / "p162.json")


def test_pivot_shows_mean_and_deviation_over_seeds() -> None:
    rows = [Row("acc", m, v, s, seed) for m, s, v, seed in [("a", "x", 1, 0), ("a", "x", 3, 1), ("b", "y", 0.5, 0)]]
    lines = pivot(Table(rows), "acc")
    assert lines[0] == "| acc | x | y |"
    assert f"2.000 ± {np.std([1, 3], ddof=1):.3f}" in lines[2]
    assert lines[3] == "| b |  | 0.500 |"


def test_every_study_of_the_package_is_complete() -> None:
    for identifier in available():
        found = load_study(identifier)
        assert found.paper == identifier
        assert len(found.seeds) >= 3
        for text in (found.claim, found.protocol, found.baseline, found.lower_bound):
            assert text.endswith("."), identifier
        assert found.stand_in, identifier
