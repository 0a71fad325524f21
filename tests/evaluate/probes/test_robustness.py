"""The axes of p034 (arXiv 2410.01534): each against another library, a brute force or a case known by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score
from torchmetrics.functional.classification import multiclass_calibration_error

from binderclip.errors import UsageError
from binderclip.evaluate import (
    PredictionTable,
    RobustnessSuite,
    expected_calibration_error,
    factor_error_ratio,
    negative_log_likelihood,
    ood_detection,
    ood_scores,
    shape_bias,
    table_temperature,
)

CLASSES = ("ant", "bee", "cat")


def table(n: int = 300, seed: int = 0, heat: float = 1.0, **attributes: tuple[object, ...]) -> PredictionTable:
    """Predictions that are calibrated at a temperature of `heat`."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(n, 3))
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    target = (probs.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    keys = tuple(f"{seed}/{row}" for row in range(n))
    return PredictionTable(keys, target, heat * logits, CLASSES, attributes)  # type: ignore[arg-type]


def answers(right: list[bool], **attributes: tuple[object, ...]) -> PredictionTable:
    scores = np.array([[1.0, 0.0, 0.0] if one else [0.0, 1.0, 0.0] for one in right])
    keys = tuple(map(str, range(len(right))))
    return PredictionTable(keys, np.zeros(len(right), int), scores, CLASSES, attributes)  # type: ignore[arg-type]


def test_error_ratios_by_hand() -> None:
    right = [True, True, False, False, True, True, True, False, True, True]  # 3 of 10 wrong
    found = factor_error_ratio(
        answers(right, blurred=(True, True, True, True, *[False] * 6), all=(True,) * 10, rare=(False,) * 9 + (None,)),
        ["blurred", "all", "rare"],
    )
    assert found["blurred"].ratio == pytest.approx((2 / 4) / (3 / 10))
    assert (found["blurred"].accuracy, found["blurred"].n) == (0.5, 4)
    assert found["blurred"].low < found["blurred"].ratio < found["blurred"].high
    assert found["all"].ratio == 1
    assert np.isnan(found["rare"].ratio)
    assert found["rare"].n == 0
    assert np.isnan(factor_error_ratio(answers([True] * 4, f=(True, False, True, False)), ["f"])["f"].ratio)


def test_the_interval_of_an_error_ratio_covers_the_truth() -> None:
    covered = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        has = rng.random(400) < 0.4
        right = rng.random(400) > np.where(has, 0.4, 0.2)  # 0.4 over 0.28
        one = factor_error_ratio(answers(right.tolist(), f=tuple(has.tolist())), ["f"], draws=300)["f"]
        covered += one.low < 0.4 / 0.28 < one.high
    assert covered >= 51, "of 60 intervals of 95 %, fewer than 51 would cover once in a thousand"


def test_shape_bias_by_hand_and_other_answers_do_not_count() -> None:
    scores = np.eye(3)[[0, 0, 1, 2, 2, 1]]
    held = PredictionTable(
        tuple("abcdef"), np.full(6, -1), scores, CLASSES,
        {"shape": ("ant", "ant", "ant", "bee", "ant", None), "texture": ("bee", "cat", "bee", "cat", "bee", "bee")},
    )  # fmt: skip
    found = shape_bias(held)
    # shape, shape, texture, texture, neither; the last has no shape
    assert (found.bias, found.decided, found.n) == (0.5, 0.8, 5)
    assert found.low < 0.5 < found.high
    same = replace(held, attributes={"shape": ("ant",) * 6, "texture": ("ant",) * 6})
    with pytest.raises(UsageError, match="different classes"):
        shape_bias(same)
    with pytest.raises(UsageError, match="no class 'dog'"):
        shape_bias(replace(held, attributes={"shape": ("dog",) * 6, "texture": ("ant",) * 6}))


def test_calibration_is_torchmetrics_and_the_likelihood_scikit_learns() -> None:
    held = table(heat=2.5)
    for heat in (1.0, 2.5):
        probs = torch.from_numpy(held.probabilities(heat))
        wanted = multiclass_calibration_error(probs, torch.from_numpy(held.target), 3, n_bins=15, norm="l1")
        assert expected_calibration_error(held, temperature=heat) == pytest.approx(float(wanted), abs=1e-6)
        assert negative_log_likelihood(held, temperature=heat) == pytest.approx(log_loss(held.target, probs.numpy()))
    assert expected_calibration_error(held) > 2 * expected_calibration_error(held, temperature=2.5)


def test_the_temperature_is_the_factor_of_the_logits_and_never_less_likely_than_one() -> None:
    held = table(5000)
    assert table_temperature(held) == pytest.approx(1, abs=0.06)
    for factor in (0.3, 4.0):
        scaled = replace(held, scores=factor * held.scores)
        assert table_temperature(scaled) == pytest.approx(factor * table_temperature(held), rel=1e-3)
    for seed in range(5):
        one = table(40, seed=seed, heat=3.0)
        best = table_temperature(one)
        assert negative_log_likelihood(one, temperature=best) <= negative_log_likelihood(one) + 1e-9
        for near in (0.9, 1.1):
            assert negative_log_likelihood(one, temperature=near * best) > negative_log_likelihood(
                one, temperature=best
            )
    blank = replace(held, target=np.full(5000, -1))
    with pytest.raises(UsageError, match="nothing to fit"):
        table_temperature(blank)


def test_detection_is_scikit_learns_area_and_the_brute_force_threshold() -> None:
    rng = np.random.default_rng(1)
    known, unknown = rng.normal(1, 1, 200).round(1), rng.normal(0, 1, 150).round(1)
    found = ood_detection(known, unknown)
    labels = np.repeat([1, 0], [200, 150])
    assert found.auroc == pytest.approx(roc_auc_score(labels, np.concatenate([known, unknown])))
    passing = [cut for cut in np.unique(known) if (known >= cut).mean() >= 0.95]
    assert found.fpr95 == pytest.approx((unknown >= max(passing)).mean())
    logits = torch.tensor(known, requires_grad=True)  # as a model gives them
    assert ood_detection(logits, torch.tensor(unknown)) == found
    assert ood_detection(known, known - 100).fpr95 == 0
    assert ood_detection(known, known + 100).auroc == 0
    with pytest.raises(UsageError, match="finite"):
        ood_detection(known, np.array([np.nan]))


def test_scores_by_hand() -> None:
    held = PredictionTable(("a",), np.array([0]), np.array([[2.0, 1.0, 0.0]]), CLASSES)
    p = np.exp([2.0, 1.0, 0.0])
    assert ood_scores(held)[0] == pytest.approx(p[0] / p.sum())
    assert ood_scores(held, "max_logit")[0] == 2.0
    assert ood_scores(held, "energy")[0] == pytest.approx(np.log(p.sum()))
    half = np.exp([1.0, 0.5, 0.0])
    assert ood_scores(held, temperature=2.0)[0] == pytest.approx(half[0] / half.sum())
    assert ood_scores(held, "energy", temperature=2.0)[0] == pytest.approx(2 * np.log(half.sum()))
    with pytest.raises(UsageError, match="'msp'"):
        ood_scores(held, "odin")  # type: ignore[arg-type]


def test_the_suite_says_what_its_parts_say() -> None:
    test = table(seed=1, heat=3.0, small=tuple(row % 2 == 0 for row in range(300)))
    fogged = replace(table(seed=2, heat=3.0), scores=0.2 * table(seed=2, heat=3.0).scores[:, ::-1])
    far, validation = table(seed=3, heat=0.3), table(seed=4, heat=3.0)
    cues = replace(far, attributes={"shape": ("ant",) * 300, "texture": ("bee",) * 300})
    suite = RobustnessSuite(validation, test, {"fog": fogged}, {"far": far}, cues, ["small"])
    found = suite.report(draws=200)
    assert found.temperature == pytest.approx(3, rel=0.2)
    assert found.accuracy == {"test": test.correct.mean(), "fog": fogged.correct.mean()}
    assert found.drop["fog"] == pytest.approx(1 - fogged.correct.mean() / test.correct.mean())
    before, after = found.ece["test"]
    assert after < before
    assert before == expected_calibration_error(test)
    assert found.nll["test"][1] < found.nll["test"][0]
    assert found.unknown["far"]["energy"].auroc > 0.6, "smaller logits, less energy"
    assert found.factors["small"].n == 150
    assert found.shape == shape_bias(cues)
    assert ("relative drop", "fog", found.drop["fog"]) in found.rows()
    assert "shape bias" in found._repr_html_()
    with pytest.raises(UsageError, match="flatters itself"):
        RobustnessSuite(test, test)
    with pytest.raises(UsageError, match="same classes"):
        RobustnessSuite(validation, test.with_classes(CLASSES[:2]))
    with pytest.raises(UsageError, match="true or false"):
        factor_error_ratio(replace(test, attributes={"size": (1.0,) * 300}), ["size"])


def test_pictures_that_are_all_wrong_give_a_ratio_without_a_made_up_interval() -> None:
    found = factor_error_ratio(answers([False, False] + [True] * 8 + [False], f=(True,) * 2 + (False,) * 9), ["f"])["f"]
    assert found.ratio == pytest.approx(11 / 3)
    assert np.isnan([found.low, found.high]).all()


def test_logits_and_targets_do_for_a_table() -> None:
    # Two bins of width 0.5: confidences 0.9 and 0.8, one of two right; 0.45 and 0.4, both right.
    probability = np.array([[0.9, 0.05, 0.05], [0.8, 0.1, 0.1], [0.3, 0.45, 0.25], [0.3, 0.3, 0.4]])
    target = torch.tensor([0, 1, 1, 2], dtype=torch.uint8)
    logits = torch.from_numpy(np.log(probability)) + 3
    by_hand = 0.5 * abs(0.5 - 0.85) + 0.5 * abs(1 - 0.425)
    assert expected_calibration_error(logits, target, bins=2) == pytest.approx(by_hand)
    assert expected_calibration_error(logits.numpy(), target.numpy(), bins=2) == pytest.approx(by_hand)
    likelihood = -np.log(probability[np.arange(4), target]).mean()
    assert negative_log_likelihood(logits.requires_grad_(), target) == pytest.approx(likelihood)
    with pytest.raises(UsageError, match=r"probabilities .* not logits: give their logarithms"):
        expected_calibration_error(probability, target)
    with pytest.raises(UsageError, match=r"target must be whole numbers, \(4,\); got int64 \(\)"):
        expected_calibration_error(logits, torch.tensor(1))
