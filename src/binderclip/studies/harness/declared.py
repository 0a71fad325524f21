"""Studies whose words and conditions stand in a TOML file beside the module that measures."""

from __future__ import annotations

import sys
from collections import ChainMap
from collections.abc import Iterable, Mapping
from importlib import import_module, resources
from typing import Any

from binderclip.documents import parse_toml
from binderclip.errors import UsageError
from binderclip.studies.harness.criteria import Criterion, Precondition
from binderclip.studies.harness.declared_criteria import criterion, folded, precondition
from binderclip.studies.harness.study import Draw, Measure, Study

PROSE = ("claim", "protocol", "baseline", "lower_bound", "upper_bound")
_MAY_LACK = ("upper_bound",)
_CONDITIONS = ("criteria", "preconditions", "rival", "null", "one_thread")
_KINDS: dict[str, tuple[type, type]] = {
    "stand_in": (list, str), "constants": (list, str), "pilot_seeds": (list, int), "one_thread": (bool, object),
    "preconditions": (list, dict), "criteria": (list, dict), "rival": (dict, object), "null": (dict, str),
}  # fmt: skip
"""Kind of an entry, and of its parts."""
_SAID: dict[type, str] = {list: "a list", dict: "a table", bool: "true or false"}
_OF: dict[type, str] = {str: " of texts", int: " of whole numbers", dict: " of tables", object: ""}


def declared_study(
    module: str,
    measure: Measure,
    *,
    seeds: Iterable[int],
    draw: Draw | None = None,
    criteria: Iterable[Criterion] = (),
    preconditions: Iterable[Precondition] = (),
    rival: Criterion | None = None,
    **options: Any,
) -> Study:
    """The study of a module `pNNN_name`, with what `pNNN_name.toml` beside it declares.

    The file has `claim`, `protocol`, `baseline` and `lower_bound`, `upper_bound` where there is one, and the list
    `stand_in`. Their lines are joined, and a placeholder such as `{EPOCHS}` or `{RATES[0]:g}` is filled with the
    module's constant, so that the words follow the code; a brace that is meant is written twice. `constants` lists
    protocols, such as `training.spike`, whose constants the words name as well. `one_thread` and `[null]`, from a
    method's name to the random one's, are those of `Study`. How the file declares conditions is said in
    `binderclip.studies.harness.declared_criteria`; those that code makes are given here instead.

    Args:
        module: `__name__` of the module, which calls this after its constants and functions.
        measure: see `Study`, as all that follow.
        seeds: of the measurement.
        draw: default the effects of the criteria.
        criteria: where the file declares none.
        preconditions: where the file declares none.
        rival: where the file declares none.
        options: other attributes of `Study`, such as `registered`, `first`, and a `null` that is a function.

    Raises:
        UsageError: no such file; an entry that is unknown, missing, given twice or not of its kind; a placeholder that
            the module does not define; and what `Study` refuses.
    """
    package, _, stem = module.rpartition(".")
    source = f"{stem}.toml"
    try:
        text = resources.files(package).joinpath(source).read_text(encoding="utf-8")
    except (FileNotFoundError, ModuleNotFoundError, ValueError) as error:
        raise UsageError(f"there is no {source} beside {module}, which declares its study") from error
    return study_of(
        text, source, vars(sys.modules[module]), measure=measure, seeds=tuple(seeds), draw=draw,
        criteria=tuple(criteria), preconditions=tuple(preconditions), rival=rival, **options,
    )  # fmt: skip


def study_of(text: str, source: str, names: Mapping[str, Any], **given: Any) -> Study:
    """The study that a TOML text declares.

    Args:
        text: of the file.
        source: its name, which begins with the paper's id.
        names: constants and functions of the study's module.
        given: attributes of `Study` that the module gives.

    Raises:
        UsageError: see `declared_study`.
    """
    try:
        entries = parse_toml(text)
    except ValueError as error:  # TOML's own error is one
        raise UsageError(f"{source}: {error}") from error
    _require_kinds(entries, source)
    if twice := [key for key in _CONDITIONS if key in entries and given.get(key)]:
        raise UsageError(f"{source}: {', '.join(twice)} are declared here and given by the module as well")
    constants = ChainMap(dict(names), *(_protocol(name, source) for name in entries.get("constants", ())))
    words: dict[str, Any] = {key: _filled(entries.get(key, ""), constants, f"{source}: {key}") for key in PROSE}
    words["stand_in"] = tuple(_filled(line, constants, f"{source}: stand_in") for line in entries.get("stand_in", ()))
    seeds = entries.get("pilot_seeds", [])
    made: dict[str, Any] = {key: entries[key] for key in ("null", "one_thread") if key in entries}
    for key in ("preconditions", "criteria"):
        tables = [(entry, f"{source}: {key} {number}") for number, entry in enumerate(entries.get(key, ()), start=1)]
        if tables and key == "criteria":
            made[key] = tuple(criterion(entry, where, constants, seeds) for entry, where in tables)
        elif tables:
            made[key] = tuple(precondition(entry, where) for entry, where in tables)
    if "rival" in entries:
        made["rival"] = criterion(entries["rival"], f"{source}: rival", constants, seeds)
    return Study(paper=source[:4], **words, **(given | made))


def _require_kinds(entries: Mapping[str, Any], source: str) -> None:
    """Refuse what is unknown, missing, or no text, list or table where one belongs.

    Raises:
        UsageError: see above.
    """
    if unknown := sorted(entries.keys() - {*PROSE, *_KINDS}):
        raise UsageError(f"{source}: unknown entries {', '.join(unknown)}; known are {', '.join((*PROSE, *_KINDS))}")
    if missing := [key for key in PROSE if not isinstance(entries.get(key, "" if key in _MAY_LACK else None), str)]:
        raise UsageError(f"{source}: {', '.join(missing)} must be given as a text")
    for key, (kind, part) in _KINDS.items():
        entry = entries.get(key, kind())
        parts = list(entry.values()) if isinstance(entry, dict) else entry if isinstance(entry, list) else []
        if not isinstance(entry, kind) or not all(isinstance(each, part) for each in parts):
            raise UsageError(f"{source}: {key} must be {_SAID[kind]}{_OF[part]}")


def _protocol(name: str, source: str) -> dict[str, Any]:
    """The constants of a module of `binderclip.studies.protocols`.

    Raises:
        UsageError: there is no such module.
    """
    protocols = "binderclip.studies.protocols"
    try:
        # By its name, which the file gives: the harness stands below the protocols and knows none of them.
        return vars(import_module(f"{protocols}.{name}"))
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith(protocols):  # what the protocol itself imports is missing
            raise
        raise UsageError(f"{source}: constants: there is no protocol {name!r}") from error


def _filled(text: str, names: Mapping[str, Any], where: str) -> str:
    """The lines of a text as one, its placeholders filled with the module's constants.

    Raises:
        UsageError: a placeholder that the module does not define, or that cannot be written as it asks.
    """
    try:
        return folded(text).format_map(names)
    except KeyError as error:
        raise UsageError(f"{where}: the study's module defines no {error.args[0]}") from error
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise UsageError(f"{where}: a placeholder cannot be filled: {error}; a brace is written twice") from error
