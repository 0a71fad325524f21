"""The threshold of false alarms: its rank, its guarantee, and that a detector's answers move with it."""

from __future__ import annotations

import pytest
import torch

from binderclip.errors import UsageError
from binderclip.models import ImageTextModel
from binderclip.quality import create_detector, false_alarm_threshold

IMAGES = torch.rand(3, 3, 40, 48, generator=torch.Generator().manual_seed(0))
SETTINGS = {
    "linear": {"view": "resize"}, "panoptic": {"width": 8, "r": 2},
    "deeclip": {"layers": [0, 1, 2], "width": 8, "r": 2}, "noise": {"window": 32, "channels": [4, 4, 4, 4], "stem": 4},
    "aide": {"channels": [4, 4, 4, 4], "window": 16, "stride": 8, "patch_side": 16, "semantic_width": 6, "hidden": 8},
}  # fmt: skip


def test_new_pictures_lie_above_it_as_seldom_as_was_asked() -> None:
    generator = torch.Generator().manual_seed(0)
    above = []
    for _ in range(4000):  # calibration sets of 39; the probability over sets and new pictures is the promise
        values = torch.randn(40, generator=generator)
        above.append(bool(values[-1] > false_alarm_threshold({"": values[:-1]}, share=0.1)))
    share = sum(above) / len(above)
    assert abs(share - 0.1) < 0.015  # exactly 4 / 40 where there are no ties; three standard errors


def test_the_processing_that_looks_generated_most_decides() -> None:
    values = torch.arange(100.0)
    assert false_alarm_threshold({"plain": values, "blurred": values + 30}, share=0.05) == 95 + 30
    assert false_alarm_threshold({"plain": values.flip(0)}, share=0.05) == 95  # the 96th of 100


def test_what_cannot_give_one_is_refused() -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        false_alarm_threshold({"": torch.zeros(9)}, share=0.0)
    with pytest.raises(UsageError, match="needs logits"):
        false_alarm_threshold({})
    with pytest.raises(UsageError, match=r"'plain': 18 real pictures, .* at least 19"):
        false_alarm_threshold({"plain": torch.zeros(18)})
    with pytest.raises(UsageError, match="NaN"):
        false_alarm_threshold({"": torch.full((30,), float("nan"))})


@pytest.mark.parametrize("name", list(SETTINGS))
def test_every_detector_moves_its_threshold_and_nothing_else(name: str, tower: ImageTextModel) -> None:
    torch.manual_seed(0)
    detector = create_detector(name, tower, **SETTINGS[name]).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        before = detector.output(IMAGES).logit
        after = detector.move_threshold_(0.7).output(IMAGES).logit
    assert torch.allclose(before - after, torch.tensor(0.7), atol=1e-5)
