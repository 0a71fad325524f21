"""What comes of `reconstruct`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from binderclip.display import number_of
from binderclip.tasks.files.writing import short_path
from binderclip.tasks.request import VerbResult
from binderclip.tasks.verbs.reconstruct.request import ReconstructRequest

COLUMNS = ("slice", "height", "area", "area of the mesh", "kept (IoU)")
LITTLE = 0.9
"""Share of a slice below which something is missing that can be seen."""


class KeptSlice(NamedTuple):
    """A slice, and the mesh's cross-section with its plane.

    Attributes:
        name: of the file, or its number.
        height: of the plane above the first one; None where planes are not parallel.
        area, mesh_area: in square pixels. kept: intersection over union of both, 1 where both are empty.
    """

    name: str
    height: float | None
    area: float
    mesh_area: float
    kept: float


@dataclass(frozen=True)
class Reconstruction(VerbResult):
    """A mesh and what it keeps of its slices.

    Attributes:
        method: "distances" or "field".
        rows: in the order of the slices.
        volume, area: of the mesh, in pixels to the third and to the second.
        watertight: whether it has an inside and an outside everywhere. faces: triangles.
        mesh, picture: files.
        skipped: (path, reason) of slices that could not be read.
        complete: whether every picture that was named one by one could be used.
    """

    whole: ClassVar[bool] = True

    request: ReconstructRequest
    method: str
    rows: list[KeptSlice]
    volume: float
    area: float
    watertight: bool
    faces: int
    mesh: Path
    picture: Path
    skipped: list[tuple[str, str]]
    complete: bool = True

    @property
    def title(self) -> str:
        """How many slices, and how."""
        how = "a network fitted to them" if self.method == "field" else "interpolated distances"
        return f"A solid of {number_of(len(self.rows), 'slice')} by {how}"

    @property
    def kept(self) -> float:
        """Mean share of the slices that show something; 0 where none does."""
        shown = [row.kept for row in self.rows if row.area > 0]
        return sum(shown) / len(shown) if shown else 0.0

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        return COLUMNS, [
            (
                short_path(row.name), "" if row.height is None else f"{row.height:g}", f"{row.area:.1f}",
                f"{row.mesh_area:.1f}", f"{row.kept:.3f}",
            )
            for row in self.rows
        ]  # fmt: skip

    def conclusion(self) -> list[str]:
        """Volume and area, whether it is closed, and what it keeps."""
        closed = "watertight" if self.watertight else "not watertight: its volume means nothing"
        lowest = min(self.rows, key=lambda row: row.kept)
        return [
            f"Volume {self.volume:,.5g}, area {self.area:,.5g}, in pixels; {number_of(self.faces, 'triangle')}, "
            f"{closed}.",
            f"The mesh keeps {self.kept:.3f} of the slices (intersection over union, mean), at least {lowest.kept:.3f} "
            f"({short_path(lowest.name)}).",
        ]

    def remarks(self) -> list[str]:
        """What would make it better."""
        if self.kept >= LITTLE:
            return []
        more = "more --epochs, --levels or --rounds" if self.method == "field" else "a higher --resolution"
        return [f"much of the slices is missing: try {more}"]

    def places(self) -> list[str]:
        return [f"mesh {short_path(self.mesh)}, picture {short_path(self.picture)}"]

    def as_dict(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "volume": self.volume,
            "area": self.area,
            "watertight": self.watertight,
            "faces": self.faces,
            "kept": self.kept,
            "slices": [row._asdict() for row in self.rows],
            "skipped": [{"image": key, "reason": reason} for key, reason in self.skipped],
            "mesh": self.mesh,
            "picture": self.picture,
            "request": self.request.as_document(),
        }
