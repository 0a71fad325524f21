"""p009 (arXiv 1211.5063): the temporal-order problem."""

from __future__ import annotations

import pytest
import torch

from binderclip import errors
from binderclip.data import temporal_order


@pytest.mark.parametrize("length", [10, 20, 29, 57])
def test_every_sequence_has_its_two_symbols_in_their_windows_and_noise_elsewhere(length):
    inputs, targets, positions = temporal_order(400, length, seed=3)
    assert inputs.shape == (400, length, 6)
    assert (inputs.sum(2) == 1).all()
    symbols = inputs.argmax(2)
    for row, target, (first, second) in zip(symbols.tolist(), targets.tolist(), positions.tolist(), strict=True):
        assert [t for t, s in enumerate(row) if s < 2] == [first, second]
        assert length // 10 <= first < 2 * (length // 10)
        assert length // 2 <= second < length // 2 + length // 10
        assert target == row[first] + 2 * row[second]


def test_classes_noise_and_positions_are_uniform():
    inputs, targets, positions = temporal_order(8000, 30, seed=0)
    assert (torch.bincount(targets, minlength=4) / 8000 - 0.25).abs().max() < 0.02
    noise = inputs.sum((0, 1))[2:] / (8000 * 28)
    assert (noise - 0.25).abs().max() < 0.01
    for column, start in ((0, 3), (1, 15)):
        counts = torch.bincount(positions[:, column] - start, minlength=3)
        assert (counts / 8000 - 1 / 3).abs().max() < 0.02
    assert abs(float(torch.corrcoef(positions.T.float())[0, 1])) < 0.05


def test_one_symbol_alone_says_nothing_about_the_other():
    """So the best without the first (or the second) symbol is 50% right."""
    targets = temporal_order(8000, 30, seed=1).targets
    for known in (targets % 2, targets // 2):
        for value in (0, 1):
            share = torch.bincount(targets[known == value], minlength=4).float()
            assert float(share.max() / share.sum()) == pytest.approx(0.5, abs=0.02)


def test_a_range_draws_one_length_a_batch_up_to_both_ends():
    g = torch.Generator().manual_seed(0)
    lengths = {temporal_order(2, (20, 22), generator=g).inputs.shape[1] for _ in range(60)}
    assert lengths == {20, 21, 22}


def test_a_seed_fixes_the_batch_and_a_generator_goes_on():
    one, two = temporal_order(5, (20, 29), seed=7), temporal_order(5, (20, 29), seed=7)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    g = torch.Generator().manual_seed(7)
    first, second = temporal_order(5, (20, 29), generator=g), temporal_order(5, (20, 29), generator=g)
    assert torch.equal(first.inputs, one.inputs)
    assert first.inputs.shape != second.inputs.shape or not torch.equal(first.inputs, second.inputs)


@pytest.mark.parametrize(
    ("args", "settings", "text"),
    [
        ((5, 9), {"seed": 0}, "length must be at least 10"),
        ((5, (29, 20)), {"seed": 0}, "length must be"),
        ((0, 20), {"seed": 0}, "size must be at least 1"),
        ((5, 20), {}, "either seed= or generator="),
        ((5, 20), {"seed": 0, "generator": torch.Generator()}, "either seed= or generator="),
    ],
)
def test_mistakes_are_named(args, settings, text):
    with pytest.raises(errors.UsageError, match=text):
        temporal_order(*args, **settings)
