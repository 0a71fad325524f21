"""VQGAN-CLIP's views (p086, arXiv 2204.08583): their distributions, and torchvision's colours."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy.stats import kstest, norm
from torchvision.transforms.v2 import functional as tv

from binderclip.errors import UsageError
from binderclip.generate import RandomCutouts

PLAIN: dict[str, Any] = {"flip": 0.0, "probability": 0.0, "noise": 0.0}
ONE: dict[str, Any] = {
    "flip": 0.0, "probability": 1.0, "noise": 0.0, "degrees": 0.0, "shear": 0.0, "translate": 0.0, "distortion": 0.0,
    "colour": 0.0, "erase": (0.0, 0.0),
}  # fmt: skip


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ramp(side: int) -> torch.Tensor:
    """Red grows to the right, green downwards, by 1 / side a pixel."""
    line = (torch.arange(side) + 0.5) / side
    return torch.stack([line.expand(side, side), line[:, None].expand(side, side), torch.zeros(side, side)])[None]


def crop_sides(views: torch.Tensor) -> torch.Tensor:
    """Sides of crops of a ramp, as parts of the picture's, from the slope amid each view."""
    middle = views.shape[-1] // 2
    rise = views[:, 0, middle, middle + 2] - views[:, 0, middle, middle - 2]
    return (rise / 4 * views.shape[-1]).double()


def test_sides_of_crops_are_uniform_and_lie_inside() -> None:
    views = RandomCutouts(600, 16, least=0.25, **PLAIN)(ramp(128), generator())
    sides = crop_sides(views)
    # in steps of a pixel of 128
    assert kstest(sides.numpy(), "uniform", (0.25, 0.75)).statistic < 1.63 / math.sqrt(600) + 1 / 96
    centres = views.mean((2, 3))[:, :2].double()
    assert bool((centres - sides[:, None] / 2 > -0.02).all())
    assert bool((centres + sides[:, None] / 2 < 1.02).all())
    places = ((centres[:, 0] - sides / 2) / (1 - sides))[sides < 0.8]
    assert kstest(places.numpy(), "uniform").statistic < 1.63 / math.sqrt(len(places)) + 0.05


def test_a_power_and_the_normal_sides_have_their_means() -> None:
    squared = crop_sides(RandomCutouts(600, 16, least=0.25, power=2.0, **PLAIN)(ramp(128), generator()))
    assert float(squared.mean()) == pytest.approx(0.25 + 0.75 / 3, abs=0.03)  # E u^2 = 1 / 3
    normal = crop_sides(RandomCutouts(600, 16, least=0.25, sides="normal", **PLAIN)(ramp(128), generator()))
    low, high = (0.25 - 0.8) / 0.3, (1 - 0.8) / 0.3
    clipped = 0.25 * norm.cdf(low) + norm.sf(high)
    clipped += 0.8 * (norm.cdf(high) - norm.cdf(low)) - 0.3 * (norm.pdf(high) - norm.pdf(low))
    assert float(normal.mean()) == pytest.approx(clipped, abs=0.03)


def test_a_picture_of_the_views_size_is_seen_whole_and_pictures_keep_their_order() -> None:
    images = torch.rand(2, 3, 16, 16, generator=generator())
    torch.testing.assert_close(RandomCutouts(3, 16, **PLAIN)(images, generator()), images.repeat(3, 1, 1, 1))
    cutouts = RandomCutouts(3, 8)
    assert torch.equal(cutouts(images, generator(1)), cutouts(images, generator(1)))
    assert not torch.equal(cutouts(images, generator(1)), cutouts(images, generator(2)))


def test_half_of_the_views_are_mirrored() -> None:
    views = RandomCutouts(400, 16, flip=0.5, probability=0.0, noise=0.0)(ramp(16), generator())
    mirrored = views[:, 0, 8, 12] < views[:, 0, 8, 4]
    assert float(mirrored.double().mean()) == pytest.approx(0.5, abs=0.08)
    torch.testing.assert_close(views[mirrored][0], ramp(16)[0].flip(-1), atol=1e-5, rtol=0)


def test_views_are_turned_and_moved_within_their_limits_as_often_as_asked() -> None:
    settings = ONE | {"degrees": 15.0, "probability": 0.7}
    views = RandomCutouts(400, 32, **settings)(ramp(32), generator())[:, 0]
    down, right = views[:, 20, 16] - views[:, 12, 16], views[:, 16, 20] - views[:, 16, 12]
    degrees = torch.atan2(down, right).rad2deg().double()
    turned = degrees.abs() > 1e-3
    assert float(turned.double().mean()) == pytest.approx(0.7, abs=0.08)
    assert kstest(degrees[turned].numpy(), "uniform", (-15, 30)).pvalue > 0.001
    moved = RandomCutouts(400, 32, **ONE | {"translate": 0.1})(ramp(32), generator())
    shift = (moved[:, :2, 16, 16] - ramp(32)[:, :2, 16, 16]).double()
    assert kstest(shift.flatten().numpy(), "uniform", (-0.1, 0.2)).pvalue > 0.001
    slanted = RandomCutouts(400, 32, **ONE | {"shear": 5.0})(ramp(32), generator())[:, 0]
    slope = ((slanted[:, 20, 16] - slanted[:, 12, 16]) / 8 * 32).double().atan().rad2deg()
    assert kstest(slope.numpy(), "uniform", (-5, 10)).pvalue > 0.001


