"""PAMR (used by ITACLIP, p170) against loops over pixels, and its limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from binderclip.errors import UsageError
from binderclip.segment import PAMR, PRESETS, Segmenter, override, pamr, parts_of
from binderclip.segment.parts.context import Frame
from binderclip.segment.refine.pamr import neighbour_weights

LABELS = ["a cat", "a dog", "green grass"]


def noise(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*size, generator=torch.Generator().manual_seed(seed))


def by_hand(guide: np.ndarray, scores: np.ndarray, steps: int, dilations: tuple[int, ...]) -> np.ndarray:
    """Pixel by pixel, in double precision."""
    _, height, width = guide.shape

    def at(row: int, column: int) -> tuple[int, int]:
        return min(max(row, 0), height - 1), min(max(column, 0), width - 1)

    for _ in range(steps):
        out = np.zeros_like(scores)
        for y in range(height):
            for x in range(width):
                places, ring = [], []
                for d in dilations:
                    for dy in (-d, 0, d):
                        for dx in (-d, 0, d):
                            places.append(at(y + dy, x + dx))
                            ring.append(bool(dy or dx))
                values = np.array([guide[:, row, column] for row, column in places])
                spread = values.std(axis=0, ddof=1)
                unlike = np.abs(values - guide[:, y, x]) / (1e-8 + 0.1 * spread)
                weight = np.exp(-unlike.mean(axis=1)) * np.array(ring)
                for share, (row, column) in zip(weight / weight.sum(), places, strict=True):
                    out[:, y, x] += share * scores[:, row, column]
        scores = out
    return scores


@pytest.mark.parametrize(("steps", "dilations"), [(1, (1,)), (3, (1, 2)), (2, (3, 8))])
def test_it_is_the_loop_over_pixels(steps: int, dilations: tuple[int, ...]) -> None:
    guide, scores = noise(3, 7, 9), noise(2, 7, 9, seed=1)
    want = by_hand(guide.double().numpy(), scores.double().numpy(), steps, dilations)
    found = pamr(guide, scores, steps=steps, dilations=dilations)
    np.testing.assert_allclose(found.numpy(), want, rtol=1e-4, atol=1e-5)
    weights = neighbour_weights(guide, dilations)
    assert weights.shape == (8 * len(dilations), 7, 9)
    torch.testing.assert_close(weights.sum(0), torch.ones(7, 9))
    # Offset and scale of a channel are of no account, so neither is the model's normalisation.
    other = guide * torch.tensor([2.0, 5.0, 0.5])[:, None, None] - 0.3
    torch.testing.assert_close(pamr(other, scores, steps=steps, dilations=dilations), found, rtol=1e-4, atol=1e-5)


def test_a_plain_picture_smooths_evenly_and_an_edge_holds() -> None:
    scores = noise(1, 12, 12, seed=2)
    flat = pamr(torch.full((3, 12, 12), 0.4), scores, steps=1, dilations=(2,))
    wide = F.pad(scores[None], [2] * 4, mode="replicate")
    box = F.conv2d(wide, torch.ones(1, 1, 3, 3), dilation=2)
    torch.testing.assert_close(flat, (box[0] - scores) / 8, rtol=1e-4, atol=1e-5)
    halves = torch.zeros(3, 12, 12)
    halves[:, :, 6:] = 1
    step = torch.zeros(1, 12, 12)
    step[:, :, 6:] = 1
    kept = pamr(halves, step, steps=10, dilations=(1, 2))
    assert (kept[..., :6] < 1e-3).all()
    assert (kept[..., 6:] > 1 - 1e-3).all()
    blurred = pamr(torch.zeros(3, 12, 12), step, steps=10, dilations=(1, 2))
    assert float(blurred[0, 6, 5]) > 0.3
    # What lies on the wrong side of the edge is taken over by its side.
    stray = step.clone()
    stray[:, 4:6, 4:6] = 1
    assert float(pamr(halves, stray, steps=10, dilations=(1, 2))[0, 5, 4]) < 0.5


def test_scores_are_enlarged_corner_to_corner_and_large_pictures_at_a_bound() -> None:
    ramp = torch.tensor([[0.0, 3.0]])[None]
    wide = pamr(torch.zeros(3, 1, 4), ramp, steps=1, dilations=(1,))[0, 0]
    # 0 1 2 3, then the mean of three copies above, three below and both sides.
    torch.testing.assert_close(wide, torch.tensor([3.0, 8.0, 16.0, 21.0]) / 8)
    image = noise(1, 3, 30, 60)
    frame = Frame(None, image, image)
    assert PAMR(steps=1, dilations=(1,))(image, noise(2, 5, 9), frame).shape == (2, 30, 60)
    small = PAMR(steps=1, dilations=(1,), longest=20)(image, noise(2, 5, 9), frame)
    assert small.shape == (2, 10, 20)


@pytest.mark.parametrize("preset", ["value", "clearclip", "cliptrase", "cliper"])
def test_any_preset_takes_it_before_its_rule(clip_model, preset: str) -> None:
    image = noise(3, 36, 48)
    assert preset in PRESETS
    parts = override(parts_of(preset), [(("refine",), "pamr"), (("refine", "0", "steps"), 2)])
    assert parts.refine == (PAMR(steps=2),)
    rough = Segmenter(clip_model, preset, size=32, refine=lambda picture, logits, frame: logits)(image, LABELS)
    fine = Segmenter(clip_model, preset, size=32, refine=PAMR(2))(image, LABELS)
    assert fine.scores.shape == (3, 36, 48)
    assert rough.scores.shape[1:] != (36, 48)
    if preset in ("value", "clearclip"):
        # The rule only scales cosines here, so that refinement before it and after it are the same.
        after = Segmenter(clip_model, preset, size=32, refine=lambda *given: PAMR(2)(*given))(image, LABELS)
        torch.testing.assert_close(fine.scores, after.scores, rtol=1e-4, atol=1e-4)


def test_bad_settings_are_named() -> None:
    for settings in ({"steps": 0}, {"dilations": ()}, {"dilations": (0, 8)}):
        with pytest.raises(UsageError, match="must be at least 1"):
            PAMR(**settings)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="longest must be"):
        PAMR(longest=0)


def test_scores_of_many_words_do_not_touch_each_other() -> None:
    generator = torch.Generator().manual_seed(0)
    guide, scores = torch.rand(3, 20, 24, generator=generator), torch.randn(11, 5, 6, generator=generator)
    alone = torch.cat([pamr(guide, each[None], steps=2, dilations=(1, 3)) for each in scores])
    torch.testing.assert_close(pamr(guide, scores, steps=2, dilations=(1, 3)), alone)
