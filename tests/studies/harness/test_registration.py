"""The hash of criteria, and which commit is older, in a repository made for the test."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from binderclip.errors import UsageError
from binderclip.studies import Criterion, Study, available, criteria_hash, load_study, value_of
from binderclip.studies.harness.criteria import Exact
from binderclip.studies.harness.registration import authored, has_history, introduced, is_older, registrations


def plain(table):
    """Met."""
    return table.mean("m", "a") > 0.5, "x"


def other(table):
    return table.mean("m", "a") > 0.6, "x"


def same_as_plain(table):
    # another comment and other line breaks
    return (
        table.mean("m", "a") > 0.5,
        "x",
    )


same_as_plain.__name__ = "plain"


def study(*criteria: Criterion) -> Study:
    return Study(
        "p001", "c.", "p.", "b.", "l.", "", lambda seed: [], criteria, lambda t, f: None, remeasure="a test."
    )  # fmt: skip


def bounded(bound: float = 0.5, text: str = "a", **options: object) -> Study:
    return study(Criterion.at_least(text, value_of("m", "a"), bound, essential=True, **options))


def test_what_is_declared_changes_the_hash_and_nothing_else_does() -> None:
    first = criteria_hash(bounded())
    assert first == criteria_hash(bounded())
    assert len(first) == 12
    changed = [bounded(0.6), bounded(text="b"), bounded(margin=0.1), bounded(claimed=0.1)]
    assert len({first, *map(criteria_hash, changed)}) == 5
    assert criteria_hash(replace(bounded(), protocol="other.", registered=first)) == first


def test_a_test_counts_by_its_code_not_by_its_formatting() -> None:
    def made(test) -> str:
        return criteria_hash(study(Criterion("a", test, essential=True)))

    body = [made(plain), made(same_as_plain), made(other)]
    assert body[0] != body[2]
    stripped = made(eval("lambda table: (True, 'x')"))
    assert stripped != body[0]

    def closed(bound: float):
        def test(table):
            return table.mean("m", "a") > bound, "x"

        return test

    assert made(closed(0.5)) == made(closed(0.5)) != made(closed(0.6))


def git(root: Path, *words: str) -> str:
    author = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", "-C", str(root), *author, *words], capture_output=True, text=True, check=True).stdout


def test_the_older_of_two_commits_is_found(tmp_path: Path) -> None:
    assert not has_history(tmp_path)
    assert registrations(tmp_path, "studies") == {}
    git(tmp_path, "init", "-q")
    for folder, text in (("studies", "start"), ("studies", 'registered="abc"'), ("results", "abc"), ("studies", "end")):
        path = tmp_path / folder / "file"
        path.parent.mkdir(exist_ok=True)
        path.write_text((path.read_text() if path.exists() else "") + text + "\n")
        git(tmp_path, "add", "-A")
        git(tmp_path, "commit", "-qm", text)
    assert has_history(tmp_path)
    ours, theirs = introduced(tmp_path, "abc", "studies"), introduced(tmp_path, "abc", "results")
    assert ours is not None
    assert theirs is not None
    assert is_older(tmp_path, ours, theirs)
    assert not is_older(tmp_path, theirs, ours)
    assert not is_older(tmp_path, ours, ours)
    assert introduced(tmp_path, "xyz", "studies") is None
    assert registrations(tmp_path, "studies") == {"abc": ours}
    (tmp_path / "studies" / "file").rename(tmp_path / "studies" / "moved")  # what moves is as old as before
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "move")
    assert registrations(tmp_path, "studies") == {"abc": ours}
    assert registrations(tmp_path, "nowhere") == {}
    # Taken back and measured again: the second time counts.
    for text in ("", "abc\n"):
        (tmp_path / "results" / "file").write_text(text)
        git(tmp_path, "commit", "-qam", "again")
    assert introduced(tmp_path, "abc", "results") == theirs
    assert introduced(tmp_path, "abc", "results", again=True) == git(tmp_path, "rev-parse", "HEAD").strip()


def test_the_date_of_writing_outlives_a_new_order(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    for day in ("2026-01-02", "2026-01-01"):
        git(tmp_path, "commit", "-qm", day, "--allow-empty", "--date", f"{day}T00:00:00+00:00")
    later, earlier = git(tmp_path, "log", "--format=%H").split()[::-1]
    assert is_older(tmp_path, later, earlier)
    assert authored(tmp_path, later) - authored(tmp_path, earlier) == 86_400
    with pytest.raises(UsageError, match="no commit"):
        authored(tmp_path, "0" * 40)


@pytest.mark.parametrize("paper", [paper for paper in available() if load_study(paper).registered])
def test_studies_by_the_rules_of_today_are_registered(paper: str) -> None:
    found = load_study(paper)
    assert found.registered == criteria_hash(found)
    assert not found.remeasure
    # A theorem or a count needs no seeds, everything else a design that can see the claimed effect.
    essential = [criterion for criterion in found.criteria if criterion.essential]
    assert found.power or all(isinstance(criterion, Exact) for criterion in essential)
