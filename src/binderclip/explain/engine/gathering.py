"""What becomes of the passes: signals are read off each, and summed up in one of several ways."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.explain.engine.observed import Observed
from binderclip.explain.engine.passes import Clean, CroppedViews, NoisyCopies, Pass, Passes, StraightPath
from binderclip.explain.engine.placement import Box, render_map, whole
from binderclip.explain.engine.places import Place
from binderclip.settings import check_choice

Reduction = Literal["sum", "relu-sum", "max-abs", "abs-sum", "l2"]
Statistic = Literal["mean", "mean-square", "variance", "standard-error"]


@dataclass(frozen=True)
class SiteSignal:
    """A map at one place: (B, h, w), signed, and the part of the image it covers."""

    values: Tensor
    box: Box


@dataclass(frozen=True)
class Gathered:
    """What a gathering found.

    Attributes:
        sites: one map a site.
        accounted: (B,) the sum of all terms, of a method that promises completeness.
        promised: (B,) what they should sum to.
    """

    sites: list[SiteSignal]
    accounted: Tensor | None = None
    promised: Tensor | None = None


@dataclass(frozen=True)
class Opening:
    """What a gathering knows before the passes.

    Attributes:
        clean: the pass of the images as they are, with all places.
        score: (B,) its scores; attached to it where a method of the run takes the clean pass.
        places: where the method looks.
        size: (h, w) of the images.
    """

    clean: Observed
    score: Tensor
    places: tuple[Place, ...]
    size: tuple[int, int]


@runtime_checkable
class Gathering(Protocol):
    """Takes the passes one by one."""

    def add(self, seen: Observed, score: Float[Tensor, "N"], step: Pass) -> None:
        """One pass: N = copies * B rows."""

    def result(self) -> Gathered:
        """After the last one."""


@runtime_checkable
class Signal(Protocol):
    """What is read off one pass, with its channels; stateless."""

    def __call__(
        self, seen: Observed, score: Float[Tensor, "B"], places: Sequence[Place]
    ) -> list[Float[Tensor, "B h w C"]]: ...


Reduce: TypeAlias = Callable[[Tensor], Tensor]
Opener: TypeAlias = Callable[[Opening], Gathering]


@runtime_checkable
class Ensemble(Protocol):
    """Which passes are run, and how a signal is summed up over them."""

    @property
    def passes(self) -> Passes:
        """What is run."""
        ...

    def open(self, opening: Opening, signal: Signal, reduce: Reduce) -> Gathering:
        """A fresh gathering."""
        ...


@dataclass(frozen=True)
class Single:
    """No ensemble: the images as they are."""

    passes: Clean = field(default_factory=Clean)

    def open(self, opening: Opening, signal: Signal, reduce: Reduce) -> Gathering:
        """Signals of one pass, reduced."""
        return _Averaged(opening, signal, reduce, "mean")


@dataclass(frozen=True)
class GaussianNoise:
    """A statistic of the signal over noisy copies: signed signals are averaged, channels are reduced afterwards.

    Args:
        n: number of copies.
        level: standard deviation of the noise as a share of the image's range.
        statistic: `mean` (SmoothGrad), `mean-square` (SmoothGrad-squared), `variance` (VarGrad, divided by n) or
            `standard-error` (of the mean: how far from converged it is; from 2 copies on).
        seed: of the noise.
        batch: pictures per forward.

    Raises:
        UsageError: a setting out of range.
    """

    n: int = 50
    level: float = 0.15
    statistic: Statistic = "mean"
    seed: int = 0
    batch: int = 16

    def __post_init__(self) -> None:
        check_choice("statistic", self.statistic, ("mean", "mean-square", "variance", "standard-error"))
        if self.statistic == "standard-error" and self.n < 2:
            raise UsageError("the standard error of a mean needs at least 2 copies")
        self.passes  # noqa: B018 - its settings are checked there

    @property
    def passes(self) -> NoisyCopies:
        """The noisy copies; methods with equal ones share them."""
        return NoisyCopies(self.n, self.level, self.seed, self.batch)

    def open(self, opening: Opening, signal: Signal, reduce: Reduce) -> Gathering:
        """Running moments: memory does not grow with n."""
        return _Averaged(opening, signal, reduce, self.statistic)


@dataclass(frozen=True)
class Path:
    """The signal's mean along the straight path from a baseline, times the way walked (integrated gradients).

    Only for the gradient at the input, where the sum over pixels is the score's rise over the baseline's.

    Args:
        n: number of nodes.
        baseline: grey level, or one value a channel, in [0, 1].
        rule: `gauss` or `midpoint`.
        batch: pictures per forward.

    Raises:
        UsageError: a setting out of range; another place than the input.
    """

    n: int = 50
    baseline: float | tuple[float, float, float] = 0.0
    rule: str = "gauss"
    batch: int = 16

    def __post_init__(self) -> None:
        self.passes  # noqa: B018 - its settings are checked there

    @property
    def passes(self) -> StraightPath:
        """The nodes."""
        return StraightPath(self.n, self.baseline, self.rule, self.batch)

    def open(self, opening: Opening, signal: Signal, reduce: Reduce) -> Gathering:
        """Weighted mean of signals, times image minus baseline."""
        if opening.places != ("input",):
            raise UsageError(f"a path from a baseline is defined at the input, not at layers {opening.places}")
        return _Walked(opening, signal, reduce, self.passes)


@dataclass(frozen=True)
class Crops:
    """The mean of maps over crops and their reflections, each put back at its place (ten-crop averaging).

    Four corner crops and the centre one, each also mirrored; `n` of them in the order centre, mirrored centre, corner,
    mirrored corner and so on. A pixel is averaged over the crops that show it.

    Args:
        n: number of crops, 1 to 10.
        share: side of a crop as a share of the image's.

    Raises:
        UsageError: a setting out of range.
    """

    n: int = 10
    share: float = 0.875

    def __post_init__(self) -> None:
        self.passes  # noqa: B018 - its settings are checked there

    @property
    def passes(self) -> CroppedViews:
        """The crops."""
        return CroppedViews(self.n, self.share)

    def open(self, opening: Opening, signal: Signal, reduce: Reduce) -> Gathering:
        """Maps drawn at their places."""
        return _Placed(opening, signal, reduce)


class _Averaged:
    """Running mean, of the signal or its squares, and the scatter about it (Welford), channels kept."""

    def __init__(self, opening: Opening, signal: Signal, reduce: Reduce, statistic: Statistic) -> None:
        self.opening, self.signal, self.reduce, self.statistic = opening, signal, reduce, statistic
        self.count = 0
        self.means: list[Tensor] = []
        self.scatters: list[Tensor] = []

    def add(self, seen: Observed, score: Tensor, step: Pass) -> None:
        """Merge the copies of one pass."""
        values_of_sites = [
            s.float().unflatten(0, (step.copies, -1)) for s in self.signal(seen, score, self.opening.places)
        ]
        if self.statistic == "mean-square":
            values_of_sites = [values.square() for values in values_of_sites]
        fresh = [values.mean(0) if step.copies > 1 else values[0] for values in values_of_sites]
        spread = self.statistic in ("variance", "standard-error")
        inner = [(v - m).square().sum(0) for v, m in zip(values_of_sites, fresh, strict=True)] if spread else []
        total = self.count + step.copies
        if not self.count:
            self.means, self.scatters = fresh, inner
        else:
            for index, mean in enumerate(fresh):
                shift = mean - self.means[index]
                if spread:
                    self.scatters[index] += inner[index] + shift.square() * (self.count * step.copies / total)
                self.means[index] = self.means[index] + shift * (step.copies / total)
        self.count = total

    def result(self) -> Gathered:
        """The statistic, channels reduced."""
        final = self.means
        if self.statistic == "variance":
            final = [s / self.count for s in self.scatters]
        elif self.statistic == "standard-error":
            final = [(s / (self.count * (self.count - 1))).sqrt() for s in self.scatters]
        boxes = self.opening.clean.boxes
        return Gathered([SiteSignal(self.reduce(v), boxes[p]) for v, p in zip(final, self.opening.places, strict=True)])


class _Walked:
    """Quadrature of the gradient along a path; complete up to the quadrature's error."""

    def __init__(self, opening: Opening, signal: Signal, reduce: Reduce, path: StraightPath) -> None:
        self.opening, self.signal, self.reduce, self.path = opening, signal, reduce, path
        self.total: Tensor | None = None

    def add(self, seen: Observed, score: Tensor, step: Pass) -> None:
        """Add weighted gradients."""
        values = self.signal(seen, score, self.opening.places)[0].float().unflatten(0, (step.copies, -1))
        weights = torch.tensor(step.weights, device=values.device, dtype=values.dtype)
        part = torch.einsum("k,kbhwc->bhwc", weights, values)
        self.total = part if self.total is None else self.total + part

    def result(self) -> Gathered:
        """Times the way from the baseline."""
        assert self.total is not None
        images = self.opening.clean.images.detach()
        walked = self.total * (images - self.path.start(images)).permute(0, 2, 3, 1)
        begin = self.opening.clean.score_of(self.path.start(images).expand_as(images[:1]))
        site = SiteSignal(self.reduce(walked), whole(self.opening.size))
        return Gathered([site], walked.flatten(1).double().sum(1), self.opening.score.detach() - begin)


