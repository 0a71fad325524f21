"""Pictures through glass (p022, arXiv 2406.01555): the formula again by NumPy and SciPy, picture by picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d
from torch import Tensor

from binderclip.data import Reflected, synthesize_reflection
from binderclip.errors import UsageError

FIXED = {"transmission_weight": (0.9, 0.9), "reflection_weight": (0.8, 0.8), "sigma": (2.5, 2.5)}
SEVEN = {"kernel_sizes": [7], "kernel_weights": [1.0]}


def drawn(seed: int, low: float = 0.0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.rand(3, 3, 12, 15, generator=g, dtype=torch.float64) * (1 - low) + low


def by_numpy(t: np.ndarray, r: np.ndarray, screen: bool, linear: bool) -> tuple[np.ndarray, ...]:
    """One picture [3, H, W] with the fixed settings, written from the paper's released recipe."""
    taps = np.exp(-0.5 * (np.arange(-3, 4) / 2.5) ** 2)
    kernel = np.outer(taps, taps) / taps.sum() ** 2
    r = np.stack([convolve2d(channel, kernel, mode="same") for channel in r])
    t, r = (x**2.2 if linear else x for x in (t, r))
    t, r = 0.9 * t, 0.8 * r
    if screen:
        mixed = t + r - t * r
    else:
        mixed = t + r
        if mixed.max() > 1:
            mixed = t + np.clip(r - 1.3 * (mixed[mixed > 1].mean() - 1), 0, 1)
    mixed = np.clip(mixed, 0, 1)
    return tuple(x ** (1 / 2.2) if linear else x for x in (mixed, t, r))


@pytest.mark.parametrize("screen", [True, False])
@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("low", [0.0, 0.7])  # dark pictures do not overflow everywhere, bright ones do
def test_every_picture_is_mixed_by_the_formula(screen: bool, linear: bool, low: float) -> None:
    t, r = drawn(0, low), drawn(1, low)
    glass = synthesize_reflection(t, r, screen=float(screen), linear=float(linear), **FIXED, **SEVEN)  # type: ignore[arg-type]
    for i in range(3):
        expected = by_numpy(t[i].numpy(), r[i].numpy(), screen, linear)
        for one, other in zip((glass.image, glass.transmission, glass.reflection), expected, strict=True):
            np.testing.assert_allclose(one[i].numpy(), other, atol=1e-9)


def test_draws_are_each_pictures_own_and_repeat_with_the_generator() -> None:
    t, r = drawn(0)[:1].repeat(200, 1, 1, 1), drawn(1)[:1].repeat(200, 1, 1, 1)

    def glass(seed: int) -> Reflected:
        return synthesize_reflection(t, r, generator=torch.Generator().manual_seed(seed))

    one = glass(0)
    assert torch.equal(one.image, glass(0).image)
    assert not torch.equal(one.image, glass(1).image)
    assert float(one.screen.float().mean()) == pytest.approx(0.7, abs=0.1)
    assert float(one.linear.float().mean()) == pytest.approx(0.5, abs=0.1)
    weights = (one.transmission / t)[~one.linear].flatten(1)
    torch.testing.assert_close(weights, weights[:, :1].expand_as(weights))
    assert 0.6 <= float(weights.min()) < 0.65
    assert 0.95 < float(weights.max()) <= 1.0
    assert bool(((one.image >= 0) & (one.image <= 1)).all())


def test_a_smaller_kernel_is_not_a_cut_larger_one() -> None:
    t, r = torch.zeros(1, 3, 15, 15, dtype=torch.float64), torch.zeros(1, 3, 15, 15, dtype=torch.float64)
    r[..., 7, 7] = 1.0
    only = {"screen": 1.0, "linear": 0.0, "reflection_weight": (1.0, 1.0)}
    g = torch.Generator().manual_seed(0)
    for size in (1, 5, 11):
        blurred = synthesize_reflection(
            t, r, kernel_sizes=[size, 11], kernel_weights=[1.0, 0.0], generator=g, **only,  # type: ignore[arg-type]
        ).reflection[0, 0]  # fmt: skip
        assert float(blurred.sum()) == pytest.approx(1.0)
        assert int((blurred > 0).sum()) == size**2


def test_mistakes_are_named() -> None:
    t = torch.rand(1, 3, 8, 8)
    with pytest.raises(UsageError, match="one shape"):
        synthesize_reflection(t, t[..., :4])
    for wrong in (t + 1, t * torch.nan):
        with pytest.raises(UsageError, match=r"reflection must be in \[0, 1\]"):
            synthesize_reflection(t, wrong)
    for settings, match in (
        ({"kernel_sizes": [4], "kernel_weights": [1.0]}, "odd"),
        ({"kernel_sizes": [5]}, "as many weights"),
        ({"kernel_weights": [0.0] * 4}, "one above 0"),
        ({"sigma": (2.0, 1.0)}, "most sigma"),
        ({"screen": 1.5}, "screen"),
        ({"transmission_weight": (0.5, float("nan"))}, "most transmission_weight"),
    ):
        with pytest.raises(UsageError, match=match):
            synthesize_reflection(t, t, **settings)  # type: ignore[arg-type]
