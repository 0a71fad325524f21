"""The page of papers: its counts and tables, read from the page and held to the stored JSON and papers.toml."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from binderclip.papers import CHECKS, JOBS, papers
from binderclip.studies import papers_page, results_in

ROOT = Path(__file__).resolve().parents[3]
STORED = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (ROOT / "docs/results").glob("p*.json")}
DONE = papers(status="done")


@pytest.fixture(scope="module")
def page() -> str:
    return papers_page(results_in(ROOT / "docs" / "results"))


def tables(page: str) -> dict[str, list[dict[str, str]]]:
    """Heading -> rows of its table, each from the name of a column to its cell."""
    found = {}
    for part in page.split("\n## ")[1:]:
        title, _, text = part.partition("\n")
        lines = [re.split(r"(?<!\\) \| ", line[2:-2]) for line in text.splitlines() if line.startswith("| ")]
        found[title] = [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]
    return found


def paper_of(row: dict[str, str]) -> str:
    return re.search(r'<a id="(p\d{3})">', row["paper"])[1]  # type: ignore[index]


def test_every_paper_stands_once_in_the_table_of_its_job_and_planned_ones_apart(page: str) -> None:
    found = tables(page)
    assert sorted(paper_of(row) for row in found.pop("Planned", [])) == [p.id for p in papers(status="planned")]
    assert {title: sorted(map(paper_of, rows)) for title, rows in found.items()} == {
        title: [entry.id for entry in DONE if entry.job == job]
        for job, title in JOBS.items()
        if any(entry.job == job for entry in DONE)
    }


def test_the_counts_at_the_top_are_those_of_the_files(page: str) -> None:
    head = page.partition("\n## ")[0]
    verdicts = Counter(stored["verdict"] for stored in STORED.values())
    assert all(f"{number} `{verdict}`" in head for verdict, number in verdicts.items())
    told = [stored["checks"] for stored in STORED.values() if stored["verdict"] != "not testable here"]
    parts = [c for checks in told for c in checks if c["essential"] and c["role"] == "criterion"]
    seen = [c for c in parts if c["outcome"] == "seen"]
    assert f"{len(seen)} of the {len(parts)} essential parts" in head
    rivals = Counter(c["outcome"] for checks in told for c in checks if c["role"] == "rival")
    assert set(rivals) == {"seen", "open", "opposite"}
    assert f"{rivals['seen']} of {sum(rivals.values())} methods were better" in head
    assert f"{rivals['open']} could not be told from it and {rivals['opposite']} were worse" in head
    strongest = Counter(entry.checked[0][0] for entry in DONE)
    assert f"All {len(DONE)} implementations" in head
    assert all(f" {number} against" in head for number in strongest.values())


def test_a_row_tells_what_the_file_of_its_study_tells(page: str) -> None:
    for rows in (rows for title, rows in tables(page).items() if title != "Planned"):
        for row in rows:
            stored = STORED[paper_of(row)]
            verdict, parts = re.match(r"\[([^]]+)\]\(results/p\d+\.md\)(?:<br>(.*))?$", row["claim here"]).groups()  # type: ignore[union-attr]
            assert re.sub(r"^no .* of .*", "no effect of X or more", verdict) == stored["verdict"]
            essential = [c for c in stored["checks"] if c["essential"] and c["role"] == "criterion"]
            if stored["verdict"] == "not testable here":
                assert row["why not testable"]
                assert not parts
                continue
            assert parts.startswith(f"{sum(c['outcome'] == 'seen' for c in essential)} of {len(essential)} part")
            rival = [c["outcome"] for c in stored["checks"] if c["role"] == "rival"]
            word = {"seen": "beaten: ", "open": "tied: ", "opposite": "lost: "}
            assert row.get("cheap rival", "").startswith(word[rival[0]] if rival else "")


def test_no_verdict_is_better_than_the_one_above_it(page: str) -> None:
    order = ["[reproduced", "[in part", "[no ", "[opposite here", "[not testable here", "[undecided"]
    for rows in (rows for title, rows in tables(page).items() if title != "Planned"):
        places = [next(n for n, word in enumerate(order) if row["claim here"].startswith(word)) for row in rows]
        assert places == sorted(places)


def test_links_to_tests_lead_to_them(page: str) -> None:
    found = re.findall(r"\[([a-z ]+)\]\(\.\./(tests/[^)]+)\)", page)
    assert {kind for kind, _ in found} == {kind for entry in DONE for kind, _ in entry.checked} <= set(CHECKS)
    assert all((ROOT / path).is_file() for _, path in found)


def test_the_page_of_a_paper_begins_with_what_a_stranger_asks() -> None:
    for entry in DONE:
        text = (ROOT / "docs" / "results" / f"{entry.id}.md").read_text(encoding="utf-8")
        places = [text.index(f"- **{name}:** ") for name in ("The paper says", "Compared with", "Not as in the paper")]
        places += [text.index(f"- **{name}:** ") for name in ("Seen", "For choosing")]
        # Of criteria that are registered for a measurement to come, the old protocol is no longer there to be told.
        how = "**Protocol.**" if "**To come.**" not in text else "**Registered again, not measured yet.**"
        places += [text.index("| part of the claim |"), text.index(how), text.rindex("**History.**")]
        assert places == sorted(places), entry.id
        assert all(f"Former verdict: {former['verdict']}; " in text for former in STORED[entry.id]["history"]), entry.id


def test_what_is_planned_stands_apart_with_its_names(planned_paper: str) -> None:
    (row,) = tables(papers_page({}))["Planned"]
    assert paper_of(row) == planned_paper
    assert "`" in row["names"]
