"""What the last runs of pages leave in memory, so that what is typed after them needs no run."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")

MOST_PAGES = 6
"""Pages whose last result is held, of all pages together: models and embeddings take memory."""


class HeldByPage(Generic[T]):
    """One value for each of the pages that ran last; the one that ran longest ago goes first.

    Args:
        most: pages that are held.
    """

    def __init__(self, most: int = MOST_PAGES) -> None:
        self._most, self._held, self._lock = most, OrderedDict[Path, T](), threading.Lock()

    def hold(self, page: Path, value: T) -> None:
        """Hold a value in the place of the page's last one.

        Args:
            page: folder of its results.
        """
        with self._lock:
            self._held.pop(page, None)
            self._held[page] = value
            while len(self._held) > self._most:
                self._held.popitem(last=False)

    def get(self, page: Path) -> T | None:
        """The value of a page; None where it has none (any more)."""
        with self._lock:
            return self._held.get(page)
