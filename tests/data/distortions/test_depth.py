"""`corrupt3d` of p034 (arXiv 2410.01534): closed forms of fog, focus and motion, and the depth of scenes."""

from __future__ import annotations

import math

import pytest
import torch

from binderclip.data import CORRUPTIONS_3D, corrupt3d, scenes
from binderclip.errors import UsageError


def pictures(side: int = 32) -> torch.Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))


def flat(value: float, side: int = 32) -> torch.Tensor:
    return torch.full((2, 1, side, side), value)


@pytest.mark.parametrize("name", CORRUPTIONS_3D)
def test_level_0_changes_nothing_and_stronger_levels_change_more(name: str) -> None:
    images, depth = pictures(), torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    assert torch.equal(corrupt3d(images, depth, name, 0), images)
    moved = [float((corrupt3d(images, depth, name, level) - images).abs().mean()) for level in range(6)]
    assert moved == sorted(moved)
    assert moved[5] > moved[1] > 0


def test_fog_is_beer_lamberts_law() -> None:
    images = pictures()
    found = corrupt3d(images, flat(0.5), "fog", 2)
    torch.testing.assert_close(found, images * math.exp(-0.5) + 0.9 * (1 - math.exp(-0.5)))
    assert torch.equal(corrupt3d(images, flat(0.0), "fog", 5), images), "nothing lies between"


def test_what_is_in_focus_stays_and_what_is_not_is_blurred_evenly() -> None:
    images = pictures()
    torch.testing.assert_close(corrupt3d(images, flat(0.0), "near_focus", 5), images)
    torch.testing.assert_close(corrupt3d(images, flat(1.0), "far_focus", 5), images)
    half = flat(0.0)
    half[..., 16:] = 1.0
    found = corrupt3d(images, half, "near_focus", 5)
    assert torch.equal(found[..., :16], images[..., :16])
    assert found[..., 16:].std() < 0.8 * images[..., 16:].std()
    grey = torch.full((2, 3, 32, 32), 0.4)
    torch.testing.assert_close(corrupt3d(grey, half, "far_focus", 5), grey, msg="a blur keeps a constant")


def test_motion_towards_a_flat_wall_is_the_zoom_blur_and_the_horizon_stays() -> None:
    images = pictures(48)
    torch.testing.assert_close(corrupt3d(images, flat(1.0, 48), "forward_motion", 5), images, atol=1e-5, rtol=0)
    # the zoom blur of the plain distortions, where a level has the same reach
    from binderclip.data.distortions.kinds import zoom_blur
    from binderclip.data.distortions.pieces import Draws

    torch.testing.assert_close(
        corrupt3d(images, flat(0.0, 48), "forward_motion", 3),
        zoom_blur(images, 0.16, Draws("zoom_blur", [0, 1], images)),
        atol=1e-5,
        rtol=0,
    )


def test_the_depth_of_a_scene_follows_its_order() -> None:
    made = scenes(3, 6, 64, objects=(0, 3), occlusion=(0.05, 0.4))
    assert made.depth.shape == (6, 1, 64, 64)
    for scene in range(6):
        depth = made.depth[scene, 0]
        background = made.semantic[scene] == 0
        assert (depth[background] == 1).all()
        ranks = {}
        for k in range(made.visible.shape[1]):
            seen = depth[made.visible[scene, k]]
            if len(seen):
                assert len(seen.unique()) == 1
                ranks[int(made.order[scene, k])] = float(seen[0])
        values = [ranks[rank] for rank in sorted(ranks)]
        assert values == sorted(values, reverse=True), "further in front is nearer"
        assert all(0 < value < 1 for value in values)


def test_what_is_wrong_is_said() -> None:
    images = pictures()
    with pytest.raises(UsageError, match="unknown"):
        corrupt3d(images, flat(0.0), "rain", 1)
    with pytest.raises(UsageError, match=r"0\.\.5"):
        corrupt3d(images, flat(0.0), "fog", 6)
    with pytest.raises(UsageError, match="need a depth"):
        corrupt3d(images, flat(0.0)[:, 0], "fog", 1)
    with pytest.raises(UsageError, match="nearest"):
        corrupt3d(images, flat(2.0), "fog", 1)
