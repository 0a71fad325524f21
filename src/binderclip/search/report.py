"""What an update of an index did."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class IndexReport:
    """What one `update` did: counts of pictures, and (path, reason) of those that could not be read."""

    added: int = 0
    changed: int = 0
    unchanged: int = 0
    removed: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)

    @property
    def encoded(self) -> int:
        """Pictures that went through the model."""
        return self.added + self.changed
