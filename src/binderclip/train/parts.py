"""Parts of a recipe: `{name = "...", **settings}`, checked against the constructor they are given to.

A room publishes `METHODS: dict[str, Callable]`; a recipe names one of them. Names and settings are checked from the
signature before anything is built, so a typing error costs a second, not an hour.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from binderclip.errors import UsageError

__all__ = ["brief", "build_part", "check_part", "hint", "part_name"]


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
        UsageError: unknown name, unknown setting, or a required one left out.
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
