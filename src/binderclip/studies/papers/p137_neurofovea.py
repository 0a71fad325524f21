"""Do foveated textures distort more outwards and with scale, where an observer who pools sees little of it?"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from binderclip.studies.harness import Row, Table, declared_study, dot_panels, random_rows
from binderclip.studies.protocols.data.made_fakes import photographs, tiles
from binderclip.vision import BlockCodec, FoveatedTexture, PoolingRegions, coral, ssim_map

SCALES, RINGS = (0.25, 0.5, 0.7), ((1, 4), (4, 8), (8, 13))
OBSERVER, OBSERVER_FOVEA, TILES, SIDE, STRONGEST = 0.4, 0.35, 8, 128, 0.7
METAMER, NOISE, SHUFFLED, PAIR = "metamer", "noise of equal energy", "region in random order", "two metamers"
SEEN, LOST, ERROR = "difference an observer pools", "1 - SSIM to the reference", "largest error of an identity"
ALL_TEXTURE, MIXED = "statistics of all texture", "mean and variance of a mixture"


def statistics_errors(seed: int) -> list[Row]:
    """Hard regions in float64: all texture has their statistics, a mixture the mean and variance of two parts."""
    g = torch.Generator().manual_seed(seed)
    texture = FoveatedTexture(BlockCodec(1), scale=0.5, windows="hard")
    regions = texture.regions((48, 48))
    content, noise = (torch.randn(1, 3, 48, 48, generator=g, dtype=torch.float64) for _ in range(2))
    kept = [mask > 0 for mask, count in zip(regions.masks(), regions.pixels, strict=True) if count >= 8]
    full, part = (texture.mixed(content, noise, torch.full((len(regions),), a).double()) for a in (1.0, 0.6))
    errors: dict[str, list[Tensor]] = {ALL_TEXTURE: [], MIXED: []}
    for mask in kept:
        own, made, half = content[0, :, mask], full[0, :, mask], part[0, :, mask]
        errors[ALL_TEXTURE] += [(made.mean(1) - own.mean(1)).abs(), (made.std(1) / own.std(1)).log().abs()]
        shared = ((own - own.mean(1, keepdim=True)) * (made - made.mean(1, keepdim=True))).sum(1) / (own.shape[1] - 1)
        expected = 0.16 * own.var(1) + 0.36 * made.var(1) + 0.48 * shared  # (1 - a)^2, a^2 and 2 a (1 - a)
        errors[MIXED] += [(half.mean(1) - own.mean(1)).abs(), (half.var(1) - expected).abs()]
    return [Row(ERROR, name, float(torch.cat(parts).max())) for name, parts in errors.items()]


def in_random_order(content: Tensor, regions: PoolingRegions, g: torch.Generator) -> Tensor:
    """Every region's places in a random order, the same for all channels."""
    owner = regions.masks().argmax(0).flatten()
    first, second = ((owner + torch.rand(len(owner), generator=g, dtype=torch.float64)).argsort() for _ in range(2))
    result = content.flatten(2).clone()
    result[:, :, first] = content.flatten(2)[:, :, second]
    return result.reshape(content.shape)


def pooled_difference(observer: PoolingRegions, features: Tensor, other: Tensor) -> float:
    """Root mean square over regions and channels of differences of means and deviations, by the channel's deviation."""
    a, b = observer.statistics(features), observer.statistics(other)
    unit = features.flatten(2).std(2)[:, None] + 1e-3
    kept = observer.pixels >= 2
    change = (((a.mean - b.mean) / unit).square() + ((a.std - b.std) / unit).square())[:, kept]
    return float(change.mean((1, 2)).sqrt().mean())


def rings() -> list[Tensor]:
    """Where a picture shows each ring of eccentricities, [H, W]."""
    place = (torch.arange(SIDE) + 0.5 - SIDE / 2) * 26 / SIDE
    eccentricity = torch.hypot(place[:, None], place)
    return [(eccentricity >= low) & (eccentricity < high) for low, high in RINGS]


def measure(seed: int) -> list[Row]:
    """All rows of one seed: tiles of all photographs that are large enough."""
    g, rng = torch.Generator().manual_seed(seed), np.random.default_rng([seed, 137])
    large = [n for n, image in enumerate(photographs()[1]) if min(image.shape[1:]) >= SIDE]
    images = tiles(rng.permutation(large).tolist(), TILES, SIDE, rng)
    codec, size = BlockCodec(2), (SIDE // 2, SIDE // 2)
    content = codec.encode(images)
    observer = PoolingRegions(size, OBSERVER, fovea_deg=OBSERVER_FOVEA)
    rows = statistics_errors(seed)
    for scale in SCALES:
        texture, setting = FoveatedTexture(codec, scale=scale), f"scale {scale:g}"
        first, second = (
            texture.mixed(content, codec.encode(coral(torch.randn(images.shape, generator=g), images))) for _ in "ab"
        )
        energy = (first - content).abs()
        signs = torch.randint(0, 2, energy.shape, generator=g) * 2 - 1
        shuffled = texture.mixed(content, in_random_order(content, texture.regions(size), g))
        for name, a, b in (
            (METAMER, content, first), (PAIR, first, second), (NOISE, content, content + signs * energy),
            (SHUFFLED, content, shuffled),
        ):  # fmt: skip
            rows.append(Row(SEEN, name, pooled_difference(observer, a, b), setting))
        lost = 1 - ssim_map(codec.decode(first).clamp(0, 1), images).mean(0)
        rows.append(Row(LOST, METAMER, float(lost.mean()), setting))
        if scale == STRONGEST:
            rows += [
                Row(LOST, METAMER, float(lost[ring].mean()), f"{low} to {high} degrees")
                for ring, (low, high) in zip(rings(), RINGS, strict=True)
            ]
    for name in (METAMER, PAIR, NOISE, SHUFFLED):  # without a setting: the mean over scales
        values = [row.value for row in rows if (row.metric, row.method) == (SEEN, name)]
        rows.append(Row(SEEN, name, sum(values) / len(values)))
    return rows


def exact(table: Table) -> tuple[bool, str]:
    """Whether the statistics of regions are those of the closed forms, but for the 1e-5 that variances get."""
    worst = {name: float(table.values(ERROR, name).max()) for name in (ALL_TEXTURE, MIXED)}
    return max(worst.values()) < 1e-3, "; ".join(f"{name}: {value:.0e}" for name, value in worst.items())


def null(seed: int) -> list[Row]:
    """Random numbers, and identities that miss."""
    return [Row(ERROR, name, 0.5) for name in (ALL_TEXTURE, MIXED)] + random_rows(STUDY.criteria, seed)


PANELS = dot_panels(
    *((SEEN, (METAMER, PAIR, NOISE, SHUFFLED), f"scale {scale:g}") for scale in (0.25, 0.7)), rotation=20
)
STUDY = declared_study(__name__, measure, draw=PANELS, seeds=range(20, 32), null=null, registered="a045f8bc65f1")
