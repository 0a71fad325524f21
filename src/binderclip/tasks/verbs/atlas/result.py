"""What comes of `atlas`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from binderclip.display import number_of
from binderclip.tasks.files.writing import short_path
from binderclip.tasks.report.photographs import weak_on_photographs
from binderclip.tasks.request import VerbResult
from binderclip.tasks.verbs.atlas.request import AtlasRequest

if TYPE_CHECKING:
    import numpy as np

TABLE, DOCUMENT, SHEET = "map.csv", "map.json", "map.png"
COLUMNS = ("image", "x", "y", "cluster", "words")
EXAMPLES = 3


class PictureCluster(NamedTuple):
    """Pictures that are alike.

    Attributes:
        number: from 1, the largest first. words: that fit it more than the others, best first.
        size: pictures. examples: paths of those nearest to its mean.
    """

    number: int
    words: list[str]
    size: int
    examples: list[str]


@dataclass(frozen=True)
class Atlas(VerbResult):
    """Pictures in the plane.

    Attributes:
        model: its name.
        paths: of the n pictures.
        positions: (n, 2) x to the right and y down, from 0 to 1. labels: (n,) of their clusters, from 0; -1 for none.
        clusters: the largest first.
        trustworthiness: of the positions, from 0 to 1; None below three pictures.
        silhouette: of the clusters, from -1 to 1; None where there is one alone.
        embeddings: (n, E) unit vectors.
        reused: pictures whose embeddings an index had. left_over: pictures beyond `request.limit`.
        skipped: (path, reason) of those that could not be read.
        drawn: pictures on the sheet.
        complete: whether every picture that was named one by one could be read.
    """

    whole: ClassVar[bool] = True

    request: AtlasRequest
    model: str
    paths: list[Path]
    positions: np.ndarray
    labels: np.ndarray
    clusters: list[PictureCluster]
    trustworthiness: float | None
    silhouette: float | None
    embeddings: np.ndarray = field(repr=False)
    reused: int
    left_over: int
    skipped: list[tuple[str, str]]
    drawn: int
    complete: bool = True

    @property
    def title(self) -> str:
        return (
            f"{number_of(len(self.paths), 'picture')}, {number_of(len(self.clusters), 'cluster')}, model {self.model}"
        )

    @property
    def alone(self) -> int:
        """Pictures in no cluster."""
        return int((self.labels < 0).sum())

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Columns, and a row a cluster."""
        rows = [
            (one.number, ", ".join(one.words) or "-", one.size, ", ".join(map(short_path, one.examples)))
            for one in self.clusters
        ]
        return ("cluster", "words", "pictures", "examples"), rows

    def conclusion(self) -> list[str]:
        """How far the map can be trusted."""
        lines = []
        if self.trustworthiness is not None:
            lines.append(
                f"Trustworthiness {self.trustworthiness:.3f}: 1 where all neighbours on the map are neighbours for the "
                "model, about 0.5 at random places."
            )
        if self.silhouette is not None:
            lines.append(f"Silhouette {self.silhouette:.3f}: 1 where clusters lie far apart, 0 where they touch.")
        return lines

    def remarks(self) -> list[str]:
        """What was left out, what an index had, and that the model is weak on photographs, where it is."""
        lines = []
        if self.alone:
            lines.append(f"{number_of(self.alone, 'picture')} in no cluster: hdbscan leaves out what is near to none")
        if self.left_over:
            lines.append(f"{number_of(self.left_over, 'picture')} beyond --limit {self.request.limit} left out, evenly")
        if self.reused:
            lines.append(f"embeddings of {number_of(self.reused, 'picture')} are those of the folder's index")
        return [*lines, *weak_on_photographs(self.model, self.paths)]

    @property
    def files(self) -> list[Path]:
        """The table, the document and the sheet."""
        return [Path(self.request.out) / name for name in (TABLE, DOCUMENT, SHEET)]

    def places(self) -> list[str]:
        table, document, sheet = map(str, self.files)
        count = len(self.paths)
        part = "" if self.drawn == count else f" ({self.drawn} of {number_of(count, 'picture')})"
        return [f"map {sheet}{part}, {table}, {document}"]

    def rows(self) -> list[tuple[Any, ...]]:
        """A row a picture, in the columns of map.csv."""
        words = {one.number: ", ".join(one.words) for one in self.clusters}
        return [
            (
                str(path),
                round(float(x), 5),
                round(float(y), 5),
                label + 1 if label >= 0 else "",
                words.get(label + 1, ""),
            )
            for path, (x, y), label in zip(self.paths, self.positions, self.labels.tolist(), strict=True)
        ]

    def as_dict(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "trustworthiness": self.trustworthiness,
            "silhouette": self.silhouette,
            "clusters": [one._asdict() for one in self.clusters],
            "images": [
                {"image": image, "x": x, "y": y, "cluster": cluster or None} for image, x, y, cluster, _ in self.rows()
            ],
            "skipped": [{"image": key, "reason": reason} for key, reason in self.skipped],
            "reused": self.reused,
            "out": self.request.out,
            "request": self.request.as_document(),
        }
