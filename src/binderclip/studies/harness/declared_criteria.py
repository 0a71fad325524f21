"""Criteria, preconditions and the rival as a TOML file declares them.

A condition is a table, `[[criteria]]`, `[[preconditions]]` or `[rival]`:

    text        the condition in words
    value       the quantity that is judged
    above       what it has to exceed: a quantity, or a number as a bound; or `below`
    essential   true: the claim stands on it (of criteria alone, like all that follows)
    margin, claimed, expected, over, items      as in `Criterion.paired`
    spread      of the pilot; its seeds are the file's `pilot_seeds`, or `pilot_seeds` of the table

A condition with a function of its own names it in the place of `value` and `above`. It is a function of the study's
module, or of a protocol among the file's `constants`, from the table to what is found: `estimate`
(`Criterion.estimated`), `exact` with `why` (`Criterion.exact`) or `test` (no interval). A list is a function that makes
the one meant, with what it is given: `estimate = ["scene_gain", "ours", "plain", 25]`. A quantity is one of

    ["metric", "method", "setting", ...]        rows, their mean over the settings; the setting may be left out
    0.5, "log 2", "-log 10", "1/3"              a number; a logarithm or a fraction as it is said
    { mean = [quantity, quantity, ...] }        also least, most, median, range, deviation and rank, which rises
    { difference = [quantity, quantity] }       also ratio and log_ratio
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from binderclip.errors import UsageError
from binderclip.studies.harness.criteria import Criterion, Precondition
from binderclip.studies.harness.power import Pilot
from binderclip.studies.harness.quantities import Quantity, combined, quantity, value_of
from binderclip.studies.harness.table import Table

_NUMBER = re.compile(r"(?P<sign>-?)(?:(?P<log>log )?(?P<value>\d+(?:\.\d+)?)|(?P<over>\d+)/(?P<under>[1-9]\d*))")
_PAIRS = ("difference", "ratio", "log_ratio")
_SEVERAL = ("mean", "least", "most", "median", "range", "deviation", "rank")
_EFFECTS = ("margin", "claimed", "expected")
_SIDES = ("above", "below")
_FUNCTIONS = ("estimate", "exact", "test")
_KINDS: dict[str, tuple[type, ...]] = {
    "text": (str,), "essential": (bool,), "spread": (float, int), "items": (int,), "over": (str,), "why": (str,),
    "pilot_seeds": (list,),
}  # fmt: skip
_CRITERION = {
    "text", "value", *_SIDES, "essential", *_EFFECTS, "over", "items", "spread", "pilot_seeds", *_FUNCTIONS, "why"
}  # fmt: skip


def criterion(entry: Mapping[str, Any], where: str, names: Mapping[str, Any], pilot_seeds: list[int]) -> Criterion:
    """The criterion that a table declares.

    Args:
        entry: the table.
        where: names the file and the table, for errors.
        names: of the study's module and its protocols, where functions are looked up.
        pilot_seeds: of the file.

    Raises:
        UsageError: an entry that is unknown, missing, superfluous or not of its kind.
    """
    _require_known(entry, _CRITERION, where)
    for key, kinds in _KINDS.items():
        if not isinstance(entry.get(key, kinds[0]()), kinds):
            raise UsageError(f"{where}: {key} = {entry[key]!r} is no {kinds[0].__name__}")
    if entry.get("over", "seeds") not in ("seeds", "items"):
        raise UsageError(f"{where}: over = {entry['over']!r} is neither 'seeds' nor 'items'")
    found = [key for key in ("value", *_FUNCTIONS) if key in entry]
    if len(found) != 1:
        raise UsageError(f"{where}: one of value, {', '.join(_FUNCTIONS)}; found {', '.join(found) or 'none'}")
    kind, text, essential = found[0], _text(entry, where), bool(entry.get("essential", False))
    options: dict[str, Any] = {key: number(entry[key], f"{where}: {key}") for key in _EFFECTS if key in entry}
    options |= {key: entry[key] for key in ("over", "items") if key in entry}
    if "spread" in entry:
        seeds = entry.get("pilot_seeds", pilot_seeds)
        if not seeds:
            raise UsageError(f"{where}: a spread is that of pilot_seeds, and there are none")
        options["pilot"] = Pilot(entry["spread"], tuple(seeds))
    _require_fitting(entry, kind, where)
    if kind == "value":
        side, bound = _side(entry, where)
        value = quantity_of(entry["value"], f"{where}: value")
        return Criterion.paired(text, value, bound, lower=side == "below", essential=essential, **options)
    function = _function(entry[kind], names, f"{where}: {kind}")
    if kind == "estimate":
        return Criterion.estimated(text, function, essential=essential, **options)
    if kind == "exact":
        return Criterion.exact(text, function, why=entry["why"], essential=essential)
    return Criterion(text, function, essential=essential)


def precondition(entry: Mapping[str, Any], where: str) -> Precondition:
    """The precondition that a table declares: `text`, `value`, and a number `above` or `below`.

    Raises:
        UsageError: an entry that is unknown, missing or not of its kind.
    """
    _require_known(entry, {"text", "value", *_SIDES}, where)
    if "value" not in entry:
        raise UsageError(f"{where}: value is missing")
    side, _ = _side(entry, where)
    bound = number(entry[side], f"{where}: {side}")
    value = quantity_of(entry["value"], f"{where}: value")
    return Precondition(_text(entry, where), value, bound, lower=side == "below")


def quantity_of(entry: Any, where: str) -> Quantity:
    """The quantity that an entry of the file says.

    Raises:
        UsageError: it is none.
    """
    if isinstance(entry, list) and len(entry) > 1 and all(isinstance(part, str) for part in entry):
        return value_of(*entry)
    if isinstance(entry, dict) and len(entry) == 1:
        ((how, parts),) = entry.items()
        least, most = (2, 2) if how in _PAIRS else (3 if how == "rank" else 1, math.inf)
        if how not in (*_PAIRS, *_SEVERAL) or not isinstance(parts, list) or not least <= len(parts) <= most:
            raise UsageError(
                f"{where}: {how!r} of {len(parts) if isinstance(parts, list) else 'no list'}; {', '.join(_SEVERAL)} "
                f"of several quantities (a rank of three at least), or {', '.join(_PAIRS)} of two"
            )
        return combined(how.replace("_", " "), *(quantity_of(part, where) for part in parts))
    if isinstance(entry, (int, float, str)):
        return quantity(number(entry, where))
    raise UsageError(
        f"{where}: {entry!r} is no quantity: [metric, method, setting, ...], a number, or {{ mean = [...] }}"
    )


def number(entry: Any, where: str) -> float:
    """A number, also one that is said as `log 2`, `-log 10` or `1/3`.

    Raises:
        UsageError: it is none.
    """
    if isinstance(entry, (int, float)) and not isinstance(entry, bool) and math.isfinite(entry):
        return entry
    said = _NUMBER.fullmatch(entry) if isinstance(entry, str) else None
    if said is None:
        raise UsageError(f"{where}: {entry!r} is no number such as 0.5, 'log 2', '-log 10' or '1/3'")
    if said["over"]:
        value = int(said["over"]) / int(said["under"])
    elif said["log"] and float(said["value"]) > 0:
        value = math.log(float(said["value"]))
    else:
        raise UsageError(f"{where}: {entry!r} is no logarithm of a positive number; a plain number has no quotes")
    return -value if said["sign"] else value


def _text(entry: Mapping[str, Any], where: str) -> str:
    if not isinstance(entry.get("text"), str):
        raise UsageError(f"{where}: text is missing")
    return folded(entry["text"])


def _function(entry: Any, names: Mapping[str, Any], where: str) -> Callable[[Table], Any]:
    """The function of a name, or the one that a function makes of what follows its name, lists as tuples."""
    name, *given = entry if isinstance(entry, list) and entry else [entry]
    function = names.get(name) if isinstance(name, str) else None
    if callable(function) and isinstance(entry, list):
        try:
            function = function(*(tuple(each) if isinstance(each, list) else each for each in given))
        except TypeError as error:
            raise UsageError(f"{where} = {entry!r}: {error}") from error
    if not callable(function):
        raise UsageError(f"{where} = {entry!r} is no function of the study's module or of its constants")
    return function


def _side(entry: Mapping[str, Any], where: str) -> tuple[str, Quantity]:
    """`above` or `below`, and the quantity there."""
    sides = [side for side in _SIDES if side in entry]
    if len(sides) != 1:
        raise UsageError(f"{where}: a value is held against one of above and below; found {', '.join(sides) or 'none'}")
    return sides[0], quantity_of(entry[sides[0]], f"{where}: {sides[0]}")


def _require_known(entry: Mapping[str, Any], known: set[str], where: str) -> None:
    if unknown := sorted(entry.keys() - known):
        raise UsageError(f"{where}: unknown entries {', '.join(unknown)}; known are {', '.join(sorted(known))}")


def _require_fitting(entry: Mapping[str, Any], kind: str, where: str) -> None:
    """Refuse what another kind of condition takes."""
    foreign = set(_SIDES) if kind != "value" else set()
    if kind in ("exact", "test"):
        foreign |= {*_EFFECTS, "over", "items", "spread", "pilot_seeds"}
    if kind != "exact":
        foreign |= {"why"}
    if superfluous := sorted(entry.keys() & foreign):
        raise UsageError(f"{where}: {', '.join(superfluous)} mean nothing beside {kind}")
    if kind == "exact" and "why" not in entry:
        raise UsageError(f"{where}: exact needs why no interval is needed, such as 'a theorem'")


def folded(text: str) -> str:
    """The lines of a text as one."""
    return " ".join(text.strip("\n").split("\n"))
