"""Does a first stage of foveated texture keep high frequencies in use, where blur of equal compression does not?"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

from binderclip.data.augment.fill import gaussian_blur
from binderclip.evaluate import FoveationProbe
from binderclip.studies.harness import Row, declared_study, dot_panels, train_classifier
from binderclip.studies.protocols.data.clothing import clothing
from binderclip.vision import FoveatedBlur, FoveatedTexture, match_strength, matched_uniform_blur, ssim_map

REFERENCE, TEXTURE, BLUR, UNIFORM = "reference", "foveated texture", "foveated blur", "uniform blur"
SYSTEMS = (REFERENCE, TEXTURE, BLUR, UNIFORM)
ACCURACY, HIGH = "test accuracy", "high-pass area"
CROSSING, MISMATCH = "window at which the centre wins", "largest gap of SSIM from the texture's"
SIDE, CELL, ACROSS, TRAIN, TEST, EPOCHS, BATCH, SCALE, MATCHED = 64, 20, 3, 600, 200, 6, 50, 0.4, 40


@lru_cache(maxsize=2)
def _garments(split: str) -> tuple[Tensor, Tensor]:
    return clothing(split, 2000, CELL)


def scenes(split: str, count: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Fields of nine garments of one class at jittered places, [N, 3, S, S], and their classes: no place is special."""
    images, labels = _garments(split)
    classes = torch.arange(count) % 10
    result = torch.zeros(count, SIDE, SIDE)
    rows = [(labels == label).nonzero()[:, 0] for label in range(10)]
    for number in range(count):
        pool = rows[int(classes[number])]
        shifts = torch.randint(0, SIDE - ACROSS * CELL + 1, (2, ACROSS, ACROSS), generator=g)
        for i in range(ACROSS):
            for j in range(ACROSS):
                garment = images[pool[torch.randint(len(pool), (), generator=g)], 0]
                top, left = i * CELL + int(shifts[0, i, j]), j * CELL + int(shifts[1, i, j])
                part = result[number, top : top + CELL, left : left + CELL]
                torch.maximum(part, garment, out=part)
    return result[:, None].expand(-1, 3, -1, -1).contiguous(), classes


def systems(
    validation: Tensor, train: Tensor, test: Tensor, g: torch.Generator
) -> tuple[dict[str, list[Tensor]], float]:
    """Training and test pictures of every system, one channel, and how far the matched ones are from matched."""
    texture, grey = FoveatedTexture(scale=SCALE), validation[:, :1]
    foveated = texture(validation, generator=g)[:, :1]
    target = float(ssim_map(foveated, grey).mean())
    sigma = matched_uniform_blur(grey, foveated)
    c = match_strength(lambda c: FoveatedBlur(c, scale=SCALE)(grey), grey, target, most=10)
    stages = {
        REFERENCE: lambda x: x[:, :1],
        TEXTURE: lambda x: torch.cat([texture(part, generator=g)[:, :1] for part in x.split(100)]),
        BLUR: lambda x: FoveatedBlur(c, scale=SCALE)(x[:, :1]),
        UNIFORM: lambda x: gaussian_blur(x[:, :1], sigma),
    }
    blurs = [ssim_map(stages[name](validation), grey).mean() for name in (BLUR, UNIFORM)]
    gap = max(abs(float(blur) - target) for blur in blurs)
    return {name: [stage(x) for x in (train, test)] for name, stage in stages.items()}, gap


def network() -> nn.Module:
    """Three strided convolutions, and a linear layer on what is left, 4 x 4 places."""
    layers: list[nn.Module] = []
    for channels, width, kernel, stride in ((1, 16, 7, 4), (16, 32, 3, 2), (32, 64, 3, 2)):
        layers += [nn.Conv2d(channels, width, kernel, stride, kernel // 2), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 16, 10))


def measure(seed: int) -> list[Row]:
    """All rows of one seed: systems share pictures, start and order."""
    g = torch.Generator().manual_seed(seed)
    (train, labels), (test, classes) = scenes("train", TRAIN, g), scenes("test", TEST, g)
    stages, gap = systems(train[:MATCHED], train, test, g)
    rows = [Row(MISMATCH, "blurs", gap)]
    for name, (images, tests) in stages.items():
        net = train_classifier(network, images, labels, seed, epochs=EPOCHS, batch=BATCH, lr=2e-3)
        probe = FoveationProbe(net)
        high = probe.high_pass(tests, classes)
        conflict = probe.cue_conflict(tests, classes, tests.roll(1, 0), classes.roll(1))
        rows += [
            Row(ACCURACY, name, high.accuracy[0]),
            Row(HIGH, name, high.area),
            Row(CROSSING, name, conflict.crossing),
        ]
    return rows


METRICS = (ACCURACY, HIGH, CROSSING)
PANELS = dot_panels(*((metric, SYSTEMS) for metric in METRICS), rotation=30)
STUDY = declared_study(__name__, measure, draw=PANELS, seeds=range(10, 18), registered="89c07cf72f9c")
