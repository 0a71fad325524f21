"""Every paper marked done is held to what done means: code, check, study, and a way for users to reach it."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
from typer.main import get_command

from binderclip.cli import app, panels
from binderclip.errors import UsageError
from binderclip.papers import CHECKS, JOBS, Paper, ReleasedWeights, paper, papers
from binderclip.studies import available, checkout, columns_of, judge_again, load_study, papers_page, results_in
from binderclip.studies.harness.registration import authored, has_history, introduced, is_older, registrations

ROOT = Path(__file__).resolve().parents[1]
DONE = papers(status="done")
SHOWN = ("reproduced", "in part")
VERBS = {"explain": "--method", "segment": "--preset", "train": "--clip", "anomaly": "--method"}
LATE = "The commit that registered these criteria was written after this measurement."
ROOMS = {"anomaly": "segment.anomaly", "train": "optim"}


def resolved(name: str) -> object:
    """The object `room.Name` or `room.part.Name`."""
    parts = name.split(".")
    found = importlib.import_module(f"binderclip.{parts[0]}")
    for part in parts[1:]:
        found = getattr(found, part)
    return found


def test_every_paper_has_a_job() -> None:
    assert {entry.job for entry in papers()} == set(JOBS)


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


PEERS = (
    r"sklearn|scipy|skimage|torchvision|torchmetrics|timm|open_clip|transformers|captum|pytorch_grad_cam|opacus|"
    r"pytorch_optimizer|fairlearn|pywt|cv2|torch\.optim|nn\.utils|F\.\w+_loss|F\.cross_entropy|F\.kl_div|nn\.\w+Loss"
)
"""How a test names a library that it holds the code against; of torch the functions that are the thing itself."""


@pytest.mark.parametrize("entry", DONE, ids=lambda entry: entry.id)
def test_what_the_code_is_held_against_is_told_with_the_test_that_does_it(entry: Paper) -> None:
    kinds = [kind for kind, _ in entry.checked]
    assert kinds
    assert kinds == [kind for kind in CHECKS if kind in kinds], "unknown, or not the strongest first"
    for kind, path in entry.checked:
        assert path in entry.tests, path
        text = (ROOT / path).read_text(encoding="utf-8")
        if kind == "released code":
            assert re.search(r"[Rr]eleased|[Oo]fficial|[Aa]uthors|published code", text), path
        if kind == "peer library":
            assert re.search(PEERS, text), path


@pytest.mark.parametrize("entry", [entry for entry in DONE if entry.cost], ids=lambda entry: entry.id)
def test_a_cost_is_one_that_was_measured(entry: Paper) -> None:
    assert columns_of(entry).cost.startswith("×")


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
            assert words[1] in panels.VERBS, line
            option = VERBS[words[1]]
            value = words[words.index(option) + 1]
            room = ROOMS.get(words[1], words[1])
            assert value in importlib.import_module(f"binderclip.{room}").METHODS, line


RELEASED = [(entry, weights) for entry in papers() for weights in entry.weights]


@pytest.mark.parametrize(("entry", "weights"), RELEASED, ids=lambda value: getattr(value, "id", ""))
def test_released_weights_have_a_loader_that_exists_or_a_reason(entry: Paper, weights: ReleasedWeights) -> None:
    assert entry.status == "done"
    assert weights.whose
    assert bool(weights.loader) == bool(weights.how) != bool(weights.why_not)
    if weights.loader:
        assert callable(resolved(weights.loader)), weights.loader


def test_every_loader_of_released_weights_is_in_the_index() -> None:
    """What opens the files of others by a table of names says for which paper."""
    loaders = {weights.loader.split(".", 1)[1] for _, weights in RELEASED if weights.loader}
    for path in (ROOT / "src" / "binderclip").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if "read_released(" not in text or path.stem == "released":
            continue
        classes = re.findall(r"^class (\w+)", text.partition("def from_released(")[0], re.MULTILINE)
        own = [f"{name}.from_released" for name in classes[-1:] if "def from_released(" in text]
        own += re.findall(r"^def (load_\w+)\(", text, re.MULTILINE)
        assert not own or loaders & set(own), f"{path.name}: none of {own} stands in papers.toml"


def test_the_page_is_what_the_stored_results_give() -> None:
    root = checkout()
    assert root == ROOT
    results = results_in(ROOT / "docs" / "results")
    assert {entry.id for entry in DONE} <= set(results)
    assert not [identifier for identifier, result in results.items() if result.verdict == "failed"]
    page = (ROOT / "docs" / "PAPERS.md").read_text(encoding="utf-8")
    assert page == papers_page(results), "docs/PAPERS.md is stale: run `binderclip reproduce --all`"


def test_stored_verdicts_are_the_rule_applied_to_the_stored_rows() -> None:
    for identifier, result in results_in(ROOT / "docs" / "results").items():
        study = load_study(identifier)
        if study.registered and result.criteria != study.registered:
            continue  # registered, not measured yet
        again = judge_again(result, study)
        assert (again.verdict, [c.outcome for c in again.checks]) == (
            result.verdict,
            [c.outcome for c in result.checks],
        ), identifier
        assert again.history == result.history, identifier
        if result.criteria:
            assert result.seeds == list(study.seeds), identifier
        else:
            assert result.verdict not in ("reproduced", "in part"), (
                f"{identifier}: criteria that were written afterwards"
            )
        assert all(former.why for former in result.history), f"{identifier}: a verdict was replaced without a reason"


def test_criteria_are_older_than_what_they_judged() -> None:
    if not has_history(ROOT):
        pytest.skip("not a git checkout with its whole history")
    registered = registrations(ROOT, "src/binderclip/studies")
    for identifier, result in results_in(ROOT / "docs" / "results").items():
        if not result.criteria:
            continue
        ours = registered.get(result.criteria)
        theirs = introduced(ROOT, result.criteria, f"docs/results/{identifier}.json", again=True)
        if theirs is None:
            continue  # not committed yet
        assert ours is not None, f"{identifier}: no commit registered the criteria {result.criteria}"
        assert is_older(ROOT, ours, theirs), f"{identifier}: criteria and result came with the same commit, or later"
        if authored(ROOT, ours) > authored(ROOT, theirs):
            assert result.verdict not in ("reproduced", "in part"), (
                f"{identifier}: the criteria were written after the result"
            )
            assert LATE in result.notes, f"{identifier}: criteria written after the result, and no note says so"


@pytest.mark.parametrize("entry", [entry for entry in papers() if entry.at_paper_scale], ids=lambda entry: entry.id)
def test_the_command_at_paper_scale_is_one_that_exists(entry: Paper) -> None:
    words = entry.at_paper_scale.split()
    assert words[0] == "binderclip"
    command = get_command(app).get_command(None, words[1])  # type: ignore[attr-defined]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words[2:] if word.startswith("--")} <= known
    name = {**VERBS, "segment-evaluate": "--preset"}.get(words[1], "--methods")
    if name in words:
        room = {"adapt": "adapt", "segment-evaluate": "segment.presets", "anomaly": "segment.anomaly"}[words[1]]
        there = importlib.import_module(f"binderclip.{room}")
        known = there.PRESETS if words[1] == "segment-evaluate" else {*there.METHODS, "sentence-attention"}
        assert set(words[words.index(name) + 1].split(",")) <= set(known)


def test_an_unknown_study_is_refused() -> None:
    with pytest.raises(UsageError, match="no study of p999"):
        load_study("p999")


def test_a_paper_is_found_by_its_number_and_a_misspelled_name_is_met_with_the_nearest() -> None:
    for query in ("p002", "P2", "2", " 002 ", "zclip", "optim.ZClip"):
        assert paper(query).id == "p002", query
    assert paper("162").id == "p162"
    for query, words in (
        ("p999", "no paper matches 'p999': give an id"),
        ("0", "no paper matches '0'"),
        ("zcilp", "did you mean optim.ZClip?"),
        ("  ", "the paper's name is empty"),
        ("clip", "matches"),
    ):
        with pytest.raises(UsageError, match=re.escape(words)):
            paper(query)
