"""Does an attack on features, towards a deformed image, hurt prompts that it has not seen more than others do?"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from binderclip.models import load_vision
from binderclip.models.layers.freezing import frozen
from binderclip.robust import UAD, EncoderMaps, FeatureAttack, FeatureTarget, Linf, MaskRemoval, Sign, attack
from binderclip.segment.promptable import Prompts, predict_masks
from binderclip.studies.harness import Figure, Row, Table, declared_study, dots, pictures, random_rows
from binderclip.studies.protocols.data.click_scenes import click_samples, clicked_model

SCENES, SIDE, STEPS, EPOCHS, INNER, WARPS, SPLIT, POINTS = 2, 128, 20, 10, 3, 3, 4, 8
EPS, ALPHA, CLICKS = 8 / 255, 2 / 255, 3
CLEAN, NOISE, MASKS, FAR, OTHER, DEFORMED = "clean", "random signs", "Attack-SAM-K", "TAP", "another image (AA)", "UAD"
METHODS = (CLEAN, NOISE, MASKS, FAR, OTHER, DEFORMED)
IOU, CARRIED = "mean IoU", "mean IoU, made on lite0"


def trunk_maps(images: Tensor) -> list[Tensor]:
    """Three maps of `lite0`."""
    trunk = load_trunk()
    x = trunk.preprocess.normalize(images)
    return trunk.module.forward_intermediates(x, indices=[1, 2, 3], intermediates_only=True)


@cache
def load_trunk() -> Any:
    """`lite0`, frozen."""
    found = load_vision("lite0")
    return found.eval().requires_grad_(False)


@cache
def samples(seed: int) -> list[tuple[Tensor, Tensor]]:
    """Pictures (1, 3, S, S) and the masks of their objects."""
    return [(image[None], masks) for image, masks in click_samples(seed, SCENES, size=SIDE)]


def seen(image: Tensor, masks: Tensor, seed: int) -> float:
    """Mean IoU over objects and prompts: clicks inside, and boxes of 0.9 to 1.1 of the object's sides."""
    g = torch.Generator().manual_seed(seed)
    model, found = clicked_model(), []
    with torch.no_grad():
        state = model.encode(image[0])
        for mask in masks:
            rows, columns = mask.nonzero(as_tuple=True)
            chosen = torch.randint(len(rows), (CLICKS,), generator=g)
            clicks = torch.stack([columns[chosen] + 0.5, rows[chosen] + 0.5], 1)[:, None]
            corners = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
            middle, half = (corners[:2] + corners[2:]) / 2, (corners[2:] - corners[:2]) / 2
            half = half * (0.9 + 0.2 * torch.rand(CLICKS, 2, generator=g))
            boxes = torch.cat([middle - half, middle + half], 1).clamp(0, SIDE)
            for asked in (Prompts(points=clicks, labels=torch.ones(CLICKS, 1).long()), Prompts(boxes=boxes)):
                got = predict_masks(model, state, asked, multimask=False)[0] > 0
                union = (got | mask).sum((1, 2)).clamp(min=1)
                found.append((got & mask).sum((1, 2)) / union)
    return float(torch.cat(found).mean())


def made(method: str, image: Tensor, other: Tensor, seed: int, features: Any) -> Tensor:
    """One image under one attack."""
    g = torch.Generator().manual_seed(seed)
    if method == CLEAN:
        return image
    if method == NOISE:
        return (image + EPS * torch.randn(image.shape, generator=g).sign()).clamp(0, 1)
    options: dict[str, Any] = {"features": features, "eps": EPS, "alpha": ALPHA, "steps": STEPS, "seed": seed}
    if method == DEFORMED:
        return UAD(**options, epochs=EPOCHS, inner=INNER, warps=WARPS, split=SPLIT)(image).images
    start: Any = "clean"
    if method == MASKS:
        points = (SIDE * torch.rand(POINTS, 1, 2, generator=g)).clamp(max=SIDE - 0.5)
        objective: Any = MaskRemoval(clicked_model(), Prompts(points=points, labels=torch.ones(POINTS, 1).long()))
    elif method == FAR:
        objective, start = FeatureAttack(features, image), image + 0.01 * torch.randn(image.shape, generator=g)
    else:
        with torch.no_grad():
            objective = FeatureTarget(features, list(features(other)), None)
    return attack(
        objective, image, param=Linf(EPS), step=Sign(ALPHA), steps=STEPS, start=start, keep="last"
    ).images  # fmt: skip


@cache
def attacked(seed: int, method: str, own: bool = True) -> list[Tensor]:
    """All pictures of a seed, attacked through the segmenter's own encoder or through `lite0`."""
    features = EncoderMaps(clicked_model()) if own else trunk_maps
    found = samples(seed)
    others = [*found[1:], found[0]]
    with frozen(clicked_model()):
        return [
            made(method, image, other, seed, features) for (image, _), (other, _) in zip(found, others, strict=True)
        ]


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    rows = []
    for method in METHODS:
        for metric, own in ((IOU, True), (CARRIED, False)):
            if not own and method not in (FAR, DEFORMED):
                continue
            images = attacked(seed, method, own)
            values = [seen(image, masks, seed) for image, (_, masks) in zip(images, samples(seed), strict=True)]
            rows.append(Row(metric, method, sum(values) / len(values)))
    return rows


def draw(table: Table, figure: Figure) -> None:
    """IoU under each attack, made on its own encoder and on another, and the pictures."""
    halves: Any = figure.subfigures(2, 1, height_ratios=(1.6, 1))
    left, right = halves[0].subplots(1, 2, sharey=True, width_ratios=(2, 1))
    dots(left, table, IOU, METHODS)
    left.set_title("IoU of unseen prompts")
    dots(right, table, CARRIED, (FAR, DEFORMED))
    right.set_title("attacks made on lite0")
    for ax in (left, right):
        ax.tick_params(axis="x", rotation=20, labelsize=7)
    seed = table.rows[0].seed
    shown = [attacked(seed, method)[0][0] for method in METHODS]
    pictures(halves[1].subplots(1, len(METHODS)), shown, METHODS)


def null(seed: int) -> list[Row]:
    """Random numbers under every name."""
    return [*random_rows(STUDY.criteria, seed), Row(IOU, CLEAN, 0.7)]


STUDY = declared_study(__name__, measure, null=null, seeds=range(8), draw=draw, registered="411371464e3c")
