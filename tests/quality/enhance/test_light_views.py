"""Views of squares: the identity first, flips and turns that are exact, zoom, the same view for all pictures."""

from __future__ import annotations

import math

import pytest
import torch

from binderclip.errors import UsageError
from binderclip.quality.enhance.light_views import mirrored_view, view_matrices


def test_the_first_view_is_the_picture_and_draws_are_those_of_the_paper() -> None:
    matrices = view_matrices(4000, seed=1)
    assert torch.equal(matrices[0], torch.eye(2, 3))
    assert torch.equal(matrices[:5], view_matrices(5, seed=1))
    assert not torch.equal(matrices[:5], view_matrices(5, seed=2)[:5])
    parts = matrices[1:, :, :2]
    squared = parts.mT @ parts
    rigid = (squared - torch.eye(2)).abs().amax((1, 2)) < 1e-5
    assert float(rigid.float().mean()) == pytest.approx(0.7, abs=0.03)  # not zoomed
    exact = (parts.abs() - parts.abs().round()).abs().amax((1, 2)) < 1e-6
    assert float(exact.float().mean()) == pytest.approx(0.7 * 0.7, abs=0.03)  # neither zoomed nor turned
    assert float((torch.linalg.det(parts) < 0).float().mean()) == pytest.approx(0.5, abs=0.03)
    scales = torch.linalg.svdvals(parts)
    assert 1 / 1.5 - 1e-5 <= float(scales.min()) <= 0.7
    assert 1.8 <= float(scales.max()) <= 2 + 1e-5


def test_flips_and_right_angles_are_exact_and_a_zoom_shows_the_middle() -> None:
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def through(a: float, b: float, c: float, d: float) -> torch.Tensor:
        return mirrored_view(images, torch.tensor([[a, b, 0.0], [c, d, 0.0]]))

    assert torch.allclose(through(1, 0, 0, 1), images, atol=1e-6)
    assert torch.allclose(through(-1, 0, 0, 1), images.flip(3), atol=1e-5)
    assert torch.allclose(through(0, 1, 1, 0), images.mT, atol=1e-5)
    turn = math.pi / 2
    turned = through(math.cos(turn), -math.sin(turn), math.sin(turn), math.cos(turn))
    assert torch.allclose(turned, images.rot90(1, (2, 3)), atol=1e-4) or torch.allclose(
        turned, images.rot90(-1, (2, 3)), atol=1e-4
    )
    middle = torch.nn.functional.interpolate(images[..., 2:6, 2:6], (8, 8), mode="bilinear")
    assert torch.allclose(through(0.5, 0, 0, 0.5)[..., 1:7, 1:7], middle[..., 1:7, 1:7], atol=1e-5)


def test_mistakes_are_named() -> None:
    with pytest.raises(UsageError, match="views must be at least 1"):
        view_matrices(0, 0)
    assert len(view_matrices(1, 0)) == 1
