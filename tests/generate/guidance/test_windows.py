"""Joint windows and their synchronisation (p048, arXiv 2306.05178): on a Gaussian, whose x0 is linear in the state."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.generate import (
    ClassifierFreeGuidance,
    ConditionalDenoiser,
    GaussianDenoiser,
    JointWindows,
    NoiseSchedule,
    StepContext,
    SyncGuidance,
    sample,
)

SCHEDULE = NoiseSchedule.linear()


def gaussian(seed: int) -> GaussianDenoiser:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(16, 16, generator=generator, dtype=torch.float64)
    return GaussianDenoiser(
        torch.randn(1, 4, 4, generator=generator, dtype=torch.float64), root @ root.T / 16, SCHEDULE
    )


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def half_squared(x: Tensor, anchor: Tensor) -> Tensor:
    return 0.5 * (x - anchor).square().flatten(1).sum(1)


def at(x: Tensor, i: int = 0) -> StepContext:
    return StepContext(gaussian(0), x, t=400, target=200, i=i, n=5, condition=None)


def test_windows_are_those_of_a_count_by_hand_and_cover_every_pixel() -> None:
    windows, canvas = JointWindows((6, 10), window=4, stride=2), drawn(1, 6, 10)
    corners = [(top, left) for top in (0, 2) for left in (0, 2, 4, 6)]
    expected = torch.stack([canvas[:, top : top + 4, left : left + 4] for top, left in corners])
    assert torch.equal(windows.split(canvas), expected)
    torch.testing.assert_close(windows.merge(expected), canvas)
    assert len(windows) == 8
    value, count = torch.zeros(1, 6, 10, dtype=torch.float64), torch.zeros(6, 10)
    changed = drawn(8, 1, 4, 4, seed=3)
    for window, (top, left) in zip(changed, corners, strict=True):
        value[:, top : top + 4, left : left + 4] += window
        count[top : top + 4, left : left + 4] += 1
    assert count.min() >= 1
    torch.testing.assert_close(windows.merge(changed), value / count)


def test_one_window_over_the_canvas_is_plain_sampling() -> None:
    windows, x = JointWindows((4, 4), window=4, stride=4), drawn(1, 4, 4)
    joint = sample(gaussian(0), windows.split(x), hooks=[windows], num_inference_steps=5)
    torch.testing.assert_close(windows.merge(joint), sample(gaussian(0), x[None], num_inference_steps=5)[0])


def test_joint_windows_average_the_steps_of_every_window() -> None:
    windows, x = JointWindows((4, 8), window=4, stride=2), drawn(1, 4, 8)
    joint = windows.merge(sample(gaussian(0), windows.split(x), hooks=[windows], num_inference_steps=3))
    for t, target in ((666, 333), (333, 0), (0, None)):
        total, count = torch.zeros_like(x), torch.zeros_like(x)
        for left in (0, 2, 4):
            crop = x[None, :, :, left : left + 4]
            total[..., left : left + 4] += SCHEDULE.step(gaussian(0)(crop, torch.tensor([t])), crop, t, target)[0]
            count[..., left : left + 4] += 1
        x = total / count
    torch.testing.assert_close(joint, x)


def test_a_window_moves_by_the_gradient_in_closed_form_and_the_anchor_stays() -> None:
    x = drawn(3, 1, 4, 4)
    moved = SyncGuidance(half_squared, weight=0.3, decay=0.5, anchor=2).before(at(x, i=2))
    # x0 = mu + A (x / a - mu): the gradient is A^T (x0 - x0_anchor) / a.
    a = float(SCHEDULE.alphas_cumprod[400]) ** 0.5
    matrix = gaussian(0).filter((1 - a * a) ** 0.5 / a)
    x0 = (x / a - gaussian(0).mean).flatten(1) @ matrix.T
    gradient = ((x0 - x0[2]) @ matrix / a).reshape(x.shape)
    torch.testing.assert_close(moved, x - 0.3 * 0.5**2 * gradient)
    assert torch.equal(moved[2], x[2])
    middle = SyncGuidance(half_squared, weight=0.3).before(at(x))
    assert torch.equal(middle[1], x[1])


def test_the_gradient_goes_through_the_guided_prediction() -> None:
    both = ConditionalDenoiser({"a": gaussian(0), None: gaussian(1)}, SCHEDULE)
    x, terms = drawn(3, 1, 4, 4), [ClassifierFreeGuidance(3.0)]
    step = StepContext(both, x, t=400, target=200, i=0, n=5, condition="a", terms=terms)
    moved = SyncGuidance(half_squared, weight=1.0).before(step)
    a, filters = float(SCHEDULE.alphas_cumprod[400]) ** 0.5, []
    for seed in (0, 1):
        filters.append(gaussian(seed).filter((1 - a * a) ** 0.5 / a))
    matrix = 3 * filters[0] - 2 * filters[1]  # x0 is linear in the guided noise
    difference = ((x - x[1]) / a).flatten(1) @ matrix.T
    torch.testing.assert_close(moved, x - (difference @ matrix / a).reshape(x.shape))


def test_weight_0_and_no_step_to_synchronise_are_joint_windows_alone() -> None:
    windows = JointWindows((4, 8), window=4, stride=2)
    start = windows.split(drawn(1, 4, 8))
    plain = sample(gaussian(0), start, hooks=[windows], num_inference_steps=3)
    for sync in (SyncGuidance(half_squared, weight=0.0), SyncGuidance(half_squared, sync_steps=0)):
        assert torch.equal(sample(gaussian(0), start, hooks=[sync, windows], num_inference_steps=3), plain)
    synced = sample(gaussian(0), start, hooks=[SyncGuidance(half_squared, weight=0.5), windows], num_inference_steps=9)
    apart = sample(gaussian(0), start, hooks=[windows], num_inference_steps=9)
    assert (synced[0] - synced[2]).square().sum() < 0.9 * (apart[0] - apart[2]).square().sum()


def test_what_cannot_be_joined_is_refused() -> None:
    with pytest.raises(UsageError, match="left out"):
        JointWindows((4, 8), window=4, stride=5)
    with pytest.raises(UsageError, match="holds no window"):
        JointWindows((3, 8), window=4, stride=2)
    windows = JointWindows((4, 8), window=4, stride=2)
    with pytest.raises(UsageError, match="canvas"):
        windows.split(drawn(1, 4, 9))
    with pytest.raises(UsageError, match="3 windows"):
        windows.merge(drawn(2, 1, 4, 4))
    for name, value in (("weight", -1.0), ("decay", 0.0), ("sync_steps", -1), ("anchor", -1)):
        with pytest.raises(UsageError, match=name):
            SyncGuidance(half_squared, **{name: value})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="none of 3"):
        SyncGuidance(half_squared, anchor=3).before(at(drawn(3, 1, 4, 4)))
    with pytest.raises(UsageError, match="each of 3"):
        SyncGuidance(lambda x, anchor: (x - anchor).sum()).before(at(drawn(3, 1, 4, 4)))
