"""Modules import one another in one direction, inside functions as well."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import binderclip

PACKAGE = Path(binderclip.__file__).parent

Graph = dict[str, set[str]]

RUNNING: set[frozenset[str]] = set()
"""Left: none."""
IN_ANNOTATIONS = {
    # Methods of the model whose work stands in files of its own, which name the model.
    frozenset({
        "models.files.fingerprints", "models.files.saving", "models.image_text.encode", "models.image_text.encoder",
        "models.image_text.model", "models.towers", "models.towers.kinds.convolutional",
    }),
    # A recipe and a run check and count themselves, by functions that name them.
    frozenset({"train.engine.context", "train.engine.watchers"}),
    frozenset({"train.recipe.check", "train.recipe.stage"}),
    frozenset({"train.recipe.cost", "train.recipe.recipe"}),
}  # fmt: skip
"""Left: circles only where imports for annotations count."""


def module_name(path: Path) -> str:
    parts = ("binderclip", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def trees() -> dict[str, ast.Module]:
    return {module_name(path): ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}


def is_lazy(tree: ast.Module) -> bool:
    calls = (node.value.func for node in tree.body if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call))
    return any(isinstance(function, ast.Name) and function.id == "lazy_exports" for function in calls)


def import_nodes(node: ast.AST, *, annotations: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """Imports anywhere below a node; those under `TYPE_CHECKING` where annotations count."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node
    guard = node.test if isinstance(node, ast.If) else None
    hidden = isinstance(guard, ast.Name) and guard.id == "TYPE_CHECKING" and not annotations
    children = [] if hidden or isinstance(node, ast.expr) else ast.iter_child_nodes(node)
    for child in children:
        yield from import_nodes(child, annotations=annotations)


def import_graph(*, annotations: bool) -> Graph:
    """Module -> the modules that it imports; a name of a lazy room counts for the module that defines it."""
    homes = {
        (name, alias.asname or alias.name): (node.module, alias.name)
        for name, tree in trees().items()
        if is_lazy(tree)
        for node in import_nodes(tree, annotations=True)
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }

    def home(module: str, name: str) -> str:
        if f"{module}.{name}" in trees():
            return f"{module}.{name}"
        return home(*homes[module, name]) if (module, name) in homes else module

    graph: Graph = {name: set() for name in trees()}
    for name, tree in trees().items():
        for node in import_nodes(tree, annotations=annotations and not is_lazy(tree)):
            if isinstance(node, ast.Import):
                graph[name] |= {alias.name for alias in node.names}
            elif node.module:
                graph[name] |= {home(node.module, alias.name) for alias in node.names}
    return {name: {other for other in others if other in trees()} - {name} for name, others in graph.items()}


def circles(graph: Graph) -> set[frozenset[str]]:
    """Sets of modules that reach one another."""
    core, size = dict(graph), len(graph) + 1
    while len(core) < size:  # what imports nothing of the rest, or is imported by nothing of it, is in no circle
        size = len(core)
        imported = set().union(*core.values())
        core = {
            name: others & core.keys() for name, others in core.items() if name in imported and others & core.keys()
        }
    reached: Graph = {}
    for start in core:
        waiting, seen = [start], set()
        while waiting:
            new = (core[waiting.pop()] & core.keys()) - seen
            seen |= new
            waiting += new
        reached[start] = seen
    return {
        frozenset(other.removeprefix("binderclip.") for other in seen if name in reached[other])
        for name, seen in reached.items()
        if name in seen
    }


def test_a_circle_is_found_and_a_diamond_is_none() -> None:
    assert circles({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": set()}) == set()
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == {frozenset("bc")}


def test_no_module_leads_back_to_itself_when_the_code_runs() -> None:
    graph = import_graph(annotations=False)
    assert "binderclip.models.towers" in graph["binderclip.models.image_text.encoder"], "an import inside a function"
    assert circles(graph) == RUNNING


def test_circles_of_annotations_grow_no_more() -> None:
    rooms = {
        name: {other for other in others if other.split(".")[1:2] == name.split(".")[1:2]}
        for name, others in import_graph(annotations=True).items()
    }
    assert circles(rooms) == RUNNING | IN_ANNOTATIONS
