"""Every global name that code uses exists: lint and types overlook names, for the sake of shapes in annotations."""

from __future__ import annotations

import builtins
import dis
from collections.abc import Iterator
from pathlib import Path
from types import CodeType

ROOT = Path(__file__).parents[1]
GIVEN = {*dir(builtins), "__file__", "__name__", "__doc__", "__path__", "__annotations__", "__spec__"}


def parts(code: CodeType) -> Iterator[CodeType]:
    """A module's code and that of all functions and classes in it; annotations are none, they stay text."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from parts(constant)


def undefined(source: str, name: str) -> list[str]:
    """Names that are read as globals and that the module neither makes nor imports."""
    module = compile(source, name, "exec")
    made = {line.argval for line in dis.get_instructions(module) if line.opname in ("STORE_NAME", "STORE_GLOBAL")}
    made |= {
        line.argval for code in parts(module) for line in dis.get_instructions(code) if line.opname == "STORE_GLOBAL"
    }
    read = {
        line.argval for code in parts(module) for line in dis.get_instructions(code) if line.opname == "LOAD_GLOBAL"
    }
    return sorted(read - made - GIVEN)


def test_what_is_not_there_is_found() -> None:
    assert undefined("import math\n\ndef f(x):\n    return math.sin(x) + g(len(x))\n", "a") == ["g"]
    assert undefined("from __future__ import annotations\n\ndef f(x: Shape) -> B:\n    return x\n", "b") == []


def test_every_global_name_of_the_package_and_its_tests_exists() -> None:
    files = [path for folder in ("src", "tests", "benchmarks", "docs") for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 900
    found = {str(path.relative_to(ROOT)): undefined(path.read_text(encoding="utf-8"), str(path)) for path in files}
    assert {path: names for path, names in found.items() if names} == {}
