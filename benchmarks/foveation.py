"""Statistics of all pooling regions of a foveated picture by one sparse product, against loops over the regions."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.harness import Row, compare
from binderclip.vision import PoolingRegions

CHANNELS, SIDE = 512, 64
"""Of the released networks' features: relu4_1 of VGG19 of a picture of 512 px."""
EPSILON = 1e-5


def run(*, channels: int = CHANNELS, side: int = SIDE, repeats: int = 9) -> list[Row]:
    """Features of one picture, in windows that overlap smoothly and in the released program's.

    Args:
        channels, side: of the features.
        repeats: pairs of runs.
    """
    features = torch.randn(1, channels, side, side, generator=torch.Generator().manual_seed(0))
    return [_smooth(features, repeats), _released(features, repeats)]


def _smooth(features: Tensor, repeats: int) -> Row:
    regions = PoolingRegions((features.shape[2], features.shape[3]))
    masks = regions.masks()  # (R, H, W)

    def ours() -> tuple[Tensor, Tensor]:
        result = regions.statistics(features)
        return result.mean, result.std

    def peer() -> tuple[Tensor, Tensor]:
        means, deviations = [], []
        for mask in masks:
            total = mask.sum()
            mean = (features * mask).sum((2, 3)) / total
            squares = ((features - mean[..., None, None]).square() * mask).sum((2, 3))
            means.append(mean)
            deviations.append((squares / (total - mask.square().sum() / total) + EPSILON).sqrt())
        return torch.stack(means, 1), torch.stack(deviations, 1)

    _agree(ours(), peer(), regions)
    return compare(
        _name("smooth windows", features, regions), ours, peer, repeats=repeats, fastest=True,
        goal="at least 30x", target=30,
        peer_name="a loop over regions, each window times the map",
    )  # fmt: skip


def _released(features: Tensor, repeats: int) -> Row:
    regions = PoolingRegions((features.shape[2], features.shape[3]), windows="overwrite")
    flat = features.flatten(2)
    places = [regions._pixels[regions._rows == k] for k in range(len(regions))]  # what no public name gives

    def ours() -> tuple[Tensor, Tensor]:
        result = regions.statistics(features)
        return result.mean, result.std

    def peer() -> tuple[Tensor, Tensor]:
        means, deviations = [], []
        for inside in places:
            chosen = flat[:, :, inside]
            means.append(chosen.mean(2))
            deviations.append((chosen.var(2, correction=min(1, len(inside) - 1)) + EPSILON).sqrt())
        return torch.stack(means, 1), torch.stack(deviations, 1)

    _agree(ours(), peer(), regions)
    return compare(
        _name("the released program's windows", features, regions), ours, peer, repeats=repeats, fastest=True,
        peer_name="a loop over regions, each of its pixels alone",
        note="the loop's lists of pixels are made beforehand; it reads no more than the sparse product does",
    )  # fmt: skip


def _name(windows: str, features: Tensor, regions: PoolingRegions) -> str:
    return f"{len(regions)} regions, {windows}, {features.shape[1]} channels of {features.shape[3]} px"


def _agree(ours: tuple[Tensor, Tensor], peer: tuple[Tensor, Tensor], regions: PoolingRegions) -> None:
    """Refuse to time two sides that differ, but for regions of hardly a pixel, where deviations are undefined."""
    many = regions.pixels > 1.5
    for first, second in zip(ours, peer, strict=True):
        torch.testing.assert_close(first[:, many], second[:, many], rtol=1e-3, atol=1e-3)
