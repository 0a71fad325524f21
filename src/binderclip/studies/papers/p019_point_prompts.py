"""Does it matter by which rule points are set, how far is the best rule from an annotator who sees the errors?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from binderclip.data.synthetic_scenes.paste import boxes_of
from binderclip.segment.clicks import point_prompt_benchmark, tune_prompts
from binderclip.segment.clicks.objects import ious
from binderclip.segment.clicks.point_prompts import point_prompts
from binderclip.segment.clicks.sampling import INCLUSION
from binderclip.segment.promptable import Prompts
from binderclip.studies.harness import Figure, Row, Table, bare, declared_study, dots
from binderclip.studies.protocols.data.click_scenes import click_samples, clicked_model

SCENES, TUNING, SIZE, STEPS = 16, 16, 96, 100
ONE, SIX = "1 + 1 points", "4 + 2 points"
ANNOTATOR, MEDOIDS, RANDOM, AGAIN = "annotator", "k-medoids", "random", "random, other points"
FEATURES, SHUFFLED = "features of points", "shuffled IoU"
TAUGHT = "max-distance"
TUNED = f"{TAUGHT}, tuned on it"
BOX = "one box"
AUTOMATIC = tuple(INCLUSION)


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    model, samples = clicked_model(), click_samples(seed, SCENES, size=SIZE)
    rows, tables = [], {}
    for setting, points in ((ONE, (1, 1)), (SIX, (4, 2))):
        tables[setting] = point_prompt_benchmark(
            model, samples, inclusion=points[0], exclusion=points[1], seed=seed
        )  # fmt: skip
        again = point_prompt_benchmark(
            model, samples, strategies=[RANDOM], inclusion=points[0], exclusion=points[1], seed=seed + 500_000
        )  # fmt: skip
        rows += [Row("IoU", name, value, setting) for name, value in tables[setting].means().items()]
        rows.append(Row("IoU", AGAIN, again.means()[RANDOM], setting))
    table = tables[SIX]
    shuffled = np.random.default_rng([seed, 3]).permutation(table.iou.ravel()).reshape(table.iou.shape)
    rows.append(Row("R2", FEATURES, table.explained(seed=seed).r2))
    rows.append(Row("R2", SHUFFLED, replace(table, iou=shuffled).explained(seed=seed).r2))
    learnt = click_samples(seed + 100_000, TUNING, size=SIZE, split="train")
    tuned = tune_prompts(model, learnt, TAUGHT, steps=STEPS, seed=seed)
    found = point_prompt_benchmark(tuned, samples, strategies=[TAUGHT], seed=seed)
    rows.append(Row("IoU", BOX, _boxed(model, samples), SIX))
    return [*rows, Row("IoU", TUNED, found.means()[TAUGHT], SIX)]


def _boxed(model: Any, samples: Any) -> float:
    """Mean IoU of the first mask for the tight box of each object."""
    found = []
    for image, masks in samples:
        asked = Prompts(boxes=boxes_of(masks))
        found += ious(model.predict(model.encode(image), asked).logits[:, 0] > 0, masks).tolist()
    return float(np.mean(found))


def draw(table: Table, figure: Figure) -> None:
    """IoU by strategy, how much of it the features of points explain, and the points of four strategies."""
    parts: Any = figure.subfigures(1, 3, width_ratios=(2, 0.7, 1.3))
    left, middle, right = parts
    for ax, setting in zip(left.subplots(1, 2, sharey=True), (ONE, SIX), strict=True):
        dots(ax, table, "IoU", (*AUTOMATIC, ANNOTATOR), setting)
        ax.set_title(setting, fontsize=8)
        ax.set_ylabel("IoU of the first mask")
        ax.tick_params(axis="x", rotation=90, labelsize=7)
    ax = middle.subplots()
    dots(ax, table, "R2", (FEATURES, SHUFFLED))
    ax.set_ylabel("variance of the IoU explained")
    ax.tick_params(axis="x", rotation=90, labelsize=7)
    image, masks = click_samples(table.rows[0].seed, 1, size=SIZE)[0]
    largest = masks[masks.flatten(1).sum(1).argmax()][None]
    axes: Any = right.subplots(2, 2)
    for ax, name in zip(axes.flat, (RANDOM, MEDOIDS, TAUGHT, "shi-tomasi"), strict=True):
        points = point_prompts(image, largest, name, seed=table.rows[0].seed).points
        assert points is not None
        ax.imshow(image.permute(1, 2, 0).numpy())
        ax.contour(largest[0].numpy(), [0.5], colors="w", linewidths=1)
        ax.plot(*(points[0, :4] - 0.5).T, "g+", *(points[0, 4:] - 0.5).T, "rx", markersize=7)
        ax.set_title(name, fontsize=7)
        bare(ax)


STUDY = declared_study(__name__, measure, seeds=range(8), draw=draw, registered="617399a6c4dc")
