"""Calibration errors against torchmetrics, loops over bins, and probabilities that are true by construction."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from binderclip.errors import UsageError
from binderclip.evaluate import PredictionTable
from binderclip.evaluate.probes import calibration_error_measure as probe_error
from binderclip.segment.metrics import CalibrationBins, boundary_band, pixel_calibration_error
from binderclip.segment.metrics.calibration import bin_index


def made(seed: int, classes: int = 4, shape: tuple[int, ...] = (2, 12, 15)) -> tuple[torch.Tensor, torch.Tensor]:
    """Over-confident logits and targets with some ignored pixels."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(shape[0], classes, *shape[1:], generator=generator)
    target = logits.add(2 * torch.randn(logits.shape, generator=generator)).argmax(dim=1)
    target[torch.rand(shape, generator=generator) < 0.05] = -1
    return logits, target


@pytest.mark.parametrize("bins", [10, 15])
def test_errors_equal_torchmetrics(bins: int) -> None:
    logits, target = made(0)
    score = pixel_calibration_error(logits, target, bins=bins, from_logits=True)
    for norm, value in (("l1", score.ece), ("max", score.mce), ("l2", score.rmsce)):
        want = multiclass_calibration_error(
            logits.softmax(dim=1), target, num_classes=4, n_bins=bins, norm=norm, ignore_index=-1
        )
        assert value == pytest.approx(float(want), abs=1e-5)


def loops(values: np.ndarray, right: np.ndarray, edges: np.ndarray) -> float:
    error = 0.0
    for k, (low, high) in enumerate(pairwise(edges)):
        inside = (values >= low) & ((values < high) | (k == len(edges) - 2))
        if inside.any():
            error += inside.mean() * abs(values[inside].mean() - right[inside].mean())
    return error


def test_classwise_error_brier_and_reliability_equal_loops() -> None:
    logits, target = made(1)
    score = pixel_calibration_error(logits, target, from_logits=True)
    keep = target.flatten() >= 0
    p = logits.double().softmax(dim=1).movedim(1, -1).reshape(-1, 4)[keep].numpy()
    y = target.flatten()[keep].numpy()
    edges = np.linspace(0, 1, 16)
    want = [loops(p[:, c], y == c, edges) for c in range(4)]
    assert score.per_class == pytest.approx(want)
    assert score.classwise_ece == pytest.approx(np.mean(want))
    assert score.ece == pytest.approx(loops(p.max(axis=1), p.argmax(axis=1) == y, edges))
    assert score.brier == pytest.approx(np.mean(np.sum((p - np.eye(4)[y]) ** 2, axis=1)))
    assert score.accuracy == pytest.approx((p.argmax(axis=1) == y).mean())
    assert score.confidence == pytest.approx(p.max(axis=1).mean())
    bars = score.reliability
    assert bars.count.sum() == score.pixels == len(y)
    assert bars.low.tolist() == pytest.approx(edges[:-1])
    filled = bars.count > 0
    assert (bars.low[filled] <= bars.confidence[filled]).all()
    assert (bars.confidence[filled] <= bars.high[filled]).all()
    assert np.isnan(bars.accuracy[~filled]).all()


def test_bins_of_equal_mass_equal_chunks_of_the_sorted_confidences() -> None:
    generator = torch.Generator().manual_seed(2)
    # 300 distinct parts of 3840, so that no part holds two pixels; two classes, so that confidence is above 1/2.
    parts = 1930 + torch.randperm(1900, generator=generator)[:300]
    confidence = ((parts + 0.5) / 3840).double()
    right = torch.rand(300, generator=generator) < confidence**3
    probabilities = torch.stack([confidence, 1 - confidence], dim=1)
    score = CalibrationBins(2)
    score.update(probabilities, (~right).long())
    found = score.compute(adaptive=True)
    order = confidence.argsort()
    chunks = [(confidence[c].mean(), right[c].double().mean()) for c in order.chunk(15)]
    assert found.reliability.count.tolist() == [20] * 15
    assert found.ece == pytest.approx(float(np.mean([abs(float(a - b)) for a, b in chunks])))
    assert found.mce == pytest.approx(max(abs(float(a - b)) for a, b in chunks))
    assert found.ece != pytest.approx(score.compute().ece)


