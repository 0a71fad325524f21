"""The tables that the site makes hold what the stored results hold, read here from the JSON files alone."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from statistics import mean

import pytest

from binderclip.adapt import METHODS as HEADS
from binderclip.errors import DataError
from binderclip.papers import papers
from binderclip.segment import PRESETS
from binderclip.studies import VERDICTS, results_in

ROOT = Path(__file__).parents[2]
STORED = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (ROOT / "docs/results").glob("p*.json")}


def module(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    found = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


tables = module(ROOT / "docs/generate/tables.py")


@pytest.fixture(scope="module")
def results():
    return results_in(ROOT / "docs" / "results")


def cells(line):
    return [part.strip().replace("\\|", "|") for part in re.split(r"(?<!\\)\|", line.strip().strip("|"))]


def rows(lines):
    return [cells(line) for line in lines if line.startswith("| ") and not line.startswith("| ---")][1:]


def test_every_marker_of_the_pages_is_a_table_and_every_table_is_asked_for(results):
    asked = []
    for page in (ROOT / "docs").rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        asked += re.findall(r"<!-- table: ([\w-]+) -->", text)
        if "<!-- table:" in text:
            made = tables.fill(text, results)
            assert "<!-- table:" not in made
            assert "when the site is built" not in made
            assert all(len(cells(line)) > 1 for line in made.splitlines() if line.startswith("| "))
    assert sorted(asked) == sorted(tables.TABLES)
    with pytest.raises(DataError, match="no table 'nothing'"):
        tables.fill("<!-- table: nothing -->\n", results)


def test_links_lead_to_files_from_a_page_in_a_folder(results):
    made = tables.fill("<!-- table: head-evidence -->\n<!-- table: preset-figures -->\n", results, "../")
    links = set(re.findall(r"\]\((\.\./[^)]*)\)", made))
    assert links
    assert all((ROOT / "docs" / "guides" / link).resolve().is_file() for link in links)


def said_numbers(text):
    """Effect and interval of a cell as the file counts them: factors by their logarithm, values from their bound."""
    shown, _, bound = re.sub(r", n = \d+ \w+$", "", text).partition(", has to be ")
    shown, _, margin = shown.partition(", margin ")
    found = [float(number) for number in re.findall(r"×?([+-]?[\d.]+(?:e[+-]?\d+)?)", shown)[:3]]
    if bound:
        limit = float(bound.removeprefix("below ").removeprefix("above "))
        lower = bound.startswith("below")
        return [sorted([limit - n for n in found] if lower else [n - limit for n in found])]
    if "×" in shown:
        found, margin = [math.log(n) for n in found], margin and math.log(float(margin.strip("×")))
    # A bound on the same scale is taken off in the file; a margin beside two methods is not.
    return [sorted(found), sorted(n - float(margin or 0) for n in found)]


@pytest.mark.parametrize("name", ["clipping-evidence", "head-evidence", "preset-evidence"])
def test_evidence_is_verdict_effect_and_interval_of_the_file(name, results):
    for page, verdict, said, *_ in rows(tables.TABLES[name](results)):
        stored = STORED[re.match(r"\[(p\d{3})\]", page)[1]]
        assert verdict == results[stored["paper"]].said
        shown = [check for check in stored["checks"] if said.startswith(check["text"] + ": ")]
        assert len(shown) == 1, said
        if shown[0]["role"] == "precondition":  # a study that stopped there: a mean without an interval
            assert shown[0]["outcome"] == "missing"
            assert said.endswith(shown[0]["measured"])
            continue
        wanted = sorted(shown[0][key] for key in ("effect", "low", "high"))
        # Three digits of a value leave two or fewer of its distance to the bound.
        near = [each == pytest.approx(wanted, rel=2e-2, abs=6e-3) for each in said_numbers(said.split(": ")[-1])]
        assert any(near), (said, wanted)


def outcome_of_rival(stored):
    return next((check["outcome"] for check in stored["checks"] if check["role"] == "rival"), None)


def test_first_choices_are_claims_that_were_seen_and_rivals_that_were_beaten(results):
    chosen = rows(tables.TABLES["first-choices"](results))
    assert len(chosen) > 15
    for _, name, *_ in chosen:
        stored = STORED[re.search(r"results/(p\d{3})\.md", name)[1]]
        assert stored["verdict"] in ("reproduced", "in part")
        assert outcome_of_rival(stored) in (None, "seen")
    jobs = [job for job, *_ in chosen]
    assert max(map(jobs.count, jobs)) == 3


def test_what_something_cheaper_did_better_than_is_all_that_lost(results):
    found = [
        re.search(r"results/(p\d{3})\.md", name)[1] for _, name, _ in rows(tables.TABLES["cheaper-is-better"](results))
    ]
    told = {key: stored for key, stored in STORED.items() if stored["verdict"] != "not testable here"}
    lost = [key for key, stored in told.items() if outcome_of_rival(stored) == "opposite"]
    assert sorted(found) == sorted(lost)
    won = [key for key, stored in told.items() if outcome_of_rival(stored) == "seen"]
    assert len(lost) > len(won), "the guide says that the cheap rival was better more often than worse"


def test_guides_tell_the_stored_verdicts(results):
    """`(p123, reproduced)` in a text is the verdict of the file, with the effect that is excluded."""
    words = "|".join(verdict.replace("effect of X or more", r".+? of \S+ or \w+") for verdict in VERDICTS)
    found = [
        (page.name, paper, verdict)
        for page in (ROOT / "docs").glob("*/*.md")
        if page.parent.name != "results"
        for paper, verdict in re.findall(rf"\((p\d{{3}}), ({words})\b", page.read_text(encoding="utf-8"))
    ]
    assert len(found) > 5
    assert not [each for each in found if results[each[1]].said != each[2]]


def test_no_page_uses_the_words_of_the_former_rules():
    words = "weak|holds|inconclusive"
    former = re.compile(rf"contradicted here|untestable here|[*`]({words})[*`]|\(p\d{{3}}, ({words})")
    pages = [*ROOT.glob("[RC]*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "docs").glob("[gj]*/*.md")]
    pages = [page for page in pages if page.name != "CHANGELOG.md"]
    assert len(pages) > 20
    assert not [page.name for page in pages if former.search(page.read_text(encoding="utf-8"))]


def test_a_new_measurement_changes_the_table(results):
    changed = {**results, "p162": replace(results["p162"], verdict="reproduced")}
    old, new = (tables.TABLES["head-evidence"](each) for each in (results, changed))
    different = [(a, b) for a, b in zip(old, new, strict=True) if a != b]
    assert len(different) == (0 if results["p162"].verdict == "reproduced" else 1)
    assert all("[p162]" in b and "| reproduced |" in b for _, b in different)
    without = {key: value for key, value in results.items() if key != "p162"}
    assert not any("[p162]" in line for line in tables.TABLES["head-evidence"](without))


def test_accuracies_by_shots_are_means_of_the_rows(results):
    data, checked = "", 0
    lines = tables.TABLES["head-shots"](results)
    for line in lines:
        if line.startswith("**"):
            data = line.strip("*")
        elif line.startswith("| method"):
            shots = [int(cell.split()[0]) for cell in cells(line)[2:]]
        elif line.startswith("| ") and not line.startswith("| ---"):
            method, study, *values = cells(line)
            for number, value in zip(shots, values, strict=True):
                settings = (f"{data}, {number} shot", f"{data}, {number} shots")
                found = [
                    row[4]
                    for row in STORED[re.match(r"\[(p\d{3})\]", study)[1]]["rows"]
                    if row[0] == "accuracy" and row[1] == method and row[2] in settings
                ]
                assert bool(found) == bool(value), (line, number)
                if found:
                    assert float(value.split(" ")[0]) == pytest.approx(mean(found), abs=5.1e-4)
                    checked += 1
    assert checked > 50


def test_every_head_and_preset_has_a_row_with_its_verdict(results):
    names = [row[0].strip("`") for row in rows(tables.TABLES["head-methods"](results))]
    assert names == list(HEADS)
    assert [row[0].strip("`") for row in rows(tables.TABLES["preset-papers"](results))] == list(PRESETS)
    for name, _, does, said in rows(tables.TABLES["head-methods"](results)):
        assert len(does.split()) >= 3, name
        if said:
            assert said.endswith(results[re.match(r"\[(p\d{3})\]", said)[1]].said)


def test_paper_scale_has_every_paper_once(results):
    with_command = re.findall(r"^\*\*(p\d{3})\*\*", "\n".join(tables.TABLES["at-paper-scale"](results)), re.MULTILINE)
    without = [re.match(r"\[?(p\d{3})", row[0])[1] for row in rows(tables.TABLES["without-command"](results))]
    assert with_command == [paper.id for paper in papers() if paper.at_paper_scale]
    assert sorted(with_command + without) == sorted(paper.id for paper in papers(status="done"))


@pytest.mark.parametrize("verb", ["curate", "train"])
def test_plans_of_the_page_are_what_its_commands_print(verb, results, command):
    page = (ROOT / "docs" / "guides" / "laptop-to-cluster.md").read_text(encoding="utf-8")
    assert tables.PLANS[verb] in page
    printed = command(*shlex.split(tables.PLANS[verb])[1:], "--json").json()
    made = tables.TABLES[f"plan-{verb}"](results)
    assert [row[0] for row in rows(made)] == [*(one["name"] for one in printed["passes"]), "together"]
    assert [row[1] for row in rows(made)][:-1] == [f"{one['passes']:.3g}x" for one in printed["passes"]]
    assert printed["stops"] in made
    assert rows(made)[-1][-3].removeprefix("at least ") in (f"{printed['hours']:.3g}", f"{printed['hours']:,.0f}")


def test_commands_at_paper_scale_are_understood(results, site_code, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("\n".join(tables.TABLES["at-paper-scale"](results)), encoding="utf-8")
    blocks = site_code.blocks_of(page)
    assert [block.body.strip() for block in blocks] == [p.at_paper_scale for p in papers() if p.at_paper_scale]
    for block in blocks:
        assert block.reason
        site_code.check_unrun(block)
