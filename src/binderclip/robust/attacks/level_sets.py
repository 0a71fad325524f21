"""Blind spots: pictures that a network takes for another one, found by walking along a level set of its confidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from binderclip.display import number_of
from binderclip.errors import UsageError
from binderclip.models.layers.freezing import frozen
from binderclip.numeric import check_fields, check_number, check_whole
from binderclip.robust.checks import (
    PIXELS,
    Box,
    Labels,
    check_box,
    check_classes,
    check_finite,
    check_images,
    checked_labels,
    checked_logits,
)
from binderclip.robust.feasible import per_image

__all__ = [
    "LevelSetPath",
    "LevelSetTraversal",
    "TriangleConfidence",
    "confidence_along",
    "level_set_width",
    "triangle_confidence_map",
]

LEAST = 1e-30


@dataclass(frozen=True)
class LevelSetPath:
    """Where walks along level sets ended.

    Attributes:
        images: (B, *size) the last ones, in the box.
        labels: (B,) the sources' classes.
        start: (B,) confidence of that class for the clean sources.
        confidence: (B,) and for the images.
        target_confidence: (B,) for the images, of the class that the target is taken for.
        accepted: (steps, B) whether a step was taken.
        distance: (B,) Euclidean distance of the images to their targets, over that of the sources; NaN where source and
            target are the same.
        direction: (B, *size) the part of the way to the target that is orthogonal to the gradient, at the images.
    """

    images: Float[Tensor, "B *size"]
    labels: Int[Tensor, "B"]
    start: Float[Tensor, "B"]
    confidence: Float[Tensor, "B"]
    target_confidence: Float[Tensor, "B"]
    accepted: Bool[Tensor, "steps B"]
    distance: Float[Tensor, "B"]
    direction: Float[Tensor, "B *size"]


@dataclass(frozen=True)
class LevelSetTraversal:
    """Walk from a source to a target so that the confidence in the source's class stays.

    Each step follows the part of the way to the target that is orthogonal to the loss's gradient, and descends the loss
    a little; an image whose confidence has fallen too far stays where it is.

    Args:
        predictor: pixels to logits (B, K); put into eval mode meanwhile.
        steps: default 100. The paper takes up to 400.
        eta: share of the orthogonal part that is gone at each step.
        tolerance: how far the confidence may fall below that of the clean source.
        eps: bound of the descent, which adds up over the steps; 0 leaves it out.
        noise: the source is moved by so much to either side at most, halved, before the walk.
        straight: go straight to the target instead, without descent, under the same tolerance; for comparison.
        box: range of pixels.
        batch_size: pairs at a time.
        seed: of the noise.

    Call it with sources (B, ...) and targets of the same shape in `box`, and optionally with the sources' `labels`;
    without them the classes that the predictor takes them for.

    Raises:
        UsageError: a setting out of range; when called, shapes that differ, pixels outside the box or not finite,
            logits or gradients that are not finite, or a source that is not taken for its label.

    Paper: Exploring Geometry of Blind Spots in Vision Models (NeurIPS 2023, arXiv 2310.19889).
    """

    predictor: Any
    steps: int = 100
    eta: float = 0.05
    tolerance: float = 0.05
    eps: float = 1 / 255
    noise: float = 4 / 255
    straight: bool = False
    box: tuple[float, float] = (0.0, 1.0)
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        check_box(self.box)
        if self.steps < 0 or self.batch_size < 1 or min(self.eps, self.noise, self.tolerance) < 0:
            raise UsageError("steps, eps, noise and tolerance must be at least 0, batch_size at least 1")
        if not 0 < self.eta <= 1:
            raise UsageError(f"eta, the share of the way that is gone at each step, is in (0, 1], not {self.eta}")

    def __call__(
        self,
        sources: Float[Tensor, "B *size"],
        targets: Float[Tensor, "B *size"],
        labels: Labels | None = None,
    ) -> LevelSetPath:
        """The ends of the walks."""
        if sources.shape != targets.shape or not len(sources):
            raise UsageError(
                f"sources {tuple(sources.shape)} need targets of the same shape, not {tuple(targets.shape)}"
            )
        for name, images in (("sources", sources), ("targets", targets)):
            check_images(name, images, self.box)
        labels = None if labels is None else checked_labels(labels, sources)
        generator, images_on_path = torch.Generator().manual_seed(self.seed), []
        with _still(self.predictor):
            for number, (x, t) in enumerate(
                zip(sources.split(self.batch_size), targets.split(self.batch_size), strict=True)
            ):
                given = None if labels is None else labels[number * self.batch_size :][: len(x)]
                images_on_path.append(self._walk(x.detach(), t.detach(), given, generator))
        parts = {name: [getattr(each, name) for each in images_on_path] for name in LevelSetPath.__dataclass_fields__}
        return LevelSetPath(**{name: torch.cat(values, int(name == "accepted")) for name, values in parts.items()})

    def _walk(self, source: Tensor, target: Tensor, labels: Tensor | None, generator: torch.Generator) -> LevelSetPath:
        with torch.no_grad():
            clean = checked_logits(self.predictor(source), len(source))
            y = clean.argmax(1) if labels is None else labels.to(clean.device)
            check_classes(y, clean.shape[1])
            if bool((clean.argmax(1) != y).any()):
                wrong = int((clean.argmax(1) != y).nonzero()[0])
                raise UsageError(f"source {wrong} is not taken for its label {int(y[wrong])}: leave such sources out")
            start, aim = _confidence(clean, y), checked_logits(self.predictor(target), len(target)).argmax(1)
        noise = torch.rand(source.shape, generator=generator).to(source) - 0.5
        x = (source + self.noise * noise).clamp(*self.box)
        descent, accepted = torch.zeros_like(x), []
        for _ in range(self.steps):
            way = target - x
            if not self.straight:
                gradient, loss_gradient = self._gradients(x, y)
                way = _orthogonal(way, gradient)
                descent = (descent + self.eps / 2 * loss_gradient).clamp(-self.eps, self.eps)
            moved = (x + self.eta * way - descent).clamp(*self.box)
            with torch.no_grad():
                logits = checked_logits(self.predictor(moved), len(moved))
                fine = start - _confidence(logits, y) < self.tolerance
            x = torch.where(per_image(fine, x), moved, x)
            accepted.append(fine)
        with torch.no_grad():
            end = checked_logits(self.predictor(x), len(x))
        near, far = ((each - target).flatten(1).norm(dim=1) for each in (x, source))
        return LevelSetPath(
            x, y, start, _confidence(end, y), _confidence(end, aim),
            torch.stack(accepted) if accepted else torch.zeros(0, len(x), dtype=torch.bool), near / far,
            _orthogonal(target - x, self._gradients(x, y)[0]),
        )  # fmt: skip

    def _gradients(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """A gradient with the direction of the cross-entropy's, which is 1 - p times it, and that one.

        Where a network is sure, the cross-entropy's own is lost to rounding; the margin to the others' log-sum is not.
        """
        leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            logits = checked_logits(self.predictor(leaf), len(leaf))
            own = logits.gather(1, y[:, None])[:, 0]
            others = logits.scatter(1, y[:, None], float("-inf")).logsumexp(1)
            (gradient,) = torch.autograd.grad((others - own).sum(), leaf)
        check_finite("gradients of the predictor", gradient)
        return gradient, gradient * per_image((others - own).detach().sigmoid(), x)


def confidence_along(
    predictor: Any,
    start: Float[Tensor, "B *size"],
    end: Float[Tensor, "B *size"],
    labels: Labels,
    *,
    points: int = 50,
    box: Box = PIXELS,
) -> Float[Tensor, "B points"]:
    """Confidence in a class on the straight line between two images, both ends included.

    Args:
        predictor: pixels to logits.
        start, end: images.
        labels: the classes.
        points: on the line, at least 2.
        box: range of pixels.

    Raises:
        UsageError: fewer points, shapes that differ, images outside the box or not finite, labels that are no classes,
            or logits that are not finite.

    Paper: Exploring Geometry of Blind Spots in Vision Models (NeurIPS 2023, arXiv 2310.19889).
    """
    check_whole("points", points)
    check_box(box)
    if points < 2 or start.shape != end.shape:
        raise UsageError(f"a line needs two points at least and ends of one shape, got {points}, {tuple(end.shape)}")
    check_images("start", start, box)
    check_images("end", end, box)
    labels = checked_labels(labels, start)
    with _still(predictor), torch.no_grad():
        along = [torch.lerp(start, end, part) for part in torch.linspace(0, 1, points).tolist()]
        return torch.stack([_confidence(checked_logits(predictor(x), len(x)), labels) for x in along], 1)


@dataclass(frozen=True)
class TriangleConfidence:
    """Confidence on a triangle of images.

    Attributes:
        weights: (P, 3) of source, first and second end; rows sum to 1.
        confidence: (P,) of the source's class.
        start: of the source.
    """

    weights: Float[Tensor, "P 3"]
    confidence: Float[Tensor, "P"]
    start: float

    @property
    def mean(self) -> float:
        """Mean confidence."""
        return float(self.confidence.mean())

    def above(self, tolerance: float) -> float:
        """Share of the points whose confidence is at most so far below the source's.

        Raises:
            UsageError: a tolerance that is no number of at least 0.
        """
        check_number("tolerance", tolerance, least=0)
        return float((self.confidence >= self.start - tolerance).float().mean())


def triangle_confidence_map(
    predictor: Any,
    source: Float[Tensor, "*size"],
    first: Float[Tensor, "*size"],
    second: Float[Tensor, "*size"],
    label: int,
    *,
    cells: int = 10,
    box: Box = PIXELS,
    batch_size: int = 64,
) -> TriangleConfidence:
    """Confidence in the source's class on the triangle of a source and two ends of walks from it.

    Args:
        predictor: pixels to logits.
        source, first, second: one image each.
        label: the source's class.
        cells: along a side; there are (cells + 1) (cells + 2) / 2 points.
        box: range of pixels.
        batch_size: images at a time.

    Raises:
        UsageError: no cell, images of several shapes, outside the box or not finite, a label that is no class, or
            logits that are not finite.

    Paper: Exploring Geometry of Blind Spots in Vision Models (NeurIPS 2023, arXiv 2310.19889).
    """
    check_whole("cells", cells)
    check_whole("label", label, least=0)
    check_whole("batch_size", batch_size, least=1)
    check_box(box)
    if cells < 1 or not source.shape == first.shape == second.shape:
        raise UsageError(f"a triangle needs a cell at least and three images of one shape, got {cells}")
    for name, image in (("source", source), ("first", first), ("second", second)):
        check_images(name, image[None] if isinstance(image, Tensor) else image, box)
    weights = torch.tensor(
        [(cells - i - j, i, j) for i in range(cells + 1) for j in range(cells + 1 - i)], dtype=source.dtype
    )
    weights = (weights / cells).to(source.device)
    corners = torch.stack([source, first, second])
    with _still(predictor), torch.no_grad():
        rows = []
        for part in weights.split(batch_size):
            logits = checked_logits(predictor(torch.einsum("pk,k...->p...", part, corners)), len(part))
            labels = torch.full((len(part),), label, device=logits.device)
            check_classes(labels, logits.shape[1])
            rows.append(_confidence(logits, labels))
    confidence = torch.cat(rows)
    return TriangleConfidence(weights, confidence, float(confidence[0]))


def level_set_width(
    predictor: Any,
    images: Float[Tensor, "B *size"],
    directions: Float[Tensor, "B *size"],
    labels: Labels,
    *,
    distances: Sequence[float] = (0.5, 1.0, 2.0, 4.0),
    draws: int = 256,
    quantiles: Sequence[float] = (0.05, 0.95),
    box: tuple[float, float] = (0.0, 1.0),
    batch_size: int = 64,
    seed: int = 0,
) -> Float[Tensor, "B D Q"]:
    """Quantiles of the confidence at distances in random directions across a walk.

    Args:
        predictor: pixels to logits.
        images: where a walk is.
        directions: of the walk there (`LevelSetPath.direction`); the random ones are orthogonal to it. An image without
            a direction gets zeros.
        labels: the classes.
        distances: Euclidean, in the units of the images; the paper takes 5 to 30 at 224 pixels a side.
        draws: directions an image.
        quantiles: of the confidence over the directions.
        box: range of pixels, into which what is looked at is clamped.
        batch_size: images at a time.
        seed: of the directions.

    Raises:
        UsageError: fewer than one draw, shapes that differ, images outside the box, directions, distances or logits
            that are not finite, labels that are no classes, or a quantile outside [0, 1].

    Paper: Exploring Geometry of Blind Spots in Vision Models (NeurIPS 2023, arXiv 2310.19889).
    """
    for name, value in (("draws", draws), ("batch_size", batch_size), ("seed", seed)):
        check_whole(name, value)
    check_box(box)
    for distance in distances:
        check_number("a distance", distance, least=0)
    if not all(0 <= each <= 1 for each in quantiles):
        raise UsageError(f"quantiles must lie in [0, 1], got {tuple(quantiles)}")
    if draws < 1 or batch_size < 1 or images.shape != directions.shape or len(labels) != len(images):
        raise UsageError(
            f"a direction and a label for each of "
            f"{number_of(len(images), 'image')} are needed, and draws and batch_size at least 1, got {draws}, "
            f"{batch_size}"
        )
    check_images("images", images, box)
    check_images("directions", directions, None)
    labels = checked_labels(labels, images)
    generator, rows = torch.Generator().manual_seed(seed), []
    with _still(predictor), torch.no_grad():
        for image, direction, label in zip(images, directions, labels.tolist(), strict=True):
            if not bool(direction.any()):
                rows.append(torch.zeros(len(distances), len(quantiles)))
                continue
            drawn = torch.randn(draws, *image.shape, generator=generator).to(image)
            drawn = _orthogonal(drawn, direction.expand_as(drawn))
            drawn = drawn / per_image(drawn.flatten(1).norm(dim=1), drawn)
            widths = []
            for distance in distances:
                moved = (image + distance * drawn).clamp(*box)
                logits = checked_logits(torch.cat([predictor(part) for part in moved.split(batch_size)]), draws)
                widths.append(_confidence(logits, torch.full((draws,), label, device=logits.device)))
            at = torch.tensor(quantiles, dtype=widths[0].dtype, device=widths[0].device)
            rows.append(torch.stack(widths).quantile(at, dim=1).T.cpu())  # (D, Q)
    return torch.stack(rows)


def _confidence(logits: Float[Tensor, "B K"], labels: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
    check_classes(labels, logits.shape[1])
    return logits.softmax(1).gather(1, labels[:, None])[:, 0]


def _orthogonal(way: Float[Tensor, "B *size"], gradient: Float[Tensor, "B *size"]) -> Float[Tensor, "B *size"]:
    """The part of a way that is orthogonal to a gradient; all of it where there is none."""
    unit = gradient / per_image(gradient.flatten(1).norm(dim=1).clamp(min=LEAST), gradient)
    return way - unit * per_image((unit * way).flatten(1).sum(1), way)


def _still(predictor: Any) -> Any:
    return frozen(*([predictor] if isinstance(predictor, nn.Module) else []))