def test_true_probabilities_are_calibrated_and_sharpened_ones_are_not() -> None:
    generator = torch.Generator().manual_seed(3)
    p = torch.randn(40_000, 3, generator=generator).softmax(dim=1)
    target = torch.multinomial(p, 1, generator=generator)[:, 0]
    honest, sharp = pixel_calibration_error(p, target), pixel_calibration_error(3 * p.log(), target, from_logits=True)
    # Noise: about sqrt(accuracy error variance) of 15 bins with thousands of samples each.
    assert honest.ece < 0.01
    assert honest.classwise_ece < 0.01
    assert sharp.ece > 0.1
    assert sharp.brier > honest.brier
    assert sharp.accuracy == honest.accuracy
    # Their Brier score is its expectation, 1 - mean of the summed squares.
    assert honest.brier == pytest.approx(float(1 - p.square().sum(dim=1).mean()), abs=0.01)


def test_certain_and_right_or_wrong() -> None:
    target = torch.tensor([0, 1, 2])
    right, wrong = torch.eye(3)[target], torch.eye(3)[(target + 1) % 3]
    best, worst = pixel_calibration_error(right, target), pixel_calibration_error(wrong, target)
    assert (best.ece, best.mce, best.brier, best.classwise_ece) == (0, 0, 0, 0)
    assert (worst.ece, worst.mce, worst.brier, worst.rmsce) == (1, 1, 2, 1)
    assert worst.classwise_ece == pytest.approx(2 / 3)


def test_foreground_only_and_boundaries_choose_pixels() -> None:
    logits, target = made(4)
    foreground = CalibrationBins(4, foreground_only=True, background=2)
    foreground.update(logits, target, from_logits=True)
    found = foreground.compute()
    assert found.foreground_only
    assert found.pixels == int(((target >= 0) & (target != 2)).sum())
    by_hand = target.clone()
    by_hand[target == 2] = -1
    assert found.ece == pixel_calibration_error(logits, by_hand, from_logits=True).ece
    coarse = target.clone()
    coarse[:, :, :7], coarse[:, :, 7:] = 0, 1
    band = boundary_band(coarse, width=3)
    near = pixel_calibration_error(logits, coarse, from_logits=True, where=band)
    assert near.pixels == int(band.sum()) == 2 * 12 * 4
    whole = coarse.clone()
    whole[~band] = 255
    assert near.ece == pixel_calibration_error(logits, whole, from_logits=True).ece


def test_merging_equals_one_pass_and_class_bins_are_optional() -> None:
    first, second, both = (CalibrationBins(4) for _ in range(3))
    lean = CalibrationBins(4, per_class=False)
    for part, seed in ((first, 5), (second, 6)):
        logits, target = made(seed)
        for each in (part, both, lean):
            each.update(logits, target, from_logits=True)
    first.merge(second)
    a, b = first.compute(), both.compute()
    assert (a.ece, a.classwise_ece, a.brier, a.pixels) == pytest.approx((b.ece, b.classwise_ece, b.brier, b.pixels))
    assert lean.compute().ece == b.ece
    assert math.isnan(lean.compute().classwise_ece)
    with pytest.raises(UsageError, match="cannot merge"):
        first.merge(lean)
    first.reset()
    with pytest.raises(UsageError, match="no pixel to score"):
        first.compute()


