"""What `binderclip anomaly` was asked for and what it found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from binderclip.data import Inspected, InspectionFolder
    from binderclip.segment.anomaly import Anomalies
    from binderclip.segment.metrics.anomaly import AnomalyScore


@dataclass(frozen=True)
class AnomalyRequest:
    """The options, as given; `method` and `model` may be `auto`, which `run.settled` replaces."""

    folder: str
    name: str
    normal: str | None
    shots: int
    method: str
    state: tuple[str, ...]
    sound: tuple[str, ...]
    words: bool
    size: int | None
    scales: tuple[int, ...] | None
    out: str
    most: int
    npy: bool
    seed: int | None
    steps: int | None
    model: str
    device: str
    dtype: str
    json: bool
    threshold: float | str | None = None


@dataclass
class Inspection:
    """What was found: pictures in the order of the folder, their scores and maps.

    Attributes:
        folder: the pictures and what is known of them.
        pictures: those that could be read.
        found: their scores and maps.
        normal: normal pictures that were used.
        held: scores of the normal pictures, each compared with the others; None where there are too few or the method
            cannot.
        skipped: (path, reason).
        score: against the truth, or None.
        masks: pictures whose damaged pixels are known.
        overlays: picture's row -> file.
        request: the options as they were carried out.
        threshold: score at which a picture fails; None where nothing is judged.
    """

    request: AnomalyRequest
    folder: InspectionFolder
    pictures: list[Inspected]
    found: Anomalies
    normal: list[Path]
    held: Tensor | None
    skipped: list[tuple[str, str]]
    score: AnomalyScore | None = None
    masks: int = 0
    overlays: dict[int, Path] = field(default_factory=dict)
    threshold: float | None = None

    def order(self) -> list[int]:
        """Rows, most anomalous first."""
        return self.found.scores.argsort(descending=True, stable=True).tolist()

    def chance(self, row: int) -> float | None:
        """Conformal p-value: how many normal pictures score as high, its own among them, as a share."""
        if self.held is None:
            return None
        return float(1 + (self.held >= self.found.scores[row]).sum()) / (1 + len(self.held))

    def fails(self, row: int) -> bool:
        """Whether a picture is at or above the threshold; never where there is none."""
        return self.threshold is not None and float(self.found.scores[row]) >= self.threshold

    def failed(self) -> int:
        """How many pictures fail."""
        return sum(self.fails(row) for row in range(len(self.pictures)))

    def verdict(self, row: int) -> str:
        """`pass`, `fail` or empty."""
        return "" if self.threshold is None else "fail" if self.fails(row) else "pass"

    def label(self, row: int) -> str:
        """`good`, `damaged` or empty."""
        damaged = self.pictures[row].damaged
        return "" if damaged is None else "damaged" if damaged else "good"


def figures(score: AnomalyScore) -> dict[str, float]:
    """The measured figures that exist, by name."""
    import math

    names: dict[str, Callable[[AnomalyScore], float]] = {
        "image AUROC": lambda s: s.image_auroc,
        "image average precision": lambda s: s.image_ap,
        "image best F1": lambda s: s.image_f1_max,
        "pixel AUROC": lambda s: s.pixel_auroc,
        "region overlap (PRO)": lambda s: s.pro,
    }
    return {name: value for name, of in names.items() if not math.isnan(value := of(score))}
