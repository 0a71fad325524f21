"""Which images are run to explain an image: itself, noisy copies, a path from a baseline, crops.

Passes are values: methods that ask for equal passes are fed from one loop over them (see `attribute.attribute_all`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.settings import check_choice

if TYPE_CHECKING:
    from binderclip.explain.engine.observed import Observer


@dataclass(frozen=True)
class Pass:
    """Images that go through the model together: `copies` of the batch, one after the other.

    Attributes:
        images: (copies * B, 3, H, W).
        copies: how often each image is there.
        added: (copies * B, 3, h, w) added to the model's input after resizing, on the [0, 1] scale; None for nothing.
        weights: one a copy, that sum to 1 over all passes of a set.
        view: (top, left, mirrored) of a crop of the image; None for the whole of it.
    """

    images: Tensor
    copies: int = 1
    added: Tensor | None = None
    weights: tuple[float, ...] = (1.0,)
    view: tuple[int, int, bool] | None = None


@runtime_checkable
class Passes(Protocol):
    """A set of passes, hashable and comparable; equal ones are shared."""

    def __call__(self, observer: Observer, images: Float[Tensor, "B C H W"]) -> Iterator[Pass]: ...

    def __hash__(self) -> int: ...


@dataclass(frozen=True)
class Clean:
    """The images as they are."""

    def __call__(self, observer: Observer, images: Float[Tensor, "B C H W"]) -> Iterator[Pass]:
        """One pass."""
        yield Pass(images)


@dataclass(frozen=True)
class NoisyCopies:
    """Copies with independent normal noise.

    The noise is added to what the model is fed (after resizing, which would average it away), with a standard deviation
    of `level` times the range of each image; nothing is clipped. All images of a batch get the same draws, scaled, so a
    map does not depend on what else is in its batch.

    Args:
        n: number of copies.
        level: standard deviation as a share of max - min of the image.
        seed: of the noise.
        batch: pictures per forward; a copy of a larger batch goes through whole.
    """

    n: int = 50
    level: float = 0.15
    seed: int = 0
    batch: int = 16

    def __post_init__(self) -> None:
        if self.n < 1 or self.batch < 1 or not 0 <= self.level < float("inf"):
            raise UsageError(
                f"noise: n and batch at least 1, level at least 0 and finite; got {self.n}, {self.batch}, {self.level}"
            )

    def __call__(self, observer: Observer, images: Float[Tensor, "B C H W"]) -> Iterator[Pass]:
        """Several copies at once where they fit."""
        fitted = observer.fit(images)
        spread = fitted.flatten(1).amax(1) - fitted.flatten(1).amin(1)
        generator = torch.Generator().manual_seed(self.seed)
        at_once = max(1, self.batch // len(images))
        for start in range(0, self.n, at_once):
            count = min(at_once, self.n - start)
            draws = [torch.randn(fitted.shape[1:], generator=generator) for _ in range(count)]
            noise = torch.stack(draws).to(fitted)[:, None] * (self.level * spread)[:, None, None, None]
            yield Pass(images.repeat(count, 1, 1, 1), count, noise.flatten(0, 1), (1 / self.n,) * count)


@dataclass(frozen=True)
class StraightPath:
    """Images on the straight line from a plain baseline picture, at the nodes of a quadrature rule.

    Args:
        n: number of nodes.
        baseline: grey level, or one value a channel, in [0, 1].
        rule: `gauss` (Gauss-Legendre, exact to degree 2 n - 1) or `midpoint`.
        batch: pictures per forward.
    """

    n: int = 50
    baseline: float | tuple[float, float, float] = 0.0
    rule: str = "gauss"
    batch: int = 16

    def __post_init__(self) -> None:
        if self.n < 1 or self.batch < 1:
            raise UsageError(f"path: n and batch at least 1; got {self.n}, {self.batch}")
        check_choice("rule", self.rule, ("gauss", "midpoint"))
        grey = isinstance(self.baseline, (int, float))
        if not grey and len(self.baseline) != 3:  # type: ignore[arg-type]
            raise UsageError(f"baseline must be one grey level or three numbers, not {self.baseline!r}")
        if not grey:
            # A list would do as well, but passes are compared and hashed to be shared.
            object.__setattr__(self, "baseline", tuple(float(value) for value in self.baseline))  # type: ignore[union-attr]

    def start(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "1 3 1 1"]:
        """The baseline picture."""
        return torch.as_tensor(self.baseline, dtype=images.dtype, device=images.device).expand(3).view(1, 3, 1, 1)

    def __call__(self, observer: Observer, images: Float[Tensor, "B 3 H W"]) -> Iterator[Pass]:
        """From the baseline to the images."""
        if self.rule == "gauss":
            roots, weights = np.polynomial.legendre.leggauss(self.n)
            shares, weights = (roots + 1) / 2, weights / 2
        else:
            shares, weights = (np.arange(self.n) + 0.5) / self.n, np.full(self.n, 1 / self.n)
        at_once = max(1, self.batch // len(images))
        start = self.start(images)
        for first in range(0, self.n, at_once):
            part = shares[first : first + at_once]
            along = torch.tensor(part, dtype=images.dtype, device=images.device)[:, None, None, None, None]
            points = start + along * (images - start)
            yield Pass(points.flatten(0, 1), len(part), None, tuple(weights[first : first + at_once].tolist()))


@dataclass(frozen=True)
class CroppedViews:
    """Four corner crops and the centre one, each also mirrored: centre, mirrored centre, corner, and so on.

    Args:
        n: number of crops, 1 to 10.
        share: side of a crop as a share of the image's.
    """

    n: int = 10
    share: float = 0.875

    def __post_init__(self) -> None:
        if not 1 <= self.n <= 10 or not 0 < self.share <= 1:
            raise UsageError(f"crops: n from 1 to 10, share in (0, 1]; got {self.n}, {self.share}")

    def __call__(self, observer: Observer, images: Float[Tensor, "B C H W"]) -> Iterator[Pass]:
        """One crop after the other."""
        size = (images.shape[-2], images.shape[-1])
        height, width = (max(1, round(side * self.share)) for side in size)
        down, right = size[0] - height, size[1] - width
        corners = [(down // 2, right // 2), (0, 0), (0, right), (down, 0), (down, right)]
        for index in range(self.n):
            (top, left), mirrored = corners[index // 2], index % 2 == 1
            crop = images[..., top : top + height, left : left + width]
            crop = crop.flip(-1) if mirrored else crop
            yield Pass(crop, 1, None, (1 / self.n,), (top, left, mirrored))