class _Placed:
    """Maps of crops, put back and averaged over the crops that show a pixel."""

    def __init__(self, opening: Opening, signal: Signal, reduce: Reduce) -> None:
        self.opening, self.signal, self.reduce = opening, signal, reduce
        device = opening.score.device
        self.total = torch.zeros(len(opening.score), *opening.size, device=device)
        self.count = torch.zeros(opening.size, device=device)

    def add(self, seen: Observed, score: Tensor, step: Pass) -> None:
        """Draw one crop's map."""
        assert step.view is not None
        top, left, mirrored = step.view
        height, width = step.images.shape[-2:]
        values_of_sites = self.signal(seen, score, self.opening.places)
        drawn = torch.zeros(())
        for values, place in zip(values_of_sites, self.opening.places, strict=True):
            drawn = drawn + render_map(self.reduce(values.float()), seen.boxes[place], (height, width))
        self.total[:, top : top + height, left : left + width] += drawn.flip(-1) if mirrored else drawn
        self.count[top : top + height, left : left + width] += 1

    def result(self) -> Gathered:
        """The mean."""
        return Gathered([SiteSignal(self.total / self.count.clamp(min=1), whole(self.opening.size))])


def reduce_channels(values: Float[Tensor, "B h w C"], how: Reduction) -> Float[Tensor, "B h w"]:
    """Channels -> one value a place.

    Raises:
        UsageError: an unknown reduction.
    """
    if how == "sum":
        return values.sum(dim=-1)
    if how == "relu-sum":
        return values.sum(dim=-1).clamp(min=0)
    if how == "max-abs":
        return values.abs().amax(dim=-1)
    if how == "abs-sum":
        return values.abs().sum(dim=-1)
    if how == "l2":
        return values.norm(dim=-1)
    raise UsageError(f"reduce must be sum, relu-sum, max-abs, abs-sum or l2, not {how!r}")
