"""The random numbers of rules: those of any two places in a pipeline differ."""

from __future__ import annotations

import numpy as np

from binderclip.curate import AnyOf, CurationPipeline, HashDraws, KeepRule, keys_of

from ..pools import ListTable

KEYS = keys_of([str(i) for i in range(2000)])


def test_stages_and_nested_parts_draw_numbers_of_their_own() -> None:
    level = [HashDraws(3, stage) for stage in range(8)]
    every = list(level)
    for parts in (6, 3, 2):
        level = [draws.part(number) for draws in level for number in range(parts)]
        every += level
    every += [HashDraws(3, 0).part(1000), HashDraws(3, 1000), HashDraws(3, 1001), HashDraws(3, 999_999)]
    assert all(0 <= draws.purpose < 2**64 for draws in every)
    numbers = np.stack([draws(KEYS[:40]) for draws in every])
    assert len(np.unique(numbers, axis=0)) == len(every)
    # Pairwise correlations of 2000 independent numbers are within 5 standard deviations of 0.
    related = np.corrcoef([draws(KEYS) for draws in every[:80]])
    assert np.abs(related - np.eye(len(related))).max() < 5 / len(KEYS) ** 0.5
    assert np.array_equal(HashDraws(3, 2).part(1)(KEYS), every[8 + 2 * 6 + 1](KEYS))


class _Coin(KeepRule):
    reason, needs = "heads", ("text",)

    def keep(self, shard, found, draws):
        return draws(shard.keys) < 0.5


def test_a_rule_inside_a_rule_and_the_next_stage_are_independent() -> None:
    names = [str(i) for i in range(4000)]
    stages = [AnyOf(rules=[_Coin(), _Coin()]), _Coin(), AnyOf(rules=[AnyOf(rules=[_Coin()]), _Coin()])]
    rows = CurationPipeline(stages).run(ListTable({}, names)).report.stages
    for stage, share in zip(rows, (0.75, 0.5, 0.75), strict=True):
        # Binomial: 4.5 standard deviations.
        assert abs(stage.kept - share * stage.entered) < 4.5 * (stage.entered * share * (1 - share)) ** 0.5