def test_bad_input_is_named() -> None:
    p, target = torch.full((2, 3, 4, 4), 1 / 3), torch.zeros(2, 4, 4, dtype=torch.long)
    with pytest.raises(UsageError, match=r"probabilities are \(2, 3, 4, 4\), \(2, 5, 4, 4\) goes"):
        CalibrationBins(5).update(p, target)
    with pytest.raises(UsageError, match="sum to 1 over the classes; pass logits with from_logits"):
        CalibrationBins(3).update(2 * p, target)
    with pytest.raises(UsageError, match="target has labels from 7 to 7"):
        CalibrationBins(3).update(p, target + 7)
    with pytest.raises(UsageError, match="where"):
        CalibrationBins(3).update(p, target, where=torch.ones(2, dtype=torch.bool))
    with pytest.raises(UsageError, match="at least 1"):
        CalibrationBins(0)
    with pytest.raises(UsageError, match="background 3 is no class"):
        CalibrationBins(3, background=3)
    with pytest.raises(UsageError, match="they are"):
        pixel_calibration_error(torch.zeros(3), torch.zeros(3))


def test_guesses_with_their_confidence_are_enough_for_the_error() -> None:
    logits, target = made(3)
    confidence, guess = logits.softmax(dim=1).max(dim=1)
    where = torch.rand(target.shape, generator=torch.Generator().manual_seed(1)) < 0.8
    whole, short = (CalibrationBins(4, per_class=False, foreground_only=True) for _ in range(2))
    whole.update(logits, target, where=where, from_logits=True)
    short.update_guesses(confidence, guess, target, where=where)
    want, found = whole.compute(), short.compute()
    for name in ("ece", "mce", "rmsce", "accuracy", "confidence"):
        assert getattr(found, name) == pytest.approx(getattr(want, name), abs=1e-6)
    assert found.pixels == want.pixels
    assert math.isnan(found.brier)
    assert math.isnan((whole + short).compute().brier)
    with pytest.raises(UsageError, match="make CalibrationBins with per_class=False"):
        CalibrationBins(4).update_guesses(confidence, guess, target)
    with pytest.raises(UsageError, match=r"confidence must lie in \[0, 1\], not"):
        short.update_guesses(2 * confidence, guess, target)
    with pytest.raises(UsageError, match="differ in shape"):
        short.update_guesses(confidence[:1], guess, target)
    with pytest.raises(UsageError, match="target has labels from 0 to 3; classes are 0 to 2"):
        CalibrationBins(3, per_class=False).update_guesses(confidence, guess, target)


@pytest.mark.parametrize("right", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_value_on_an_edge_belongs_where_it_is_said_to(right: bool, dtype: type) -> None:
    for bins in (1, 7, 10, 15):
        edges = np.array([k / bins for k in range(bins + 1)], dtype=dtype)
        expected = [max(k - 1, 0) if right else min(k, bins - 1) for k in range(bins + 1)]
        assert bin_index(edges, bins, right=right).tolist() == expected
        assert bin_index((edges[1:] + edges[:-1]) / 2, bins, right=right).tolist() == list(range(bins))


def test_bins_closed_on_either_side_by_hand_and_as_the_probes_have_them() -> None:
    confidence = torch.tensor([0.5, 0.6, 0.7, 0.8, 0.9, 1.0], dtype=torch.float64)
    probs, target = torch.stack([confidence, 1 - confidence], 1), torch.tensor([0, 1, 0, 0, 0, 1])
    # (0.8, 0.9] and (0.9, 1] hold one each; in [0.9, 1] one too low and one too high meet
    for right, expected in ((True, 0.5 + 0.6 + 0.3 + 0.2 + 0.1 + 1.0), (False, 0.5 + 0.6 + 0.3 + 0.2 + 0.9)):
        assert pixel_calibration_error(probs, target, bins=10, right=right).ece == pytest.approx(expected / 6)
    generator = np.random.default_rng(0)
    scores, target = generator.normal(size=(200, 3)), generator.integers(0, 3, 200)
    table = PredictionTable(tuple(map(str, range(200))), target, scores, ("x", "y", "z"))
    for right in (True, False):
        measure = probe_error(10, right=right)
        score = pixel_calibration_error(
            torch.from_numpy(scores), torch.from_numpy(target), bins=10, right=right, from_logits=True
        )
        assert score.ece == pytest.approx(float(measure.value(measure.columns(table).sum(axis=0))))
