"""Does averaging gradients over noisy copies give calmer maps that lie more on the object?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.data.augment.fill import gaussian_blur
from binderclip.explain import Attribution, Saliency, attribute, energy_inside, pointing_game, to_map
from binderclip.explain.engine.gathering import Gathered, Opening, Reduce, Signal, SiteSignal
from binderclip.explain.engine.observed import Observed
from binderclip.explain.engine.passes import NoisyCopies, Pass
from binderclip.studies.harness import Figure, Row, Table, declared_study, pictures
from binderclip.studies.protocols.data.visual_scenes import cluttered
from binderclip.studies.protocols.photo_classifier import own_classes, photo_classifier
from binderclip.studies.protocols.random_maps import random_maps

SCENES, SIZE, MOST = 8, 128, 16
# Noise level -> numbers of copies at which the growing mean is read.
GRID = dict.fromkeys((0.1, 0.2, 0.5), (1, 4, MOST))
SIGMA = 3.0
ROUGH, INSIDE, POINT = "roughness (TV / mean)", "share inside", "pointing game"
PLAIN, BLURRED = "plain gradient", "plain gradient, blurred"


@dataclass(frozen=True)
class Growing:
    """One loop over noisy copies, whose running mean is kept at several lengths: a site a length."""

    level: float
    lengths: tuple[int, ...]
    seed: int

    @property
    def passes(self) -> NoisyCopies:
        """As many as the longest mean needs."""
        return NoisyCopies(self.lengths[-1], self.level, self.seed)

    def open(self, opening: Opening, signal: Signal, reduce: Reduce) -> _Kept:
        """Sums of signed signals."""
        return _Kept(opening, signal, reduce, self.lengths)


class _Kept:
    def __init__(self, opening: Opening, signal: Signal, reduce: Reduce, lengths: Sequence[int]) -> None:
        self.opening, self.signal, self.reduce, self.lengths = opening, signal, reduce, lengths
        self.total: Any = 0.0
        self.count = 0
        self.kept: list[SiteSignal] = []

    def add(self, seen: Observed, score: Tensor, step: Pass) -> None:
        """Copy by copy."""
        values = self.signal(seen, score, self.opening.places)[0].unflatten(0, (step.copies, -1))
        for one in values:
            self.total, self.count = self.total + one, self.count + 1
            if self.count in self.lengths:
                self.kept.append(SiteSignal(self.reduce(self.total / self.count), self.opening.clean.boxes["input"]))

    def result(self) -> Gathered:
        """The means."""
        return Gathered(self.kept)


@lru_cache(maxsize=4)
def _scenes(seed: int) -> Any:
    return cluttered(seed, SCENES, objects=2, size=SIZE, area=(0.06, 0.25))


def _grown(images: Tensor, target: list[int], level: float, seed: int) -> Attribution:
    noise: Any = Growing(level, GRID[level], seed)
    return attribute(photo_classifier(SIZE), images, target, reduce="max-abs", finish="abs", ensemble=noise)


def roughness(maps: Float[Tensor, "B H W"]) -> float:
    """Total variation, a pixel, as a share of the map's mean; the mean over images."""
    down = (maps[:, 1:] - maps[:, :-1]).abs().mean(dim=(1, 2))
    along = (maps[:, :, 1:] - maps[:, :, :-1]).abs().mean(dim=(1, 2))
    return float(((down + along) / maps.mean(dim=(1, 2)).clamp(min=1e-12)).mean())


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    model, found = photo_classifier(SIZE), _scenes(seed)
    images, masks = found.images, found.visible[:, 0]
    target = own_classes(model, images, masks).tolist()
    maps = {(PLAIN, ""): Saliency()(model, images, target).maps()}
    maps[BLURRED, ""] = gaussian_blur(maps[PLAIN, ""][:, None], SIGMA)[:, 0]
    for level, lengths in GRID.items():
        for length, grown in zip(lengths, _grown(images, target, level, seed).layers, strict=True):
            maps[f"noise {level:g}", f"n = {length}"] = grown
    rows = [Row(metric, "chance", float(masks.float().mean())) for metric in (INSIDE, POINT)]
    return rows + [row for (name, setting), each in maps.items() for row in _scores(each, masks, name, setting)]


def _scores(maps: Tensor, masks: Tensor, name: str, setting: str) -> list[Row]:
    return [
        Row(ROUGH, name, roughness(maps), setting),
        Row(INSIDE, name, float(energy_inside(maps, masks).mean()), setting),
        Row(POINT, name, float(pointing_game(maps, masks).float().mean()), setting),
    ]


def null(seed: int) -> list[Row]:
    """Random maps under all names."""
    masks, draw_ = _scenes(seed).visible[:, 0], torch.Generator().manual_seed(seed)
    names = [(PLAIN, ""), *((f"noise {level:g}", f"n = {n}") for level, lengths in GRID.items() for n in lengths)]
    rows = []
    for name, setting in names:
        rows += _scores(random_maps(SCENES, SIZE, draw_), masks, name, setting)
    return rows


def draw(table: Table, figure: Figure) -> None:
    """Maps of growing means, and both measures over the number of copies."""
    halves: Any = figure.subfigures(1, 2, width_ratios=[1.1, 1])
    found, model = _scenes(STUDY.seeds[0]), photo_classifier(SIZE)
    images, masks = found.images[:3], found.visible[:3, 0]
    target = own_classes(model, images, masks).tolist()
    columns = {"plain": Saliency()(model, images, target).maps()} | {
        f"n = {n}": maps for n, maps in zip(GRID[0.2], _grown(images, target, 0.2, 0).layers, strict=True)
    }
    for row, axes in enumerate(halves[0].subplots(3, len(columns) + 1)):
        titles = ("scene", *columns) if row == 0 else ()
        pictures(axes, [images[row], *(to_map(maps)[row] for maps in columns.values())], titles)
        axes[0].contour(masks[row].numpy(), levels=[0.5], colors="C3", linewidths=1)
    halves[0].supxlabel("SmoothGrad at noise level 0.2, cut at the 99th percentile", fontsize=8)
    x = [float(n) for n in GRID[0.2]]
    for ax, metric in zip(halves[1].subplots(2, 1, sharex=True), (ROUGH, INSIDE), strict=True):
        for number, level in enumerate(GRID):
            values = [table.values(metric, f"noise {level:g}", f"n = {n}") for n in GRID[level]]
            deviations = [v.std() for v in values]
            ax.errorbar(
                x, [v.mean() for v in values], deviations, marker="o", color=f"C{number}", label=f"noise {level}"
            )
        for name, style in ((PLAIN, "--"), (BLURRED, ":")):
            ax.axhline(table.mean(metric, name), color="black", linewidth=1, linestyle=style, label=name)
        ax.set_xscale("log")
        ax.set_xticks(x, [f"{n:g}" for n in x])
        ax.minorticks_off()
        ax.set_title(metric, fontsize=9)
    ax.set_xlabel("noisy copies n", fontsize=8)
    ax.legend(fontsize=6, ncols=2)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(20, 60), null=null, registered="537a5830f91b")
