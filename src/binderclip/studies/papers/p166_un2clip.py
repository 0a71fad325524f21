"""Does an encoder take up detail from a resting generator of its own embeddings, and stay with the text?"""

from __future__ import annotations

import copy
from functools import lru_cache

import torch
from torch import Tensor, nn

from binderclip.generate import (
    ConditionTap,
    DiffusionCorruption,
    GenerativeFeedback,
    ImageCondition,
    ImageConditionedGenerator,
    PixelTarget,
)
from binderclip.studies.harness import Row, declared_study, dot_panels
from binderclip.studies.protocols.training.feedback_digits import (
    EMBED,
    RATE,
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

BASE, TUNED, CONTROL, DECODER = "before", "un2CLIP", "told of another picture", "a linear decoder instead"
LOSS, PAIRS = "denoising loss on held-out pictures", "pairs of colours told apart"
ZERO, PROBE = "zero-shot accuracy of digits", "colour read off the embedding"
TUNING = RATE / 20


class LinearDecoder(ImageConditionedGenerator):
    """The picture as a linear function of the embedding, whatever noise is on it."""

    def __init__(self) -> None:
        super().__init__()
        self.decode = nn.Linear(EMBED, 3 * 8 * 8)

    def forward(self, x: Tensor, t: Tensor, condition: ImageCondition) -> Tensor:
        return self.decode(condition.pooled).view_as(x)


@lru_cache(maxsize=32)
def generator_of(seed: int) -> tuple[DigitTowers, GenerativeFeedback]:
    """Towers, and a generator of their embeddings."""
    towers = trained_towers(seed)
    tap = ConditionTap(EMBED, pooled_width=EMBED, bridge=None)
    network = denoiser(pooled_width=EMBED, last_time=1000)
    return towers, first_stage(towers, GenerativeFeedback(network, DiffusionCorruption(), tap, PixelTarget(8)), seed)


def first(seed: int) -> list[Row]:
    """What the generator makes of its condition."""
    towers, feedback = generator_of(seed)
    condition = condition_of(towers, feedback)
    return [
        Row(LOSS, BASE, restored(feedback, condition)),
        Row(LOSS, "condition rolled", restored(feedback, condition.rolled())),
    ]


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    start, feedback = generator_of(seed)
    tap = ConditionTap(EMBED, pooled_width=EMBED, bridge=None)
    torch.manual_seed(seed)
    plain = GenerativeFeedback(LinearDecoder(), DiffusionCorruption(target="sample"), tap, PixelTarget(8))
    first_stage(start, plain, seed)
    rows: list[Row] = []  # those of `first` are in the table already
    for name, loss in ((BASE, None), (TUNED, feedback), (CONTROL, feedback), (DECODER, plain)):
        towers = copy.deepcopy(start)
        if loss is not None:
            second_stage(towers, loss, seed, TUNING, shuffled=name == CONTROL)
            rows.append(Row(LOSS, name, restored(feedback, condition_of(towers, feedback))))
        rows += [Row(PAIRS, name, pair_accuracy(towers)), Row(ZERO, name, zero_shot(towers))]
        rows.append(Row(PROBE, name, colour_probe(towers, seed)))
    return rows


SHOWN = (BASE, TUNED, CONTROL, DECODER)
PANELS = dot_panels((LOSS, SHOWN), (PAIRS, SHOWN), (ZERO, SHOWN), (PROBE, SHOWN), rotation=30)
STUDY = declared_study(__name__, measure, first=first, draw=PANELS, seeds=range(10, 18), registered="5941dcd77be4")
