"""No generator switches gradients off by a decorator."""

from __future__ import annotations

import ast
from pathlib import Path

import binderclip

SWITCHES = ("torch.no_grad", "torch.inference_mode", "torch.enable_grad")


def yields(function: ast.FunctionDef) -> bool:
    """Whether a function is a generator; what functions inside it do does not count."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.Yield, ast.YieldFrom)):
            return True
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
            waiting += ast.iter_child_nodes(node)
    return False


def switched(source: str) -> list[str]:
    """Generators of a source that are decorated so."""
    if "yield" not in source or not any(switch in source for switch in SWITCHES):
        return []  # most files: reading them as trees takes seconds
    return [
        node.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef)
        and any(ast.unparse(decorator).startswith(SWITCHES) for decorator in node.decorator_list)
        and yields(node)
    ]


def test_no_generator_is_decorated() -> None:
    """The decorator sees a function where annotations are checked, and covers nothing of what it does."""
    found = {str(path): switched(path.read_text(encoding="utf-8")) for path in Path(*binderclip.__path__).rglob("*.py")}
    assert {path: names for path, names in found.items() if names} == {}


def test_one_would_be_seen() -> None:
    head = "@torch.no_grad()\ndef f(x):\n    "
    assert switched(head + "for y in x:\n        yield y\n") == ["f"]
    assert switched(head + "def g():\n        yield 1\n    return g\n") == []
