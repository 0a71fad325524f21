"""Every code block of the site runs, page by page and in order, or says on the page why the tests do not run it."""

from __future__ import annotations

import functools
import importlib.util
import re
import sys
import warnings
from pathlib import Path

import pytest
import typer.main

from binderclip.data import write_examples


def beside(name):
    """A module of this folder that is no test."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


code, surroundings = beside("site_code"), beside("site_surroundings")
ROOT = Path(__file__).parents[2]
GENERATED = ("PAPERS.md", "SEGMENTATION.md", "BENCHMARKS.md")
PAGES = sorted(
    page for page in (ROOT / "docs").rglob("*.md") if page.name not in GENERATED and page.parent.name != "results"
)
ELSEWHERE = {"choose-your-clipping.md": ROOT / "tests/optim/test_loops_guide.py"}
"""Pages whose Python blocks another test runs, and holds to more."""


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    return write_examples(tmp_path_factory.mktemp("site") / "examples")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("features")


@pytest.fixture(autouse=True)
def verbs_built_once(monkeypatch):
    monkeypatch.setattr(typer.main, "get_command", functools.cache(typer.main.get_command))


@pytest.mark.parametrize("page", [p for p in PAGES if code.blocks_of(p)], ids=lambda page: page.stem)
def test_the_blocks_of_a_page_run(page, examples, cache, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BINDERCLIP_CACHE", str(cache))
    (tmp_path / "examples").symlink_to(examples)
    given = {"__name__": "page", **surroundings.GIVEN.get(page.name, dict)()}
    for block in code.blocks_of(page):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _run(block, given, monkeypatch, capsys)


def _run(block: code.Block, given, monkeypatch, capsys):
    assert block.language in code.LANGUAGES, f"{block.where}: a fence needs one of {', '.join(code.LANGUAGES)}"
    if block.language not in ("python", "bash"):
        code.check_data(block)
    elif block.reason:
        code.check_unrun(block)
    elif block.language == "bash":
        code.run_shell(block, monkeypatch, capsys)
    elif block.page.name not in ELSEWHERE:
        code.run_python(block, given)


def test_what_runs_elsewhere_does():
    for name, test in ELSEWHERE.items():
        source = test.read_text(encoding="utf-8")
        assert f'"{name}"' in source
        assert "BLOCKS" in source


def test_no_fence_escapes_the_search():
    for page in PAGES:
        fences = re.findall(r"^\s*(?:```|~~~)", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert len(fences) == 2 * len(code.blocks_of(page)), page


def test_reasons_are_few_and_in_words():
    every = [block for page in PAGES for block in code.blocks_of(page) if block.language in ("python", "bash")]
    unrun = [block for block in every if block.reason]
    assert all(len(block.reason.split()) >= 3 for block in unrun)
    assert len(unrun) < len(every) / 4


def test_a_wrong_block_fails(tmp_path, monkeypatch, capsys):
    def block(language, body, reason=""):
        return code.Block(tmp_path / "page.md", 1, language, body, reason)

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
            _run(each, {}, monkeypatch, capsys)
    _run(block("bash", "binderclip segment photo.jpg --labels cat", "downloads a model"), {}, monkeypatch, capsys)


def test_a_block_is_read_with_its_reason(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f'a\n\n```bash title="{code.NOT_RUN}needs a GPU"\n$ binderclip info \\\n  --json  # all\n```\n')
    (block,) = code.blocks_of(page)
    assert (block.line, block.language, block.reason) == (3, "bash", "needs a GPU")
    assert list(code.commands(block.body)) == [["binderclip", "info", "--json"]]
