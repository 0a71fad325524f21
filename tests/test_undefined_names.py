"""Every global name that code uses exists: lint and types overlook names, for the sake of shapes in annotations."""

from __future__ import annotations

import ast
import builtins
import dis
from pathlib import Path
from types import CodeType

ROOT = Path(__file__).parents[1]
GIVEN = {*dir(builtins), "__file__", "__name__", "__doc__", "__path__", "__annotations__", "__spec__"}


def names_made(code: CodeType) -> set[str]:
    """Names that the outermost code itself makes."""
    return {line.argval for line in dis.get_instructions(code) if line.opname == "STORE_NAME"}


def names_of(code: CodeType) -> tuple[set[str], set[str], set[str], set[str]]:
    """Of code and all functions and classes in it: globals made, names made inside of them, globals read.

    First what the outermost code itself makes. Annotations are no code, they stay text.
    """
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
    return names_made(code), made, inside, read


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


def hidden(source: str, name: str) -> list[str]:
    """Names that code reads and that `if TYPE_CHECKING:` alone makes.

    A run under checked annotations makes them, so it would not miss them.
    """
    if "TYPE_CHECKING" not in source:
        return []
    tree = ast.parse(source, name)
    kept = [node for node in tree.body if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")]
    made = names_made(compile(ast.Module(kept, []), name, "exec"))
    top, elsewhere, _, read = names_of(compile(tree, name, "exec"))
    return sorted(read & top - made - elsewhere)


def test_a_name_for_type_checkers_alone_is_found() -> None:
    source = "if TYPE_CHECKING:\n    from x import Y\n\ndef f(y: Y) -> Y:\n    return {}\n"
    assert hidden("from __future__ import annotations\n" + source.format("y"), "a") == []
    assert hidden("from __future__ import annotations\n" + source.format("Y(y)"), "b") == ["Y"]


def test_code_runs_without_the_imports_of_type_checkers() -> None:
    files = list((ROOT / "src").rglob("*.py"))
    assert len(files) > 600
    found = {str(path.relative_to(ROOT)): hidden(path.read_text(encoding="utf-8"), str(path)) for path in files}
    assert {path: names for path, names in found.items() if names} == {}


def test_what_is_not_there_is_found() -> None:
    assert undefined("import math\n\ndef f(x):\n    return math.sin(x) + g(len(x))\n", "a") == ["g"]
    source = "from x import Float, Tensor\n\ndef f(x: Float[Tensor, 'B N']) -> Figure:\n    y: Lost = x\n    return y\n"
    assert undefined(source, "b") == ["Figure", "Lost"]


def test_every_global_name_of_the_package_and_its_tests_exists() -> None:
    files = [path for folder in ("src", "tests", "benchmarks", "docs") for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 900
    found = {str(path.relative_to(ROOT)): undefined(path.read_text(encoding="utf-8"), str(path)) for path in files}
    assert {path: names for path, names in found.items() if names} == {}
