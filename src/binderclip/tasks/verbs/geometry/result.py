"""What comes of `geometry`: two clouds, what maps in front of cosines do, which pictures are usual."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from binderclip.display import number_of
from binderclip.tasks.request import ReportedResult
from binderclip.tasks.verbs.geometry.request import GeometryRequest

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from binderclip.data import ImageTextDataset
    from binderclip.evaluate import EmbeddingGeometry, GeometryReport, ShiftLandscape

MEANING = {
    "offset": "length of the mean over the mean length: 0 for a cloud about the origin",
    "ellipsoid": "largest variance of a feature over the median one: 1 for a ball",
    "shell": "distance to the mean, in deviations, over the root of the width: 1 for a thin shell",
    "shell_spread": "deviation of that distance: near 0 for a thin shell",
    "within": "share of embeddings within 10 % of the mean distance",
    "rank": "directions that the cloud effectively fills",
    "conformity": "mean cosine with all others of its kind",
    "estimate": "correlation of conformity with the cosine to the mean",
    "uniformity": "lower is more evenly spread over the sphere",
    "gap": "distance between the means of unit embeddings of pictures and texts",
    "alignment": "squared distance of a picture and its own text",
    "separability": "accuracy of a linear model that tells pictures from texts: 0.5 is chance",
    "threshold": "the same of the best single feature",
    "divergence": "between the conformities of pictures and texts, in nats",
}
JOINT = ("gap", "alignment", "separability", "threshold", "divergence")
"""Figures of both modalities together, which have one value."""


@dataclass(frozen=True)
class Usualness:
    """Likelihoods of the second half under a normal that was fitted on the first.

    Attributes:
        rows: of the data, those of the second half.
        image, text: log-likelihood of each; compared within one modality alone.
        width: directions of the whitened image embeddings.
    """

    rows: Int[Tensor, "m"]
    image: Float[Tensor, "m"]
    text: Float[Tensor, "m"]
    width: int


@dataclass(frozen=True)
class Geometry(ReportedResult):
    """All that was measured.

    Attributes:
        model, source: names.
        pairs: what was encoded. data: the pictures and captions, row by row.
        figures: see `GeometryReport`.
        landscape: the loss over moved means, at scale `scale`.
        recall: map -> figures of `retrieval`, of the second half of the pairs.
        usual: None where there are too few pairs for a covariance.
        left_out: what could not be measured, and why.
        skipped: (key, reason) of pictures that could not be read.
    """

    whole: ClassVar[bool] = True

    request: GeometryRequest
    model: str
    source: str
    pairs: EmbeddingGeometry
    data: ImageTextDataset
    figures: GeometryReport
    landscape: ShiftLandscape
    scale: float
    recall: dict[str, dict[str, float]]
    usual: Usualness | None
    left_out: list[str]
    skipped: list[tuple[str, str]]

    @property
    def title(self) -> str:
        """Which model on which data."""
        return f"{self.model} on {self.source}: {number_of(len(self.pairs.image), 'pair')}"

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Columns, and a row a figure with what it means."""
        return FIGURE_COLUMNS, list(figure_rows(self.figures.table()))

    def more_tables(self) -> list[tuple[str, tuple[str, ...], list[tuple[Any, ...]]]]:
        """What maps in front of the cosine do to recall."""
        return [("recall of the second half", *recall_table(self.recall))]

    def remarks(self) -> list[str]:
        """What was not measured, and why."""
        return [f"not measured: {line}" for line in self.left_out]

    def as_dict(self) -> dict[str, Any]:
        best = dict(zip(("image", "text"), self.landscape.best, strict=True))
        keys = self.data.keys
        usual = None
        if self.usual is not None:
            order = self.usual.image.argsort().tolist()
            rows = [
                {"image": keys[int(self.usual.rows[i])], "log_likelihood": float(self.usual.image[i])} for i in order
            ]
            usual = {"dimensions": self.usual.width, "images": rows}
        return {
            "model": self.model, "data": self.source, "count": len(self.pairs.image),
            "figures": asdict(self.figures),
            "least_loss_at": best, "recall": self.recall, "likelihood": usual,
            "left_out": self.left_out,
            "skipped": [{"image": key, "reason": reason} for key, reason in self.skipped],
            "report": self.report, "request": self.request.as_document(),
        }  # fmt: skip


FIGURE_COLUMNS = ("measure", "image", "text", "which is")


def figure_rows(table: list[dict[str, Any]]) -> list[tuple[str, str, str, str]]:
    """(measure, image, text, what it means) of every figure; what is of both modalities has one value."""
    rows = []
    for row in table:
        name, own = row["measure"], (f"{row['image']:.3f}", f"{row['text']:.3f}")
        rows.append((name.replace("_", " "), own[0], "" if name in JOINT else own[1], MEANING[name]))
    return rows


def recall_table(recall: Mapping[str, Mapping[str, float]]) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """(columns, rows): a row for each map in front of the cosine."""
    measures = ("text_to_image/R@1", "text_to_image/R@10", "image_to_text/R@1", "image_to_text/R@10")
    columns = ("embeddings", *(name.replace("_", " ").replace("/", " ") for name in measures))
    return columns, [(name, *(own[measure] for measure in measures)) for name, own in recall.items()]
