"""What comes of `generate`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from binderclip.display import number_of
from binderclip.tasks.files.writing import short_path
from binderclip.tasks.request import VerbResult
from binderclip.tasks.verbs.generate.request import GenerateRequest

SHEET, TABLE = "sheet.png", "table.csv"
LONGEST = 40
"""Characters of a text in the names of its files."""


def names_of_texts(texts: Sequence[str]) -> list[str]:
    """The start of every text's file names: its letters and digits, with a number where two are alike."""
    words = ["-".join(re.findall(r"\w+", text.lower()))[:LONGEST].strip("-_") or "picture" for text in texts]
    alike, seen, names = Counter(words), Counter[str](), []
    for word in words:
        seen[word] += 1
        names.append(f"{word}-{seen[word]}" if alike[word] > 1 else word)
    return names


@dataclass(frozen=True)
class GeneratedPicture:
    """A picture.

    Attributes:
        text: what it shows. seed: by which it is drawn again.
        path: of its file.
        agreement: cosine with its text, by the name of the model that judges.
    """

    text: str
    seed: int
    path: Path
    agreement: dict[str, float]


@dataclass(frozen=True)
class GeneratedPictures(VerbResult):
    """Pictures of texts, in the folder `request.out`.

    Attributes:
        model: what drew them. size: (height, width) in pixels.
        rows: in the order of the texts, then of the seeds.
        forwards: of the network, of all pictures.
        skipped: (path, reason) of pictures of `request.from_folder` that could not be read.
    """

    request: GenerateRequest
    model: str
    size: tuple[int, int]
    rows: list[GeneratedPicture]
    forwards: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    complete: bool = True

    @property
    def folder(self) -> Path:
        """Of the files."""
        return Path(self.request.out)

    @property
    def sheet(self) -> Path:
        """Of all pictures with their texts."""
        return self.folder / SHEET

    @property
    def title(self) -> str:
        """How many of what size by which model."""
        height, width = self.size
        return f"{number_of(len(self.rows), 'picture')} of {height} x {width} px by {self.model}"

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Columns, and a row a picture."""
        judges = list(self.rows[0].agreement)
        return ("text", "seed", *(f"agreement {judge}" for judge in judges), "picture"), [
            (row.text, row.seed, *row.agreement.values(), short_path(row.path)) for row in self.rows
        ]

    def remarks(self) -> list[str]:
        """What the figures mean, and what the pictures are no proof of."""
        lines = ["agreement is the cosine of picture and text by that model; small-b had no part in drawing"]
        if self.request.from_folder is not None:
            return ["agreement is the cosine of picture and text by that model; small chose the pictures of the folder"]
        return lines

    def places(self) -> list[str]:
        """Where the pictures and the sheet are."""
        return [f"pictures in {short_path(self.folder)}, sheet {short_path(self.sheet)}"]

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "model": self.model,
            "size": list(self.size),
            "pictures": [
                {"text": row.text, "seed": row.seed, "picture": row.path, "agreement": row.agreement}
                for row in self.rows
            ],
            "forwards": self.forwards,
            "skipped": [{"image": key, "reason": reason} for key, reason in self.skipped],
            "sheet": self.sheet,
            "table": self.folder / TABLE,
            "out": self.folder,
            "request": self.request.as_document(),
        }
