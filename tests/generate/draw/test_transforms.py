"""Views of a drawing: torchvision's perspective as the reference, and white where there is no picture."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from binderclip.errors import UsageError
from binderclip.generate import PerspectiveCutouts, warp_homography
from binderclip.generate.draw.transforms import _homography

SIZE = 32


def smooth() -> torch.Tensor:
    line = torch.linspace(0, 3, SIZE)
    return torch.stack([0.5 + 0.4 * torch.sin(line[:, None] * k + line) for k in (1.0, 1.7, 2.3)])[None]


def test_a_perspective_is_torchvisions() -> None:
    corners = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    inwards = 0.4 * torch.rand(4, 2, generator=torch.Generator().manual_seed(1))
    matrix = _homography((corners * (1 - inwards))[None], corners)
    ours = warp_homography(smooth(), matrix, fill=1.0)
    # torchvision takes corners as whole pixels; here they are places between pixel centres
    places = ((corners + 1) * SIZE / 2 - 0.5).tolist()
    moved = ((corners * (1 - inwards) + 1) * SIZE / 2 - 0.5).tolist()
    theirs = tv.perspective(smooth(), places, moved, fill=[1.0] * 3)
    inside = (ours - theirs).abs()
    # its grid counts places half a pixel differently, which moves a smooth picture by little
    assert float(inside.median()) < 0.02
    assert float(inside.mean()) < 0.03


def test_an_undistorted_whole_crop_is_the_picture_and_a_crop_shows_a_part() -> None:
    image = smooth()
    whole = PerspectiveCutouts(2, distortion=0.0, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    views = whole(image, torch.Generator().manual_seed(0))
    torch.testing.assert_close(views, image.repeat(2, 1, 1, 1), atol=1e-5, rtol=0)
    ramp = torch.linspace(0, 1, SIZE).expand(1, 3, SIZE, SIZE)
    crops = PerspectiveCutouts(64, distortion=0.0, scale=(0.25, 0.25), ratio=(1.0, 1.0))(
        ramp, torch.Generator().manual_seed(0)
    )
    inner = crops[..., 1:-1].mean((1, 2))  # the outermost pixels of a crop at the border blend with what is beyond
    # a quarter of the area is half of the width: pixel centres are half a pixel apart, and one is 1 / 31 of the ramp
    torch.testing.assert_close(inner.diff(dim=1), torch.full((64, 29), 0.5 / 31), atol=2e-4, rtol=0)


def test_pictures_keep_their_order_and_the_seed_decides() -> None:
    images = torch.cat([torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8)])
    cutouts = PerspectiveCutouts(3, fill=0.0)
    views = cutouts(images, torch.Generator().manual_seed(5))
    assert len(views) == 6
    assert bool((views[::2] == 0).all())
    assert bool((views[1::2].amax((1, 2, 3)) > 0.99).all())
    assert torch.equal(views, cutouts(images, torch.Generator().manual_seed(5)))
    assert not torch.equal(views, cutouts(images, torch.Generator().manual_seed(6)))


@pytest.mark.parametrize(
    "setting", [{"count": 0}, {"distortion": 1.0}, {"scale": (0.9, 0.7)}, {"scale": (0.5, 1.2)}, {"fill": float("nan")}]
)
def test_settings_out_of_range_are_refused_by_name(setting: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(setting))):
        PerspectiveCutouts(**setting)


def test_matrices_must_be_one_for_each_picture() -> None:
    with pytest.raises(UsageError, match="2 pictures"):
        warp_homography(torch.zeros(2, 3, 4, 4), torch.eye(3)[None])
