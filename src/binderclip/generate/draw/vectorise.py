"""A picture as few filled paths: added in rounds where the error is, and all optimised together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.generate.draw.optimisation import ImageOptimisation, OptimisedImage, WeightedObjective
from binderclip.generate.draw.vector.canvas import check_canvas
from binderclip.generate.draw.vector.paths import BezierPaths, PathLayer
from binderclip.generate.draw.vector.svg import RadialFill
from binderclip.losses.xing import XingLoss
from binderclip.numeric import check_number, check_whole
from binderclip.settings import check_choice
from binderclip.vision.error_segments import ErrorSegments, gradient_aware_segments

__all__ = ["contour_weight", "decaying_rate", "vectorize"]

_DECAY = 0.4
"""What a round leaves of a path's learning rate."""
_NEAR = 10.0
"""Pixels from a contour beyond which its weight falls no further."""
_OUTSIDE = 0.4
"""Of the weight of contours, outside the segments that paths were added for; inside it is at least 1 less this."""
_REFERENCE = 240
"""Side in pixels of the pictures for which a step of the points is 1 pixel."""
_GAMMA = 2.2


def vectorize(
    image: Float[Tensor, "3 H W"] | Float[Tensor, "4 H W"],
    rounds: int | Sequence[int] = 8,
    *,
    fill: Literal["radial", "solid"] = "radial",
    guided: bool = True,
    steps: int = 500,
    segments: int = 4,
    radius: float = 5.0,
    start: Literal["circle", "segment"] = "circle",
    xing: float = 1e-5,
    lr: tuple[float, float] | None = None,
    background: Literal["segment", "border", "white"] | Sequence[float] | None = None,
    callbacks: Sequence[Any] = (),
    seed: int = 0,
) -> OptimisedImage:
    """Draw a picture again as closed paths with gradient fills, the most important first.

    Each round cuts the error into segments that a smooth fill could mend (`gradient_aware_segments`), puts a circle
    on the worst one, and optimises all paths by the squared error, which counts more near the contours of this and
    earlier rounds and inside the segments that they were added for.

    Args:
        image: in [0, 1]; a fourth channel is opacity, over white.
        rounds: paths that each round adds, or a number of rounds of one path.
        fill: `radial` gradients of two colours, or `solid` colours.
        guided: False puts each path on the pixel of the largest error and weighs all pixels alike: the method without
            its segmentation.
        steps: of Adam in each round.
        segments: cubic segments of a path.
        radius: of a new circle, in pixels.
        start: of a new path: a `circle`, as the paper has it, which takes hundreds of steps to fill a large segment; or
            the ellipse of its `segment`'s area and axes in the segment's mean colour, for few steps.
        xing: weight of `XingLoss` of the round's paths.
        lr: of the points, and of colours and gradients; default a pixel for pictures of 240 px, scaled, and 0.01. A
            path's rates fall to 0.4 in each of its rounds.
        background: colour below all paths: `segment`, the mean of what counts as background of the picture's contrast
            to white, as released; `border`, the colour that half of the outermost pixels share, else the picture's
            mean; `white`; or RGB in [0, 1]. Default `segment` where it is guided, and else `white`.
        callbacks: of every round, as `fit` takes them; one whose `after_step` gives True ends its round, and no other
            begins. One that has `on_round` is given the drawing, with its new paths, before each round.
        seed: of places where no segment is left to mend.

    Returns:
        The picture; `param` is the `BezierPaths`, with one layer a round, whose `to_svg()` is the drawing.

    Raises:
        UsageError: no picture, or a setting out of range.

    Paper: Segmentation-guided Layer-wise Image Vectorization with Gradient Fills (arXiv 2408.15741).

    Examples:
        >>> image = torch.ones(3, 24, 24)
        >>> image[1:, 6:18, 6:18] = 0
        >>> drawing = vectorize(image, 1, steps=30)
        >>> bool((drawing.image - image).abs().mean() < 0.05), drawing.param.to_svg().count("<path")
        (True, 1)
    """
    target = _over_white(image)
    counts = [1] * _whole("rounds", rounds) if isinstance(rounds, int) else [_whole("rounds", n) for n in rounds]
    check_choice("fill", fill, ("radial", "solid"))
    _whole("steps", steps)
    _whole("segments", segments)
    check_number("radius", radius, above=0)
    check_choice("start", start, ("circle", "segment"))
    check_number("xing", xing, least=0)
    check_whole("seed", seed)
    if not counts:
        raise UsageError("rounds is empty: give the number of paths of each round")
    size = (target.shape[1], target.shape[2])
    background = background or ("segment" if guided else "white")
    corner = background != "segment"  # whose colour is that of the upper left corner's segment
    if isinstance(background, str):
        check_choice("background", background, tuple(_BACKGROUNDS))
        background = _BACKGROUNDS[background](target)
    param = BezierPaths([], [], size, background=background, lr=lr or (max(size) / _REFERENCE, 0.01)).to(image.device)
    return _Rounds(param, target, fill, guided, steps, segments, radius, start, corner, xing, seed).run(
        counts, callbacks
    )


