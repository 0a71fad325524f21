"""De-aliasing (p060, arXiv 2403.09065): pure cosines, slow Fourier sums, the authors' slices, limits."""

from __future__ import annotations

import cmath
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.segment.metrics import BoundaryErrors
from binderclip.vision import (
    DeAliasingFilter,
    FrequencyMixing,
    aliasing_map,
    aliasing_score,
    equivalent_sampling_rate,
)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine(cycles: int, side: int = 32, *, vertical: bool = False) -> Tensor:
    wave = torch.cos(2 * math.pi * cycles * torch.arange(side, dtype=torch.float64) / side + 0.3)
    return (wave[:, None] if vertical else wave).expand(side, side)[None, None]


def sliced(x: Tensor, f: float) -> np.ndarray:
    """The filter as the authors' program cuts it, in NumPy."""
    spectrum = np.fft.fftshift(np.fft.fft2(x.numpy()), axes=(-2, -1))
    mask = np.zeros_like(spectrum)
    h, w = x.shape[-2:]
    mask[..., round(h / 2 - h * f) : round(h / 2 + h * f), round(w / 2 - w * f) : round(w / 2 + w * f)] = 1
    return np.fft.ifft2(np.fft.ifftshift(spectrum * mask, axes=(-2, -1))).real


@pytest.mark.parametrize(
    ("layer", "rate"),
    [((3, 2, 64, 128), math.sqrt(2) / 2), ((2, 2, 64, 256), 1.0), ((3, 2, 64, 64), 0.5), ((1, 2, 16, 256), 0.5),
     ((3, 1, 64, 64), 1.0), ((4, 4, 3, 48), 1.0)],
)  # fmt: skip
def test_the_sampling_rate_counts_channels(layer: tuple[int, int, int, int], rate: float) -> None:
    assert equivalent_sampling_rate(*layer) == pytest.approx(rate)


@pytest.mark.parametrize("vertical", [False, True])
def test_a_cosine_below_the_cutoff_passes_and_one_above_vanishes(vertical: bool) -> None:
    filter_ = DeAliasingFilter(0.25)
    for cycles in (0, 3, 7):
        x = cosine(cycles, vertical=vertical)
        assert torch.allclose(filter_(x), x, atol=1e-12)
        assert float(aliasing_score(x, cutoff=0.25)) == pytest.approx(0, abs=1e-12)
    for cycles in (9, 12, 15):
        x = cosine(cycles, vertical=vertical)
        assert filter_(x).abs().max() < 1e-12
        assert float(aliasing_score(x, cutoff=0.25)) == pytest.approx(1)
    # One of the two twins of the frequency at the rim is kept.
    rim = cosine(8, vertical=vertical)
    assert torch.allclose(filter_(rim), rim / 2, atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 3, 24, 24), (1, 2, 12, 18), (1, 1, 15, 7)])
def test_the_filter_is_the_authors_slices_linear_and_a_projection_off_the_rim(shape: tuple[int, ...]) -> None:
    x, y = noise(*shape), noise(*shape, seed=1)
    for cutoff in (0.25, 0.35, 0.4):
        filter_ = DeAliasingFilter(cutoff)
        assert np.allclose(filter_(x), sliced(x, cutoff))
        assert torch.allclose(filter_(2 * x - y), 2 * filter_(x) - filter_(y))
        # Twice is once, save for frequencies whose twin is not kept.
        wider = DeAliasingFilter(min(cutoff + 0.15, 0.5))
        assert torch.allclose(wider(filter_(x)), filter_(x))
    assert torch.allclose(DeAliasingFilter(0.5)(x), x)


def test_halving_in_the_spectrum_samples_a_smooth_map() -> None:
    x = 1 + cosine(3) + cosine(5, vertical=True)
    assert torch.allclose(DeAliasingFilter(downsample=True)(x), x[..., ::2, ::2], atol=1e-12)
    assert float(DeAliasingFilter(downsample=True)(cosine(12)).abs().max()) < 1e-12


def test_the_score_is_a_slow_fourier_sum_averaged_over_channels() -> None:
    x = noise(1, 2, 5, 6)
    x[0, 1] *= 10
    scores = []
    places = [(i, j) for i in range(5) for j in range(6)]
    for channel in x[0].tolist():
        power = {}
        for k, m in places:
            waves = [channel[i][j] * cmath.exp(-2j * math.pi * (k * i / 5 + m * j / 6)) for i, j in places]
            power[min(k, 5 - k) / 5, min(m, 6 - m) / 6, k, m] = abs(sum(waves)) ** 2
        high = sum(p for (fy, fx, *_), p in power.items() if fy > 0.3 or fx > 0.3)
        scores.append(high / sum(power.values()))
    assert float(aliasing_score(x, cutoff=0.3)) == pytest.approx(sum(scores) / 2)


def test_white_noise_has_the_share_of_the_band_and_zeros_have_none() -> None:
    found = aliasing_score(noise(4, 1, 128, 128), cutoff=0.35)
    assert found.shape == (4,)
    assert found.mean().item() == pytest.approx(1 - 0.7**2, abs=0.02)
    assert float(aliasing_score(torch.zeros(1, 2, 8, 8))) == 0


