"""Backlit scenes: the model of light, sets that share no scene, the signal-to-noise ratio."""

from __future__ import annotations

import pytest
import torch

from binderclip.studies.protocols.data.backlit_scenes import (
    BRIGHT,
    DARK,
    GAMMA,
    LIGHT,
    SIDE,
    TEST,
    backlit_scenes,
    equalised,
    psnr,
)


def test_objects_have_little_light_and_the_ground_has_all_of_it() -> None:
    data = backlit_scenes(900)
    assert data.dark.shape == (DARK, 3, SIDE, SIDE)
    assert data.bright.shape == (BRIGHT, 3, SIDE, SIDE)
    assert data.test.shape == data.original.shape == (TEST, 3, SIDE, SIDE)
    assert torch.equal(data.test, backlit_scenes(900).test)
    assert not torch.equal(data.test, backlit_scenes(901).test)
    outside = ~data.shaded[:, None].expand_as(data.test)
    assert float((data.test - data.original)[outside].abs().max()) <= 0.05 + 1e-6
    # Inside objects, away from their edges, display values fall by the light's share to the power of 1 / 2.2.
    clear = data.original.amin(1, keepdim=True) > 0.4
    ratio = (data.test / data.original)[(clear & data.shaded[:, None]).expand_as(data.test)]
    low, high = (share ** (1 / GAMMA) for share in LIGHT)
    assert low - 0.01 < float(ratio.min()) < high
    assert 0.05 < float(data.shaded.float().mean()) < 0.5


def test_the_ratio_is_that_of_the_whole_or_of_the_shaded_part() -> None:
    data = backlit_scenes(900)
    assert psnr(data.original + 0.1, data) == pytest.approx(20, abs=1e-3)
    wrong = data.original + 0.1 * data.shaded[:, None]
    assert psnr(wrong, data, shaded=True) == pytest.approx(20, abs=1e-3)
    assert psnr(wrong, data) > 23
    assert equalised(data.test[:2]).shape == (2, 3, SIDE, SIDE)
