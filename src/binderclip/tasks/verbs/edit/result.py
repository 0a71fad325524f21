"""What comes of `edit`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from binderclip.display import number_of
from binderclip.tasks.files.writing import short_path
from binderclip.tasks.request import VerbResult
from binderclip.tasks.sampling import JUDGES
from binderclip.tasks.verbs.edit.request import EditRequest

SHEET, TABLE = "before-after.png", "table.csv"
COLUMNS = ("image", "seed", "autoencoder error", "inversion error")
"""With which the table begins."""


@dataclass(frozen=True)
class EditedPicture:
    """A picture and its edit.

    Attributes:
        image: path of the picture. used: what of it went through the model.
        seed: of the noise.
        result, small: files of the edit, at the picture's size and at the model's side; no result where things moved.
        moved: share of the edges of picture and edit, where something changed, that the other has not there.
        detail: energy of what is finer than the model sees where something changed, of 1 for the picture's own; None
            where there is no result, or nothing that is finer or changed.
        autoencoder_error: root mean square, of 1, between the picture and what the autoencoder alone makes of it.
        inversion_error: the same between that and what comes back from the inversion; None where nothing was inverted.
        before, after: cosine with --to, by the name of the model that judges; empty where it was interrupted.
        forwards: of the network.
    """

    image: str
    used: str
    seed: int
    result: Path | None
    small: Path
    moved: float
    detail: float | None
    autoencoder_error: float
    inversion_error: float | None
    before: dict[str, float]
    after: dict[str, float]
    forwards: int


@dataclass(frozen=True)
class EditedPictures(VerbResult):
    """Edits, in the folder `request.out`.

    Attributes:
        model: what edited. side: of the square that goes through it, in pixels.
        rows: in the order of the pictures.
        skipped: (path, reason) of those that could not be read.
    """

    request: EditRequest
    model: str
    side: int
    rows: list[EditedPicture]
    skipped: list[tuple[str, str]]
    complete: bool = True

    @property
    def folder(self) -> Path:
        """Of the files."""
        return Path(self.request.out)

    @property
    def sheet(self) -> Path:
        """Of pictures before and after."""
        return self.folder / SHEET

    @property
    def title(self) -> str:
        """From what to what, by which method and model."""
        asked = self.request
        return (
            f"{number_of(len(self.rows), 'picture')} from {asked.source!r} to {asked.target!r} by {asked.method} with "
            f"{self.model}"
        )

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Columns, and a row a picture."""
        judged = [f"{when} {judge}" for judge in JUDGES for when in ("before", "after")]
        rows = [
            (
                short_path(row.image), row.seed, row.autoencoder_error,
                "" if row.inversion_error is None else round(row.inversion_error, 4),
                *(values.get(judge, "") for judge in JUDGES for values in (row.before, row.after)),
                round(row.moved, 3), "" if row.detail is None else round(row.detail, 3),
                short_path(row.result or row.small),
            )
            for row in self.rows
        ]  # fmt: skip
        return (*COLUMNS, *judged, "moved", "detail", "edit"), rows

    def remarks(self) -> list[str]:
        """What went through the model, and what the figures are."""
        used = list(dict.fromkeys(row.used for row in self.rows))
        more = f" and {len(used) - 3} other sizes" if len(used) > 3 else ""
        return [
            f"edited at {self.side} x {self.side} px: {'; '.join(used[:3])}{more}",
            "before and after are cosines with --to; errors are root mean squares of 1; moved is a share of the edges; "
            "detail is that of the edit where it changed something, 1 for as much as before",
            *_made_small(self.rows, self.side),
        ]

    def places(self) -> list[str]:
        """Where the edits and the sheet are."""
        return [f"edits in {short_path(self.folder)}, sheet {short_path(self.sheet)}"]

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "model": self.model,
            "side": self.side,
            "method": self.request.method,
            "images": [asdict(row) for row in self.rows],
            "skipped": [{"image": key, "reason": reason} for key, reason in self.skipped],
            "sheet": self.sheet,
            "table": self.folder / TABLE,
            "out": self.folder,
            "request": self.request.as_document(),
        }


def _made_small(rows: list[EditedPicture], side: int) -> list[str]:
    """Which edits have no other size than the model's, and why."""
    small = sorted((row for row in rows if row.result is None), key=lambda row: row.moved)
    if not small:
        return []
    names = ", ".join(Path(row.image).name for row in small[:3]) + (" and others" if len(small) > 3 else "")
    shares = list(dict.fromkeys(f"{row.moved:.0%}" for row in (small[0], small[-1])))
    return [
        f"{names}: things moved ({' to '.join(shares)} of the edges), and the picture's own would shine through: made "
        f"at {side} px alone (at the picture's size, blurred: --coarse)"
    ]
