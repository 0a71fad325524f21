"""Figures of imbalance (p095, arXiv 2405.21070): SciPy, scikit-learn, simplices, a loop over classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import confusion_matrix, recall_score

from binderclip.errors import UsageError
from binderclip.evaluate import imbalance_report, neural_collapse


def answers(seed: int, samples: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A balanced test set of seven classes, answers that lean to frequent ones, and the frequencies."""
    draws = np.random.default_rng(seed)
    freq = np.array([400, 7, 90, 30, 2, 12, 150])
    truth = np.repeat(np.arange(7), samples)
    guess = draws.choice(7, len(truth), p=np.sqrt(freq) / np.sqrt(freq).sum())
    return truth, np.where(draws.random(len(truth)) < 0.5, truth, guess), freq


def test_correlations_are_scipys_of_scikit_learns_recalls_and_counts() -> None:
    truth, guess, freq = answers(0, 40)
    report = imbalance_report(confusion_matrix(truth, guess), freq)
    recalls = recall_score(truth, guess, average=None)
    counts = np.bincount(guess, minlength=7)
    np.testing.assert_allclose(report.accuracy, recalls)
    np.testing.assert_allclose(report.predicted, counts / len(guess))
    assert report.accuracy_correlation == pytest.approx(spearmanr(freq, recalls).statistic)
    assert report.prediction_correlation == pytest.approx(spearmanr(freq, counts).statistic)
    assert report.prediction_correlation > 0.8
    assert report.mean_accuracy == pytest.approx(recalls.mean())
    assert (report.head, report.median, report.tail) == pytest.approx(
        (recalls[[0, 6, 2]].mean(), recalls[[3, 5]].mean(), recalls[[1, 4]].mean())
    )


def test_an_unbalanced_test_set_changes_nothing() -> None:
    truth, guess, freq = answers(1, 40)
    confusion = confusion_matrix(truth, guess)
    balanced = imbalance_report(confusion, freq)
    unbalanced = imbalance_report(confusion * np.array([[9], [1], [4], [1], [1], [2], [30]]), freq)
    np.testing.assert_allclose(unbalanced.predicted, balanced.predicted)
    assert unbalanced.prediction_correlation == balanced.prediction_correlation
    assert unbalanced.tail == balanced.tail


def test_classes_without_samples_count_as_answers_only() -> None:
    confusion = np.array([[2, 2, 0], [0, 4, 0], [0, 0, 0]])
    report = imbalance_report(confusion, np.array([5, 9, 1]))
    assert np.isnan(report.accuracy[2])
    np.testing.assert_allclose(report.predicted, [0.25, 0.75, 0])
    assert report.mean_accuracy == 0.75
    assert np.isnan(report.tail)
    assert report.accuracy_correlation == pytest.approx(1.0)


def test_a_perfect_classifier_follows_nothing() -> None:
    report = imbalance_report(np.eye(5) * 3, np.arange(5))
    assert (report.accuracy_correlation, report.prediction_correlation, report.tail) == (0, 0, 1)


def simplex(classes: int, dim: int, seed: int) -> torch.Tensor:
    """Corners of a regular simplex, turned, moved and scaled."""
    generator = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64)).Q
    corners = torch.eye(classes, dim, dtype=torch.float64) - 1 / classes * (torch.arange(dim) < classes)
    return 3 * corners @ turn


def test_at_the_corners_of_a_simplex_all_is_collapsed() -> None:
    corners = simplex(6, 8, 0)
    features = (corners + torch.arange(8)).repeat(4, 1)
    found = neural_collapse(features, torch.arange(24) % 6, head=2 * corners)
    assert found.head is not None
    assert found.head_most is not None
    for value in (found.within, found.means, found.means_most, found.head, found.head_most):
        assert value.shape == (6,)
        assert float(value.abs().max()) < 1e-9


def test_it_is_the_loop_over_classes_with_full_covariances() -> None:
    generator = torch.Generator().manual_seed(3)
    labels = torch.cat([torch.arange(5), torch.randint(5, (60,), generator=generator)])
    features = torch.randn(65, 7, generator=generator, dtype=torch.float64) + 2 * labels[:, None]
    head = torch.randn(5, 7, generator=generator, dtype=torch.float64)
    found = neural_collapse(features, labels, head)
    means = np.stack([features[labels == c].numpy().mean(0) for c in range(5)])
    centred = means - means.mean(0)
    between = np.linalg.pinv(sum(np.outer(row, row) for row in centred) / 5)
    for c in range(5):
        own = features[labels == c].numpy() - means[c]
        assert float(found.within[c]) == pytest.approx(np.trace(own.T @ own / 65 @ between), rel=1e-9)
        for rows, mean, most in ((centred, found.means, found.means_most), (head.numpy(), found.head, found.head_most)):
            assert mean is not None
            assert most is not None
            lengths = np.linalg.norm(rows, axis=1)
            away = [abs(rows[c] @ rows[k] / lengths[c] / lengths[k] + 1 / 4) for k in range(5) if k != c]
            assert float(mean[c]) == pytest.approx(np.mean(away))
            assert float(most[c]) == pytest.approx(max(away))


def test_mistakes_are_named() -> None:
    for confusion, freq, message in [
        (np.ones((2, 2)), np.ones(2), "C from 3"),
        (np.ones((3, 4)), np.ones(3), r"got \(3, 4\)"),
        (np.ones((3, 3)), np.ones(4), r"\(4,\)"),
        (-np.ones((3, 3)), np.ones(3), "from 0"),
        (np.ones((3, 3)), np.array([1, np.nan, 1]), "finite"),
        (np.zeros((3, 3)), np.ones(3), "no sample"),
    ]:
        with pytest.raises(UsageError, match=message):
            imbalance_report(confusion, freq)
    x, y = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    for features, labels, head, message in [
        (x[:3], y, None, "got 3 and 6"),
        (x * torch.nan, y, None, "finite"),
        (x, y * 0, None, "two classes"),
        (x, y, torch.randn(2, 4), "between 0 and 1"),
        (x, y, torch.randn(4, 4), "class 3 has no sample"),
        (x, y, torch.randn(3, 2), r"\(C, 4\)"),
        (x, y - 1, None, "between 0"),
    ]:
        with pytest.raises(UsageError, match=message):
            neural_collapse(features, labels, head)
