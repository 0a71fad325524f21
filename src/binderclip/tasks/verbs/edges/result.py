"""What comes of `edges`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from binderclip.display import number_of
from binderclip.tasks.files.writing import short_path
from binderclip.tasks.request import VerbResult
from binderclip.tasks.verbs.edges.request import EdgesRequest

if TYPE_CHECKING:
    from binderclip.evaluate import EdgeScores

COLUMNS = ("image", "result", "width", "height", "edges")


@dataclass(frozen=True)
class PictureEdges:
    """The edge map of a picture.

    Attributes:
        image, result: paths of the picture and of its map.
        width, height: in pixels.
        share: of pixels that count as edges, 0 to 1; of a map that is not thinned, edges are as thick as it draws them.
        windows: in how many the picture was seen.
        white: the value that the map shows as white; less than 1 where the map is shown lighter than it is.
    """

    image: str
    result: str
    width: int
    height: int
    share: float
    windows: int = 1
    white: float = 1.0


@dataclass(frozen=True)
class FolderEdges(VerbResult):
    """What a run made, in the folder `request.out`.

    Attributes:
        rows: in the order of the pictures.
        skipped: (path, reason) of what could not be used.
        threshold: from which a pixel counts as an edge.
        sheet: of pictures beside their maps; None where there is none.
        scores: against the truth, of thinned maps; None without one.
        limits: what the network's card says of where it is weak, "" for none.
        complete: whether there is a map of every picture that was named one by one.
    """

    request: EdgesRequest
    rows: list[PictureEdges]
    skipped: list[tuple[str, str]]
    threshold: float
    sheet: Path | None
    scores: EdgeScores | None
    limits: str = ""
    complete: bool = True

    @property
    def title(self) -> str:
        how = self.request.model or self.request.method
        return f"{number_of(len(self.rows), 'edge map')} by {how}; edges: share of pixels from {self.threshold:.2g} on"

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        rows = [
            (short_path(row.image), short_path(row.result), row.width, row.height, round(row.share, 4))
            for row in self.rows
        ]
        return COLUMNS, rows

    def more_tables(self) -> list[tuple[str, tuple[str, ...], list[tuple[Any, ...]]]]:
        """The scores."""
        if self.scores is None:
            return []
        figures = (self.scores.ods, self.scores.ods_threshold, self.scores.ois, self.scores.average_precision)
        title = f"against {self.request.truth}, within {self.request.tolerance:g} of the diagonal, maps thinned"
        return [(title, ("ODS F", "at", "OIS F", "AP"), [tuple(f"{figure:.3f}" for figure in figures)])]

    def remarks(self) -> list[str]:
        """Windows, what is shown lighter, and what the network's card says of it."""
        cut = sum(row.windows > 1 for row in self.rows)
        side = self.request.window
        lines = [f"{number_of(cut, 'picture')} larger than {side} px: seen in overlapping windows"] if cut else []
        lighter = [row.white for row in self.rows if row.white < 1]
        if lighter:
            span = f"{min(lighter):.2g} to {max(lighter):.2g}" if min(lighter) < max(lighter) else f"{lighter[0]:.2g}"
            lines.append(f"white in {number_of(len(lighter), 'map')} is {span}; --absolute makes it 1 in all")
        return [*lines, *([self.limits] if self.limits else [])]

    def places(self) -> list[str]:
        """Where the sheet and the table are."""
        return [f"sheet {self.sheet}"] if self.sheet is not None else []

    def as_dict(self) -> dict[str, Any]:
        scores = self.scores
        return {
            "out": self.request.out,
            "threshold": self.threshold,
            "images": [asdict(row) for row in self.rows],
            "skipped": [{"image": key, "reason": reason} for key, reason in self.skipped],
            "sheet": None if self.sheet is None else str(self.sheet),
            "scores": None
            if scores is None
            else {
                "ods": scores.ods, "ods_threshold": scores.ods_threshold, "ois": scores.ois,
                "average_precision": scores.average_precision,
            },
            "request": self.request.as_document(),
        }  # fmt: skip
