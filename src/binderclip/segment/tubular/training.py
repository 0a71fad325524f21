"""Iterative training: trace, look at what was met, learn from it, trace again (p174)."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.fit import fit
from binderclip.segment.tubular.samples import TubularSamples, annotated_samples, tailored_samples
from binderclip.segment.tubular.tracer import LocalPathNet, TubularTrace, TubularTracer

__all__ = ["TracerTraining", "line_accuracy", "line_distance", "train_tracer"]


@runtime_checkable
class AnnotatedTube(Protocol):
    """A picture with tubes, such as a `data.TubePicture`: lines of all, first the one to trace, and pixels."""

    @property
    def image(self) -> Tensor: ...

    @property
    def lines(self) -> Sequence[Tensor]: ...

    @property
    def mask(self) -> Tensor: ...


@dataclass(frozen=True)
class TracerTraining:
    """What the rounds left.

    Attributes:
        rounds: a tracer for each round; the first has seen annotated lines alone.
        accuracies: mean `line_accuracy` of each on the validation pictures.
        counts: samples that each round learnt from.
        distances: mean `line_distance` of each on the validation pictures, in pixels.
    """

    rounds: list[TubularTracer]
    accuracies: list[float]
    counts: list[int]
    distances: list[float] = field(default_factory=list)

    @property
    def best(self) -> TubularTracer:
        """The first of those with the best validation accuracy."""
        return self.rounds[max(range(len(self.rounds)), key=lambda number: (self.accuracies[number], -number))]


def line_accuracy(trace: TubularTrace, line: Int[Tensor, "L 2"], tolerance: float = 2.0) -> float:
    """F1 of a traced and an annotated line: the harmonic mean of the shares of each that lie near the other.

    Neither a short cut nor a detour scores.

    Args:
        trace: what was traced.
        line: annotated pixels.
        tolerance: in pixels.
    """
    distance = torch.cdist(trace.path.float(), line.float())
    precision = float((distance.amin(1) <= tolerance).float().mean())
    recall = float((distance.amin(0) <= tolerance).float().mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def line_distance(trace: TubularTrace, line: Int[Tensor, "L 2"]) -> float:
    """Mean distance between a traced and an annotated line, in pixels: 0 for the same line, without an upper bound.

    From every pixel of one line to the nearest of the other; the mean over the traced line and the one over the
    annotated line are averaged, so that neither a short cut nor a detour is free. Unlike `line_accuracy` it needs no
    tolerance, and says how far off a wrong line is.

    Args:
        trace: what was traced.
        line: annotated pixels.
    """
    distance = torch.cdist(trace.path.double(), line.double())  # (P, L)
    return float((distance.amin(1).mean() + distance.amin(0).mean()) / 2)


def train_tracer(
    pictures: Sequence[AnnotatedTube],
    validation: Sequence[AnnotatedTube],
    *,
    rounds: int = 3,
    steps: int = 300,
    batch: int = 64,
    lr: float = 2e-3,
    count: int = 100,
    length: int = 24,
    radius: int = 8,
    tolerance: float = 3.0,
    shift: float = 2.0,
    limit: int = 2000,
    tailored: bool = True,
    seed: int = 0,
) -> TracerTraining:
    """Train a `LocalPathNet` for a `TubularTracer` by rounds of tailored samples.

    Args:
        pictures: to learn from. validation: to choose the round by.
        rounds: after the first, which learns from annotated lines.
        steps, batch, lr: of Adam in each round; the network goes on from the round before.
        count: annotated samples of each kind and picture.
        length, radius, tolerance, shift: see `TubularTracer`, `tailored_samples` and `annotated_samples`.
        limit: most tailored samples a picture and round, drawn without repeats; a trace judges nearly every pixel.
        tailored: False for the baseline, which draws as many new annotated samples in every round instead.
        seed: of weights, samples and batches.

    Raises:
        UsageError: no picture, fewer rounds than none, or batches below 2.

    Paper: Segmentation of Tubular Structures Using Iterative Training with Tailored Samples (arXiv 2309.08727).
    """
    if not pictures or not validation or rounds < 0 or batch < 2:
        raise UsageError(
            "give pictures to train and to validate on, rounds of at least 0 and batches of at least 2, not "
            f"{len(pictures)}, {len(validation)}, {rounds} and {batch}"
        )
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = LocalPathNet(pictures[0].image.shape[0])

    def annotated(one: AnnotatedTube, count: int) -> TubularSamples:
        return annotated_samples(
            one.image, one.lines, one.mask, length=length, radius=radius, count=count, shift=shift, generator=generator
        )

    parts = [annotated(one, count) for one in pictures]
    tracers, accuracies, distances, counts = [], [], [], []
    for number in range(rounds + 1):
        samples = TubularSamples.joined(parts)
        _learn(net, samples, steps, batch, lr, seed + number)
        tracer = _tracer(copy.deepcopy(net).eval(), length, radius)
        tracers.append(tracer)
        counts.append(len(samples))
        lines = [(trace, one.lines[0]) for trace, one in zip(traced(tracer, validation), validation, strict=True)]
        accuracies.append(sum(line_accuracy(trace, line) for trace, line in lines) / len(lines))
        distances.append(sum(line_distance(trace, line) for trace, line in lines) / len(lines))
        if number < rounds:
            for trace, one in zip(traced(tracer, pictures), pictures, strict=True):
                met = tailored_samples(one.image, trace, one.lines, one.mask, radius=radius, tolerance=tolerance)
                met = met.drawn(limit, generator)
                parts.append(met if tailored else annotated(one, max(1, len(met) // 2)))
    return TracerTraining(tracers, accuracies, counts, distances)


def _tracer(net: LocalPathNet, length: int, radius: int) -> TubularTracer:
    return TubularTracer(net.scores, length, radius, mask=net.masks)


def traced(tracer: TubularTracer, pictures: Sequence[AnnotatedTube]) -> list[TubularTrace]:
    """The traces of annotated pictures between the ends of their lines."""
    starts, ends = ([_x_y(one.lines[0][place]) for one in pictures] for place in (0, -1))
    return tracer.all([one.image for one in pictures], starts, ends)


def _x_y(pixel: Int[Tensor, "2"]) -> tuple[int, int]:
    return int(pixel[1]), int(pixel[0])


def _learn(net: LocalPathNet, samples: TubularSamples, steps: int, batch: int, lr: float, seed: int) -> None:
    """One round on batches that are half tube and half not."""
    yes, no = (torch.nonzero(samples.labels == label)[:, 0] for label in (1, 0))
    if not len(yes) or not len(no):
        raise UsageError("the samples show tubes alone, or none: annotate lines on the tubes")

    def batches() -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            yield torch.cat([rows[torch.randint(len(rows), (batch // 2,), generator=generator)] for rows in (yes, no)])

    def loss(rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        kept, labels = net.encode(samples.strips[rows]), samples.labels[rows]
        shown = labels > 0  # masks are learnt where there is a tube
        mask = net.mask_logits([part[shown] for part in kept])
        scored = F.binary_cross_entropy_with_logits(net.score_logits(kept), labels)
        return scored + _mask_loss(mask, samples.masks[rows][shown]), {}

    net.train()
    fit(loss, list(net.parameters()), batches(), steps=steps, lr=lr, optimizer="adam", schedule="cosine")
    net.eval()


def _mask_loss(logits: Float[Tensor, "P n w"], masks: Float[Tensor, "P n w"]) -> Float[Tensor, ""]:
    """Cross entropy and dice."""
    chance = logits.sigmoid()
    overlap, total = (chance * masks).sum((1, 2)), chance.sum((1, 2)) + masks.sum((1, 2))
    dice = 1 - (2 * overlap + 1) / (total + 1)
    return F.binary_cross_entropy_with_logits(logits, masks) + dice.mean()
