"""A pipeline as a TOML file: rules and presets one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from binderclip.curate.engine.rule import KeepRule
from binderclip.curate.methods import METHODS
from binderclip.curate.presets import PRESETS
from binderclip.curate.signals.cleaning import CLEANERS
from binderclip.errors import UsageError
from binderclip.settings import (
    apply_override,
    brief,
    build_part,
    check_depth,
    check_part,
    hint,
    parse_override,
    part_name,
    read_toml,
)

_INNER = ("any-of", "none-of")
_EXAMPLE = "[[stage]] with name = '...'"


@dataclass(frozen=True)
class CurationRecipe:
    """What a recipe says.

    Attributes:
        stages: (name, rule), in order; a preset gives several.
        seed: of everything random.
        model: name of the model of `clip_score` and other signals; "" leaves the choice to the caller.
        cleaner: of `masked_clip_score`, one of `CLEANERS`.
    """

    stages: tuple[tuple[str, KeepRule], ...]
    seed: int = 0
    model: str = ""
    cleaner: str = "numbers"

    @property
    def needs(self) -> set[str]:
        """Columns that the rules read."""
        return {column for _, rule in self.stages for column in rule.needs}


def read_recipe(source: str | Path, overrides: Sequence[str] = ()) -> CurationRecipe:
    """A recipe from a TOML file, or a preset by its name.

    A recipe has `[[stage]]` tables, each with the `name` of a rule (`METHODS`) or preset (`PRESETS`) and its settings,
    and may have `seed`, `model` and `cleaner`. Files that settings name are looked for from the current folder.

    Args:
        source: path, or a preset's name.
        overrides: `KEY=VALUE` each, such as `stage.0.fraction=0.2` or `seed=1`.

    Raises:
        UsageError: no such file or preset; a name or setting that is unknown or refused; says which.
    """
    name = str(source)
    if name in PRESETS:
        document: dict[str, Any] = {"stage": [{"name": name}]}
    elif name.endswith(".toml") or Path(name).exists():
        document, _ = read_toml(name)
    else:
        raise UsageError(f"there is no recipe or preset {brief(name)}: {hint(name, PRESETS)}; a recipe is a .toml file")
    check_depth(document, name)
    _check_shape(document, name)
    keys = {key for part in (*METHODS, *PRESETS) for key in _settings_of(part)} | {"name"}
    for text in overrides:
        path, value = parse_override(text)
        apply_override(document, path, value, {"seed", "model", "cleaner"}, keys)
    return parse_recipe(document, name)


def parse_recipe(document: Mapping[str, Any], source: str = "recipe") -> CurationRecipe:
    """A recipe from a document, as TOML gives it.

    Args:
        document: see `read_recipe`.
        source: its name, for messages.

    Raises:
        UsageError: as of `read_recipe`.
    """
    _check_shape(document, source)
    seed, model, cleaner = document.get("seed", 0), document.get("model", ""), document.get("cleaner", "numbers")
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**64:
        raise UsageError(f"{source}: seed is {brief(seed)}; it is a whole number from 0 to 2^64 - 1")
    if not isinstance(model, str):
        raise UsageError(f"{source}: model is {brief(model)}; it is a name")
    if not isinstance(cleaner, str) or cleaner not in CLEANERS:
        raise UsageError(f"{source}: cleaner is {brief(cleaner)}; it is one of {', '.join(CLEANERS)}")
    stages = []
    for number, part in enumerate(document["stage"]):
        try:
            stages += _rules(part)
        except (TypeError, ValueError) as error:
            raise UsageError(f"{source}: stage {number}: {error}") from error
    return CurationRecipe(tuple(stages), seed, model, cleaner)


def _check_shape(document: Mapping[str, Any], source: str) -> None:
    stages = document.get("stage")
    if not isinstance(stages, list) or not stages or not all(isinstance(part, dict) for part in stages):
        raise UsageError(f"{source} has no stages: write a table {_EXAMPLE} for each rule or preset")
    for key in document:
        if key not in ("stage", "seed", "model", "cleaner"):
            raise UsageError(f"{source} has no entry {brief(key)}: {hint(key, ['stage', 'seed', 'model', 'cleaner'])}")


def _rules(part: Mapping[str, Any]) -> list[tuple[str, KeepRule]]:
    name = part_name(part)
    if name not in METHODS and name not in PRESETS:
        raise UsageError(f"unknown rule or preset {brief(name)}: {hint(name, [*METHODS, *PRESETS])}")
    if name in PRESETS:
        rules = build_part(part, PRESETS, "preset")
        return [(f"{name}: {rule.reason}", rule) for rule in rules]
    if name in _INNER:
        inner = part.get("rules", [])
        if not isinstance(inner, list) or not all(isinstance(one, dict) for one in inner):
            raise UsageError(f"rules of {name} are a list of tables, such as [{{name = 'threshold', ...}}]")
        check_part(part, METHODS, "rule")
        part = {**part, "rules": [_one(one) for one in inner]}
    rule = build_part(part, METHODS, "rule")
    return [(rule.reason, rule)]


def _one(part: Mapping[str, Any]) -> KeepRule:
    rules = _rules(part)
    if len(rules) > 1:
        raise UsageError(f"{part_name(part)} stands for {len(rules)} rules and cannot be one of several alternatives")
    return rules[0][1]


def _settings_of(name: str) -> list[str]:
    import inspect

    return list(inspect.signature((METHODS | PRESETS)[name]).parameters)  # type: ignore[operator]  # of two value types
