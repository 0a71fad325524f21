"""Settings in files and on the command line: TOML with overrides, and named parts checked against their constructors.

A room publishes `METHODS: dict[str, Callable]`; a file names one of them as `{name = "...", **settings}`. Names and
settings are checked from the signature before anything is built, so a typing error costs a second, not an hour.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import json
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from binderclip.documents import TOO_DEEP, TOO_LONG, parse_toml, read_problem
from binderclip.errors import UsageError

__all__ = [
    "apply_override",
    "brief",
    "build_part",
    "check_choice",
    "check_depth",
    "check_part",
    "hint",
    "locate",
    "parse_override",
    "part_name",
    "read_toml",
    "write_toml",
]


def brief(value: Any, most: int = 60) -> str:
    """A value as Python writes it, for a message; the middle of a long one is left out.

    Args:
        value: anything.
        most: characters.
    """
    if isinstance(value, int) and value.bit_length() > 4 * most:
        return "a number far too large"
    text = repr(value)
    return text if len(text) <= most else f"{text[: most // 2]}...{text[-most // 4 :]}"


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Refuse what is none of the values that a setting may have.

    Args:
        name: of the setting, for the message.
        value: what was given.
        choices: the values there are.

    Raises:
        UsageError: names the setting, its value and the choices.
    """
    choices = tuple(choices)
    if value not in choices:
        raise UsageError(f"{name} must be one of {', '.join(map(str, choices))}, got {brief(value)}")


def hint(word: str, known: Iterable[str]) -> str:
    """`did you mean ...?` where something is close, otherwise what there is."""
    known = sorted(known)
    near = get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known) or 'nothing'}"


def part_name(part: str | Mapping[str, Any]) -> str:
    """The name of a part written as `"norm"` or as `{name = "norm", ...}`.

    Raises:
        UsageError: a table without a name.
    """
    if isinstance(part, str):
        return part
    if not isinstance(part.get("name"), str):
        raise UsageError(f"needs a name: write {{name = '...', ...}}, got {brief(dict(part))}")
    return part["name"]


def check_part(
    part: str | Mapping[str, Any],
    methods: Mapping[str, Callable[..., Any]],
    what: str,
    *,
    given: int = 0,
    also: Callable[..., Any] | None = None,
) -> None:
    """Check name and settings of a part without building it.

    Args:
        part: the entry of the recipe.
        methods: the constructors by name.
        what: the word for messages, such as "clip".
        given: leading arguments that the engine passes itself.
        also: what a constructor passes its further keywords on to.

    Raises:
        UsageError: unknown name, unknown setting, a required one left out, or a value that is not of the kind that the
            constructor's annotation says.
    """
    name = part_name(part)
    if name not in methods:
        raise UsageError(f"unknown {what} {brief(name)}: {hint(name, methods)}")
    settings = {} if isinstance(part, str) else {key: value for key, value in part.items() if key != "name"}
    parameters = list(inspect.signature(methods[name]).parameters.values())[given:]
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        if also is None:
            return
        further = inspect.signature(also).parameters.values()
        parameters += [p for p in further if p.default is not p.empty]
    accepted = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    for key in settings:
        if key not in accepted:
            raise UsageError(f"{what} {name!r} has no setting {brief(key)}: {hint(key, accepted)}")
    missing = [key for key, p in accepted.items() if p.default is p.empty and key not in settings]
    if missing:
        raise UsageError(f"{what} {name!r} needs {', '.join(missing)}: write {{name = {name!r}, {missing[0]} = ...}}")
    kinds = _annotations(methods[name])
    for key, value in settings.items():
        if not _is_kind(value, kind := kinds.get(key, Any)):
            raise UsageError(f"{what} {name!r}: {key} is {brief(value)}; it is {_kind_name(kind)}")


