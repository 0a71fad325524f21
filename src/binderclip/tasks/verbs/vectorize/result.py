"""What comes of `vectorize`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from binderclip.display import number_of
from binderclip.tasks.files.writing import short_path
from binderclip.tasks.request import VerbResult
from binderclip.tasks.verbs.vectorize.request import VectorizeRequest

TABLE = "table.csv"
COLUMNS = ("image", "size", "drawn at", "paths", "PSNR, dB", "background alone, dB", "background")


@dataclass(frozen=True)
class VectorizedPicture:
    """One picture and its drawing.

    Attributes:
        image: its path.
        size, drawn_at: (width, height) of the file, and of the canvas on which paths were fitted.
        paths: their number.
        psnr: of the drawing to the picture in dB, at the size of the PNG. psnr_background: of the background alone.
        background: `transparent`, or its colour as `#rrggbb`.
        svg, png: the files.
    """

    image: str
    size: tuple[int, int]
    drawn_at: tuple[int, int]
    paths: int
    psnr: float
    psnr_background: float
    background: str
    svg: Path
    png: Path


@dataclass(frozen=True)
class VectorizedPictures(VerbResult):
    """All drawings, written into the folder `request.out`.

    Attributes:
        pictures: those that could be read.
        skipped: (path, reason) of the others.
    """

    request: VectorizeRequest
    pictures: list[VectorizedPicture]
    skipped: list[tuple[str, str]]
    complete: bool = True

    @property
    def folder(self) -> Path:
        """Of the files."""
        return Path(self.request.out)

    @property
    def title(self) -> str:
        asked = self.request
        return (
            f"{number_of(len(self.pictures), 'picture')} as {number_of(asked.paths, 'path')} with {asked.fill} fills, "
            f"seed {asked.seed}"
        )

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        return COLUMNS, [
            (
                short_path(each.image), by(each.size), by(each.drawn_at), each.paths, each.psnr, each.psnr_background,
                each.background,
            )
            for each in self.pictures
        ]  # fmt: skip

    def files(self) -> list[Path]:
        """Drawings, and how they look."""
        return [path for each in self.pictures for path in (each.svg, each.png)]

    def remarks(self) -> list[str]:
        asked = self.request
        lines = [
            "PSNR is 10 log10(1 / mean squared error) over white: 3 dB more is half the error; the background alone is "
            "what no path gives"
        ]
        if reduced := sum(each.size != each.drawn_at for each in self.pictures):
            lines.append(f"{number_of(reduced, 'picture')} reduced to {asked.side} px to be drawn: --side keeps more")
        return lines

    def places(self) -> list[str]:
        return [f"drawings in {short_path(self.folder)}, table {short_path(self.folder / TABLE)}"]

    def as_dict(self) -> dict[str, Any]:
        return {
            "pictures": [asdict(each) for each in self.pictures],
            "skipped": [{"image": key, "reason": reason} for key, reason in self.skipped],
            "table": self.folder / TABLE,
            "out": self.folder,
            "request": self.request.as_document(),
        }


def by(size: tuple[int, int]) -> str:
    """A size as people write it."""
    return f"{size[0]} x {size[1]}"
