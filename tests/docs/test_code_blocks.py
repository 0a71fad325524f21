"""Every code block of the site runs, page by page and in order, or says on the page why the tests do not run it.

The guides run in `test_code_blocks_guides.py`.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from binderclip.studies import papers

DOCS = Path(__file__).parents[2] / "docs"
GENERATED = ("PAPERS.md", "SEGMENTATION.md", "BENCHMARKS.md")
PAGES = sorted(page for page in DOCS.rglob("*.md") if page.name not in GENERATED and page.parent.name != "results")
WITH_BLOCKS = [page for page in PAGES if "```" in page.read_text(encoding="utf-8") and page.parent.name != "guides"]


@pytest.mark.parametrize("page", WITH_BLOCKS, ids=lambda page: page.stem)
def test_the_blocks_of_a_page_run(page, run_page):
    run_page(page)


def test_what_runs_elsewhere_does(site_code):
    for name, test in site_code.ELSEWHERE.items():
        source = (DOCS.parent / test).read_text(encoding="utf-8")
        assert f'"{name}"' in source
        assert "BLOCKS" in source


def test_the_study_that_a_page_shows_is_the_real_one(site_code):
    shown = [block.body.strip() for block in site_code.blocks_of(DOCS / "add-a-paper.md")]
    for ending in ("toml", "py"):
        (file,) = Path(papers.__file__).parent.glob(f"p052_*.{ending}")
        assert file.read_text(encoding="utf-8").strip() in shown, f"copy {file.name} onto the page"


def test_no_fence_escapes_the_search(site_code):
    for page in PAGES:
        fences = re.findall(r"^\s*(?:```|~~~)", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert len(fences) == 2 * len(site_code.blocks_of(page)), page


def test_reasons_are_few_and_in_words(site_code):
    every = [block for page in PAGES for block in site_code.blocks_of(page) if block.language in ("python", "bash")]
    unrun = [block for block in every if block.reason]
    assert all(len(block.reason.split()) >= 3 for block in unrun)
    assert len(unrun) < len(every) / 4


def test_a_wrong_block_fails(site_code, run_block, tmp_path, monkeypatch):
    def block(language, body, reason=""):
        return site_code.Block(tmp_path / "page.md", 1, language, body, reason)

    monkeypatch.chdir(tmp_path)
    wrong = [
        block("python", "from binderclip.optim import ZClip\nZClip(no_such=1)"),
        block("bash", "binderclip segment missing.jpg --labels cat"),
        block("bash", "binderclip segment photo.jpg --no-such", "downloads a model"),
        block("bash", "torchrun --no-python binderclip no-such-verb", "starts two processes"),
        block("python", "from binderclip.optim import NoSuchClip", "downloads a model"),
        block("toml", "clip = {"),
        block("text", "binderclip info"),
        block("", "binderclip info"),
    ]
    for each in wrong:
        with pytest.raises((Exception, pytest.fail.Exception)):
            run_block(each, {})
    run_block(block("bash", "binderclip segment photo.jpg --labels cat", "downloads a model"), {})


def test_a_block_is_read_with_its_reason_and_what_is_added(site_code, tmp_path):
    page = tmp_path / "page.md"
    first = f'```bash title="{site_code.NOT_RUN}needs a GPU"\n$ binderclip info \\\n  --json  # all\n```\n'
    second = f'```bash title="{site_code.ADDED}--limit 4: all take a minute"\nbinderclip info\n```\n'
    page.write_text(f"a\n\n{first}\n{second}")
    one, two = site_code.blocks_of(page)
    assert (one.line, one.language, one.reason, one.added) == (3, "bash", "needs a GPU", ())
    assert list(site_code.commands(one.body)) == [["binderclip", "info", "--json"]]
    assert (two.line, two.reason, two.added) == (8, "", ("--limit", "4"))
