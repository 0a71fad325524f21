"""p168: the sanity check of detectors, against scikit-learn, SciPy and counts by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score, balanced_accuracy_score

from binderclip.errors import UsageError
from binderclip.evaluate import DetectorSanityCheck

GENERATOR = torch.Generator().manual_seed(0)
REAL = torch.randn(40, generator=GENERATOR) - 1.0
SEEN = torch.randn(30, generator=GENERATOR) + 2.0
OTHER = torch.randn(25, generator=GENERATOR) - 0.8


def test_figures_of_every_generator_real_and_fake_apart() -> None:
    check = DetectorSanityCheck(REAL, {"seen": SEEN, "other": OTHER}, seen=["seen"])
    for figures, fake in zip(check.figures, (SEEN, OTHER), strict=True):
        logits = torch.cat([REAL, fake]).numpy()
        truth = np.r_[np.zeros(40), np.ones(len(fake))]
        assert figures.average_precision == pytest.approx(average_precision_score(truth, logits))
        assert figures.real_accuracy == pytest.approx(np.mean(REAL.numpy() <= 0))
        assert figures.fake_accuracy == pytest.approx(np.mean(fake.numpy() > 0))
        best = max(balanced_accuracy_score(truth, logits > cut) for cut in [-9.0, *logits])
        assert figures.oracle_accuracy == pytest.approx(best)
        assert balanced_accuracy_score(truth, logits > figures.oracle_threshold) == pytest.approx(best)
        assert figures.accuracy <= figures.oracle_accuracy
        caught = int((fake > 0).sum())
        wilson = binomtest(caught, len(fake)).proportion_ci(method="wilson")
        assert figures.fake_interval == pytest.approx((wilson.low, wilson.high))
        assert (figures.n_real, figures.n_fake) == (40, len(fake))
    assert [figures.seen for figures in check.figures] == [True, False]
    assert any("other" in text and "not trained" in text for text in check.findings)
    assert not DetectorSanityCheck(REAL, {"seen": SEEN}, seen=["seen"]).findings


@pytest.mark.parametrize(("shift", "side"), [(4.0, "fake"), (-4.0, "real")])
def test_a_threshold_that_leans_to_one_side_is_told(shift: float, side: str) -> None:
    check = DetectorSanityCheck(REAL + shift, {"seen": SEEN + shift}, seen=["seen"])
    (said,) = check.findings
    assert f"leans to {side}" in said
    assert f"a logit of {check.figures[0].oracle_threshold:.2f}" in said
    assert check.figures[0].oracle_threshold == pytest.approx(
        DetectorSanityCheck(REAL, {"seen": SEEN}).figures[0].oracle_threshold + shift, abs=1e-5
    )


def test_a_generator_with_real_pictures_of_its_own_is_compared_with_those() -> None:
    check = DetectorSanityCheck(REAL, {"a": SEEN, "b": SEEN}, own_real={"b": SEEN})
    assert check.figures[0].average_precision > 0.9
    assert check.figures[1].average_precision == pytest.approx(0.5)
    assert check.figures[1].real_accuracy == pytest.approx(1 - check.figures[1].fake_accuracy)


def test_processing_is_a_shortcut_only_beyond_chance() -> None:
    real = -torch.ones(20)
    six, five = real.clone(), real.clone()
    six[:6], five[:5] = 1.0, 1.0
    check = DetectorSanityCheck(real, {"a": -real}, processed={"six": six, "five": five, "none": real})
    # 2 * 0.5^6 = 0.031 and 2 * 0.5^5 = 0.0625
    assert [control.p_value for control in check.controls] == pytest.approx([2 / 64, 2 / 32, 1.0])
    assert [control.shortcut for control in check.controls] == [True, False, False]
    assert (check.controls[0].turned, check.controls[0].back, check.controls[0].after) == (6, 0, 0.3)
    assert sum("takes the processing" in text for text in check.findings) == 1
    # Turned to real, however often, is no shortcut.
    assert not DetectorSanityCheck(-real, {"a": -real}, processed={"x": real}).controls[0].shortcut


def test_a_detector_of_blur_is_found_out_by_processed_pictures() -> None:
    def sharpness(images: torch.Tensor) -> torch.Tensor:
        rough = images.diff(dim=-1).abs().mean((1, 2, 3))
        return torch.stack([rough, 0.15 * torch.ones_like(rough)], 1)

    real = torch.rand(20, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    smooth = torch.nn.functional.avg_pool2d(real, 3, 1, 1)
    check = DetectorSanityCheck.measure(sharpness, real, {"smooth": smooth}, seen=["smooth"])
    assert check.figures[0].accuracy == 1.0
    assert {control.processing for control in check.controls if control.shortcut} >= {"blur 1 px", "half size and back"}
    assert next(c for c in check.controls if c.processing == "JPEG 75").after == 0.0


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match="pictures of each"):
        DetectorSanityCheck(REAL, {"a": REAL[:0]})
    with pytest.raises(UsageError, match="no real pictures to compare 'a'"):
        DetectorSanityCheck(None, {"a": REAL})
    with pytest.raises(UsageError, match="one for one"):
        DetectorSanityCheck(REAL, {"a": SEEN}, processed={"x": REAL[:3]})
    with pytest.raises(UsageError, match="NaN"):
        DetectorSanityCheck(REAL, {"a": SEEN * torch.nan})
