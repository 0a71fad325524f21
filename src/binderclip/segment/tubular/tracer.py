"""`TubularTracer`: the cheapest path between two points, whose cost depends on the way that leads to each pixel."""

from __future__ import annotations

import copy
import heapq
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from binderclip.errors import UsageError
from binderclip.segment.tubular.straighten import straightened, unstraightened

__all__ = ["LocalPathNet", "TubularTrace", "TubularTracer"]

NEIGHBOURS = np.array([(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)])
STEPS = np.sqrt((NEIGHBOURS**2).sum(1))

PathScore = Callable[[Any], Tensor]
"""Strips (P, C, n, w) -> scores (P,) in [0, 1]."""
StripMasks = Callable[[Any], Tensor]
"""Strips (P, C, n, w) -> masks (P, n, w) in [0, 1]."""


class LocalPathNet(nn.Module):
    """Whether a strip of the picture follows the middle of a tube, and which of its pixels are tube.

    Three blocks of convolutions, mean-pooled for the score; a mirrored decoder gives the mask.

    Args:
        channels: of the picture.
        widths: of the blocks, the finest first.

    Paper: Segmentation of Tubular Structures Using Iterative Training with Tailored Samples (arXiv 2309.08727).
    """

    def __init__(self, channels: int = 3, widths: Sequence[int] = (16, 32, 64)) -> None:
        super().__init__()
        self.settings = {"channels": channels, "widths": list(widths)}
        sizes = [channels, *widths]
        self.down = nn.ModuleList([_block(a, b) for a, b in pairwise(sizes)])
        self.up = nn.ModuleList([_block(b + a, a) for a, b in pairwise(widths)])
        self.score = nn.Linear(widths[-1], 1)
        self.mask = nn.Conv2d(widths[0], 1, 1)

    def forward(self, strips: Float[Tensor, "P C n w"]) -> tuple[Float[Tensor, "P"], Float[Tensor, "P n w"]]:
        """Logits of the score and of the mask."""
        kept = self.encode(strips)
        return self.score_logits(kept), self.mask_logits(kept)

    @torch.no_grad()
    def scores(self, strips: Float[Tensor, "P C n w"]) -> Float[Tensor, "P"]:
        """How much each strip follows a tube, as probabilities, in eval mode: what `TubularTracer` asks for."""
        with _evaluated(self):
            return self.score_logits(self.encode(strips)).sigmoid()

    @torch.no_grad()
    def masks(self, strips: Float[Tensor, "P C n w"]) -> Float[Tensor, "P n w"]:
        """Pixels of the tube, as probabilities, in eval mode."""
        with _evaluated(self):
            return self.mask_logits(self.encode(strips)).sigmoid()

    def encode(self, strips: Float[Tensor, "P C n w"]) -> list[Tensor]:
        """What each block gives, (P, D, n', w'), the last one coarsest."""
        kept: list[Tensor] = []
        for block in self.down:
            kept.append(block(nn.functional.max_pool2d(kept[-1], 2, ceil_mode=True) if kept else strips))
        return kept

    def folded(self) -> LocalPathNet:
        """A copy in eval mode that says the same twice as fast: normalisation is folded into the convolutions.

        Channels come last in memory, for which PyTorch pools and convolves small strips faster. It cannot be trained.
        """
        copied = copy.deepcopy(self).eval()
        for block in (*copied.down, *copied.up):
            assert isinstance(block, nn.Sequential)
            for place, (layer, after) in enumerate(pairwise(list(block))):
                if isinstance(layer, nn.Conv2d) and isinstance(after, nn.BatchNorm2d):
                    block[place], block[place + 1] = fuse_conv_bn_eval(layer, after), nn.Identity()
        return copied.requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def score_logits(self, kept: list[Tensor]) -> Float[Tensor, "P"]:
        """The score from what `encode` gave."""
        return self.score(kept[-1].mean((2, 3)))[:, 0]

    def mask_logits(self, kept: list[Tensor]) -> Float[Tensor, "P n w"]:
        """The mask from what `encode` gave, which costs more than the score."""
        x = kept[-1]
        for block, skip in zip(reversed(self.up), reversed(kept[:-1]), strict=True):
            x = nn.functional.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=False)
            x = block(torch.cat([x, skip], 1))
        return self.mask(x)[:, 0]


