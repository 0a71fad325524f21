"""What `curate --list` says: presets, rules and columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from binderclip.curate import PRESETS, SIGNALS, SUMMARIES
from binderclip.tasks.request import VerbResult
from binderclip.tasks.verbs.curate.request import CurateRequest

COLUMNS = ("name", "what it is")


@dataclass(frozen=True)
class CurationListing(VerbResult):
    """Names, each with what it is.

    Attributes:
        presets, rules, columns: name -> what it is.
        title: of the first table.
    """

    request: CurateRequest
    presets: Mapping[str, str]
    rules: Mapping[str, str]
    columns: Mapping[str, str]
    title: str = "presets"
    whole = True

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Columns, and a row a preset."""
        return COLUMNS, list(self.presets.items())

    def more_tables(self) -> list[tuple[str, tuple[str, ...], list[tuple[Any, ...]]]]:
        """Title, columns and rows of rules, and of columns that are computed."""
        return [
            ("rules", COLUMNS, list(self.rules.items())),
            ("columns that are computed", COLUMNS, list(self.columns.items())),
        ]

    def as_dict(self) -> dict[str, Any]:
        return {
            "presets": self.presets, "rules": self.rules, "columns": self.columns,
            "request": self.request.as_document(),
        }  # fmt: skip


def listed(request: CurateRequest) -> CurationListing:
    """All presets, rules and columns."""
    presets = {name: str(make.__doc__).partition("\n")[0].removesuffix(".") for name, make in PRESETS.items()}
    return CurationListing(request, presets, SUMMARIES, SIGNALS)