def test_the_local_score_is_that_of_the_window_and_finds_the_fine_half() -> None:
    x = torch.cat([cosine(1, 32)[..., :16], cosine(14, 32)[..., 16:]], dim=-1)
    found = aliasing_map(x, window=8)
    assert found.shape == (1, 32, 32)
    assert found[0, :, 24:].min() > 0.8
    assert found[0, :, :10].max() < 0.2
    inner = aliasing_score(x[..., 12:20, 16:24])
    assert float(found[0, 16, 20]) == pytest.approx(float(inner))


def saturated(module: FrequencyMixing, place: tuple[float, float], low: float, high: float) -> FrequencyMixing:
    """Constant weights: sigmoid of each bias."""
    nn.init.zeros_(module.place.weight)
    module.place.bias.data = torch.tensor(place)
    for net, value in ((module.low, low), (module.high, high)):
        nn.init.zeros_(net[2].weight)  # type: ignore[arg-type]
        nn.init.constant_(net[2].bias, value)  # type: ignore[arg-type]
    return module.double()


def test_mixing_with_constant_weights_gives_back_the_map_or_one_of_its_bands() -> None:
    x = noise(2, 16, 12, 12)
    root = math.log(1 / (math.sqrt(2) - 1))  # sigmoid of it is 1 / sqrt(2): both parts together weigh 1
    one = saturated(FrequencyMixing(16), (50.0, 50.0), root, root)
    assert torch.allclose(one(x), x, atol=1e-6)
    open_ = saturated(FrequencyMixing(16), (50.0, 50.0), 50.0, 50.0)
    assert torch.allclose(open_(x), math.sqrt(2) * x, atol=1e-6)
    low = saturated(FrequencyMixing(16), (50.0, -50.0), root, root)
    assert torch.allclose(low(x), DeAliasingFilter()(x), atol=1e-6)
    high = saturated(FrequencyMixing(16, residual=True), (-50.0, 50.0), root, root)
    assert torch.allclose(high(x), 2 * x - DeAliasingFilter()(x), atol=1e-6)


def test_mixing_is_its_formula_and_the_spectrums_mean_is_the_first_pixel() -> None:
    torch.manual_seed(0)
    module = FrequencyMixing(16, reduction=4).double()
    x = noise(3, 16, 10, 8)
    spectrum = np.fft.fft2(x.numpy())
    kept = np.zeros((10, 8), dtype=bool)
    kept[round(5 - 3.5) : round(5 + 3.5), round(4 - 2.8) : round(4 + 2.8)] = True
    kept = np.fft.ifftshift(kept)
    bands = [np.fft.ifft2(spectrum * kept), np.fft.ifft2(spectrum * ~kept)]
    parts = [bands[0].real, x.numpy() - bands[0].real]
    weights = module.place(x).sigmoid().detach().numpy()
    expected = 0
    for k, (net, band, part) in enumerate(zip((module.low, module.high), bands, parts, strict=True)):
        first = torch.from_numpy(band[..., :1, :1])
        a = torch.sqrt(net(first.real) ** 2 + net(first.imag) ** 2 + 1e-8).detach().numpy()
        expected = expected + part * weights[:, k : k + 1] * a
    assert np.allclose(module(x).detach(), expected)
    assert module(x.float().double()).dtype == torch.float64
    assert all(p.grad is None for p in module.parameters())
    module(x).square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in module.parameters())


def test_pictures_of_a_batch_do_not_touch_one_another_unless_released() -> None:
    torch.manual_seed(0)
    x = noise(4, 16, 8, 8)
    other = x.clone()
    other[2] = noise(16, 8, 8, seed=5)
    for released in (False, True):
        module = FrequencyMixing(16, released=released).double()
        moved = (module(x) - module(other)).abs().amax((1, 2, 3)) > 1e-9
        assert moved.tolist() == ([True, False, True, False] if released else [False, False, True, False])


def test_half_precision_comes_back_as_it_went() -> None:
    x = noise(1, 16, 8, 8).to(torch.bfloat16)
    assert DeAliasingFilter()(x).dtype == torch.bfloat16
    assert aliasing_score(x).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.isfinite(FrequencyMixing(16)(x.float())).all()


def test_boundary_errors_of_a_perfect_map_are_zero() -> None:
    labels = torch.zeros(1, 16, 16, dtype=torch.long)
    labels[..., 8:] = 1
    score = BoundaryErrors(2, width=5)
    score.update(labels, labels)
    found = score.compute()
    assert (found.ferr, found.merr, found.derr, found.biou) == (0, 0, 0, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DeAliasingFilter(0.6), "cutoff"),
        (lambda: DeAliasingFilter()(torch.zeros(3, 8, 8)), r"\(B, C, H, W\)"),
        (lambda: DeAliasingFilter(downsample=True)(torch.zeros(1, 1, 3, 8)), "at least 4"),
        (lambda: FrequencyMixing(8), "reduction 16"),
        (lambda: FrequencyMixing(16)(torch.zeros(1, 8, 8, 8)), "8 channels, not 16"),
        (lambda: aliasing_score(torch.zeros(1, 1, 8, 8), cutoff=0), "cutoff"),
        (lambda: aliasing_map(torch.zeros(1, 1, 8, 8), window=9), "2 to 8"),
        (lambda: equivalent_sampling_rate(3, 0, 1, 1), "stride"),
    ],
)
def test_wrong_settings_are_refused(call: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()  # type: ignore[operator]
