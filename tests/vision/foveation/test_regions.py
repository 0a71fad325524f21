"""Pooling regions (p137, arXiv 1705.10041): against the windows' formulas, a loop over regions and published counts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.vision import PoolingRegions, texture_strength

PUBLISHED = {0.25: 377, 0.3: 301, 0.4: 187, 0.5: 126, 0.6: 103, 0.7: 91}
"""How many regions the authors give out for each scale, at a map of 64 x 64."""


def window(x: Tensor, t: float = 0.5) -> Tensor:
    """The published profile over the unit interval, piece by piece."""
    rising = (math.pi / 2 * (x - (t - 1) / 2) / t).cos() ** 2
    falling = 1 - (math.pi / 2 * (x - (1 + t) / 2) / t).cos() ** 2
    inside = (x > (t - 1) / 2) & (x <= (1 - t) / 2)
    value = torch.where((x > -(1 + t) / 2) & (x <= (t - 1) / 2), rising, torch.zeros_like(x))
    value = torch.where(inside, torch.ones_like(x), value)
    return torch.where((x > (1 - t) / 2) & (x <= (1 + t) / 2), falling, value)


def published_windows(regions: PoolingRegions) -> Tensor:
    """All windows by their formulas [1 + rings sectors, H, W]: the fovea is what the rings leave over."""
    height, width = regions.size
    degrees = regions.field_deg / max(regions.size)
    y = (torch.arange(height).double() + 0.5 - regions.fixation[1] * height) * degrees
    x = (torch.arange(width).double() + 0.5 - regions.fixation[0] * width) * degrees
    y, x = torch.meshgrid(y, x, indexing="ij")
    eccentricity, angle = torch.hypot(x, y), torch.atan2(x, y)
    step = 2 * math.pi / regions.sectors
    start = math.log(regions.fovea_deg) - regions.ring_width / 2  # the rings' ln e_0
    rings = [
        window((eccentricity.log() - (start + regions.ring_width * (n + 1))) / regions.ring_width) for n in range(60)
    ]
    masks = [1 - torch.stack(rings).sum(0)]
    for ring in rings:
        for n in range(regions.sectors):
            turn = torch.remainder(angle / step - n + regions.sectors / 2, regions.sectors) - regions.sectors / 2
            masks.append(ring * window(turn))
    stacked = torch.stack(masks)
    return stacked[[0, *[k for k in range(1, len(stacked)) if float(stacked[k].max()) > 1e-12]]]


@pytest.mark.parametrize("fixation", [(0.5, 0.5), (0.2, 0.9)])
def test_windows_follow_the_published_formulas_and_sum_to_one(fixation: tuple[float, float]) -> None:
    regions = PoolingRegions((20, 28), 0.8, fixation=fixation, fovea_deg=1.0)
    expected = published_windows(regions)
    torch.testing.assert_close(regions.masks(), expected.float(), atol=1e-6, rtol=0)
    torch.testing.assert_close(regions.masks().sum(0), torch.ones(20, 28))


def test_the_number_of_regions_is_about_the_published_one() -> None:
    for scale, published in PUBLISHED.items():
        count = int((PoolingRegions((64, 64), scale, windows="hard").pixels >= 2).sum())
        assert abs(count / published - 1) < 0.15, (scale, count)


def test_scale_is_the_width_of_a_ring_by_its_eccentricity() -> None:
    regions = PoolingRegions((1, 4001), 0.5, fixation=(0.0, 0.5), field_deg=40, fovea_deg=0.5)
    masks, _ = regions.ring_masks()
    degrees = (torch.arange(4001) + 0.5) * 40 / 4001
    for ring in (4, 6):
        inside = degrees[masks[ring, 0] >= 0.5]
        middle = degrees[masks[ring, 0].argmax()] if ring == 0 else (inside[0] * inside[-1]).sqrt()
        assert float((inside[-1] - inside[0]) / middle) == pytest.approx(0.5, rel=0.02)


@pytest.mark.parametrize("windows", ["smooth", "hard", "overwrite"])
def test_statistics_are_those_of_a_loop_over_regions(windows: str) -> None:
    regions = PoolingRegions((18, 24), 0.6, fovea_deg=0.5, windows=windows)  # type: ignore[arg-type]
    features = torch.randn(2, 3, 18, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 5
    measured = regions.statistics(features)
    kept = published_windows(PoolingRegions((18, 24), 0.6, fovea_deg=0.5))
    kept = torch.where(kept > 1e-12, kept, torch.zeros_like(kept))
    if windows == "hard":
        kept = torch.nn.functional.one_hot(kept.argmax(0), len(kept)).permute(2, 0, 1).double()
    if windows == "overwrite":
        kept = (kept > 1e-3).double()
    kept = kept[[0, *[k for k in range(1, len(kept)) if float(kept[k].sum()) > 0]]]
    assert len(kept) == len(regions)
    compared = 0
    for number, mask in enumerate(kept):
        places = mask > 0
        weights, values = mask[places], features[:, :, places]
        if not float(weights.sum() ** 2 / weights.square().sum()) >= 1.5:  # also where there is none
            continue
        mean = (values * weights).sum(-1) / weights.sum()
        freedom = weights.sum() - weights.square().sum() / weights.sum()
        variance = ((values - mean[..., None]) ** 2 * weights).sum(-1) / freedom
        torch.testing.assert_close(measured.mean[:, number], mean)
        torch.testing.assert_close(measured.std[:, number], (variance + 1e-5).sqrt())
        if windows != "smooth":  # then it is the unbiased variance of a sample
            torch.testing.assert_close(measured.std[:, number] ** 2, values.var(-1) + 1e-5)
        compared += 1
    assert compared > 20


@pytest.mark.parametrize("windows", ["smooth", "hard", "overwrite"])
def test_a_value_for_all_regions_comes_back_everywhere(windows: str) -> None:
    regions = PoolingRegions((30, 30), 0.4, windows=windows)  # type: ignore[arg-type]
    values = torch.tensor([2.0, -3.0]).expand(1, len(regions), 2)
    torch.testing.assert_close(regions.spread(values), torch.tensor([[[[2.0]], [[-3.0]]]]).expand(1, 2, 30, 30))
    numbers = torch.arange(len(regions), dtype=torch.float32)[None, :, None]
    expected = (numbers[0, :, :, None] * regions.masks()).sum(0)
    torch.testing.assert_close(regions.spread(numbers)[0, 0], expected, rtol=1e-5, atol=1e-3)


def test_overwriting_keeps_the_last_region_above_a_thousandth() -> None:
    windows = published_windows(PoolingRegions((16, 16), 0.9, fovea_deg=2.0))
    last = torch.zeros(16, 16, dtype=torch.long)
    for number, mask in enumerate(windows):
        last[mask > 1e-3] = number
    regions = PoolingRegions((16, 16), 0.9, fovea_deg=2.0, windows="overwrite")
    assert len(regions) == len(windows)
    assert torch.equal(regions.masks().argmax(0), last)


def test_a_mirrored_fixation_has_mirrored_windows() -> None:
    left = PoolingRegions((24, 31), 0.45, fixation=(0.3, 0.4))
    right = PoolingRegions((24, 31), 0.45, fixation=(0.7, 0.4))
    image = torch.rand(1, 2, 24, 31, generator=torch.Generator().manual_seed(1))
    smooth = left.spread(left.statistics(image).mean)
    mirrored = right.spread(right.statistics(image.flip(3)).mean).flip(3)
    torch.testing.assert_close(smooth, mirrored, rtol=1e-4, atol=1e-5)


def test_radii_are_those_of_annular_sectors_whatever_the_size() -> None:
    regions = PoolingRegions((64, 64), 0.5)
    eccentricity, radius = regions.eccentricity_deg, regions.radius_deg
    whole = (eccentricity > 2) & (eccentricity < 9)
    # Half an annular sector's width is e s / 4 across and e s / 2 along; the window's half height rounds its corners.
    expected = (eccentricity * eccentricity * 0.5 * 0.25 / math.pi).sqrt()
    ratio = (radius / expected)[whole]
    assert 0.85 < float(ratio.min()) <= float(ratio.max()) < 1.15
    other = PoolingRegions((256, 256), 0.5)
    assert float(other.radius_deg.max()) == pytest.approx(float(radius.max()), rel=1e-6)
    assert other.radius_deg[0] == radius[0]


def test_the_strength_is_the_published_sigmoid() -> None:
    radius = torch.linspace(0, 6, 50, dtype=torch.float64)
    torch.testing.assert_close(texture_strength(radius), -1 + 2 / (1 + (-1.281 * radius).exp()))


def test_gradients_pass_through_both_products() -> None:
    regions = PoolingRegions((5, 6), 0.8, fovea_deg=3.0)
    x = torch.randn(1, 2, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: regions.spread(regions.statistics(x).mean), (x,))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": math.nan}, "scale must be a finite number"),
        ({"scale": 0.01}, "scale must be in"),
        ({"fixation": (1.2, 0.5)}, "fixation's x"),
        ({"fovea_deg": 0.0}, "fovea_deg"),
        ({"field_deg": 500}, "field_deg"),
        ({"windows": "round"}, "windows must be one of"),
        ({"size": (0, 4)}, "height must be"),
        ({"size": (4, 10**6)}, "width must be"),
    ],
)
def test_what_is_out_of_range_is_refused_by_name(change: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PoolingRegions(**({"size": (8, 8)} | change))  # type: ignore[arg-type]


def test_maps_of_another_size_are_refused() -> None:
    regions = PoolingRegions((8, 8), 0.5)
    with pytest.raises(UsageError, match=r"maps must be \(B, C, 8, 8\)"):
        regions.statistics(torch.zeros(1, 1, 8, 9))
    with pytest.raises(UsageError, match="one for each region"):
        regions.spread(torch.zeros(1, 3, 1))


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (2, 3)])
def test_tiny_pictures_have_regions(size: tuple[int, int]) -> None:
    regions = PoolingRegions(size)
    assert torch.isfinite(regions.statistics(torch.rand(1, 1, *size)).std).all()
    assert torch.isfinite(regions.radius_deg).all()
    assert torch.isfinite(regions.eccentricity_deg).all()