@contextmanager
def _evaluated(module: nn.Module) -> Iterator[None]:
    if not module.training:  # switching all parts there and back costs as much as half a small batch
        yield
        return
    training, _ = module.training, module.eval()
    try:
        yield
    finally:
        module.train(training)


def _block(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(),
        nn.Conv2d(after, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(),
    )  # fmt: skip


@dataclass(frozen=True)
class TubularTrace:
    """A traced line.

    Attributes:
        path: (row, column) of every pixel from start to end, each next to the one before.
        cost: of the path.
        mask: pixels of the tube along the path; None where the tracer gives none.
        visited: local paths that were judged, (P, n, 2) from the newest pixel back.
        scores: what the part_scores was, (P,).
    """

    path: Int[Tensor, "L 2"]
    cost: float
    mask: Bool[Tensor, "H W"] | None
    visited: Int[Tensor, "P n 2"]
    scores: Float[Tensor, "P"]

    @property
    def length(self) -> float:
        """In pixels, diagonal steps as sqrt 2."""
        return float((self.path[1:] - self.path[:-1]).double().norm(dim=1).sum())


@dataclass(frozen=True)
class TubularTracer:
    """Trace a tube from one point to another as one line without gaps, and its mask.

    A front grows from the start, cheapest pixel first (Dijkstra on the eight neighbours). When a pixel is reached for
    good, the last `length` pixels of the way to it are cut from the picture as a straight strip; `score` says how much
    the strip looks like the middle of a tube, and a step onwards costs 1 / (eps + score) a pixel. The cost thus depends
    on the way: what leads along a tube goes on cheaply, what crosses it does not.

    Pixels whose cost lies within one least step of the cheapest cannot become cheaper any more, so they are judged in
    one batch, with the same result as one by one.

    Args:
        score: `LocalPathNet.scores`, or any function of strips (P, C, n, w) to scores (P,) in [0, 1].
        length: pixels of a local path, at least 3; ways that are shorter score `unknown`.
        radius: samples to either side of it, about 1.5 times the largest radius of a tube.
        eps: a score of 0 costs 1 / eps a pixel.
        unknown: score of a way that is still too short to judge.
        mask: `LocalPathNet.masks`, or any function of strips to masks (P, n, w) in [0, 1]; None for no mask.
        threshold: of the mask.

    Raises:
        UsageError: a setting out of its range.

    Paper: Segmentation of Tubular Structures Using Iterative Training with Tailored Samples (arXiv 2309.08727).
    """

    score: PathScore
    length: int = 24
    radius: int = 8
    eps: float = 0.05
    unknown: float = 0.5
    mask: StripMasks | None = None
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if self.length < 3 or self.radius < 1:
            raise UsageError(f"length must be at least 3 and radius at least 1, not {self.length} and {self.radius}")
        if not self.eps > 0 or not 0 <= self.unknown <= 1 or not 0 < self.threshold < 1:
            raise UsageError(
                f"eps must be positive, unknown in [0, 1], threshold in (0, 1); got {self.eps}, {self.unknown}, "
                f"{self.threshold}"
            )

    def folded(self) -> TubularTracer:
        """The same tracer on `LocalPathNet.folded`, to trace with; one on functions of one's own stays as it is."""
        net = getattr(self.score, "__self__", None)
        if not isinstance(net, LocalPathNet) or self.score != net.scores or self.mask not in (None, net.masks):
            return self
        fast = net.folded()
        return replace(self, score=fast.scores, mask=None if self.mask is None else fast.masks)

    def __call__(self, image: Float[Tensor, "C H W"], start: tuple[int, int], end: tuple[int, int]) -> TubularTrace:
        """The line from `start` to `end`.

        Args:
            image: in [0, 1].
            start, end: (x, y) in pixels.

        Raises:
            UsageError: another shape, a point outside the picture, or twice the same point.
        """
        return self.all([image], [start], [end])[0]

    def all(
        self,
        images: Sequence[Float[Tensor, "C _ _"]],
        starts: Sequence[tuple[int, int]],
        ends: Sequence[tuple[int, int]],
    ) -> list[TubularTrace]:
        """The lines of several pictures, whose fronts grow side by side so that the score is asked in larger batches.

        Args:
            images: in [0, 1], of the same or of different sizes.
            starts, ends: a point (x, y) for each.

        Raises:
            UsageError: as when called with one picture, not as many points as pictures, or a score that is not finite.
        """
        if not len(images) == len(starts) == len(ends):
            raise UsageError(f"{len(images)} pictures need as many starts and ends, not {len(starts)} and {len(ends)}")
        fronts = [_Front.of(image, start, end) for image, start, end in zip(images, starts, ends, strict=True)]
        visited: list[list[Tensor]] = [[] for _ in fronts]
        scores: list[list[Tensor]] = [[] for _ in fronts]
        while growing := [place for place, front in enumerate(fronts) if not front.reached]:
            batches = [fronts[place].next_batch(1 / (1 + self.eps)) for place in growing]
            paths, known = [], []
            for place, batch in zip(growing, batches, strict=True):
                ways = fronts[place].ways(batch, self.length)
                known.append((ways >= 0).all(1))
                paths.append(_pixels(ways[known[-1]], fronts[place].size))
            strips = [
                straightened(images[place], part, self.radius) for place, part in zip(growing, paths, strict=True)
            ]
            joined = torch.cat(strips)
            judged = self.score(joined).double().cpu() if len(joined) else torch.zeros(0, dtype=torch.float64)
            if not bool(torch.isfinite(judged).all()):
                raise UsageError("the score of a strip is NaN or infinite: look at the picture and at what scores it")
            shares = judged.split([len(part) for part in paths])
            for place, batch, part, part_scores, long in zip(growing, batches, paths, shares, known, strict=True):
                batch_scores = np.full(len(batch), self.unknown)
                batch_scores[long] = part_scores.numpy()
                visited[place].append(part)
                scores[place].append(part_scores.float())
                fronts[place].relax(batch, 1 / (self.eps + batch_scores.clip(0, 1)))
        return [
            self._trace(image, front, torch.cat(seen), torch.cat(score))
            for image, front, seen, score in zip(images, fronts, visited, scores, strict=True)
        ]

    def _trace(self, image: Tensor, front: _Front, visited: Tensor, scores: Tensor) -> TubularTrace:
        path = _pixels(front.way_back(front.end)[None], front.size)[0].flip(0)
        return TubularTrace(path, float(front.cost[front.end]), self._mask(image, path, front.size), visited, scores)

    def _mask(self, image: Tensor, path: Tensor, size: tuple[int, int]) -> Tensor | None:
        """The masks of all local paths along the line, averaged; of the line itself where it is shorter than one."""
        length = min(self.length, len(path))
        if self.mask is None:
            return None
        if length < 3:  # no direction to lay a strip along
            line = torch.zeros(size, dtype=torch.bool)
            line[path[:, 0], path[:, 1]] = True
            return line
        paths = path.flip(0).unfold(0, length, max(1, length // 4)).transpose(1, 2)  # (P, n, 2), newest pixel first
        if len(path) > length:
            paths = torch.cat([paths, path[:length].flip(0)[None]])  # the strip at the start, which steps may leave out
        masks = self.mask(straightened(image, paths, self.radius))
        return unstraightened(masks.float().cpu(), paths, size) >= self.threshold


class _Front:
    """Dijkstra's algorithm with costs that are known when a pixel is reached for good."""

    def __init__(self, size: tuple[int, int], start: int, end: int) -> None:
        self.size, self.end = size, end
        count = size[0] * size[1]
        self.cost, self.before = np.full(count, np.inf), np.full(count, -1, dtype=np.int64)
        self.fixed = np.zeros(count, dtype=bool)
        self.cost[start] = 0.0
        self._queue = [(0.0, start)]

    @classmethod
    def of(cls, image: Tensor, start: tuple[int, int], end: tuple[int, int]) -> _Front:
        """The front of a picture, its points checked."""
        if image.ndim != 3 or min(image.shape[-2:]) < 3:
            raise UsageError(f"image must be (C, H, W) of at least 3 x 3 pixels, not {tuple(image.shape)}")
        size = (int(image.shape[-2]), int(image.shape[-1]))
        first, last = (_index(name, point, size) for name, point in (("start", start), ("end", end)))
        if first == last:
            raise UsageError(f"start and end are the same pixel, {tuple(start)}")
        return cls(size, first, last)

    @property
    def reached(self) -> bool:
        """Whether the end is reached for good."""
        return bool(self.fixed[self.end])

    def next_batch(self, band: float) -> np.ndarray:
        """The pixels whose cost cannot fall any more, those less than `band` above the least; fixed by this."""
        taken: list[int] = []
        limit = np.inf
        while self._queue and self._queue[0][0] < limit:
            cost, pixel = heapq.heappop(self._queue)
            if self.fixed[pixel] or cost > self.cost[pixel]:
                continue
            if not taken:
                limit = cost + band
            self.fixed[pixel] = True
            taken.append(pixel)
        return np.array(taken, dtype=np.int64)

    def ways(self, pixels: np.ndarray, length: int) -> np.ndarray:
        """The last pixels of the way to each, newest first; -1 where the way is shorter."""
        pixels_of_ways = np.full((len(pixels), length), -1, dtype=np.int64)
        now = pixels
        for place in range(length):
            pixels_of_ways[:, place] = now
            now = np.where(now >= 0, self.before[now], -1)
        return pixels_of_ways

    def way_back(self, pixel: int) -> np.ndarray:
        """All pixels from this one to the start."""
        pixels = [pixel]
        while self.before[pixels[-1]] >= 0:
            pixels.append(int(self.before[pixels[-1]]))
        return np.array(pixels, dtype=np.int64)

    def relax(self, pixels: np.ndarray, potential: np.ndarray) -> None:
        """Offer every neighbour the way over these pixels."""
        rows, columns = np.divmod(pixels, self.size[1])
        for (down, right), step in zip(NEIGHBOURS, STEPS, strict=True):
            y, x = rows + down, columns + right
            inside = (y >= 0) & (y < self.size[0]) & (x >= 0) & (x < self.size[1])
            targets, offers = (y * self.size[1] + x)[inside], (self.cost[pixels] + potential * step)[inside]
            # In one direction every target has one source, so that all offers can be taken at once.
            better = ~self.fixed[targets] & (offers < self.cost[targets])
            targets, offers = targets[better], offers[better]
            self.cost[targets], self.before[targets] = offers, pixels[inside][better]
            for entry in zip(offers.tolist(), targets.tolist(), strict=True):
                heapq.heappush(self._queue, entry)


def _pixels(indices: np.ndarray, size: tuple[int, int]) -> Tensor:
    return torch.from_numpy(np.stack(np.divmod(indices, size[1]), -1))


def _index(name: str, point: tuple[int, int], size: tuple[int, int]) -> int:
    x, y = int(point[0]), int(point[1])
    if not (0 <= x < size[1] and 0 <= y < size[0]):
        raise UsageError(f"{name} {(x, y)} lies outside the picture of {size[1]} x {size[0]} pixels")
    return y * size[1] + x
