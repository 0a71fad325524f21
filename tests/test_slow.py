"""`slow.txt` names tests that there are."""

from __future__ import annotations

import ast
import functools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from .conftest import left_out, slow_tests, write_passed

ROOT = Path(__file__).parents[1]


@functools.cache
def functions(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


def test_every_line_is_a_file_or_a_test() -> None:
    slow, kept = slow_tests()
    assert len(slow) > 300
    assert len(kept) == 5
    for line in slow | kept:
        path, _, name = line.partition("::")
        assert (ROOT / path).is_file(), line
        assert not name or name.partition("[")[0] in functions(ROOT / path), line


def test_what_is_kept_would_be_slow() -> None:
    slow, kept = slow_tests()
    for line in kept:
        path, _, name = line.partition("::")
        assert {path, f"{path}::{name.partition('[')[0]}"} & slow, line


def test_every_test_is_run_in_one_of_two_parts(tmp_path: Path) -> None:
    passed = [SimpleNamespace(nodeid="tests/a.py::test_b[1]"), SimpleNamespace(nodeid="tests/a.py::test_b[1]")]
    options = {"passed_to": tmp_path / "new" / "passed.json", "leave_out": tmp_path / "new" / "passed.json"}
    config: Any = SimpleNamespace(getoption=options.get)
    write_passed(config, passed)
    # [2] was skipped, test_c is of no part of the first run, and a file is no test of its name's beginning
    names = ("tests/a.py::test_b[1]", "tests/a.py::test_b[2]", "tests/a.py::test_c", "tests/a.py::test_b[1]-2")
    items: Any = [SimpleNamespace(nodeid=name) for name in names]
    assert [item.nodeid for item in left_out(config, items)] == [names[0]]
    neither: Any = SimpleNamespace(getoption={}.get)
    write_passed(neither, passed)
    assert left_out(neither, items) == []
    assert list(tmp_path.rglob("*.*")) == [options["passed_to"]]


def test_tests_here_are_quick(request: pytest.FixtureRequest) -> None:
    assert request.node.get_closest_marker("slow") is None
