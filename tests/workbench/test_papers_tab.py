"""The tab of papers: what is found, what a card says, and that a study runs from it."""

from __future__ import annotations

import pytest

from binderclip import papers as index
from binderclip.errors import UsageError
from binderclip.studies import stored_result

pytest.importorskip("gradio", reason="the workbench needs Gradio: pip install binderclip[workbench]")

from binderclip.workbench.tabs import papers as tab

CHEAP = "p031"
"""A study of a second."""


def test_a_name_finds_its_paper_alone_and_words_find_all_that_have_them():
    assert [identifier for _, identifier in tab._choices("zclip", "any")] == ["p002"]
    clipping = [identifier for _, identifier in tab._choices("gradient clipping", "any")]
    assert len(clipping) > 2
    assert "p002" not in tab._list("no such words at all", "any")


def test_a_card_says_claim_verdict_and_every_criterion_escaped(planned_paper):
    entry = next(entry for entry in index.papers(status="done") if stored_result(entry.study).checks)
    card, result = tab._card(entry.id), stored_result(entry.study)
    assert result.said in card
    assert card.count("<tr>") == len(result.checks) + 1
    assert "Planned" in tab._card(planned_paper)


def test_every_card_can_be_drawn():
    for entry in index.papers():
        assert entry.id in tab._card(entry.id)


def test_a_study_runs_from_the_page_and_leaves_its_figure(run_of):
    run = run_of()
    outcome = tab.work(run, CHEAP, "quick")
    assert [path.name for path in outcome.files] == [f"{CHEAP}.png"]
    assert outcome.files[0].stat().st_size > 1000
    assert f"binderclip reproduce {CHEAP} --quick" in outcome.again.shell
    assert "no verdict" in outcome.said


def test_what_cannot_be_run_is_said(run_of, planned_paper):
    with pytest.raises(UsageError, match=f"{planned_paper} is planned"):
        tab.work(run_of(), planned_paper, "quick")
    with pytest.raises(UsageError, match="choose a paper"):
        tab.work(run_of(), None, "quick")
