"""What a classifier behind a fixed first stage relies on: spatial frequencies, visible area, and the centre."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.numeric import check_number, check_whole
from binderclip.settings import check_choice

__all__ = ["CueConflict", "FoveationProbe", "ProbeCurve", "high_pass", "low_pass", "occluded", "paste_centre"]

OcclusionKind = Literal["scotoma", "glaucoma", "left to right", "top to bottom"]
LOW_SIGMAS, HIGH_SIGMAS = (0.0, 1, 3, 5, 7, 9, 15, 40), (math.inf, 3, 1.5, 1, 0.7, 0.55, 0.45, 0.4)
"""Standard deviations in pixels of a picture of 256; no filter first."""
SIDE, LEVELS, GREY, WINDOWS = 256, 17, 128 / 255, tuple(k / 8 for k in range(1, 9))


def low_pass(images: Float[Tensor, "B C H W"], sigma: float) -> Float[Tensor, "B C H W"]:
    """Gaussian blur of 2 ceil(2 sigma) + 1 taps with repeated edge pixels, as MATLAB's `imgaussfilt`.

    Args:
        images: pictures.
        sigma: in pixels, in [0, 1000]; 0 leaves them as they are.

    Raises:
        UsageError: a sigma out of range.
    """
    check_number("sigma", sigma, least=0, most=1000)
    if sigma == 0:
        return images
    reach = math.ceil(2 * sigma)
    kernel = (-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float64) / sigma) ** 2).exp()
    kernel = (kernel / kernel.sum()).to(images)
    flat = images.flatten(0, 1)[:, None]
    flat = F.conv2d(F.pad(flat, (0, 0, reach, reach), mode="replicate"), kernel[None, None, :, None])
    flat = F.conv2d(F.pad(flat, (reach, reach, 0, 0), mode="replicate"), kernel[None, None, None, :])
    return flat[:, 0].reshape(images.shape)


def high_pass(
    images: Float[Tensor, "B C H W"], sigma: float, colour: Float[Tensor, "C"] | float
) -> Float[Tensor, "B C H W"]:
    """What a Gaussian blur takes away, moved to a mean colour and clipped to [0, 1].

    Args:
        images: pictures in [0, 1].
        sigma: of the blur in pixels, above 0 and at most 1000; infinity leaves them as they are.
        colour: mean of the residual afterwards; that of the data set.

    Raises:
        UsageError: a sigma out of range.
    """
    check_number("sigma", sigma, above=0, most=math.inf, infinite=True)
    if math.isinf(sigma):
        return images
    residual = images - low_pass(images, sigma)
    middle = torch.as_tensor(colour).to(images).reshape(-1, 1, 1)
    return (residual - residual.mean((2, 3), keepdim=True) + middle).clamp(0, 1)


def occluded(
    images: Float[Tensor, "B C S S"], kind: OcclusionKind, level: int, *, levels: int = LEVELS
) -> Float[Tensor, "B C S S"]:
    """Square pictures with (level - 1) / (levels - 1) of their area grey.

    "scotoma" covers a central square and "glaucoma" all but one; their sides are even, so their areas are those of the
    next larger even square. The others cover columns from the left or rows from the top.

    Args:
        images: pictures in [0, 1].
        kind: of these four.
        level: 1 (nothing is covered) to `levels` (everything).
        levels: how many there are, 2 to 1000.

    Raises:
        UsageError: pictures that are not square, or a value out of range.
    """
    check_choice("kind", kind, get_args(OcclusionKind))
    check_whole("levels", levels, least=2)
    check_number("levels", levels, most=1000)
    check_whole("level", level, least=1)
    check_number("level", level, most=levels)
    side = images.shape[-1]
    if images.ndim != 4 or images.shape[2] != side:
        raise UsageError(f"pictures must be (B, C, S, S), not {tuple(images.shape)}")
    fraction, middle = (level - 1) / (levels - 1), side // 2
    result = images.clone()
    if kind in ("left to right", "top to bottom"):
        covered = round(fraction * side)
        (result[..., :covered] if kind == "left to right" else result[..., :covered, :]).fill_(GREY)
        return result
    area = fraction if kind == "scotoma" else 1 - fraction
    half = math.ceil(math.sqrt(round(area * side * side)) / 2)
    inside = slice(max(middle - half, 0), middle + half)
    if kind == "scotoma":
        result[..., inside, inside] = GREY
        return result
    result.fill_(GREY)
    result[..., inside, inside] = images[..., inside, inside]
    return result


def paste_centre(
    centre: Float[Tensor, "B C H W"], surround: Float[Tensor, "B C H W"], diameter: float
) -> Float[Tensor, "B C H W"]:
    """A disc of one picture in the middle of another.

    Args:
        centre, surround: pictures of one shape.
        diameter: of the disc as a fraction of the shorter side, in [0, 2].

    Raises:
        UsageError: different shapes, or a diameter out of range.
    """
    check_number("diameter", diameter, least=0, most=2)
    if centre.ndim != 4 or centre.shape != surround.shape:
        raise UsageError(f"pictures (B, C, H, W) of one shape: {tuple(centre.shape)}, {tuple(surround.shape)}")
    height, width = centre.shape[2:]
    y = torch.arange(height, device=centre.device) - (height - 1) / 2
    x = torch.arange(width, device=centre.device) - (width - 1) / 2
    inside = torch.hypot(y[:, None], x) < diameter * min(height, width) / 2
    return torch.where(inside, centre, surround)


@dataclass(frozen=True)
class ProbeCurve:
    """Accuracy at every strength of a manipulation.

    Attributes:
        strengths: of the manipulation, in the order of the measurement.
        accuracy: at each.
    """

    strengths: tuple[float, ...]
    accuracy: tuple[float, ...]

    @property
    def area(self) -> float:
        """Area under the curve by trapezoids over equal steps, divided by their number: 1 if all are right."""
        values = self.accuracy
        return sum((a + b) / 2 for a, b in itertools.pairwise(values)) / max(len(values) - 1, 1)


@dataclass(frozen=True)
class CueConflict:
    """Answers to pictures whose middle is of one class and whose surround is of another.

    Attributes:
        diameters: of the disc, as fractions of the shorter side, rising.
        centre: fraction of answers that are the middle's class.
        surround: fraction that are the surround's.
    """

    diameters: tuple[float, ...]
    centre: tuple[float, ...]
    surround: tuple[float, ...]

    @property
    def crossing(self) -> float:
        """Diameter at which as many answers follow the middle as the surround: small for a bias to the centre.

        Interpolated between diameters; the first one if the middle wins from the start, the last if it never does.
        """
        gaps = [a - b for a, b in zip(self.centre, self.surround, strict=True)]
        if gaps[0] >= 0:
            return self.diameters[0]
        for number in range(1, len(gaps)):
            if gaps[number] >= 0:
                before, after = self.diameters[number - 1], self.diameters[number]
                return before + (after - before) * gaps[number - 1] / (gaps[number - 1] - gaps[number])
        return self.diameters[-1]


@dataclass(frozen=True)
class FoveationProbe:
    """The tests of a system of a fixed first stage and a trained classifier.

    The first stage is applied to the whole pictures, and what comes out is manipulated: foveating after an occlusion
    would let grey leak into the texture.

    Args:
        classifier: from pictures (B, C, S, S) in [0, 1] to logits.
        first_stage: the transform of the system; default none, for pictures that went through it already.
        batch: pictures a pass, 1 to 10^6.

    Raises:
        UsageError: a batch out of range.

    Paper: Emergent Properties of Foveated Perceptual Systems (arXiv 2006.07991).
    """

    classifier: Callable[[Tensor], Tensor]
    first_stage: Callable[[Tensor], Tensor] | None = None
    batch: int = 256

    def __post_init__(self) -> None:
        check_whole("batch", self.batch, least=1)
        check_number("batch", self.batch, most=10**6)

    def low_pass(
        self, images: Float[Tensor, "B C S S"], labels: Int[Tensor, "B"], sigmas: Sequence[float] | None = None
    ) -> ProbeCurve:
        """Accuracy on blurred pictures; default the published sigmas, in proportion to the side."""
        chosen = LOW_SIGMAS if sigmas is None else sigmas
        factor = images.shape[-1] / SIDE if sigmas is None else 1.0
        return self._curve(images, labels, chosen, lambda x, sigma: low_pass(x, sigma * factor))

    def high_pass(
        self, images: Float[Tensor, "B C S S"], labels: Int[Tensor, "B"], sigmas: Sequence[float] | None = None
    ) -> ProbeCurve:
        """Accuracy on what a blur takes away, around the pictures' mean colour; default the published sigmas.

        Those are not scaled with the side: below a pixel a Gaussian is no longer one.
        """
        chosen = HIGH_SIGMAS if sigmas is None else sigmas
        colour = self._first(images).mean((0, 2, 3))
        return self._curve(images, labels, chosen, lambda x, sigma: high_pass(x, sigma, colour))

    def occlusion(
        self, images: Float[Tensor, "B C S S"], labels: Int[Tensor, "B"], kind: OcclusionKind, levels: int = LEVELS
    ) -> ProbeCurve:
        """Accuracy on pictures that are more and more covered, from not at all to fully."""
        steps = range(1, levels + 1)
        return self._curve(images, labels, steps, lambda x, level: occluded(x, kind, int(level), levels=levels))

    def cue_conflict(
        self,
        images: Float[Tensor, "B C S S"],
        labels: Int[Tensor, "B"],
        others: Float[Tensor, "B C S S"],
        other_labels: Int[Tensor, "B"],
        diameters: Sequence[float] = WINDOWS,
    ) -> CueConflict:
        """Answers to pictures with the middle of others, for growing discs.

        Args:
            images: the surrounds. labels: their classes.
            others: the middles. other_labels: their classes, each another one than its surround's.
            diameters: of the discs, rising, in [0, 2].

        Raises:
            UsageError: no pictures, a middle of its surround's class, or diameters that do not rise.
        """
        if not len(images) or bool((labels == other_labels).any()):
            raise UsageError("every middle must be of another class than its surround")
        if not diameters or any(b <= a for a, b in itertools.pairwise(diameters)):
            raise UsageError(f"diameters must rise, got {tuple(diameters)}")
        surround, centre = self._first(images), self._first(others)
        answers = [self._answers(paste_centre(centre, surround, diameter)) for diameter in diameters]
        return CueConflict(
            tuple(float(diameter) for diameter in diameters),
            tuple(float((answer == other_labels).float().mean()) for answer in answers),
            tuple(float((answer == labels).float().mean()) for answer in answers),
        )

    def _curve(
        self, images: Tensor, labels: Tensor, strengths: Sequence[float], change: Callable[[Tensor, float], Tensor]
    ) -> ProbeCurve:
        if not len(images) or len(images) != len(labels) or not strengths:
            raise UsageError(f"{len(images)} pictures, {len(labels)} labels and {len(strengths)} strengths")
        first = self._first(images)
        right = [(self._answers(change(first, strength)) == labels).float().mean() for strength in strengths]
        return ProbeCurve(tuple(float(s) for s in strengths), tuple(torch.stack(right).tolist()))

    @torch.no_grad()
    def _first(self, images: Tensor) -> Tensor:
        return images if self.first_stage is None else self.first_stage(images)

    @torch.no_grad()
    def _answers(self, images: Tensor) -> Tensor:
        return torch.cat([self.classifier(part).argmax(1) for part in images.split(self.batch)])
