"""Can what is nearer to a reference be made to seem farther, and does moving pixels make such attacks carry over?"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from binderclip.adapt import PromptedModel
from binderclip.data.distortions.library import distort
from binderclip.models.layers.freezing import frozen
from binderclip.robust import SimilarityAttack, attack_similarity, rank_flip_rate
from binderclip.segment.anomaly.restoring import structural_similarity
from binderclip.studies.harness import Figure, Row, Table, declared_study, dots, pictures
from binderclip.studies.protocols.bundled import bundled
from binderclip.studies.protocols.data.distorted_tiles import tiles

SIDE, TRIPLETS, LEVELS, ITERATIONS, FARTHER = 64, 8, (2, 3), 25, 0.25
KINDS = ("gaussian_blur", "gaussian_noise", "contrast", "darken")
LEARNED, CLIP, SSIM, PIXELS = "lite0 maps", "small embedding", "SSIM", "squared error"
PGD, FLOW, BOTH = "pgd", "spatial", "spatial+pgd"
FLIPPED, CARRIED, ROUNDED, RMSE = "flipped", "carried over", "flipped in 8 bits", "RMSE of 255"


@cache
def _trunk() -> Any:
    from binderclip.models import load_vision

    return load_vision("lite0")


@cache
def _clip() -> PromptedModel:
    return PromptedModel(bundled(), size=SIDE)


def maps_distance(reference: Tensor, images: Tensor) -> Tensor:
    """LPIPS without learned weights: squared differences of unit columns of four maps, summed over channels."""
    trunk = _trunk()
    parts = [trunk.preprocess.normalize(each) for each in (reference, images)]
    one, two = (trunk.module.forward_intermediates(x, indices=[0, 1, 2, 3], intermediates_only=True) for x in parts)
    gaps = [F.normalize(a, dim=1) - F.normalize(b, dim=1) for a, b in zip(one, two, strict=True)]
    return torch.stack([gap.square().sum(1).mean((1, 2)) for gap in gaps]).sum(0)


def embedding_distance(reference: Tensor, images: Tensor) -> Tensor:
    """One minus the cosine of embeddings."""
    return 1 - F.cosine_similarity(_clip().encode_image(reference), _clip().encode_image(images))


DISTANCES = {
    LEARNED: maps_distance,
    CLIP: embedding_distance,
    SSIM: lambda reference, images: 1 - structural_similarity(reference, images).mean((1, 2, 3)),
    PIXELS: lambda reference, images: (images - reference).square().mean((1, 2, 3)),
}


@cache
def triplets(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tiles of photographs, and the same ones distorted a little and a little more."""
    whole = F.interpolate(tiles(seed)[1], (SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 1)[:TRIPLETS]
    kinds = [KINDS[row % len(KINDS)] for row in range(len(whole))]
    near, more = (
        torch.cat([distort(image[None], kind, level, seed) for image, kind in zip(whole, kinds, strict=True)])
        for level in LEVELS
    )
    return whole, near, torch.lerp(near, more, FARTHER)


@cache
def attacked(seed: int, method: Any, name: str = LEARNED) -> SimilarityAttack:
    """All triplets under one attack on one distance."""
    options: dict[str, Any] = {} if method == PGD else {"iterations": ITERATIONS, "steps": 20}
    with frozen(_trunk(), _clip()):
        return attack_similarity(DISTANCES[name], *triplets(seed), method=method, **options)


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    reference, near, far = triplets(seed)
    rows = []
    for name, distance in DISTANCES.items():
        found = attacked(seed, PGD, name)
        rows += [
            Row(FLIPPED, name, float(found.flipped.float().mean())),
            Row(ROUNDED, name, float(found.flipped_8bit.float().mean())),
            Row("nearer as made", name, float((distance(reference, near) < distance(reference, far)).float().mean())),
        ]
    for method in (PGD, FLOW, BOTH):
        found = attacked(seed, method)
        first = found.first[:, None, None, None]
        clean, other = torch.where(first, near, far), torch.where(first, far, near)
        rates = []
        for name, distance in DISTANCES.items():
            rate = rank_flip_rate(distance, reference, clean, found.images, other)
            rows.append(Row(CARRIED, method, rate, name))
            rates += [rate] if name != LEARNED else []
        rows.append(Row(CARRIED, method, float(torch.tensor(rates).nanmean()), "mean of others"))
        rows.append(Row(RMSE, method, float(found.rmse.mean())))
    return rows


def draw(table: Table, figure: Figure) -> None:
    """Rates of the attacked distances, of the others, and an example."""
    halves: Any = figure.subfigures(2, 1, height_ratios=(1.6, 1))
    left, right = halves[0].subplots(1, 2, sharey=True)
    dots(left, table, FLIPPED, list(DISTANCES))
    left.set_title("flipped by an attack on it")
    dots(right, table, CARRIED, (PGD, FLOW, BOTH), "mean of others")
    right.set_title(f"flipped by an attack on {LEARNED}, mean of the others")
    for ax in (left, right):
        ax.tick_params(axis="x", rotation=20, labelsize=7)
    seed = table.rows[0].seed
    reference, near, far = triplets(seed)
    shown = {
        "reference": reference[1], "nearer": near[1], "farther": far[1],
        **{method: attacked(seed, method).images[1] for method in (PGD, FLOW, BOTH)},
    }  # fmt: skip
    change = attacked(seed, BOTH).images[1] - near[1]
    pictures(
        halves[1].subplots(1, len(shown) + 1),
        [*shown.values(), (0.5 + 10 * change).clamp(0, 1)],
        [*shown, "change x 10"],
    )


STUDY = declared_study(__name__, measure, seeds=range(10, 28), draw=draw, registered="9d55d989f8eb")