def decaying_rate(age: int) -> Callable[[float], float]:
    """The multiplier of the rates of paths that were added `age` rounds ago: from 0.4^age linearly to 0.4^(age + 1)."""
    return lambda progress: _DECAY**age * (1 - (1 - _DECAY) * progress)


def contour_weight(silhouette: Float[Tensor, "H W"]) -> Float[Tensor, "H W"]:
    """1 at the contour of a silhouette, falling with the distance over 10 pixels; 0 where there is no contour."""
    inside = (silhouette > 0.5).cpu().numpy()
    if inside.all() or not inside.any():
        return torch.zeros_like(silhouette)
    distance = np.minimum(distance_transform_edt(inside) + distance_transform_edt(~inside) - 0.5, _NEAR)
    near = distance.max() - distance
    return torch.from_numpy(near / max(near.max(), 1e-12)).to(silhouette)


@dataclass
class _Rounds:
    """The rounds of one vectorisation, and what they leave for the next."""

    param: BezierPaths
    target: Float[Tensor, "3 H W"]
    fill: str
    guided: bool
    steps: int
    segments: int
    radius: float
    start: str
    corner: bool
    xing: float
    seed: int

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.seed)
        blank = torch.zeros(self.param.size, device=self.target.device)
        self.contours, self.focus = blank, blank.bool()
        self.queried = self.focus  # the segments of this round's paths

    def run(self, counts: Sequence[int], callbacks: Sequence[Any]) -> OptimisedImage:
        optimizer: torch.optim.Adam | None = None
        histories, done = [], 0
        for count in counts:
            layer = self._add(count)
            for callback in callbacks:
                if hasattr(callback, "on_round"):
                    callback.on_round(self.param)
            new = self.param.groups()[-2:]
            if optimizer is None:
                optimizer = torch.optim.Adam(new)
            else:
                for group in new:
                    optimizer.add_param_group(group)
            ages = range(len(optimizer.param_groups) // 2 - 1, -1, -1)  # two groups a round, the oldest first
            for group, age in zip(optimizer.param_groups, (age for age in ages for _ in range(2)), strict=True):
                group["schedule"] = decaying_rate(age)
            objectives = {"error": WeightedObjective(lambda image: self._error(image))}
            if self.xing:
                crossing = WeightedObjective(partial(_crossing, layer), self.xing)
                objectives["crossing"] = crossing
            result = ImageOptimisation(
                self.param, objectives, optimizer=optimizer, callbacks=callbacks, seed=self.seed
            ).run(self.steps)
            histories.append(result.history)
            done += result.steps
            self._keep()
            if result.steps < self.steps:
                break
        history = {name: np.concatenate([one[name] for one in histories]) for name in histories[0]}
        return replace(result, history=history, steps=done)

    @torch.no_grad()
    def _add(self, count: int) -> PathLayer:
        """The round's new paths: circles, whose fill starts as the picture's colour at their centre."""
        error = self.param()[0] - self.target
        residual = gradient_aware_segments(error, corner=self.corner) if self.guided else None
        self.queried = torch.zeros_like(self.focus)
        curves, fills = [], []
        for _ in range(count):
            (y, x), segment = self._place(error, residual)
            angle = torch.arange(3 * self.segments) / (3 * self.segments) * 2 * math.pi
            circle = torch.stack([angle.cos(), angle.sin()], 1)
            if self.start == "segment" and segment is not None:
                centre, axes = _ellipse(segment.cpu())
                curves.append(centre + circle @ axes)
                x, y = centre.tolist()
                colour = (*self.target[:, segment].mean(1).tolist(), 1.0)
            else:
                curves.append(torch.tensor([x, y]) + self.radius * circle)
                colour = (*self.target[:, y, x].tolist(), 1.0)
            height, width = self.param.size
            spread = _spread(segment, self.param.size)
            radii = (spread * width, spread * height)
            fills.append(RadialFill((float(x), float(y)), radii, (0.0, 1.0), (colour, colour)))
        solid = torch.tensor([fill.stops[0] for fill in fills])
        return self.param.add(curves, solid if self.fill == "solid" else fills)

    def _place(
        self, error: Float[Tensor, "3 H W"], residual: ErrorSegments | None
    ) -> tuple[tuple[int, int], Bool[Tensor, "H W"] | None]:
        """(y, x) of a new path, and the segment that it is for; a segment is used once."""
        width = error.shape[2]
        if residual is None:
            return divmod(int(error.square().sum(0).argmax()), width), None
        if not bool(residual.weights.any()):
            likely = (error.sum(0) * (error.square().sum(0) >= residual.threshold) + 0.01).clamp(0, 1).flatten().cpu()
            likely = likely if float(likely.sum()) > 0 else torch.ones_like(likely)
            self.queried = torch.ones_like(self.focus)
            return divmod(int(torch.multinomial(likely, 1, generator=self.generator)), width), None
        label = int(residual.weights.argmax())
        residual.weights[label] = 0
        segment = (residual.labels == label).to(self.focus.device)
        self.queried = self.queried | segment
        pixels = segment.nonzero()
        offset = (pixels - pixels.double().mean(0)).square().sum(1)
        y, x = pixels[offset.argmin()].tolist()
        return (y, x), segment

    def _error(self, image: Float[Tensor, "1 3 H W"]) -> Float[Tensor, ""]:
        """The mean over pixels of the weighted squared error, summed over channels."""
        square = (image[0] - self.target).square().sum(0)
        return (square if not self.guided else square * self._weight()).mean()

    @torch.no_grad()
    def _weight(self) -> Float[Tensor, "H W"]:
        silhouette = self.param.silhouette()
        focus = self.focus | ((silhouette >= 0.99) & self.queried)
        contours = (contour_weight(silhouette) + self.contours).clamp(max=1)
        lowest = (1 - _OUTSIDE) * focus.to(contours)
        return (contours * torch.where(focus, 1.0, _OUTSIDE)).maximum(lowest)

    @torch.no_grad()
    def _keep(self) -> None:
        """Contours and focus of a round that is over count in those to come as they are now."""
        silhouette = self.param.silhouette()
        self.contours = (self.contours + contour_weight(silhouette)).clamp(max=1)
        self.focus = self.focus | ((silhouette >= 0.99) & self.queried)


def _crossing(layer: PathLayer, _: Tensor) -> Float[Tensor, ""]:
    return XingLoss()(torch.stack(layer.control_points))


def _ellipse(segment: Bool[Tensor, "H W"]) -> tuple[Float[Tensor, "2"], Float[Tensor, "2 2"]]:
    """Centre (x, y) of a segment, and the two half axes, as rows, of the ellipse of its second moments.

    Where that is larger than the segment, as of a ring, it is reduced to its area.
    """
    pixels = segment.nonzero().flip(1).float() + 0.5
    centre = pixels.mean(0)
    offset = pixels - centre
    # a pixel is a square, of variance 1/12
    values, vectors = torch.linalg.eigh(offset.T @ offset / len(pixels) + torch.eye(2) / 12)
    half = 2 * values.sqrt()  # a filled ellipse of half axis a has the variance a^2 / 4
    half = half * min(1.0, math.sqrt(len(pixels) / (math.pi * float(half.prod()))))
    return centre, half[:, None] * vectors.T


def _spread(segment: Bool[Tensor, "H W"] | None, size: tuple[int, int]) -> float:
    """The first radius of a gradient as a part of the sides: half those of the segment's box, 0.1 to 0.5, averaged."""
    if segment is None:
        return 0.5
    sides = [segment.any(dim).nonzero()[:, 0] for dim in (1, 0)]
    parts = [min(max(float(s[-1] - s[0]) / whole / 2, 0.1), 0.5) for s, whole in zip(sides, size, strict=True)]
    return math.sqrt(parts[0] * parts[1])


def _background(target: Float[Tensor, "3 H W"]) -> list[float]:
    """The mean colour, in linear light, of the segment that counts as background of the picture's contrast to white."""
    labels = gradient_aware_segments(1 - target).labels.to(target.device)
    linear = target[:, labels == 0].pow(_GAMMA)
    return linear.mean(1).pow(1 / _GAMMA).clamp(0, 1).tolist()


def _border_colour(target: Float[Tensor, "3 H W"]) -> list[float]:
    """The most common colour of the outermost pixels: the median of those in the fullest of 4 x 4 x 4 cells.

    Where less than half of them share a cell there is no plain ground, as in most photographs: then the mean colour of
    the picture, from which paths have least to correct.
    """
    edge = torch.cat([target[:, 0], target[:, -1], target[:, :, 0], target[:, :, -1]], 1)  # [3, N]
    cells = (edge * 4).long().clamp(max=3)
    cell = cells[0] * 16 + cells[1] * 4 + cells[2]
    fullest = cell == cell.bincount().argmax()
    if 2 * int(fullest.sum()) < len(cell):
        return target.mean((1, 2)).tolist()
    return edge[:, fullest].median(1).values.tolist()


_BACKGROUNDS: dict[str, Callable[[Tensor], list[float]]] = {
    "segment": _background,
    "border": _border_colour,
    "white": lambda _: [1.0, 1.0, 1.0],
}


def _over_white(image: Float[Tensor, "c H W"]) -> Float[Tensor, "3 H W"]:
    if image.ndim != 3 or image.shape[0] not in (3, 4) or not image.numel():
        raise UsageError(f"image must be (3, H, W) or (4, H, W), got {tuple(image.shape)}")
    check_canvas(image.shape[1:])
    if not bool(((image >= 0) & (image <= 1)).all()):
        raise UsageError("image must lie in [0, 1] and be finite")
    image = image.detach().float()
    return image if len(image) == 3 else image[:3] * image[3:] + 1 - image[3:]


def _whole(name: str, value: int) -> int:
    check_whole(name, value, least=1)
    return value
