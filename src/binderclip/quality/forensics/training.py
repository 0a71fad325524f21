"""Training a detector on real and generated pictures that go through the same processing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from binderclip.data import Degradation, RandomPatchReplacement, RealFakeSet
from binderclip.data.uniform import uniform
from binderclip.errors import DataError
from binderclip.fit import FitResult, fit
from binderclip.numeric import check_number
from binderclip.quality.forensics.detector import Detector, Parts, Sampling

LEARNING_RATE = 1e-3
"""Default of `train_detector`; the papers' 5e-5 and 1e-4 belong to hundreds of thousands of pictures."""


@dataclass(frozen=True)
class DetectorBatch:
    """What a detector learns from in one step.

    Attributes:
        features: of B pictures.
        labels: (B,) 1 for generated.
        patch_labels: (B, N) of each patch, where pictures are mixed.
    """

    features: Parts
    labels: Float[Tensor, "B"]
    patch_labels: Float[Tensor, "B N"] | None = None

    def __len__(self) -> int:
        return len(self.labels)


def fit_detector(
    detector: Detector, batches: Iterable[DetectorBatch], *, steps: int, lr: float = LEARNING_RATE, seed: int = 0,
    **options: Any,
) -> FitResult:  # fmt: skip
    """Train the trained part of a detector on batches of features, and leave it in evaluation mode.

    Args:
        detector: changed in place.
        batches: of features that are there already; see `train_detector` for pictures.
        steps: of AdamW, on a cosine schedule.
        lr: learning rate.
        seed: of what is drawn inside a step: samples of patches, dropout.
        options: of `fit`.
    """
    torch.manual_seed(seed)
    detector.train()
    try:
        return fit(
            lambda batch: detector.objective(batch.features, batch.labels, batch.patch_labels),
            [parameter for parameter in detector.parameters() if parameter.requires_grad],
            batches,
            steps=steps,
            lr=lr,
            **{"module": detector, **options},
        )
    finally:
        detector.eval()


