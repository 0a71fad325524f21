"""Do samples that a tracer meets on its way teach it more than as many steps on annotated lines?"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from skimage.color import rgb2gray
from skimage.filters import sato
from skimage.graph import route_through_array
from torch import Tensor

from binderclip.data import TubePicture, tube_pictures
from binderclip.segment import TracerTraining, TubularTrace, TubularTracer, line_accuracy, train_tracer
from binderclip.segment.tubular.training import traced
from binderclip.studies.harness import Figure, Row, Table, declared_study, dots, pictures

SIDE, TRAIN, VALIDATE, TEST = 64, 24, 6, 24
ROUNDS, STEPS = 2, 250
# The tubes are two to four pixels wide.
SETTINGS: dict[str, Any] = {"length": 20, "radius": 5, "tolerance": 1.5, "shift": 1.0, "count": 60, "limit": 800}
FIRST, ANNOTATED, TAILORED, BEST = "round 0", "annotated lines only", "tailored samples", "best round"
RIDGE, STRAIGHT = "ridge filter", "straight line"
METHODS = (STRAIGHT, RIDGE, FIRST, ANNOTATED, TAILORED, BEST)
ACCURACY, MASK = "F1 of the centre line within 2 px", "IoU of the mask"


@lru_cache(maxsize=2)
def _pictures(seed: int) -> tuple[list[TubePicture], list[TubePicture], list[TubePicture]]:
    """For training, for the choice of the round, and for the test."""
    drawn = tube_pictures(1740 + seed, TRAIN + VALIDATE + TEST, side=SIDE)
    return drawn[:TRAIN], drawn[TRAIN : TRAIN + VALIDATE], drawn[TRAIN + VALIDATE :]


@lru_cache(maxsize=2)
def _trained(seed: int) -> tuple[TracerTraining, TracerTraining]:
    """Rounds of tailored samples, and the same rounds, steps and number of samples on annotated lines alone."""
    train, validate, _ = _pictures(seed)
    options: dict[str, Any] = {"rounds": ROUNDS, "steps": STEPS, "seed": seed} | SETTINGS
    return train_tracer(train, validate, **options), train_tracer(train, validate, tailored=False, **options)


def ridge_paths(picture: TubePicture) -> Tensor:
    """The cheapest path over a ridge filter's answer, dark or light, at the radii that the tubes have."""
    grey = rgb2gray(picture.image.permute(1, 2, 0).numpy())
    answer = np.maximum(*(sato(grey, sigmas=(1, 1.5, 2), black_ridges=dark) for dark in (True, False)))
    cost = 1 / (0.05 + answer / max(float(np.quantile(answer, 0.99)), 1e-9)).clip(0, 1.05)
    path, _ = route_through_array(cost, picture.start[::-1], picture.end[::-1], geometric=True)
    return torch.tensor(path)


def straight(picture: TubePicture) -> Tensor:
    """The pixels of the straight line between the ends."""
    (x0, y0), (x1, y1) = picture.start, picture.end
    count = max(abs(x1 - x0), abs(y1 - y0)) + 1
    return torch.stack([torch.linspace(y0, y1, count), torch.linspace(x0, x1, count)], 1).round().long()


def _of(path: Tensor) -> TubularTrace:
    return TubularTrace(path, 0.0, None, torch.zeros(0, 3, 2, dtype=torch.long), torch.zeros(0))


def _scored(name: str, traces: Sequence[TubularTrace], test: Sequence[TubePicture]) -> list[Row]:
    found = [line_accuracy(trace, one.line) for trace, one in zip(traces, test, strict=True)]
    rows = [Row(ACCURACY, name, float(np.mean(found)))]
    shared = [
        float((trace.mask & one.own).sum() / (trace.mask | one.own).sum())
        for trace, one in zip(traces, test, strict=True)
        if trace.mask is not None
    ]
    return rows + ([Row(MASK, name, float(np.mean(shared)))] if shared else [])


def _tracers(seed: int) -> dict[str, TubularTracer]:
    ours, plain = _trained(seed)
    return {FIRST: ours.rounds[0], ANNOTATED: plain.rounds[-1], TAILORED: ours.rounds[-1], BEST: ours.best}


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    test = _pictures(seed)[2]
    rows = _scored(STRAIGHT, [_of(straight(one)) for one in test], test)
    rows += _scored(RIDGE, [_of(ridge_paths(one)) for one in test], test)
    for name, tracer in _tracers(seed).items():
        rows += _scored(name, traced(tracer, test), test)
    return rows


def null(seed: int) -> list[Row]:
    """A score drawn anew for every strip, under the names that are compared, of two pictures each.

    All are traced side by side: what one tracer draws for one name is independent of what it draws for another.
    """
    test, names = tube_pictures(1740 + seed, 2, side=SIDE), (FIRST, ANNOTATED, TAILORED)
    generator = torch.Generator().manual_seed(seed)

    def drawn(strips: Tensor) -> Tensor:
        return torch.rand(len(strips), generator=generator)

    found = traced(TubularTracer(drawn, SETTINGS["length"], SETTINGS["radius"]), test * len(names))
    parts = [found[place * len(test) :][: len(test)] for place in range(len(names))]
    return [row for name, part in zip(names, parts, strict=True) for row in _scored(name, part, test)]


def draw(table: Table, figure: Figure) -> None:
    """Test pictures with the lines of three methods, and the accuracy of all."""
    seed = STUDY.seeds[0]
    test, tracers = _pictures(seed)[2][:3], _tracers(seed)
    halves: Any = figure.subfigures(1, 2, width_ratios=[1.6, 1])
    columns = {"truth": [one.line for one in test], RIDGE: [ridge_paths(one) for one in test]}
    columns |= {name: [t.path for t in traced(tracers[name], test)] for name in (FIRST, TAILORED)}
    for row, axes in enumerate(halves[0].subplots(len(test), len(columns) + 1)):
        image = test[row].image
        pictures(axes, [image] * (len(columns) + 1), ("picture", *columns) if row == 0 else ())
        for ax, paths in zip(axes[1:], columns.values(), strict=True):
            ax.plot(paths[row][:, 1], paths[row][:, 0], color="red", lw=1.2)
    ax = halves[1].subplots()
    dots(ax, table, ACCURACY, METHODS)
    ax.set_title(ACCURACY, fontsize=9)
    ax.tick_params(axis="x", labelrotation=30, labelsize=7)


def train_bundled(folder: Path) -> Path:
    """Train the tracer that is shipped as `small-tracer`, and write it; about ten minutes on one core."""
    from binderclip.segment import save_tracer

    drawn = tube_pictures(17, 52, side=SIDE)
    found = train_tracer(drawn[:40], drawn[40:], rounds=2, steps=500, **SETTINGS)
    card = {
        "name": "small-tracer",
        "summary": "traces tubes two to four pixels wide from point to point, as one line",
        "recipe": "binderclip.studies.papers.p174_tubular.train_bundled",
        "data": "40 drawn pictures of crossing tubes (data.tube_pictures)",
        "validation": {"F1 within 2 px": [round(value, 3) for value in found.accuracies]},
    }
    return save_tracer(found.best, folder, card=card, dtype="float16")


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(20, 30), null=null, registered="b0083beb50cb")
