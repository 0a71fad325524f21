"""`binderclip segment --list`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from binderclip.cli.shared.output import console, print_json, print_table


def show_presets(json: bool, names: Sequence[str] | None) -> None:
    """What each preset is for; of presets that were named also their parts, and how they differ from their papers.

    Args:
        json: one document instead of tables, the differences of each preset under `departures`.
        names: of the presets; None for all, a line each.

    Raises:
        UsageError: an unknown preset.
    """
    from binderclip.segment import DEPARTURES, PRESETS, SUMMARIES, describe, parts_of

    chosen = list(PRESETS) if names is None else names
    if json:
        print_json(
            {
                name: {
                    "summary": SUMMARIES[name],
                    **describe(parts_of(name)),
                    "departures": list(DEPARTURES.get(name, ())),
                }
                for name in chosen
            }
        )
        return
    for name in chosen:
        parts_of(name)  # a wrong name is said before anything is shown
    print_table("presets of the segmenter", ("preset", "what it is for"), [(name, SUMMARIES[name]) for name in chosen])
    if names is None:
        console.print("--list --preset NAME (or all): its parts, how it differs from its paper, and what --set takes")
    else:
        _show_parts(names)


def _show_parts(names: Sequence[str]) -> None:
    from binderclip.segment import CHOICES, DEPARTURES, describe, parts_of

    plain = describe(parts_of("value"))
    rows = []
    for name in names:
        parts = {key: value for key, value in describe(parts_of(name)).items() if value != plain[key] and value}
        rows.append((name, "; ".join(f"{key}: {_short(value)}" for key, value in parts.items()) or "the value path"))
    print_table("parts", ("preset", "parts that differ from `value`"), rows)
    differ = [(name, line) for name in names for line in DEPARTURES.get(name, ())]
    if differ:
        print_table("how they differ from the methods as published", ("preset", "difference"), differ)
    places = {"map": "last_block.map"}
    named = [(places.get(part, part), ", ".join(names)) for part, names in CHOICES.items() if names]
    print_table("parts by name, for --set PART=NAME (none takes a part out)", ("part", "names"), named)


def _short(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_short(item) for item in value)
    if isinstance(value, dict):
        inner = ", ".join(
            f"{k}={_short(v)}" for k, v in value.items() if k != "part" and v not in (None, False, [], "")
        )
        return f"{value['part']}({inner})"
    return str(value)
