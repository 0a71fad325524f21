"""What `segment-presets` does: presets with their parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from binderclip.segment import CHOICES, DEPARTURES, PRESETS, SUMMARIES, describe, parts_of
from binderclip.tasks.request import VerbResult
from binderclip.tasks.verbs.segment_presets.request import SegmentPresetsRequest


@dataclass(frozen=True)
class PresetList(VerbResult):
    """Presets by name.

    Attributes:
        presets: their names.
    """

    whole: ClassVar[bool] = True
    request: SegmentPresetsRequest
    presets: list[str]
    complete: bool = True

    @property
    def title(self) -> str:
        return "presets of the segmenter"

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Columns, and a row a preset."""
        return ("preset", "what it is for"), [(name, SUMMARIES[name]) for name in self.presets]

    def more_tables(self) -> list[tuple[str, tuple[str, ...], list[tuple[Any, ...]]]]:
        """Of presets that were named: their parts, how they differ from their papers, and what --set takes."""
        if not self.request.names:
            return []
        plain = describe(parts_of("value"))
        parts = []
        for name in self.presets:
            other = {key: value for key, value in describe(parts_of(name)).items() if value != plain[key] and value}
            texts = "; ".join(f"{key}: {_short(value)}" for key, value in other.items())
            parts.append((name, texts or "the value path"))
        differ = [(name, line) for name in self.presets for line in DEPARTURES.get(name, ())]
        places = {"map": "last_block.map"}
        named = [(places.get(part, part), ", ".join(names)) for part, names in CHOICES.items() if names]
        tables: list[tuple[str, tuple[str, ...], list[tuple[Any, ...]]]] = [
            ("parts", ("preset", "parts that differ from `value`"), parts),
            ("how they differ from the methods as published", ("preset", "difference"), differ),
            ("parts by name, for --set PART=NAME (none takes a part out)", ("part", "names"), named),
        ]
        return [table for table in tables if table[2]]

    def conclusion(self) -> list[str]:
        """How to see more."""
        if self.request.names:
            return []
        return ["segment-presets NAME (or all): its parts, how it differs from its paper, and what --set takes"]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; the differences of each preset under `departures`."""
        return {
            "presets": {
                name: {
                    "summary": SUMMARIES[name],
                    **describe(parts_of(name)),
                    "departures": list(DEPARTURES.get(name, ())),
                }
                for name in self.presets
            },
            "request": self.request.as_document(),
        }


def _short(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_short(item) for item in value)
    if isinstance(value, dict):
        inner = ", ".join(
            f"{k}={_short(v)}" for k, v in value.items() if k != "part" and v not in (None, False, [], "")
        )
        return f"{value['part']}({inner})"
    return str(value)


def run(request: SegmentPresetsRequest) -> PresetList:
    """Look the presets up.

    Raises:
        UsageError: an unknown preset.
    """
    names = request.names if request.names not in ([], ["all"]) else list(PRESETS)
    for name in names:
        parts_of(name)  # a wrong name is said before anything is shown
    return PresetList(request, names)
