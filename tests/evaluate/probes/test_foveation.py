"""The tests of foveated systems (p122, arXiv 2006.07991): against SciPy, counts, and a classifier that is known."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.evaluate import CueConflict, FoveationProbe, ProbeCurve, high_pass, low_pass, occluded, paste_centre

GREY = 128 / 255


def pictures(side: int = 32) -> Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def brightest_corner(images: Tensor) -> Tensor:
    """Logits: mean brightness of the left half, and of the right half."""
    half = images.shape[-1] // 2
    return torch.stack([images[..., :half].mean((1, 2, 3)), images[..., half:].mean((1, 2, 3))], 1)


@pytest.mark.parametrize("sigma", [0.4, 1.5, 12.0])
def test_low_pass_is_the_filter_of_matlab(sigma: float) -> None:
    images = pictures()
    expected = gaussian_filter(images[1, 2].numpy(), sigma, mode="nearest", radius=math.ceil(2 * sigma))
    torch.testing.assert_close(low_pass(images, sigma)[1, 2], torch.from_numpy(expected))


def test_low_and_high_pass_add_up_to_the_picture_less_the_means() -> None:
    images = pictures() * 0.2 + 0.4
    high = high_pass(images, 2.0, 0.5)
    torch.testing.assert_close(high.mean((2, 3)), torch.full((2, 3), 0.5, dtype=torch.float64))
    total = high + low_pass(images, 2.0) - images
    torch.testing.assert_close(total, total.mean((2, 3), keepdim=True).expand_as(total))
    assert torch.equal(high_pass(images, math.inf, 0.5), images)
    assert torch.equal(low_pass(images, 0.0), images)


def test_stripes_cover_their_part_and_squares_the_next_even_one() -> None:
    images = pictures(64)
    for level in range(1, 18):
        fraction = (level - 1) / 16
        for kind in ("left to right", "top to bottom"):
            grey = (occluded(images, kind, level) == GREY).double().mean()  # type: ignore[arg-type]
            assert float(grey) == pytest.approx(fraction)
        scotoma = (occluded(images, "scotoma", level) == GREY).double().mean()
        side = 2 * math.ceil(math.sqrt(fraction) * 64 / 2 - 1e-9)
        assert float(scotoma) == pytest.approx(side**2 / 64**2)
        kept = (occluded(images, "glaucoma", level) != GREY).double().mean()
        side = 2 * math.ceil(math.sqrt(1 - fraction) * 64 / 2 - 1e-9)
        assert float(kept) == pytest.approx(side**2 / 64**2)
    assert (occluded(images, "scotoma", 5)[..., 31:33, 31:33] == GREY).all()
    assert (occluded(images, "glaucoma", 5)[..., 0, :] == GREY).all()


def test_the_disc_is_of_the_one_and_the_rest_of_the_other() -> None:
    pasted = paste_centre(torch.ones(1, 1, 40, 60), torch.zeros(1, 1, 40, 60), 0.5)
    assert float(pasted.sum()) == pytest.approx(math.pi * 100, rel=0.05)
    assert pasted[0, 0, 20, 30] == 1
    assert pasted[0, 0, 20, 45] == 0
    assert paste_centre(torch.ones(1, 1, 4, 4), torch.zeros(1, 1, 4, 4), 0.0).sum() == 0


def test_a_classifier_of_halves_fails_when_its_half_is_covered() -> None:
    images = torch.zeros(4, 1, 16, 16)
    images[:2, ..., :8], images[2:, ..., 8:] = 1.0, 1.0
    labels = torch.tensor([0, 0, 1, 1])
    curve = FoveationProbe(brightest_corner).occlusion(images, labels, "left to right", levels=3)
    assert curve.accuracy == (1.0, 1.0, 0.5)  # first half grey: 0.5 against 0 or 1; everything grey: one answer
    assert curve.area == pytest.approx((1 + 1) / 4 + (1 + 0.5) / 4)
    assert FoveationProbe(brightest_corner).low_pass(images, labels).accuracy[0] == 1
    assert len(FoveationProbe(brightest_corner).high_pass(images, labels).strengths) == 8


def test_the_first_stage_comes_before_the_manipulation() -> None:
    order: list[str] = []

    def stage(x: Tensor) -> Tensor:
        order.append("stage")
        assert float((x == GREY).sum()) == 0
        return x

    images, labels = torch.rand(2, 1, 8, 8), torch.tensor([0, 1])
    FoveationProbe(brightest_corner, stage).occlusion(images, labels, "scotoma", levels=4)
    assert order == ["stage"]


def test_answers_to_conflicting_cues_and_their_crossing() -> None:
    def answers(images: Tensor) -> Tensor:  # 1 as soon as a third of the picture is white
        bright = images.mean((1, 2, 3))
        return torch.stack([1 / 3 - bright, bright - 1 / 3], 1)

    middle, surround = torch.ones(3, 1, 200, 200), torch.zeros(3, 1, 200, 200)
    classes = torch.zeros(3, dtype=torch.long)
    diameters = tuple(k / 50 for k in range(1, 51))
    conflict = FoveationProbe(answers).cue_conflict(surround, classes, middle, classes + 1, diameters)
    assert conflict.crossing == pytest.approx(math.sqrt(4 / (3 * math.pi)), abs=0.02)
    assert conflict.centre[0] == 0
    assert conflict.centre[-1] == 1
    assert CueConflict((0.2, 0.6), (0.0, 1.0), (1.0, 0.0)).crossing == pytest.approx(0.4)
    assert CueConflict((0.2, 0.6), (0.0, 0.1), (1.0, 0.9)).crossing == 0.6
    assert CueConflict((0.2, 0.6), (1.0, 1.0), (0.0, 0.0)).crossing == 0.2
    assert ProbeCurve((1.0,), (0.7,)).area == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: low_pass(pictures(), math.nan), "sigma"),
        (lambda: high_pass(pictures(), 0.0, 0.5), "sigma"),
        (lambda: occluded(pictures(), "hole", 1), "kind must be one of"),  # type: ignore[arg-type]
        (lambda: occluded(pictures(), "scotoma", 18), "level must be"),
        (lambda: paste_centre(pictures(), pictures(16), 0.5), "one shape"),
        (lambda: paste_centre(pictures(), pictures(), -1.0), "diameter"),
        (lambda: FoveationProbe(brightest_corner, batch=0), "batch"),
        (lambda: FoveationProbe(brightest_corner).low_pass(pictures()[:0], torch.zeros(0).long()), "0 pictures"),
        (
            lambda: FoveationProbe(brightest_corner).cue_conflict(
                pictures(), torch.tensor([0, 1]), pictures(), torch.tensor([1, 1])
            ),
            "another class",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(call: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()  # type: ignore[operator]
