"""One word, one meaning: names of classes and functions are unique, none hides a module, and folders stay small."""

from __future__ import annotations

import ast
import functools
import re
from collections import defaultdict
from pathlib import Path

import binderclip

PACKAGE = Path(binderclip.__file__).parent
MOST = 20
"""Python files in one folder; the aim is about 15."""
APPLICATIONS = {"cli", "studies", "tasks", "workbench"}
"""Their files follow protocols: every verb has `register`, every tab `build`, every study `measure` and `draw`."""
BY_MODULE = {"data/distortions/arniqa.py", "data/distortions/kinds.py"}
"""Two libraries of distortions: a function is called as its distortion, and is reached through its module."""
REPEATED = {
    "promptable",  # the stage of that name in recipes; segment's loads such a segmenter
    "scenes",  # pictures with exact masks; train.bundled.everyday has directions of classes
    "to_map",  # attributions to be shown; segment's puts tokens on their grid
}
"""Functions of several modules which have kept one name."""
HIDING = {"cli/__init__.py: app"}
"""`binderclip.cli.app` is the Typer application, as Typer's documentation calls it, made in the module of that name."""
VAGUE = {"both", "found", "said", "told", "wanted"}
"""Locals that say how a value came about, and not what it is: `logits`, `target`, `intersection`, `document` do."""


def vague_locals(node: ast.AST, inside: bool = False) -> list[str]:
    """Names among VAGUE that the functions of a module bind, with their lines."""
    inside = inside or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
    name = node.arg if isinstance(node, ast.arg) else ""
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        name = node.id
    lines = [f"{node.lineno}: {name}"] if inside and name in VAGUE else []  # type: ignore[attr-defined]
    return lines + [line for child in ast.iter_child_nodes(node) for line in vague_locals(child, inside)]


def test_locals_say_what_they_are() -> None:
    assert vague_locals(ast.parse("def f(found):\n    for said in found:\n        pass")) == ["1: found", "2: said"]
    assert not parsed()[1]


@functools.cache
def parsed() -> tuple[list[tuple[type[ast.stmt], str, Path]], dict[str, list[str]]]:
    """Kind, name and file of every class and function at the top of a module; and vague locals outside of studies.

    All modules are parsed once for all tests.
    """
    defined, vague = [], {}
    word = re.compile(rf"\b({'|'.join(VAGUE)})\b")
    for path in sorted(PACKAGE.rglob("*.py")):
        file, source = path.relative_to(PACKAGE), path.read_text(encoding="utf-8")
        tree = ast.parse(source)
        nodes = [node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
        defined += [(type(node), node.name, file) for node in nodes]
        if file.parts[0] != "studies" and word.search(source) and (lines := vague_locals(tree)):
            vague[file.as_posix()] = lines
    return defined, vague


def classes() -> list[tuple[str, Path]]:
    """Name and file of every class at the top of a module."""
    return [(name, path) for kind, name, path in parsed()[0] if kind is ast.ClassDef]


def repeated(places: dict[object, list[str]]) -> dict[object, list[str]]:
    return {name: files for name, files in places.items() if len(files) > 1}


def test_public_class_names_are_unique_in_the_package() -> None:
    places: dict[object, list[str]] = defaultdict(list)
    for name, path in classes():
        if not name.startswith("_"):
            places[name].append(str(path))
    assert len(places) > 400
    assert not repeated(places)


def test_private_class_names_are_unique_in_a_room() -> None:
    places: dict[object, list[str]] = defaultdict(list)
    for name, path in classes():
        if name.startswith("_"):
            places[path.parts[0], name].append(str(path))
    assert places
    assert not repeated(places)


def test_public_function_names_are_unique_in_the_library() -> None:
    places: dict[object, list[str]] = defaultdict(list)
    # a set: an overload stands several times in its file
    for name, file in sorted({(name, file) for kind, name, file in parsed()[0] if kind is ast.FunctionDef}):
        if file.parts[0] not in APPLICATIONS and file.as_posix() not in BY_MODULE and not name.startswith("_"):
            places[name].append(file.as_posix())
    assert len(places) > 1500
    assert repeated(places).keys() == REPEATED


def hidden_modules(init: Path) -> list[str]:
    """Names that a package gives to something else than its module or folder of that name."""
    folder = init.parent
    modules = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    package = ".".join(("binderclip", *folder.relative_to(PACKAGE).parts))
    names: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(init.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):  # what is in these is no name of the package
            waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.ImportFrom) and node.module != package:
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return sorted(names & modules)


def test_no_name_of_a_package_hides_a_module() -> None:
    # `import binderclip.data.distortions.depth as depth` reads the attributes one after the other.
    places = {
        f"{init.relative_to(PACKAGE)}: {name}" for init in PACKAGE.rglob("__init__.py") for name in hidden_modules(init)
    }
    assert places == HIDING


def test_no_folder_of_a_room_holds_more_files_than_a_reader_takes_in() -> None:
    # Studies are counted apart: every paper has a file of its own there.
    folders = [path.parent for path in PACKAGE.glob("**/__init__.py")]
    folders = [folder for folder in folders if "studies" not in folder.relative_to(PACKAGE).parts]
    full = {str(folder.relative_to(PACKAGE)): len(list(folder.glob("*.py"))) for folder in folders}
    assert not {folder: count for folder, count in full.items() if count > MOST}
