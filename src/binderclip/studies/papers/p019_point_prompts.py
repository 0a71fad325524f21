"""Does it matter by which rule points are set, how far is the best rule from an annotator who sees the errors?"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from binderclip.segment.clicks import point_prompt_benchmark, tune_prompts
from binderclip.segment.clicks.point_prompts import point_prompts
from binderclip.segment.clicks.sampling import INCLUSION
from binderclip.studies.harness.criteria import Criterion
from binderclip.studies.harness.panels import bare, dots
from binderclip.studies.harness.quantities import combined, value_of
from binderclip.studies.harness.study import Study
from binderclip.studies.harness.table import Row, Table
from binderclip.studies.protocols.click_scenes import click_samples, clicked_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCENES, TUNING, SIZE, STEPS = 16, 16, 96, 100
PILOT_SEEDS = (900, 901, 902)
ONE, SIX = "1 + 1 points", "4 + 2 points"
ANNOTATOR, MEDOIDS, RANDOM, AGAIN = "annotator", "k-medoids", "random", "random, other points"
FEATURES, SHUFFLED = "features of points", "shuffled IoU"
TAUGHT = "max-distance"
TUNED = f"{TAUGHT}, tuned on it"
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
    return [*rows, Row("IoU", TUNED, found.means()[TAUGHT], SIX)]
