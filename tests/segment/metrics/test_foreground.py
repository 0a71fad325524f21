"""Measures of foreground maps, against PySODMetrics and against words written out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from binderclip.errors import UsageError
from binderclip.segment.metrics.foreground import (
    e_measure,
    foreground_scores,
    mean_absolute_error,
    s_measure,
    weighted_f,
)


def pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    """Eight-bit maps of all kinds, with 0 and 255 in them, and masks."""
    rng = np.random.default_rng(0)
    found = []
    for sigma in (2, 5, 9):
        mask = ndimage.gaussian_filter(rng.random((40, 56)), sigma) > 0.5
        soft = np.clip(ndimage.gaussian_filter(mask.astype(float), 2) + rng.normal(0, 0.1, mask.shape), 0, 1)
        soft = (soft - soft.min()) / np.ptp(soft)
        found += [((soft * 255).round() / 255, mask), ((soft > 0.6).astype(float), mask)]
        found.append(((rng.permutation(soft.ravel()).reshape(mask.shape) * 255).round() / 255, mask))
    return found


@pytest.mark.parametrize("number", range(9))
def test_they_are_pysodmetrics(number):
    sod = pytest.importorskip("py_sod_metrics")
    probs, mask = pairs()[number]
    given = (probs * 255).round().astype(np.uint8), mask.astype(np.uint8) * 255
    theirs = {"S": sod.Smeasure(), "E": sod.Emeasure(), "Fw": sod.WeightedFmeasure(), "MAE": sod.MAE()}
    for measure in theirs.values():
        measure.step(*given)
    results = {name: measure.get_results() for name, measure in theirs.items()}
    ours = foreground_scores(probs, mask)
    assert ours["S"] == pytest.approx(results["S"]["sm"], abs=1e-6)
    assert ours["E"] == pytest.approx(results["E"]["em"]["curve"].mean(), abs=1e-6)
    assert ours["Fw"] == pytest.approx(results["Fw"]["wfm"], abs=1e-6)
    assert ours["MAE"] == pytest.approx(results["MAE"]["mae"], abs=1e-6)


def test_alignment_written_out():
    probs, mask = pairs()[0]
    values = []
    for threshold in range(256):
        binary = (probs * 255).astype(np.uint8) >= threshold
        a, b = binary - binary.mean(), mask - mask.mean()
        values.append(((2 * a * b / (a * a + b * b + 1e-16) + 1) ** 2 / 4).sum() / (mask.size - 1))
    assert e_measure(probs, mask) == pytest.approx(np.mean(values), abs=1e-9)


def test_limits():
    _, mask = pairs()[3]
    perfect = foreground_scores(mask, mask)
    assert perfect["S"] == pytest.approx(1)
    assert perfect["Fw"] == pytest.approx(1)
    assert perfect["MAE"] == 0
    # at threshold 0 everything is foreground: its alignment is 0 where the mean is not, so a quarter
    assert perfect["E"] == pytest.approx((255 * mask.size + mask.size / 4) / 256 / (mask.size - 1), rel=1e-6)
    wrong = foreground_scores(~mask, mask)
    assert wrong["MAE"] == 1
    assert wrong["Fw"] < 0.1  # smoothing at the border of the picture is all that is forgiven
    assert wrong["S"] < 0.2
    nothing = np.zeros_like(mask)
    assert s_measure(nothing, nothing) == 1
    assert s_measure(nothing + 0.25, nothing) == 0.75
    assert weighted_f(nothing, nothing) == 0
    assert mean_absolute_error(nothing + 0.25, mask) == pytest.approx(np.where(mask, 0.75, 0.25).mean())


def test_an_error_far_away_is_worse():
    mask = np.zeros((40, 60), dtype=bool)
    mask[15:25, 5:20] = True
    near, far = mask.copy(), mask.copy()
    near[15:18, 20:23] = far[15:18, 50:53] = True
    assert weighted_f(near, mask) > weighted_f(far, mask) + 0.01


def test_mistakes_are_named():
    mask = np.zeros((4, 5), dtype=bool)
    for wrong in (mask[1:], mask[None], mask + 2.0, np.full((4, 5), np.nan)):
        with pytest.raises(UsageError):
            foreground_scores(wrong, mask)
