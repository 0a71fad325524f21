"""What comes of `foveate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from binderclip.display import number_of
from binderclip.tasks.files.writing import short_path
from binderclip.tasks.request import VerbResult
from binderclip.tasks.verbs.foveate.request import FoveateRequest
from binderclip.tasks.verbs.foveate.rings import RINGS, RingKept

COLUMNS = ("image", "x", "y", "regions", "similarity", "detail kept", "result")


@dataclass(frozen=True)
class FoveatedPicture:
    """One picture, seen from one fixation.

    Attributes:
        image: its path. x, y: of the fixation, in its pixels. regions: how many it is pooled in.
        similarity: mean structural similarity to the picture. detail: share of its finest detail's energy that is left.
        rings: the same by distance from the fixation. result, region_map: files.
    """

    image: str
    x: float
    y: float
    regions: int
    similarity: float
    detail: float
    rings: list[RingKept]
    result: Path
    region_map: Path


@dataclass(frozen=True)
class FoveatedPictures(VerbResult):
    """What a run made, in the folder `request.out`.

    Attributes:
        rows: a picture and a fixation each.
        skipped: (path, reason) of what could not be used.
        reduced: how many pictures were larger than `request.max_side`.
        sheet, table_file: of all results.
        complete: whether every picture that was named one by one could be used.
    """

    request: FoveateRequest
    rows: list[FoveatedPicture]
    skipped: list[tuple[str, str]]
    reduced: int
    sheet: Path
    table_file: Path
    complete: bool = True

    @property
    def title(self) -> str:
        how = "blurred" if self.request.method == "blur" else "made texture"
        return f"{number_of(len(self.rows), 'result')}, {how} around the fixation, at scale {self.request.scale:g}"

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        return COLUMNS, [
            (
                short_path(row.image), f"{row.x:g}", f"{row.y:g}", row.regions, f"{row.similarity:.3f}",
                f"{row.detail:.3f}", short_path(row.result),
            )
            for row in self.rows
        ]  # fmt: skip

    def ring_means(self) -> list[RingKept]:
        """Each ring's mean over the results that show it."""
        means = []
        for low in RINGS[:-1]:
            rings = [ring for row in self.rows for ring in row.rings if ring.low == low]
            if rings:
                similarity, detail = (
                    sum(getattr(ring, name) for ring in rings) / len(rings) for name in ("similarity", "detail")
                )
                means.append(RingKept(low, rings[0].high, similarity, detail))
        return means

    def more_tables(self) -> list[tuple[str, tuple[str, ...], list[tuple[Any, ...]]]]:
        """What is kept at which distance, over all results."""
        rows = [(ring.words, f"{ring.similarity:.3f}", f"{ring.detail:.3f}") for ring in self.ring_means()]
        return [("what is kept, by degrees from the fixation", ("degrees", "similarity", "detail kept"), rows)]

    def remarks(self) -> list[str]:
        """What was reduced, and what detail there is more than before."""
        lines = []
        if self.reduced:
            size = self.request.max_side
            lines += [f"{number_of(self.reduced, 'picture')} reduced to {size} px first: --max-side keeps larger ones"]
        if any(ring.detail > 1 for row in self.rows for ring in row.rings):
            lines += ["detail above 1 is of the texture: where the picture was smooth, noise has more than it had"]
        return lines

    def files(self) -> list[Path]:
        """Results and their maps."""
        return [path for row in self.rows for path in (row.result, row.region_map)]

    def places(self) -> list[str]:
        return [f"results, maps and sheet in {short_path(self.sheet.parent)}, table {short_path(self.table_file)}"]

    def as_dict(self) -> dict[str, Any]:
        images = [
            {
                "image": row.image, "x": row.x, "y": row.y, "regions": row.regions, "similarity": row.similarity,
                "detail": row.detail, "rings": [ring._asdict() for ring in row.rings], "result": row.result,
                "region_map": row.region_map,
            }
            for row in self.rows
        ]  # fmt: skip
        return {
            "method": self.request.method,
            "images": images,
            "rings": [ring._asdict() for ring in self.ring_means()],
            "reduced": self.reduced,
            "skipped": [{"image": key, "reason": reason} for key, reason in self.skipped],
            "sheet": self.sheet,
            "table": self.table_file,
            "out": self.request.out,
            "request": self.request.as_document(),
        }
