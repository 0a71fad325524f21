"""Criteria registered by machine: a hash of what they declare, and which of two commits is the older one."""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import re
import subprocess
import textwrap
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from binderclip.errors import UsageError

if TYPE_CHECKING:
    from binderclip.studies.harness.study import Study


def criteria_hash(study: Study) -> str:
    """Twelve hexadecimal digits over everything that the criteria, preconditions and rival declare.

    Formatting, comments and docstrings do not change it; a bound, a margin, a name or a test does.
    """
    declared = [*study.criteria, *study.preconditions, study.rival]
    return hashlib.sha256(repr([_declared(part) for part in declared]).encode()).hexdigest()[:12]


def _declared(value: Any) -> Any:
    """Plain data in the place of dataclasses and functions."""
    if is_dataclass(value) and not isinstance(value, type):
        return [type(value).__name__, *([f.name, _declared(getattr(value, f.name))] for f in fields(value))]
    if isinstance(value, (tuple, list)):
        return [_declared(part) for part in value]
    if isinstance(value, dict):
        return [[_declared(key), _declared(part)] for key, part in value.items()]
    if isinstance(value, functools.partial):
        return [_declared(value.func), _declared(value.args), _declared(value.keywords)]
    if callable(value):
        return _function(value)
    return value


def _function(function: Callable[..., Any]) -> Any:
    """The code of a function as a tree without formatting, and what it closes over."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)).strip().rstrip(","))
        code = _canonical(tree)
    except (OSError, SyntaxError, TypeError):
        # A lambda inside an expression has no source of its own: its names and constants stand for it.
        inner = getattr(function, "__code__", None)
        plain = [c for c in getattr(inner, "co_consts", ()) if isinstance(c, (str, int, float))]
        code = [getattr(function, "__qualname__", ""), list(getattr(inner, "co_names", ())), plain]
    closure = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    return [code, [_declared(part) for part in closure]]


def _canonical(node: Any) -> Any:
    if isinstance(node, list):
        return [_canonical(part) for part in node if not _is_docstring(part)]
    if not isinstance(node, ast.AST):
        return repr(node)
    kept = [(name, part) for name, part in ast.iter_fields(node) if part not in (None, []) and name not in _IGNORED]
    return [type(node).__name__, *([name, _canonical(part)] for name, part in kept)]


_IGNORED = {"ctx", "kind", "type_comment", "type_params", "type_ignores", "returns", "annotation"}


def _is_docstring(node: Any) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def introduced(root: Path, text: str, folder: str, *, again: bool = False) -> str | None:
    """The oldest commit that brought `text` into a folder of a git checkout, or None where none did.

    Args:
        root: of the checkout.
        text: looked for.
        folder: relative to the root.
        again: the newest instead, of a text that is there now: what was taken back and measured again is as old as
            the second measurement.
    """
    found = _git(root, "log", "--format=%H", "-S", text, "--", folder)
    commits = found.split() if found is not None else []
    return commits[0 if again else -1] if commits else None


def registrations(root: Path, folder: str) -> dict[str, str]:
    """Hash -> the oldest commit that registered it in a study of a folder, as `introduced` finds it, in one pass.

    Args:
        root: of a git checkout; of another folder there are none.
        folder: relative to the root.
    """
    log = _git(root, "log", "--reverse", "--format=commit %H", "-G", "registered=", "-p", "-U0", "--", folder)
    found: dict[str, str] = {}
    commit = ""
    for line in (log or "").splitlines():
        if line.startswith("commit "):
            commit = line.removeprefix("commit ")
        elif written := re.match(r'\+.*\bregistered="([0-9a-f]+)"', line):
            found.setdefault(written[1], commit)
    return found


def has_history(root: Path) -> bool:
    """Whether git can say which commit of this checkout is the older one."""
    return _git(root, "rev-parse", "--is-shallow-repository") == "false"


def is_older(root: Path, one: str, other: str) -> bool:
    """Whether commit `one` is a proper ancestor of `other`."""
    return one != other and _git(root, "merge-base", "--is-ancestor", one, other) is not None


def authored(root: Path, commit: str) -> int:
    """When a commit was written, in seconds since 1970; a rebase, which may turn the order round, keeps it.

    Raises:
        UsageError: no such commit.
    """
    found = _git(root, "log", "-1", "--format=%at", commit)
    if not found:
        raise UsageError(f"{root}: there is no commit {commit}")
    return int(found)


def _git(root: Path, *words: str) -> str | None:
    """Output of a git command, or None where it fails or there is no git."""
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