def drawn_rows(
    sampling: Sampling, labels: Int[np.ndarray, "N"], batch_size: int, rng: np.random.Generator
) -> Int[np.ndarray, "B"]:
    """Rows of one batch: half real and half generated, or triplets role by role (anchors, positives, negatives).

    Args:
        sampling: "balanced" or "triplets", where a batch has batch_size // 3 triplets, at least one. An anchor is real
            or generated with probability 1/2, its positive of the same class, its negative of the other.
        labels: of all pictures.
        batch_size: pictures.
        rng: of the draw.
    """
    rows = {label: np.flatnonzero(labels == label) for label in (0, 1)}
    if sampling == "balanced":
        half = max(batch_size // 2, 1)
        return np.concatenate([rng.choice(rows[label], half) for label in (0, 1)])
    sides = rng.integers(0, 2, max(batch_size // 3, 1))
    return np.array([rng.choice(rows[int(side)]) for roles in (sides, sides, 1 - sides) for side in roles])


def train_detector(
    detector: Detector,
    data: RealFakeSet,
    *,
    steps: int = 200,
    batch_size: int = 16,
    lr: float = LEARNING_RATE,
    degradation: Degradation | None = None,
    ratio: float = 0.5,
    seed: int = 0,
    progress: Callable[[int, int], object] | None = None,
    **options: Any,
) -> FitResult:
    """Train a detector on pictures, every one degraded, cropped and mirrored by the same rules whatever its class.

    Args:
        detector: changed in place, left in evaluation mode.
        data: real and generated pictures; a detector that mixes patches needs aligned pairs.
        steps: of AdamW.
        batch_size: pictures a step.
        lr: learning rate.
        degradation: JPEG and blur of some pictures; default `Degradation(seed=seed)`, the papers' p = 0.1 of each.
        ratio: of the exchanged patches, where the detector learns from mixed pictures.
        seed: of everything.
        progress: called with (steps done, steps) before a step.
        options: of `fit`, such as a `checkpoint`, by which training that was stopped goes on and ends with the same
            weights.

    Raises:
        UsageError: fewer than two pictures a step.
        DataError: no real or no generated picture; no aligned pair where pairs are needed; a file that cannot be read.
    """
    check_number("batch_size", batch_size, least=2)
    if len(set(data.labels.tolist())) < 2:
        raise DataError("training needs both real and generated pictures")
    if detector.sampling == "mixed" and not bool((data.partners >= 0).any()):
        raise DataError(
            "this detector exchanges patches between a picture and its generated copy, and no pair is aligned: give "
            "each copy in 1_fake/GENERATOR the name that its original has in 0_real, or take another detector"
        )
    drawn = _Pictures(
        detector, data, degradation or Degradation(seed=seed), batch_size, ratio, seed, steps=steps, progress=progress
    )
    return fit_detector(detector, drawn, steps=steps, lr=lr, seed=seed, **options)


class _Pictures:
    """Batches of pictures, degraded, cropped and mirrored; the chance of a picture comes from its key and the step."""

    def __init__(
        self, detector: Detector, data: RealFakeSet, degradation: Degradation, batch_size: int, ratio: float, seed: int,
        *, steps: int, progress: Callable[[int, int], object] | None,
    ) -> None:  # fmt: skip
        self.detector, self.data, self.degradation = detector, data, degradation
        self.batch_size, self.seed, self.steps, self.progress = batch_size, seed, steps, progress
        self.replacement = RandomPatchReplacement(ratio, patch=detector.patch, seed=seed)
        self.first = 0
        self.pairs = np.flatnonzero(data.partners >= 0)
        self.sizes: dict[str, tuple[int, ...]] = {}

    def seek(self, number: int) -> None:
        """Start at batch `number`: those before are drawn and not read."""
        self.first = number

    def __iter__(self) -> Iterator[DetectorBatch]:
        rng = np.random.default_rng([self.seed, 5])
        for step in range(self.steps):
            rows = self._rows(rng)
            if step < self.first:
                continue
            if self.progress is not None:
                self.progress(step, self.steps)
            yield self._mixed(rows, step) if self.detector.sampling == "mixed" else self._plain(rows, step)

    def _rows(self, rng: np.random.Generator) -> Int[np.ndarray, "B"]:
        """The pictures of one batch; of mixed ones the copies."""
        if self.detector.sampling == "mixed":
            return rng.choice(self.pairs, max(self.batch_size // 4, 1) * 4)
        return drawn_rows(self.detector.sampling, self.data.labels, self.batch_size, rng)

    def _plain(self, rows: Int[np.ndarray, "B"], step: int) -> DetectorBatch:
        views = self._views(rows, [self.data.key(row) for row in rows.tolist()], step)
        return self._made(views, torch.from_numpy(self.data.labels[rows]).float(), None)

    def _mixed(self, fakes: Int[np.ndarray, "B"], step: int) -> DetectorBatch:
        """Half of the batch mixed, a quarter real, a quarter generated; both of a pair get the same processing."""
        keys = [self.data.key(row) for row in fakes.tolist()]
        (real,), (fake,) = (self._views(rows, keys, step) for rows in (self.data.partners[fakes], fakes))
        quarter = len(fakes) // 4
        mixed = self.replacement(real[: 2 * quarter], fake[: 2 * quarter], keys[: 2 * quarter], step)
        images = torch.cat([mixed.images, real[2 * quarter : 3 * quarter], fake[3 * quarter :]])
        labels = torch.cat([mixed.labels.float(), torch.zeros(quarter), torch.ones(quarter)])
        cells = mixed.patch_labels.flatten(1).float()  # (2 q, N)
        plain = labels[2 * quarter :, None].expand(-1, cells.shape[1])
        return self._made((images,), labels, torch.cat([cells, plain]))

    def _views(self, rows: Int[np.ndarray, "B"], keys: list[str], step: int) -> Parts:
        """What the detector looks at, of pictures of any sizes."""
        draws = uniform(self.seed, [f"detector/{key}" for key in keys], step, 3).tolist()
        views = []
        for row, key, (down, along, mirror) in zip(rows.tolist(), keys, draws, strict=True):
            image = self.data.image(row)
            if self.detector.sampling == "mixed":
                self._check_size(key, tuple(image.shape[-2:]))
            image = self.degradation(image, key, step)
            image = image.flip(-1) if mirror < 0.5 else image
            views.append(self.detector.view(image[None], [(down, along)]))
        return tuple(torch.cat(parts) for parts in zip(*views, strict=True))

    def _check_size(self, key: str, size: tuple[int, ...]) -> None:
        """A copy and its original, which share a key, must have one size.

        Raises:
            DataError: they have not, so patches at one place do not show the same.
        """
        known = self.sizes.setdefault(key, size)
        if known != size:
            raise DataError(
                f"{key}: a copy of {size[0]} x {size[1]} pixels and an original of {known[0]} x {known[1]} (or the "
                "other way round); exchanged patches have to show the same"
            )

    def _made(self, views: Parts, labels: Tensor, patch_labels: Tensor | None) -> DetectorBatch:
        device = self.detector.device
        with torch.no_grad():
            features = self.detector.features(tuple(part.to(device) for part in views))
        return DetectorBatch(features, labels.to(device), None if patch_labels is None else patch_labels.to(device))
