"""Is the embedding alone the better condition for feedback, though patch tokens restore pictures better?"""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Literal

from binderclip.generate import ConditionTap, GenerativeFeedback, PixelTarget, RectifiedFlow
from binderclip.studies.harness import Row, declared_study, dot_panels
from binderclip.studies.protocols.training.feedback_digits import (
    EMBED,
    RATE,
    WIDTH,
    DigitTowers,
    colour_probe,
    condition_of,
    denoiser,
    first_stage,
    pair_accuracy,
    restored,
    second_stage,
    trained_towers,
    zero_shot,
)

BASE, GLOBAL, LOCAL = "before", "told the embedding", "told patch tokens too"
LOSS, PAIRS = "restoring held-out pictures, mean squared error of the velocity", "pairs of colours told apart"
ZERO, PROBE = "zero-shot accuracy of digits", "colour read off the embedding"
ROLLED, AFTER = "told another picture's embedding", "after the second stage"
TUNING = RATE / 10


@lru_cache(maxsize=32)
def generator_of(seed: int, local: Literal["all"] | int) -> tuple[DigitTowers, GenerativeFeedback]:
    """Towers, and a rectified flow that is told of their features."""
    towers = trained_towers(seed)
    tap = ConditionTap(EMBED, sequence_width=WIDTH, pooled_width=WIDTH, local=local, bridge="mlp")
    network = denoiser(sequence_width=WIDTH, pooled_width=WIDTH)
    return towers, first_stage(towers, GenerativeFeedback(network, RectifiedFlow(), tap, PixelTarget(8)), seed)


def first(seed: int) -> list[Row]:
    """What the generator makes of its condition."""
    towers, feedback = generator_of(seed, 0)
    condition = condition_of(towers, feedback)
    return [Row(LOSS, GLOBAL, restored(feedback, condition)), Row(LOSS, ROLLED, restored(feedback, condition.rolled()))]


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    rows: list[Row] = []  # those of `first` are in the table already
    start = generator_of(seed, 0)[0]
    feedbacks = {GLOBAL: generator_of(seed, 0)[1], LOCAL: generator_of(seed, "all")[1]}
    rows.append(Row(LOSS, LOCAL, restored(feedbacks[LOCAL], condition_of(start, feedbacks[LOCAL]))))
    for name in (BASE, GLOBAL, LOCAL):
        towers = copy.deepcopy(start)
        if name in feedbacks:
            second_stage(towers, feedbacks[name], seed, TUNING)
            loss = restored(feedbacks[name], condition_of(towers, feedbacks[name]))
            rows.append(Row(LOSS, name, loss, AFTER))
        rows += [Row(PAIRS, name, pair_accuracy(towers)), Row(ZERO, name, zero_shot(towers))]
        rows.append(Row(PROBE, name, colour_probe(towers, seed)))
    return rows


SHOWN = (BASE, GLOBAL, LOCAL)
PANELS = dot_panels((LOSS, (GLOBAL, LOCAL, ROLLED)), (PAIRS, SHOWN), (ZERO, SHOWN), (PROBE, SHOWN), rotation=30)
STUDY = declared_study(__name__, measure, first=first, draw=PANELS, seeds=range(10, 18), registered="abc22a729321")
