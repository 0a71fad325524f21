"""The gap against the batch size (p160, arXiv 2111.10050): torch's cross-entropy, planted gaps, mistakes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import linregress, ttest_1samp
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.evaluate import TrainedPairs, batch_size_generalization, normalized_contrastive_loss


def test_it_is_the_cross_entropy_of_both_directions_less_the_logarithm_of_the_batch() -> None:
    image, text = torch.randn(2, 24, 6, generator=torch.Generator().manual_seed(0))
    logits = 7 * F.normalize(image, dim=1) @ F.normalize(text, dim=1).T
    truth = torch.arange(24)
    both = (F.cross_entropy(logits, truth) + F.cross_entropy(logits.T, truth)) / 2
    found = normalized_contrastive_loss(image, text, 7.0, batch=24, draws=3)
    assert found == pytest.approx(float(both) - math.log(24), abs=1e-5)


def test_features_that_say_nothing_have_zero_at_every_batch_size() -> None:
    same = torch.ones(64, 4)
    for batch in (2, 8, 64):
        assert normalized_contrastive_loss(same, same, 10.0, batch=batch) == pytest.approx(0, abs=1e-5)


def test_it_hardly_depends_on_the_batch_where_the_mean_over_pairs_is_dense() -> None:
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(4096, 8, generator=generator)
    text = image + torch.randn(4096, 8, generator=generator)
    found = [normalized_contrastive_loss(image, text, 3.0, batch=batch, draws=2) for batch in (128, 512, 2048)]
    assert max(found) - min(found) < 0.05
    assert math.log(2048 / 128) > 2  # which the plain loss would differ by


def planted(power: float) -> Any:
    """Pairs whose loss is c on training pairs and c + size^power on unseen ones, up to a factor of the seed.

    Orthogonal texts and pictures that lie on their own text at an angle: the loss is a function of one cosine.
    """

    def at(loss: float) -> torch.Tensor:
        # loss + ln n = log(1 + (n - 1) exp(-s cos)) with cosine 0 to all other texts
        n, scale = 16, 20.0
        cosine = -math.log(math.expm1(loss + math.log(n)) / (n - 1)) / scale
        eye = torch.eye(2 * n, dtype=torch.float64)
        return cosine * eye[:n] + math.sqrt(1 - cosine**2) * eye[n:]

    def train(size: int, seed: int) -> TrainedPairs:
        text = torch.eye(16, 32, dtype=torch.float64)
        gap = (1 + 0.1 * seed) * size**power
        return TrainedPairs(at(-2.5), text, at(-2.5 + gap), text, 20.0)

    return train


@pytest.mark.parametrize("power", [-0.5, -0.25, 0.1])
def test_a_planted_gap_has_its_slope(power: float) -> None:
    curve = batch_size_generalization(planted(power), [32, 64, 128, 256], seeds=(0, 1, 2), eval_batch=16, draws=1)
    wanted = np.outer([1.0, 1.1, 1.2], np.array([32, 64, 128, 256.0]) ** power)
    # both directions: rows have the planted loss, columns the same, as the matrix is symmetric
    np.testing.assert_allclose(curve.gap, wanted, rtol=1e-4)
    assert curve.slope == pytest.approx(power, abs=1e-3)


def test_intervals_are_scipys() -> None:
    generator = np.random.default_rng(0)
    noise = 1 + 0.2 * generator.random((4, 3))

    def train(size: int, seed: int) -> TrainedPairs:
        text = torch.eye(8, 16)
        wobble = float(noise[seed, [8, 32, 128].index(size)])
        unseen = torch.eye(8, 16) + wobble * size**-0.5 * torch.eye(16)[8:]
        return TrainedPairs(text, text, unseen, text, 5.0)

    curve = batch_size_generalization(train, [8, 32, 128], seeds=range(4), eval_batch=8)
    slopes = [linregress(np.log([8, 32, 128]), np.log(row)).slope for row in curve.gap]
    interval = ttest_1samp(slopes, 0).confidence_interval(0.95)
    assert curve.slope == pytest.approx(np.mean(slopes))
    assert curve.interval == pytest.approx((interval.low, interval.high))
    single = batch_size_generalization(train, [8, 32, 128], seeds=[0], eval_batch=8)
    assert single.interval[0] < single.slope < single.interval[1]


def test_a_gap_that_is_none_has_no_slope() -> None:
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    curve = batch_size_generalization(lambda size, seed: TrainedPairs(x, x, x, x, 5.0), [2, 4], eval_batch=8)
    assert np.isnan(curve.slope)
    assert not curve.gap.any()


def test_mistakes_are_named() -> None:
    x = torch.randn(8, 4)
    for options in ({"batch": 9}, {"batch": 1}, {"draws": 0, "batch": 4}):
        with pytest.raises(UsageError, match="pairs for a batch from 2"):
            normalized_contrastive_loss(x, x, 5.0, **options)
    for sizes, seeds in (([4], [0]), ([4, 4], [0]), ([1, 4], [0]), ([4, 2], [0]), ([2, 4], [])):
        with pytest.raises(UsageError, match="sizes rise from 2"):
            batch_size_generalization(planted(-0.5), sizes, seeds=seeds)
