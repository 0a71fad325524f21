"""What a query finds: pictures with their similarities, which a notebook shows as pictures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from binderclip.errors import BinderclipError


@dataclass(frozen=True)
class Hit:
    """One found picture: its path and its similarity with the query, for most models the cosine, in [-1, 1]."""

    path: Path
    score: float


class Hits(list[Hit]):
    """What a query found, best first: a list that a notebook shows as pictures.

    Attributes:
        query: the words that were asked, or empty for a picture.
    """

    def __init__(self, hits: Iterable[Hit] = (), query: str = "") -> None:
        super().__init__(hits)
        self.query = query

    def _drawn(self, most: int) -> list[tuple[Any, str]]:
        return [(_opened(hit.path), f"{hit.path.name} {hit.score:.2f}") for hit in self[:most]]

    def _repr_html_(self) -> str:
        """The pictures with name and similarity, in a notebook."""
        from binderclip.display import MOST, sheet_html

        drawn = self._drawn(MOST)
        return sheet_html([*drawn, *[(None, "")] * (len(self) - len(drawn))], title=self.query)

    def plot(self) -> Any:
        """A matplotlib figure of the pictures found that can still be read."""
        from binderclip.display import MOST, show_pictures

        figure = show_pictures([entry for entry in self._drawn(MOST) if entry[0] is not None], columns=6)
        if self.query:
            figure.suptitle(self.query)
        return figure


def _opened(path: Path) -> Any:
    """The picture, or None where it is gone or cannot be read."""
    from binderclip.data import open_image

    try:
        return open_image(path)
    except (BinderclipError, OSError):
        return None
