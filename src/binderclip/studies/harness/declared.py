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
KNOWN = (*PROSE, "stand_in", "constants", "pilot_seeds", "preconditions", "criteria", "rival")


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
    protocols, such as `training.spike`, whose constants the words name as well. How the file declares conditions is
    said in `binderclip.studies.harness.declared_criteria`; those that code makes are given here instead.

    Args:
        module: `__name__` of the module, which calls this after its constants and functions.
        measure: see `Study`, as all that follow.
        seeds: of the measurement.
        draw: default the effects of the criteria.
        criteria: where the file declares none.
        preconditions: where the file declares none.
        rival: where the file declares none.
        options: other attributes of `Study`, such as `null`, `one_thread` and `registered`.

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
    if unknown := sorted(entries.keys() - set(KNOWN)):
        raise UsageError(f"{source}: unknown entries {', '.join(unknown)}; known are {', '.join(KNOWN)}")
    if twice := [key for key in ("criteria", "preconditions", "rival") if key in entries and given.get(key)]:
        raise UsageError(f"{source}: {', '.join(twice)} are declared here and given by the module as well")
    entries.setdefault("upper_bound", "")
    constants = ChainMap(dict(names), *(_protocol(name, source) for name in entries.get("constants", ())))
    if missing := [key for key in PROSE if not isinstance(entries.get(key), str)]:
        raise UsageError(f"{source}: {', '.join(missing)} must be given as a text")
    words = {key: _filled(entries[key], constants, f"{source}: {key}") for key in PROSE}
    stand_in = tuple(_filled(line, constants, f"{source}: stand_in") for line in entries.get("stand_in", ()))
    seeds = entries.get("pilot_seeds", [])
    made: dict[str, Any] = {}
    if "criteria" in entries:
        made["criteria"] = tuple(
            criterion(entry, f"{source}: criteria {number}", names, seeds)
            for number, entry in enumerate(entries["criteria"], start=1)
        )
    if "preconditions" in entries:
        made["preconditions"] = tuple(
            precondition(entry, f"{source}: preconditions {number}")
            for number, entry in enumerate(entries["preconditions"], start=1)
        )
    if "rival" in entries:
        made["rival"] = criterion(entries["rival"], f"{source}: rival", names, seeds)
    return Study(paper=source[:4], **words, stand_in=stand_in, **(given | made))


def _protocol(name: str, source: str) -> dict[str, Any]:
    """The constants of a module of `binderclip.studies.protocols`.

    Raises:
        UsageError: there is no such module.
    """
    try:
        return vars(import_module(f"binderclip.studies.protocols.{name}"))
    except ModuleNotFoundError as error:
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
