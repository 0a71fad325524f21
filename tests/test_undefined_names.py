"""Every global name that code uses exists: lint and types overlook names, for the sake of shapes in annotations."""

from __future__ import annotations

import ast
import builtins
import dis
from pathlib import Path
from types import CodeType

ROOT = Path(__file__).parents[1]
GIVEN = {*dir(builtins), "__file__", "__name__", "__doc__", "__path__", "__annotations__", "__spec__"}


def names_of(code: CodeType) -> tuple[set[str], set[str], set[str], set[str]]:
    """Of code and all functions and classes in it: globals made, names made inside of them, globals read.

    First what the outermost code itself makes. Annotations are no code, they stay text.
    """
    top: set[str] = set()
    made: set[str] = set()
    inside: set[str] = set()
    read: set[str] = set()
    waiting = [code]
    while waiting:
        each = waiting.pop()
        waiting += [constant for constant in each.co_consts if isinstance(constant, CodeType)]
        for line in dis.get_instructions(each):
            if line.opname == "LOAD_GLOBAL":
                read.add(line.argval)
            elif line.opname == "STORE_GLOBAL":
                made.add(line.argval)
            elif line.opname in ("STORE_NAME", "STORE_FAST", "STORE_DEREF"):
                inside.add(line.argval)
                if each is code and line.opname == "STORE_NAME":
                    top.add(line.argval)
    return top, made, inside, read


def annotated(tree: ast.Module) -> set[str]:
    """Names in annotations, which never run; shapes of tensors are text in them, and no names."""
    found: list[ast.expr | None] = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.arg, ast.AnnAssign)):
            found.append(node.annotation)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found.append(node.returns)
    return {node.id for each in found if each is not None for node in ast.walk(each) if isinstance(node, ast.Name)}


def undefined(source: str, name: str) -> list[str]:
    """Names that are read as globals or stand in annotations, and that the module neither makes nor imports."""
    tree = ast.parse(source, name)
    top, made, inside, read = names_of(compile(tree, name, "exec"))
    known = top | made | GIVEN
    return sorted((read - known) | (annotated(tree) - known - inside))


def test_what_is_not_there_is_found() -> None:
    assert undefined("import math\n\ndef f(x):\n    return math.sin(x) + g(len(x))\n", "a") == ["g"]
    source = "from x import Float, Tensor\n\ndef f(x: Float[Tensor, 'B N']) -> Figure:\n    y: Lost = x\n    return y\n"
    assert undefined(source, "b") == ["Figure", "Lost"]


def test_every_global_name_of_the_package_and_its_tests_exists() -> None:
    files = [path for folder in ("src", "tests", "benchmarks", "docs") for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 900
    found = {str(path.relative_to(ROOT)): undefined(path.read_text(encoding="utf-8"), str(path)) for path in files}
    assert {path: names for path, names in found.items() if names} == {}
