"""Simple Copy-Paste: objects of one training picture on another, after strong changes of scale of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from binderclip.data.augment.fill import gaussian_blur
from binderclip.data.labelled.instances import InstanceSample
from binderclip.data.synthetic_scenes.paste import Piece, paste
from binderclip.data.uniform import uniform
from binderclip.errors import UsageError

SELECT = ("uniform-size", "each")


@dataclass(frozen=True)
class LargeScaleJitter:
    """Mirror a picture and resize it by a random factor, then crop or pad it to a fixed canvas.

    The picture is made to fit r times the canvas (aspect kept), r uniform. Larger than the canvas, it is cropped at a
    random place; smaller, it lies at the top left with `fill` around it. Objects that fall outside are dropped.

    Args:
        size: side of the canvas in pixels.
        scale: (least, most) of r. Default (0.1, 2.0), "large"; the standard jitter is (0.8, 1.25).
        flip: probability of a mirror image.
        fill: colour of the padding, one number in [0, 1] or three. Default grey.
        place: "corner", or "random" for a random place of a picture smaller than the canvas.
        seed: any integer; what happens to a picture depends on (seed, its key, the epoch) only.

    Raises:
        UsageError: a setting is out of range.

    Paper: Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation (arXiv 2012.07177).
    """

    size: int
    scale: tuple[float, float] = (0.1, 2.0)
    flip: float = 0.5
    fill: float | Sequence[float] = 0.5
    place: str = "corner"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UsageError(f"LargeScaleJitter: size is {self.size}; it is a number of pixels")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise UsageError(f"LargeScaleJitter: scale is {self.scale}; it is (least, most) with 0 < least <= most")
        if not 0 <= self.flip <= 1:
            raise UsageError(f"LargeScaleJitter: flip is {self.flip}; it is a probability")
        if self.place not in ("corner", "random"):
            raise UsageError(f"LargeScaleJitter: place is {self.place!r}; it is 'corner' or 'random'")

    def __call__(self, sample: InstanceSample, epoch: int = 0, *, role: str = "") -> InstanceSample:
        """The jittered sample.

        Args:
            sample: any size.
            epoch: pass over the data.
            role: distinguishes several uses of one picture in an epoch.
        """
        u = uniform(self.seed, [f"scale-jitter/{role}/{sample.key}"], epoch, 4)[0].astype(np.float64)
        height, width = sample.size
        r = self.scale[0] + (self.scale[1] - self.scale[0]) * u[1]
        factor = min(r * self.size / height, r * self.size / width)
        shape = max(1, round(height * factor)), max(1, round(width * factor))
        # Where the picture's rows and columns start in the canvas (padding) or the canvas's in the picture (cropping).
        gaps = [abs(self.size - extent) for extent in shape]
        starts = [int(v * (gap + 1)) for v, gap in zip(u[2:], gaps, strict=True)]
        if self.place == "corner":
            starts = [0 if extent < self.size else start for extent, start in zip(shape, starts, strict=True)]
        colour = torch.as_tensor(self.fill, dtype=sample.image.dtype).reshape(-1, 1, 1)
        flipped = u[0] < self.flip

        def moved(maps: Tensor, *, smooth: bool) -> Tensor:
            maps = maps.flip(-1) if flipped else maps
            if tuple(maps.shape[-2:]) != shape:
                maps = _resized(maps, shape, smooth)
            blank = colour if smooth else torch.zeros((), dtype=maps.dtype)
            return _on_canvas(maps, self.size, starts, blank)

        masks = moved(sample.masks, smooth=False)
        kept = masks.flatten(1).any(1)
        ignore = None if sample.ignore is None else moved(sample.ignore[None], smooth=False)[0]
        image = moved(sample.image, smooth=True)
        return replace(sample, image=image, masks=masks[kept], labels=sample.labels[kept], ignore=ignore)


def _resized(maps: Tensor, shape: tuple[int, int], smooth: bool) -> Tensor:
    if smooth:
        return F.interpolate(maps[None], size=shape, mode="bilinear", antialias=True)[0].clamp(0, 1)
    rows, columns = (  # nearest centre
        ((torch.arange(new) + 0.5) * (old / new)).long() for new, old in zip(shape, maps.shape[-2:], strict=True)
    )
    return maps[:, rows[:, None], columns]


def _on_canvas(maps: Tensor, side: int, starts: Sequence[int], blank: Tensor) -> Tensor:
    height, width = maps.shape[-2:]
    inside, outside = [], []
    for extent, start in ((height, starts[0]), (width, starts[1])):
        inside.append(slice(start, start + side) if extent >= side else slice(0, extent))
        outside.append(slice(0, side) if extent >= side else slice(start, start + extent))
    canvas = blank.expand(len(maps), side, side).clone()
    canvas[:, outside[0], outside[1]] = maps[:, inside[0], inside[1]]
    return canvas


@dataclass(frozen=True)
class CopyPaste:
    """Paste a random subset of another picture's objects onto each picture, and take what they hide from its masks.

    Nothing is blended or fitted into its context; both pictures are jittered independently first. Which picture, which
    objects and how they are jittered depends on (seed, the target's key, the epoch) and on the list of sources.

    Args:
        jitter: applied to target and source; None where all pictures have one size already.
        select: "uniform-size" draws the number of objects uniformly from 1 to all and then which; "each" takes each
            with probability one half, and at least one.
        min_pixels: objects of the target of which something is hidden and fewer pixels are left are dropped.
        p: probability that anything is pasted.
        blur: standard deviation in pixels of a blur of the pasting edge; 0, the default, cuts hard.
        seed: any integer.

    Call it with `samples`, the targets; `sources` to draw from (default the targets; a picture is never its own
    source, by its key); and the `epoch`. With labelled sources and pseudo-labelled targets it is the paper's
    self-training.

    Raises:
        UsageError: a setting is out of range, or sizes differ without jitter.

    Paper: Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation (arXiv 2012.07177).

    Examples:
        >>> from binderclip.data import scenes
        >>> samples = [InstanceSample.from_sample(s) for s in scenes(0, 4, 64).samples()]
        >>> views = CopyPaste(LargeScaleJitter(64))(samples[:2], sources=samples, epoch=3)
        >>> len(views), tuple(views[0].image.shape)
        (2, (3, 64, 64))
    """

    jitter: LargeScaleJitter | None = None
    select: str = "uniform-size"
    min_pixels: int = 10
    p: float = 1.0
    blur: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.select not in SELECT:
            raise UsageError(f"CopyPaste: select is {self.select!r}; it is one of {', '.join(SELECT)}")
        if not 0 <= self.p <= 1:
            raise UsageError(f"CopyPaste: p is {self.p}; it is a probability")
        if self.min_pixels < 0 or self.blur < 0:
            raise UsageError(f"CopyPaste: min_pixels {self.min_pixels} and blur {self.blur} are at least 0")

    def __call__(
        self,
        samples: Sequence[InstanceSample],
        sources: Sequence[InstanceSample] | None = None,
        epoch: int = 0,
    ) -> list[InstanceSample]:
        pool = samples if sources is None else sources
        own = {sample.key: row for row, sample in enumerate(pool)}
        if len(own) != len(pool):
            raise UsageError(f"CopyPaste: {len(pool)} sources have {len(own)} different keys; give each its own")
        u = uniform(self.seed, [f"copy-paste/{sample.key}" for sample in samples], epoch, 2)
        results = []
        for target, (gate, pick) in zip(samples, u.astype(np.float64), strict=True):
            view = target if self.jitter is None else self.jitter(target, epoch)
            others = len(pool) - (target.key in own)
            if others and gate < self.p:
                row = int(pick * others)
                row += target.key in own and row >= own[target.key]
                view = self._pasted(view, pool[row], epoch)
            results.append(view)
        return results

    def _pasted(self, target: InstanceSample, source: InstanceSample, epoch: int) -> InstanceSample:
        if self.jitter is not None:
            source = self.jitter(source, epoch, role=f"onto {target.key}")
        if source.size != target.size:
            raise UsageError(f"CopyPaste: {source.size} pixels onto {target.size}; give a jitter that makes them equal")
        return self.onto(target, source, self._chosen(target.key, len(source), epoch))

    def _chosen(self, key: str, count: int, epoch: int) -> list[int]:
        """Rows of the objects that are pasted, of `count`."""
        if not count:
            return []
        u = uniform(self.seed, [f"copy-paste/objects/{key}"], epoch, 1 + count)[0]
        if self.select == "each":
            rows = np.flatnonzero(u[1:] < 0.5)
            return rows.tolist() if len(rows) else [int(u[1:].argmin())]
        number = 1 + int(np.float64(u[0]) * count)
        return sorted(np.argsort(u[1:], kind="stable")[:number].tolist())

    def onto(self, target: InstanceSample, source: InstanceSample, rows: Sequence[int]) -> InstanceSample:
        """The target with objects `rows` of the source on it, both as they are."""
        if not len(rows):
            return target
        chosen = source.masks[list(rows)]
        mask = chosen.any(0)
        alpha = mask.to(target.image.dtype)
        if self.blur:
            alpha = gaussian_blur(alpha[None, None], self.blur)[0, 0]
        image, masks = target.image.clone(), target.masks.clone()
        piece = Piece((source.image * alpha).permute(1, 2, 0), alpha, mask)
        paste(image.permute(1, 2, 0), masks, piece)
        left, before = masks.flatten(1).sum(1), target.masks.flatten(1).sum(1)
        kept = (left > 0) & ((left >= self.min_pixels) | (left == before))
        return replace(
            target,
            image=image,
            masks=torch.cat([masks[kept], chosen]),
            labels=torch.cat([target.labels[kept], source.labels[list(rows)]]),
            ignore=None if target.ignore is None else target.ignore & ~mask,
        )
