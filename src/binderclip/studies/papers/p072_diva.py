"""Does the loss of a resting generator of captions, told of pictures instead, add detail and keep the rest?"""

from __future__ import annotations

import copy
from functools import lru_cache

from binderclip.generate import ConditionTap, DiffusionCorruption, GenerativeFeedback, PixelTarget
from binderclip.studies.harness import Row, declared_study, dot_panels
from binderclip.studies.protocols.training.feedback_digits import (
    EMBED,
    JUDGED,
    RATE,
    ColouredDigits,
    DigitTowers,
    caption_words,
    colour_probe,
    condition_of,
    denoiser,
    empty_words,
    first_stage,
    held_out,
    pair_accuracy,
    restored,
    second_stage,
    trained_towers,
    zero_shot,
)

BASE, BRIDGE, TUNED = "before", "bridge alone", "DIVA"
WORDS, OTHERS = "told the caption", "told another caption"
LOSS, PAIRS = "denoising loss on held-out pictures", "pairs of colours told apart"
ZERO, PROBE = "zero-shot accuracy of digits", "colour read off the embedding"
TUNING = RATE / 20


@lru_cache(maxsize=32)
def generator_of(seed: int) -> tuple[DigitTowers, GenerativeFeedback]:
    """Towers, and a generator of captions that is not yet told of pictures."""
    towers = trained_towers(seed)
    tap = ConditionTap(EMBED, sequence_width=EMBED, local="all", prompt=empty_words(towers))
    network, corruption = denoiser(sequence_width=EMBED, last_time=1000), DiffusionCorruption()
    feedback = GenerativeFeedback(network, corruption, tap, PixelTarget(8), draws=2, told_by="captions")
    return towers, first_stage(towers, feedback, seed)


def first(seed: int) -> list[Row]:
    """What the generator makes of captions."""
    towers, feedback = generator_of(seed)
    words = caption_words(towers, ColouredDigits(*(column[:JUDGED] for column in held_out())))
    return [Row(LOSS, WORDS, restored(feedback, words)), Row(LOSS, OTHERS, restored(feedback, words.rolled()))]


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    (start, generator), rows = generator_of(seed), list[Row]()  # those of `first` are in the table already
    for name, rate in ((BASE, None), (BRIDGE, 0.0), (TUNED, TUNING)):
        towers, feedback = copy.deepcopy(start), copy.deepcopy(generator)
        if rate is not None:
            second_stage(towers, feedback, seed, rate)
        rows.append(Row(LOSS, name, restored(feedback, condition_of(towers, feedback))))
        rows += [Row(PAIRS, name, pair_accuracy(towers)), Row(ZERO, name, zero_shot(towers))]
        rows.append(Row(PROBE, name, colour_probe(towers, seed)))
    return rows


PANELS = dot_panels(
    (LOSS, (WORDS, OTHERS, BASE, BRIDGE, TUNED)), *((metric, (BASE, TUNED)) for metric in (PAIRS, ZERO, PROBE)),
    rotation=30,
)  # fmt: skip
STUDY = declared_study(__name__, measure, first=first, draw=PANELS, seeds=range(10, 20), registered="5973e4c21524")
