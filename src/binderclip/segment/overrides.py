"""`part.setting=value`: change single settings of a preset by text, checked against the parts' own fields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from binderclip.errors import UsageError
from binderclip.segment.segmenter import PARTS, Parts


def override(parts: Parts, changes: Sequence[tuple[Sequence[str], Any]]) -> Parts:
    """Parts with single settings replaced.

    Args:
        parts: of a preset (`parts_of`).
        changes: (path, value): `("rule", "scale")`, 40; `("last_block", "residual")`, True; a number picks from a
            tuple: `("refine", "0", "steps")`, 5. A whole part is named from `CHOICES`: `("refine",)`, "pamr".

    Raises:
        UsageError: no such part, setting or choice, saying what there is.

    Examples:
        >>> from binderclip.segment import parts_of
        >>> override(parts_of("value"), [(("rule", "scale"), 40.0)]).rule.scale
        40.0
    """
    for path, value in changes:
        if not path or path[0] not in PARTS:
            raise UsageError(f"--set {'.'.join(path)}: a segmenter's parts are {', '.join(PARTS)}")
        parts = _put(parts, list(path), value, ".".join(path))
    return parts


def describe(parts: Parts) -> dict[str, Any]:
    """The settings of parts as nested plain values, to be shown and compared."""
    return {name: _plain(getattr(parts, name)) for name in PARTS}


def _put(owner: Any, path: list[str], value: Any, shown: str) -> Any:
    if isinstance(owner, tuple):
        if path[0] not in map(str, range(len(owner))):
            raise UsageError(f"--set {shown}: {path[0]!r} is not one of 0 to {len(owner) - 1}")
        place = int(path[0])
        new = _put(owner[place], path[1:], value, shown) if len(path) > 1 else _chosen(path, value, owner[place], shown)
        return (*owner[:place], new, *owner[place + 1 :])
    if not is_dataclass(owner) or isinstance(owner, type):
        raise UsageError(f"--set {shown}: {_name(owner)} has no settings")
    known = {f.name: getattr(owner, f.name) for f in fields(owner) if f.init}
    if path[0] not in known:
        raise UsageError(
            f"--set {shown}: {type(owner).__name__} has no {path[0]!r}; it has {', '.join(known) or 'no settings'}"
        )
    old = known[path[0]]
    new = _put(old, path[1:], value, shown) if len(path) > 1 else _chosen(path, value, old, shown)
    if old is None and isinstance(new, str) and _takes_numbers(owner, path[0]):
        raise UsageError(f"--set {shown}={new}: must be a number")
    try:
        return replace(owner, **{path[0]: new})
    except (TypeError, ValueError) as error:
        raise UsageError(f"--set {shown}: {error}") from error


def _takes_numbers(owner: Any, name: str) -> bool:
    """Whether the annotation of a setting that stands at None allows numbers and no text."""
    kind = str(next(f.type for f in fields(owner) if f.name == name))
    return ("int" in kind or "float" in kind) and "str" not in kind


def _chosen(path: Sequence[str], value: Any, old: Any, shown: str) -> Any:
    """A plain value for a plain setting, a named part for a part."""
    from binderclip.segment.presets import CHOICES

    if path[-1] in CHOICES and (isinstance(value, str) or value is None):
        choices = CHOICES[path[-1]]
        if value in (None, "", "none") and path[-1] not in ("map", "fusion"):
            return () if isinstance(old, tuple) else None
        if value not in choices:
            without = [] if path[-1] in ("map", "fusion") else ["none"]
            raise UsageError(f"--set {shown}={value}: there are {', '.join([*without, *sorted(choices)])}")
        made = choices[value]()
        return (made,) if path[-1] in ("refine", "relabel") else made
    plain = (str, int, float, bool, type(None))
    if not isinstance(old, (*plain, tuple)):
        raise UsageError(f"--set {shown}={value}: {shown} is a part; set one of its settings")
    if isinstance(old, bool) and not isinstance(value, bool):
        raise UsageError(f"--set {shown}={value}: must be true or false")
    if isinstance(old, (int, float)) and not isinstance(old, bool) and not isinstance(value, (int, float)):
        raise UsageError(f"--set {shown}={value}: must be a number")
    return tuple(value) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        settings = {f.name: _plain(getattr(value, f.name)) for f in fields(value) if f.init}
        return {"part": type(value).__name__, **settings}
    return value if isinstance(value, (str, int, float, bool, type(None))) else _name(value)


def _name(value: Any) -> str:
    return getattr(value, "__name__", type(value).__name__)
