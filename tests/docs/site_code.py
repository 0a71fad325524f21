"""The fenced code blocks of a page of the site, and how each of them is run."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import subprocess
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer.main

from binderclip import cli
from binderclip.cli.app import app
from binderclip.documents import parse_json, parse_toml

FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^`\n]*)\n(?P<body>.*?)^(?P=indent)``` *$", re.MULTILINE | re.DOTALL)
NOT_RUN, ADDED = "Not run by the tests: ", "The tests add "
ELSEWHERE = {"choose-your-clipping.md": "tests/optim/test_loops_guide.py"}
"""Pages whose Python blocks another test runs, and holds to more."""
LANGUAGES = ("python", "bash", "toml", "json", "text")


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        page: the file.
        line: of the fence, from 1.
        language: the first word behind the fence.
        body: what stands inside, without the fence's indentation.
        reason: why the tests do not run it, as the page's reader sees it above the block; empty: they do.
        added: words that the tests add to its command, so that it takes seconds; the page's reader sees them too.
    """

    page: Path
    line: int
    language: str
    body: str
    reason: str = ""
    added: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """Page and line."""
        return f"{self.page.name}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """All fenced blocks of a Markdown file, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        language, _, options = match["info"].strip().partition(" ")
        title = re.search(r'title="([^"]*)"', options)
        said = title[1] if title else ""
        body = re.sub(rf"^{match['indent']}", "", match["body"], flags=re.MULTILINE)
        reason = said.removeprefix(NOT_RUN) if said.startswith(NOT_RUN) else ""
        added = said.removeprefix(ADDED).split(":")[0] if said.startswith(ADDED) else ""
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(page, line, language, body, reason, tuple(shlex.split(added))))
    return found


def commands(body: str) -> Iterator[list[str]]:
    """The command lines of a shell block, comments and the prompt taken off, split into words."""
    for line in body.replace("\\\n", " ").splitlines():
        if words := shlex.split(line.removeprefix("$ "), comments=True):
            yield words


def run_block(
    block: Block, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run a block, or check what can be checked of one that has a reason not to be run, or that is data."""
    assert block.language in LANGUAGES, f"{block.where}: a fence needs one of {', '.join(LANGUAGES)}"
    if block.language not in ("python", "bash"):
        check_data(block)
    elif block.reason:
        check_unrun(block)
    elif block.language == "bash":
        run_shell(block, monkeypatch, capsys)
    elif block.page.name not in ELSEWHERE:
        run_python(block, given)


def run_python(block: Block, given: dict[str, Any]) -> None:
    """Execute a block in the names that the page's earlier blocks left."""
    try:
        exec(compile(block.body, block.where, "exec"), given)
    except Exception:
        pytest.fail(f"{block.where}: the block does not run\n{traceback.format_exc()}", pytrace=False)


def run_shell(block: Block, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Run a shell block line by line: `binderclip` in this process, anything else in a shell."""
    for words in commands(block.body):
        if words[0] != "binderclip":
            done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
            assert done.returncode == 0, f"{block.where}: {shlex.join(words)}: {done.stderr}"
            continue
        words = [*words, *block.added]
        monkeypatch.setattr("sys.argv", words)
        capsys.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as left:
            code = int(left.code or 0)
        said = capsys.readouterr()
        assert code == 0, f"{block.where}: {shlex.join(words)} leaves with {code}: {said.err}"


def check_unrun(block: Block) -> None:
    """What can be checked without running: options of commands exist, imported names as well."""
    if block.language == "bash":
        for words in commands(block.body):
            if words[0] in ("binderclip", "torchrun"):
                parse_command(words[words.index("binderclip") + 1 :], block.where)
    elif block.language == "python":
        for node in ast.walk(ast.parse(block.body, block.where)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("binderclip"):
                module = importlib.import_module(node.module or "")
                missing = [name.name for name in node.names if not hasattr(module, name.name)]
                assert not missing, f"{block.where}: {node.module} has no {', '.join(missing)}"


def parse_command(words: list[str], where: str) -> None:
    """Parse a command line as Typer would, without running it: an unknown verb or option fails."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("binderclip", list(words), resilient_parsing=False)
    while hasattr(command, "resolve_command"):
        rest = [*context._protected_args, *context.args]
        assert rest, f"{where}: no verb in {shlex.join(words)}"
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)


def check_data(block: Block) -> None:
    """TOML and JSON parse; a block of text holds no command that nobody runs."""
    if block.language == "toml":
        parse_toml(block.body)
    elif block.language == "json":
        parse_json(block.body)
    else:
        hidden = [line for line in block.body.splitlines() if re.match(r"(\$ )?(binderclip|python|make|pip) ", line)]
        assert not hidden, f"{block.where}: a command in a block of text: {hidden[0]}"
