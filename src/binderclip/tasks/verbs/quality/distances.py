"""`quality A --against B`: how far two folders are apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from binderclip.display import number_of
from binderclip.errors import DataError
from binderclip.quality import CMMD, FrechetDistance, SetScore
from binderclip.tasks.events import batches, skip, start
from binderclip.tasks.files.inputs import find_images
from binderclip.tasks.files.writing import short_reason
from binderclip.tasks.models import image_text_model
from binderclip.tasks.request import VerbResult
from binderclip.tasks.verbs.quality.request import QualityRequest

RESAMPLES, PERMUTATIONS = 1000, 999


@dataclass(frozen=True)
class SetDistances(VerbResult):
    """How far two folders are apart.

    Attributes:
        embedding: how pictures became features.
        scores: of each distance; `real` is the folder that is compared with.
        skipped: (path, reason) of what could not be read, of both folders.
    """

    request: QualityRequest
    embedding: str
    scores: list[SetScore]
    skipped: list[tuple[str, str]]
    complete: bool = True

    @property
    def title(self) -> str:
        """How many pictures against how many."""
        first = self.scores[0]
        return f"{number_of(first.n_fake, 'picture')} against {first.n_real}; {self.embedding}"

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Columns, and a row a distance."""
        rows = []
        for score in self.scores:
            interval = "" if score.interval is None else f"{score.interval[0]:.3f} to {score.interval[1]:.3f}"
            rows.append((score.name, score.value, interval, "" if score.p_value is None else f"{score.p_value:.3f}"))
        return ("distance", "value", "95 % interval", "p, if both were alike"), rows

    def as_dict(self) -> dict[str, Any]:
        return {
            "embedding": self.embedding,
            "count": self.scores[0].n_fake,
            "against": self.scores[0].n_real,
            "distances": {
                score.name: {"value": score.value, "interval": score.interval, "p_value": score.p_value}
                for score in self.scores
            },
            "skipped": [{"image": key, "reason": reason} for key, reason in self.skipped],
            "request": self.request.as_document(),
        }


def distances(request: QualityRequest) -> SetDistances:
    """CMMD with its interval and p-value, and the Fréchet distance, between two folders.

    Raises:
        DataError: a folder with fewer than two pictures that can be read.
    """
    ours, theirs = find_images(request.images), find_images([str(request.against)])
    start("loading the model")
    model = image_text_model(request.model, device=request.device, dtype=request.dtype)
    step, count = batches("picture"), len(ours.paths) + len(theirs.paths)
    metrics: tuple[CMMD, FrechetDistance] = (CMMD(), FrechetDistance())
    skipped: list[tuple[str, str]] = []
    before = 0
    for real, paths, whose in ((False, ours.paths, "the pictures"), (True, theirs.paths, "--against")):
        encoded = model.encode_files(
            paths, batch_size=request.batch_size, progress=lambda done, before=before: step(before + done, count)
        )
        if len(encoded) < 2:
            why = f" ({short_reason(*encoded.skipped[0])})" if encoded.skipped else ""
            raise DataError(
                f"{whose}: {len(encoded)} of {number_of(len(paths), 'file')} could be read{why}: a distance needs two "
                "pictures, better hundreds"
            )
        for metric in metrics:
            metric.update(encoded.features, real=real)
        skipped += encoded.skipped
        before += len(paths)
    skip(skipped)
    scores = [metrics[0].report(permutations=PERMUTATIONS, resamples=RESAMPLES), metrics[1].report()]
    return SetDistances(
        request, f"{model.name} with its own resize and crop", scores, skipped,
        complete=not (ours.exit_code(skipped) or theirs.exit_code(skipped)),
    )  # fmt: skip