def test_a_perspective_shows_the_picture_smaller_on_the_fill() -> None:
    views = RandomCutouts(200, 32, **ONE | {"distortion": 0.7})(torch.ones(1, 3, 32, 32), generator())
    # corners move by 0.35 of half a side on average, each in x and y, so the sides are 0.65 of what they were
    assert float(views.mean()) == pytest.approx(0.65**2, abs=0.03)
    assert bool((views[:, :, 16, 16] > 0.99).all())


def test_one_rectangle_is_erased_in_all_views() -> None:
    areas = []
    for seed in range(200):
        views = RandomCutouts(2, 32, **ONE | {"erase": (0.1, 0.4), "probability": 0.7})(
            torch.ones(1, 3, 32, 32), generator(seed)
        )
        assert torch.equal(views[0], views[1])
        areas.append(float((views[0, 0] == 0).double().mean()))
    erased = [area for area in areas if area]
    assert len(erased) / len(areas) == pytest.approx(0.7, abs=0.1)
    assert max(erased) < 0.43
    # long rectangles are cut at the border, so the mean is a little below 0.25
    assert sum(erased) / len(erased) == pytest.approx(0.25, abs=0.03)


def test_colours_change_as_torchvisions_and_grey_stays_grey() -> None:
    images = 0.3 + 0.4 * torch.rand(1, 3, 16, 16, generator=generator())
    grey = RandomCutouts(50, 16, **ONE | {"colour": 0.1})(torch.full((1, 3, 16, 16), 0.5), generator())
    torch.testing.assert_close(grey[:, 0], grey[:, 2], atol=1e-5, rtol=0)
    brightness = (grey[:, 0, 0, 0] / 0.5).double()
    assert kstest(brightness.numpy(), "uniform", (0.9, 0.2)).pvalue > 0.001
    cutouts = RandomCutouts(1, 16, **ONE | {"colour": 0.3})
    view = cutouts._recoloured(images, generator(5))
    draws = generator(5)
    torch.rand(1, generator=draws)
    b, c, s, turn = (0.3 * (2 * torch.rand(4, 1, generator=draws)[:, 0] - 1)).tolist()
    # a pure hue of a picture without hue does nothing, so that colours are compared with the turn undone by hand
    axis = torch.full((3,), 1 / math.sqrt(3))
    x = images[0].flatten(1)
    angle = 2 * math.pi * turn
    along = axis[:, None] * (axis @ x)
    turned = (
        along
        + math.cos(angle) * (x - along)
        + math.sin(angle) * torch.linalg.cross(axis[:, None].expand_as(x), x, dim=0)
    )
    assert float(turned.min()) > 0
    expected = tv.adjust_saturation(turned.clamp(0, 1).reshape(1, 3, 16, 16), 1 + s)
    expected = tv.adjust_contrast(tv.adjust_brightness(expected, 1 + b), 1 + c)
    torch.testing.assert_close(view.clamp(0, 1), expected, atol=2e-3, rtol=0)  # torchvision's luma has three decimals


def test_noise_is_as_large_as_asked_and_drawn_by_view() -> None:
    views = RandomCutouts(300, 16, **ONE | {"noise": 0.1})(torch.full((1, 3, 16, 16), 0.5), generator())
    deviation = views.flatten(1).std(1).double()
    assert kstest(deviation.numpy(), "uniform", (0, 0.1)).statistic < 0.12


def test_the_gradient_reaches_the_picture() -> None:
    image = torch.full((1, 3, 32, 32), 0.5, requires_grad=True)
    views = RandomCutouts(16, 8)(image, generator())
    views.square().mean().backward()
    assert image.grad is not None
    assert bool(image.grad.isfinite().all())
    assert float((image.grad != 0).double().mean()) > 0.9


@pytest.mark.parametrize(
    "setting",
    [
        {"count": 0}, {"size": 0}, {"sides": "round"}, {"least": 0.0}, {"power": math.nan}, {"flip": 1.1},
        {"probability": -0.1}, {"degrees": 181.0}, {"erase": (0.4, 0.1)}, {"noise": math.inf}, {"distortion": 1.0},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused_by_name(setting: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(setting))):
        RandomCutouts(**setting)
