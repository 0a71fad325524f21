"""Labels that a person gave to the pictures of a folder, kept in a file beside them."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from binderclip.tasks.files.kept_entries import kept_entries
from binderclip.tasks.files.writing import write_json

NAME = ".binderclip-labels.json"
"""Of the file in a folder of pictures."""
_lock = threading.Lock()


class LabelStore:
    """Labels of pictures, each known by its `content_hash`, in a JSON file.

    It is read again before each change: two pages may share a folder.

    Args:
        folder: of the pictures; the file in it need not be there.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME

    def labels(self) -> dict[str, str]:
        """Key of a picture -> its label.

        Raises:
            UsageError: the file is there and is none of ours, or damaged; it names the file.
        """
        return {key: entry["label"] for key, entry in self._entries().items()}

    def change(self, labels: Mapping[str, tuple[str, str]], forgotten: Iterable[str]) -> None:
        """Keep labels, and forget others; nothing is written where nothing changes.

        Args:
            labels: key -> (name of the picture, for people who read the file; label).
            forgotten: keys that have none any more.

        Raises:
            UsageError: as `labels`.
            OutputError: the file cannot be written.
        """
        with _lock:
            before = self._entries()
            gone = set(forgotten)
            entries = {key: entry for key, entry in before.items() if key not in gone}
            entries |= {key: {"name": name, "label": label} for key, (name, label) in labels.items()}
            if entries != before:
                write_json({"labels": entries}, self.path)

    def _entries(self) -> dict[str, dict[str, str]]:
        return kept_entries(self.path, "labels", "labels", _is_entry)


def _is_entry(_: str, entry: Any) -> bool:
    texts = isinstance(entry, dict) and set(entry) == {"name", "label"}
    return texts and all(isinstance(value, str) for value in entry.values())