def build_part(
    part: str | Mapping[str, Any], methods: Mapping[str, Callable[..., Any]], what: str, *arguments: Any
) -> Any:
    """Build a part; `arguments` go first.

    Raises:
        UsageError: as `check_part`; also where the constructor refuses a value.
    """
    check_part(part, methods, what, given=len(arguments))
    settings = {} if isinstance(part, str) else {key: value for key, value in part.items() if key != "name"}
    try:
        return methods[part_name(part)](*arguments, **settings)
    except (TypeError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{what} {part_name(part)!r}: {error}") from error


_NUMBERS: dict[Any, tuple[type, str]] = {int: (Integral, "a whole number"), float: (Real, "a number")}
_PLAIN: dict[Any, str] = {str: "a text", bool: "true or false", type(None): "left out"}


def _annotations(method: Callable[..., Any]) -> dict[str, Any]:
    """The annotation of each argument; of none where a name in them is known to type checkers alone."""
    plain = inspect.isclass(method) and not dataclasses.is_dataclass(method)
    try:
        return typing.get_type_hints(method.__init__ if plain else method)
    except (NameError, TypeError):
        return {}


def _is_kind(value: Any, kind: Any) -> bool:
    """Whether a value is a number, text, truth value or list as annotated; all else is left to the constructor."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(_is_kind(value, one) for one in inner)
    if origin is typing.Literal:
        return value in inner
    if kind in _NUMBERS:
        return isinstance(value, _NUMBERS[kind][0]) and not isinstance(value, bool)
    if kind in _PLAIN:
        return isinstance(value, kind)
    if origin in (list, tuple, Sequence) and inner:
        each = inner if origin is tuple and inner[-1] is not ... else inner[:1] * len(value) if _is_list(value) else ()
        return _is_list(value) and len(value) == len(each) and all(map(_is_kind, value, each))
    return True


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _kind_name(kind: Any) -> str:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_kind_name, inner)))
    if origin is typing.Literal:
        return f"one of {', '.join(map(repr, inner))}"
    if origin in (list, tuple, Sequence):
        each = dict.fromkeys(_kind_name(one) for one in inner if one is not ...)
        return f"a list, each of it {' or '.join(each)}"
    return _PLAIN.get(kind) or _NUMBERS.get(kind, (None, "something else"))[1]


# No entry of a recipe stands half as deep; beyond it copies and checks, which call themselves, would run out of stack.
DEEPEST = 24

_HEADER = re.compile(r"^\s*(\[\[?)\s*([^\]]+?)\s*\]\]?\s*(?:#.*)?$")
_LENGTHS = ("samples", "epochs")
_KEY = re.compile(r"""^\s*([A-Za-z0-9_\-."']+)\s*=""")


def read_toml(path: str | Path, what: str = "recipe") -> tuple[dict[str, Any], str]:
    """Document and text of a TOML file.

    Args:
        path: of the file.
        what: the word for messages.

    Raises:
        UsageError: no such file, not UTF-8, or not TOML (with line and column).
    """
    path = Path(path)
    if not path.is_file():
        beside = sorted(p.name for p in path.parent.glob("*.toml")) if path.parent.is_dir() else []
        raise UsageError(f"there is no {what} {path}" + (f"; in {path.parent}: {', '.join(beside)}" if beside else ""))
    try:
        text = path.read_text(encoding="utf-8")
        return parse_toml(text), text
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is {read_problem(error)}") from error
    except ValueError as error:
        if TOO_DEEP in str(error):
            raise UsageError(f"{path}: its lists or tables stand too deep in each other") from error
        # of TOML itself, or of Python: an integer of thousands of digits
        raise UsageError(f"{path} is not valid TOML: {error}") from error


def check_depth(document: Mapping[str, Any], source: str) -> None:
    """Refuse a document whose lists and tables stand deeper in each other than any recipe's.

    Args:
        document: as a TOML file gives it.
        source: its name, for messages.

    Raises:
        UsageError: it does.
    """
    for name, entry in document.items():
        level, depth = [entry], 1
        while level:
            inner = [
                i for v in level for i in (v.values() if isinstance(v, Mapping) else v if isinstance(v, list) else ())
            ]
            level, depth = inner, depth + 1
            if depth > DEEPEST:
                raise UsageError(f"{source}: {name}: lists or tables stand more than {DEEPEST} deep in each other")


def locate(text: str, path: Iterable[str | int]) -> int | None:
    """1-based line of the entry at `path` (keys and list indices), or of the nearest entry above it; None if none.

    Args:
        text: the TOML text.
        path: such as ("stage", 0, "lr"); a flat file is searched without its leading ("stage", 0).
    """
    keys = [str(p) for p in path]
    best: tuple[int, int] | None = None
    for number, path_of_entry in _entries(text):
        shared = 0
        for a, b in zip(path_of_entry, keys, strict=False):
            if a != b:
                break
            shared += 1
        if shared == len(path_of_entry) and shared and (best is None or shared > best[0]):
            best = (shared, number)
    if best is None and keys[:1] == ["stage"]:
        return locate(text, keys[2:]) if keys[2:] else None
    if best is not None and best[0] <= 2 and keys[:1] == ["stage"] and keys[2:]:
        # Defaults of all stages stand above the first [[stage]].
        return locate(text, keys[2:]) or best[1]
    return best[1] if best else None


def _entries(text: str) -> Iterable[tuple[int, list[str]]]:
    table: list[str] = []
    counts: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            name = header[2]
            table = []
            for key in name.split("."):
                table.append(key.strip("\"' "))
                if header[1] == "[[" and ".".join(table) == name:
                    counts[name] = counts.get(name, -1) + 1
                if ".".join(k for k in table if not k.isdigit()) in counts:
                    table.append(str(counts[".".join(k for k in table if not k.isdigit())]))
            yield number, list(table)
        elif key := _KEY.match(line):
            yield number, table + [k.strip("\"' ") for k in key[1].split(".")]


def parse_override(text: str) -> tuple[list[str], Any]:
    """Split `stage.lr=3e-4` into path and value; the value is TOML, or else a plain text.

    Raises:
        UsageError: no `=`, or an empty path.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--set {brief(text)}: write KEY=VALUE, such as --set stage.lr=3e-4")
    try:
        parsed = parse_toml(f"value = {value}")["value"]
    except ValueError as error:
        if TOO_DEEP in str(error):
            raise UsageError(f"--set {_shown(key.strip())}: lists or tables stand too deep in each other") from error
        if TOO_LONG in str(error):
            raise UsageError(f"--set {_shown(key.strip())}: {TOO_LONG}") from error
        parsed = value.strip()
    return [part.strip() for part in key.strip().split(".")], parsed


def _shown(key: str) -> str:
    return brief(key)[1:-1]


def apply_override(
    document: dict[str, Any], path: list[str], value: Any, recipe_keys: Iterable[str], stage_keys: Iterable[str]
) -> None:
    """Set one entry of a recipe document, in place.

    `stage.lr` and `lr` reach every stage, `stage.0.lr` and `stage.NAME.lr` one of them; recipe-wide keys (`seed`,
    `model.embed_dim`) are set where they are.

    Args:
        document: a document with a `stage` list.
        path: keys.
        value: the new value.
        recipe_keys: keys that belong to the whole recipe.
        stage_keys: keys that belong to a stage.

    Raises:
        UsageError: no such stage or key.
    """
    shown, stages = _shown(".".join(path)), document["stage"]
    recipe_keys, stage_keys = set(recipe_keys), set(stage_keys)
    targets = stages
    if path[0] == "stage":
        path = path[1:]
        if path and (path[0].isdigit() or path[0] not in stage_keys):
            names = [str(stage.get("name", i)) for i, stage in enumerate(stages)]
            places = [str(place) for place in range(len(stages))]
            index = next((known.index(path[0]) for known in (places, names) if path[0] in known), len(stages))
            if index >= len(stages):
                known = [*names, *stage_keys] if len(path) == 1 else names
                raise UsageError(f"--set {shown}: there is no stage {brief(path[0])}; {hint(path[0], known)}")
            targets, path = [stages[index]], path[1:]
        if not path:
            raise UsageError(f"--set {shown}: name an entry of the stage, such as stage.lr")
    elif path[0] in recipe_keys:
        targets = [document]
    elif path[0] not in stage_keys:
        raise UsageError(f"--set {shown}: {hint(path[0], recipe_keys | stage_keys)}")
    for target in targets:
        _put(target, path, value, shown)


def _put(table: Any, path: list[str], value: Any, shown: str) -> None:
    for key, after in itertools.pairwise(path):
        if isinstance(table, list):
            table = table[_index(key, table, shown)]
            continue
        if not isinstance(table, dict):
            raise UsageError(f"--set {shown}: {table!r} has no entry {key!r}")
        inner = table.get(key)
        if isinstance(inner, str) and after != "name":
            # `clip = "norm"` and `--set clip.max_norm=2`: the short form becomes the long one.
            inner = {"name": inner}
        table[key] = inner if isinstance(inner, list) else dict(inner) if isinstance(inner, Mapping) else {}
        table = table[key]
    if isinstance(table, list):
        table[_index(path[-1], table, shown)] = value
        return
    if not isinstance(table, dict):
        raise UsageError(f"--set {shown}: {table!r} has no entry {path[-1]!r}")
    table[path[-1]] = value
    if path[-1] in _LENGTHS:
        # A stage's length is said in one way; the new one replaces the old.
        table.update({other: None for other in _LENGTHS if other != path[-1]})


def _index(key: str, table: list[Any], shown: str) -> int:
    places = [str(place) for place in range(len(table))]
    if key not in places:
        raise UsageError(f"--set {shown}: {key!r} is not one of the {len(table)} entries (0, 1, ...)")
    return places.index(key)


def write_toml(document: Mapping[str, Any]) -> str:
    """A recipe document as TOML; entries that are None are left out.

    Args:
        document: tables as `Recipe.document` gives them.
    """
    lines, later = [], []
    for key, value in document.items():
        if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            later += [f"\n[[{key}]]\n{_entries_of(item)}" for item in value]
        elif isinstance(value, Mapping) and value:
            later.append(f"\n[{key}]\n{_entries_of(value)}")
        elif value is not None:
            lines.append(f"{key} = {_value(value)}")
    return "\n".join([*lines, *later]) + "\n"


def _entries_of(table: Mapping[str, Any]) -> str:
    return "\n".join(f"{_key(key)} = {_value(value)}" for key, value in table.items() if value is not None)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _value(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items() if v is not None) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    raise UsageError(f"{value!r} cannot be written as TOML")
