"""Training samples of a tracer: along the annotated line at first, then those that it meets while it traces."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.segment.tubular.straighten import straightened
from binderclip.segment.tubular.tracer import TubularTrace

__all__ = ["TubularSamples", "annotated_samples", "tailored_samples"]

TURN = math.radians(15)
"""Largest turn of the samples along an annotated line."""
WITHIN, OUTSIDE = 0.8, 0.5
"""Share of a local path near the line from which it is a sample of a tube, and below which it is none."""


@dataclass(frozen=True)
class TubularSamples:
    """Strips with what they show.

    Attributes:
        strips: cut along local paths.
        labels: 1 for the middle of the tube, 0 for anything else.
        masks: pixels of the tube in each strip.
    """

    strips: Float[Tensor, "P C n w"]
    labels: Float[Tensor, "P"]
    masks: Float[Tensor, "P n w"]

    def __len__(self) -> int:
        return len(self.labels)

    def drawn(self, limit: int, generator: torch.Generator) -> TubularSamples:
        """All of them, or `limit` drawn without repeats."""
        if len(self) <= limit:
            return self
        rows = torch.randperm(len(self), generator=generator)[:limit]
        return TubularSamples(self.strips[rows], self.labels[rows], self.masks[rows])

    @staticmethod
    def joined(parts: Sequence[TubularSamples]) -> TubularSamples:
        """All samples as one set.

        Raises:
            UsageError: there is none.
        """
        if not parts:
            raise UsageError("there are no samples to join")
        return TubularSamples(
            torch.cat([part.strips for part in parts]),
            torch.cat([part.labels for part in parts]),
            torch.cat([part.masks for part in parts]),
        )


def _cut(image: Tensor, mask: Tensor, paths: Tensor, labels: Tensor, radius: int) -> TubularSamples:
    strips = straightened(image, paths, radius)
    masks = straightened(mask[None].float(), paths, radius)[:, 0]
    return TubularSamples(strips, labels.float(), (masks >= 0.5).float())


def annotated_samples(
    image: Float[Tensor, "C H W"],
    lines: Sequence[Int[Tensor, "_ 2"]],
    mask: Bool[Tensor, "H W"],
    *,
    length: int,
    radius: int,
    count: int,
    shift: float = 2.0,
    generator: torch.Generator,
) -> TubularSamples:
    """Samples of the first round: `count` windows of annotated lines, a little shifted and turned, and others.

    The others, `count` less those that happen to lie on a line, are windows of them shifted aside by more than a tube
    or turned across it, and windows laid anywhere.

    Args:
        image, lines, mask: as `data.tube_pictures` gives them: the lines of all tubes, whose pixels follow each other.
        length, radius: of the tracer.
        count: of each kind.
        shift: jitter across the line, in pixels; no more than the tubes' radius.
        generator: of the draws.

    Raises:
        UsageError: no line is as long as a local path.
    """
    long = [line.float().unfold(0, length, 1).transpose(1, 2) for line in lines if len(line) >= length]
    if not long:
        raise UsageError(f"lines have {', '.join(str(len(line)) for line in lines)} pixels, a local path {length}")
    every = torch.cat(long)  # (all windows, n, 2)
    windows = every[torch.randint(len(every), (2 * count,), generator=generator)]
    turned = torch.rand(2 * count, generator=generator) < 0.5
    windows = torch.where(turned[:, None, None], windows.flip(1), windows)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    sign = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    near = _moved(windows[:count], uniform(-shift, shift), uniform(-TURN, TURN))
    kind = torch.randint(3, (count,), generator=generator)
    aside = torch.where(kind == 0, sign * uniform(radius * 0.6, radius * 2.0), uniform(-shift, shift))
    across = torch.where(kind == 1, sign * uniform(math.pi / 5, math.pi / 2), uniform(-TURN, TURN))
    far = _moved(windows[count:], aside, across)
    size = torch.tensor(image.shape[-2:], dtype=torch.float32)
    anywhere = torch.rand(count, 2, generator=generator) * (size - 1) - far[:, 0]
    far = torch.where((kind == 2)[:, None, None], far + anywhere[:, None], far)
    labels = torch.cat([torch.ones(count), torch.zeros(count)])
    # A window laid anywhere may lie on the tube: what does is not shown as something else.
    good = torch.cat(
        [torch.ones(count, dtype=torch.bool), _near(far, torch.cat(list(lines)), shift + 1).float().mean(1) < OUTSIDE]
    )
    return _cut(image, mask, torch.cat([near, far])[good], labels[good], radius)


def _moved(windows: Float[Tensor, "P n 2"], aside: Float[Tensor, "P"], turn: Float[Tensor, "P"]) -> Tensor:
    """Windows turned about their newest point, then shifted across their direction."""
    along = torch.nn.functional.normalize(windows[:, 0] - windows[:, -1], dim=1)
    across = torch.stack([along[:, 1], -along[:, 0]], 1)
    centred = windows - windows[:, :1]
    cosine, sine = turn.cos()[:, None], turn.sin()[:, None]
    rows, columns = centred[..., 0], centred[..., 1]
    rotated = torch.stack([cosine * rows - sine * columns, sine * rows + cosine * columns], -1)
    return windows[:, :1] + rotated + (aside[:, None] * across)[:, None]


def tailored_samples(
    image: Float[Tensor, "C H W"],
    trace: TubularTrace,
    lines: Sequence[Int[Tensor, "_ 2"]],
    mask: Bool[Tensor, "H W"],
    *,
    radius: int,
    tolerance: float = 3.0,
) -> TubularSamples:
    """Samples of what a tracer met on its way, with the labels that the annotation gives them.

    A local path is a sample of a tube where at least 80 % of it lies within `tolerance` of an annotated line and it
    runs along that line. It is a sample of something else where less than half of it lies there, or its newest pixel is
    not on the tube. What is neither is left out.

    Args:
        image: that was traced.
        trace: what `TubularTracer` gave.
        lines, mask: the annotation of all tubes, which never changes.
        radius: of the tracer.
        tolerance: in pixels.

    Paper: Segmentation of Tubular Structures Using Iterative Training with Tailored Samples (arXiv 2309.08727).
    """
    labels = path_labels(trace.visited, lines, mask, tolerance)
    kept = labels >= 0
    return _cut(image, mask, trace.visited[kept], labels[kept], radius)


def path_labels(
    paths: Int[Tensor, "P n 2"], lines: Sequence[Int[Tensor, "_ 2"]], mask: Bool[Tensor, "H W"], tolerance: float
) -> Int[Tensor, "P"]:
    """1 where a local path follows a line, 0 where it follows none, -1 for neither (see `tailored_samples`)."""
    outside = ~mask[paths[:, 0, 0], paths[:, 0, 1]]
    follows, nearest = torch.zeros(len(paths), dtype=torch.bool), torch.zeros(len(paths))
    for line in lines:
        fraction = _near(paths.float(), line, tolerance).float().mean(1)
        ends = torch.cdist(paths[:, [0, -1]].float().flatten(0, 1), line.float()).argmin(1).view(-1, 2)
        # Of a path that runs along the line, its ends meet the line half its length apart or more.
        along = (ends[:, 0] - ends[:, 1]).abs() >= paths.shape[1] // 2
        follows |= (fraction >= WITHIN) & along
        nearest = nearest.maximum(fraction)
    labels = torch.full((len(paths),), -1)
    labels[(nearest < OUTSIDE) | outside] = 0
    labels[follows] = 1
    return labels


def _near(paths: Float[Tensor, "P n 2"], line: Int[Tensor, "L 2"], tolerance: float) -> Bool[Tensor, "P n"]:
    distance = torch.cdist(paths.flatten(0, 1), line.float()).amin(1)
    return (distance <= tolerance).view(paths.shape[:2])
