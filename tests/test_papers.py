"""Every paper marked done is held to what done means: code, check, study, and a way for users to reach it."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path

import pytest

from binderclip.errors import UsageError
from binderclip.papers import Paper, papers
from binderclip.studies import available, checkout, load_study, papers_page, results_in

ROOT = Path(__file__).resolve().parents[1]
DONE = papers(status="done")
VERBS = {"explain": "--method", "segment": "--preset", "train": "--clip", "anomaly": "--method"}
ROOMS = {"anomaly": "segment.anomaly"}


def resolved(name: str) -> object:
    """The object `room.Name` or `room.part.Name`."""
    parts = name.split(".")
    found = importlib.import_module(f"binderclip.{parts[0]}")
    for part in parts[1:]:
        found = getattr(found, part)
    return found


def test_some_papers_are_done() -> None:
    assert {"p092", "p147", "p162"} <= {entry.id for entry in DONE}


@pytest.mark.parametrize("entry", DONE, ids=lambda entry: entry.id)
def test_public_objects_have_docstrings_and_one_names_the_paper(entry: Paper) -> None:
    docs = []
    for name in entry.names:
        doc = getattr(resolved(name), "__doc__", None)
        assert doc, f"{name} has no docstring"
        docs.append(re.sub(r"\s+", " ", doc))
    assert any(entry.arxiv in doc or entry.title in doc for doc in docs), f"no docstring names {entry.title}"
    assert any("Args:" in doc for doc in docs), "no docstring lists its arguments"
    assert any("Raises:" in doc for doc in docs), "no docstring says what is raised"


@pytest.mark.parametrize("entry", DONE, ids=lambda entry: entry.id)
def test_test_files_mention_the_paper_its_objects_and_errors(entry: Paper) -> None:
    assert entry.tests
    texts = [(ROOT / path).read_text(encoding="utf-8") for path in entry.tests]
    assert any(entry.id in text or entry.arxiv in text for text in texts)
    for name in entry.names:
        assert any(name.rsplit(".", 1)[-1] in text for text in texts), f"no test mentions {name}"
    assert any("pytest.raises" in text for text in texts), "no test of an error"


@pytest.mark.parametrize("entry", DONE, ids=lambda entry: entry.id)
def test_a_study_is_registered_and_says_what_is_not_the_real_thing(entry: Paper) -> None:
    assert entry.study in available()
    study = load_study(entry.study)
    assert tuple(study.stand_in) == entry.stand_in
    assert study.baseline
    assert study.lower_bound


@pytest.mark.parametrize("entry", DONE, ids=lambda entry: entry.id)
def test_users_reach_it_by_an_option_or_an_import(entry: Paper) -> None:
    assert entry.use
    for line in entry.use:
        if line.startswith("from "):
            match = re.fullmatch(r"from (binderclip\.\w+) import ([\w, ]+)", line)
            assert match, line
            module = importlib.import_module(match[1])
            assert all(hasattr(module, name.strip()) for name in match[2].split(",")), line
        else:
            words = line.split()
            assert words[0] == "binderclip", line
            assert importlib.util.find_spec(f"binderclip.cli.{words[1]}"), line
            option = VERBS[words[1]]
            value = words[words.index(option) + 1]
            room = ROOMS.get(words[1], words[1])
            assert value in importlib.import_module(f"binderclip.{room}").METHODS, line


def test_the_page_is_what_the_stored_results_give() -> None:
    root = checkout()
    assert root == ROOT
    results = results_in(ROOT / "docs" / "results")
    assert {entry.id for entry in DONE} <= set(results)
    assert not [identifier for identifier, result in results.items() if result.verdict == "failed"]
    page = (ROOT / "docs" / "PAPERS.md").read_text(encoding="utf-8")
    assert page == papers_page(results), "docs/PAPERS.md is stale: run `binderclip reproduce --all`"


def test_stored_verdicts_are_the_rule_applied_to_the_stored_rows() -> None:
    from binderclip.studies.harness.study import decide

    for identifier, result in results_in(ROOT / "docs" / "results").items():
        study = load_study(identifier)
        verdict, checks = decide(study.criteria, result.table)
        assert (verdict, [c.met for c in checks]) == (result.verdict, [c.met for c in result.checks]), identifier
        assert result.seeds == list(study.seeds), identifier


def test_an_unknown_study_is_refused() -> None:
    with pytest.raises(UsageError, match="no study of p999"):
        load_study("p999")
