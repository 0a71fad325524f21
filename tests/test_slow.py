"""`slow.txt` names tests that there are."""

from __future__ import annotations

import ast
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from .conftest import left_out, slow_tests

ROOT = Path(__file__).parents[1]


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


def test_only_what_is_run_elsewhere_is_left_out(tmp_path: Path) -> None:
    listed = tmp_path / "paths"
    listed.write_text("tests/optim/clip\ntests/test_a.py\n")
    config: Any = SimpleNamespace(getoption={"leave_out": listed}.get)
    names = ("tests/optim/clip/test_b.py::test_c", "tests/optim/clip_d.py::test_c", "tests/test_a.py::test_e[1]")
    items: Any = [SimpleNamespace(nodeid=name) for name in names]
    items += [SimpleNamespace(nodeid=names[0], fixturenames=["tmp_path", "unchecked_annotations"])]
    assert [item.nodeid for item in left_out(config, items)] == [names[0], names[2]]
    assert left_out(SimpleNamespace(getoption={"leave_out": None}.get), items) == []  # type: ignore[arg-type]


def test_tests_here_are_quick(request: pytest.FixtureRequest) -> None:
    assert request.node.get_closest_marker("slow") is None
