"""One word, one meaning: class names are unique, and folders stay small enough to be read."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import binderclip

PACKAGE = Path(binderclip.__file__).parent
MOST = 20
"""Python files in one folder; the aim is about 15."""


def classes() -> list[tuple[str, Path]]:
    """Name and file of every class at the top of a module."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                found.append((node.name, path.relative_to(PACKAGE)))
    return found


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


def test_no_folder_of_a_room_holds_more_files_than_a_reader_takes_in() -> None:
    # Studies are counted apart: every paper has a file of its own there.
    folders = [path.parent for path in PACKAGE.glob("**/__init__.py")]
    folders = [folder for folder in folders if "studies" not in folder.relative_to(PACKAGE).parts]
    full = {str(folder.relative_to(PACKAGE)): len(list(folder.glob("*.py"))) for folder in folders}
    assert not {folder: count for folder, count in full.items() if count > MOST}
