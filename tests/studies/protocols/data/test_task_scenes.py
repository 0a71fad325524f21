"""Hidden animals: what is measured of answers, and that the trivial ones are what they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from binderclip.segment.metrics.foreground import foreground_scores
from binderclip.segment.promptable import OracleSegmenter
from binderclip.studies import Row, Table
from binderclip.studies.protocols.data.task_scenes import (
    ANIMALS,
    BEST_CLICK,
    CENTRE,
    CLICK,
    DISC,
    SIZE,
    TRIVIAL,
    WHOLE,
    HiddenAnimals,
    best_trivial,
    disc,
    hidden_animals,
    quality,
    score_rows,
    trivial_masks,
)


def test_one_animal_a_scene_that_the_ground_shines_through() -> None:
    found = hidden_animals(3, 2, 0.6)
    assert len(found.pictures) == len(found.masks) == len(found.names) == 2
    assert set(found.names) <= set(ANIMALS)
    assert found.pictures[0].size == (SIZE, SIZE)
    share = found.masks.float().mean((1, 2))
    assert float(share.min()) > 0.03
    assert float(share.max()) < 0.25
    plain = hidden_animals(3, 2, 0.0)
    assert torch.equal(plain.masks, found.masks)
    assert plain.names == found.names
    inside, outside = found.masks[0].numpy(), ~found.masks[0].numpy()
    a, b = (np.asarray(own.pictures[0], dtype=float) for own in (plain, found))
    assert np.abs(a - b)[inside].mean() > 5
    assert np.abs(a - b)[outside].mean() < 1


def test_rows_are_means_over_scenes() -> None:
    truth = torch.stack([disc(), disc().roll(20, 1)])
    rows = {(r.metric, r.method): r.value for r in score_rows({"a": [disc(), disc()]}, truth)}
    each = [foreground_scores(disc().numpy(), own.numpy()) for own in truth]
    for name in ("S", "E", "Fw", "MAE"):
        assert rows[name, "a"] == pytest.approx(np.mean([scores[name] for scores in each]))
    overlap = (disc() & truth[1]).sum() / (disc() | truth[1]).sum()
    assert rows["IoU", "a"] == pytest.approx((1 + float(overlap)) / 2)


def test_trivial_answers_do_not_read_and_one_click_inside_knows() -> None:
    mask = torch.zeros(1, SIZE, SIZE, dtype=torch.bool)
    mask[0, 10:40, 20:60] = True
    found = HiddenAnimals((hidden_animals(3, 2, 0.6).pictures[0],), mask, ("owl",))
    answers = trivial_masks(OracleSegmenter(mask), found, 0)
    assert set(answers) == {*TRIVIAL, BEST_CLICK}
    assert torch.equal(answers[BEST_CLICK][0], mask[0])
    assert float(answers[CENTRE][0].float().mean()) == pytest.approx(DISC, abs=2e-3)
    assert bool(answers[WHOLE][0].all())
    assert not torch.equal(answers[CLICK][0], answers[WHOLE][0])


def test_quality_is_the_mean_of_three_and_the_best_trivial_the_largest() -> None:
    table = Table(
        Row(metric, method, value + shift)
        for method, shift in (("a", 0.0), (CENTRE, 0.1), (WHOLE, -0.1), (CLICK, 0.05))
        for metric, value in (("S", 0.3), ("E", 0.6), ("Fw", 0.6))
    )
    assert quality("a").values(table).tolist() == pytest.approx([0.5])
    assert best_trivial().values(table).tolist() == pytest.approx([0.6])
