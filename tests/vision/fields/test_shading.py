"""Pictures of meshes: silhouettes and light of solids whose projections are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from binderclip.errors import UsageError
from binderclip.vision import TriangleMesh, level_surface, shaded_view


def sphere() -> TriangleMesh:
    axis = torch.linspace(-1, 1, 32, dtype=torch.float64)
    return level_surface(torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).norm(dim=0) - 0.7)


def test_a_sphere_is_a_disc_that_is_lit_from_the_upper_left() -> None:
    shown = shaded_view(sphere(), side=96).astype(float)
    disc = shown.min(2) < 250
    # The diameter is 88 % of the side.
    assert disc.mean() == pytest.approx(math.pi * 0.44**2, abs=0.02)
    rows, columns = np.nonzero(disc)
    assert (rows.mean(), columns.mean()) == pytest.approx((47.5, 47.5), abs=0.6)
    brightness = np.where(disc, shown.sum(2), 0)
    row, column = np.unravel_index(brightness.argmax(), brightness.shape)
    assert row < 44
    assert column < 44
    assert (shown[~disc] > 249).all()


def test_the_viewer_goes_round_and_the_near_side_hides_the_far_one() -> None:
    """A flag on +x is to the right of its pole from the front, to its left from behind, and hidden from the left."""
    boxes = torch.tensor([[0.0, 0.0, 0.0], [0.2, 0.2, 3.0]]), torch.tensor([[0.2, 0.05, 2.0], [1.5, 0.15, 3.0]])
    corners = torch.tensor([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)])
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = torch.tensor([triangle for a, b, c, d in quads for triangle in ((a, b, c), (a, c, d))])
    vertices = torch.cat([box[0] + corners * (box[1] - box[0]) for box in boxes])
    mesh = TriangleMesh(vertices, torch.cat([faces, faces + 8]))
    assert mesh.is_closed
    assert mesh.volume == pytest.approx(0.2 * 0.2 * 3 + 1.3 * 0.1)
    widths = {}
    for azimuth in (0.0, 180.0, 270.0):
        ink = shaded_view(mesh, azimuth=azimuth, elevation=0.0, side=90).min(2) < 250
        top, bottom = np.nonzero(ink[:30].any(0))[0], np.nonzero(ink[60:].any(0))[0]
        widths[azimuth] = (top.max() - bottom.max(), bottom.min() - top.min(), top.max() - top.min())
    assert widths[0.0][0] > 20 > abs(widths[0.0][1])
    assert widths[180.0][1] > 20 > abs(widths[180.0][0])
    assert widths[270.0][2] < 10


def test_what_cannot_be_done_is_refused() -> None:
    for options, message in (
        ({"elevation": 95.0}, "elevation"), ({"azimuth": math.nan}, "azimuth"), ({"side": 4}, "side"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=message):
            shaded_view(sphere(), **options)
    with pytest.raises(UsageError, match="no faces"):
        shaded_view(TriangleMesh(torch.zeros(3, 3), torch.zeros(0, 3).long()))
