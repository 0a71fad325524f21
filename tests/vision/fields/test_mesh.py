"""Level surfaces and meshes (p173, arXiv 2211.12886): against closed forms, scikit-image, and files read by hand."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import pytest
import torch
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.vision import TriangleMesh, level_surface


def grid(resolution: int = 48) -> Tensor:
    axis = torch.linspace(-1, 1, resolution, dtype=torch.float64)
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"))


def sphere(radius: float = 0.7, resolution: int = 48) -> Tensor:
    return grid(resolution).norm(dim=0) - radius


def torus(resolution: int = 48) -> Tensor:
    x, y, z = grid(resolution)
    return torch.hypot(torch.hypot(x, y) - 0.6, z) - 0.25


def test_measures_are_the_closed_forms() -> None:
    ball, ring = level_surface(sphere()), level_surface(torus())
    assert ball.volume == pytest.approx(4 / 3 * math.pi * 0.7**3, rel=0.01)
    assert ball.area == pytest.approx(4 * math.pi * 0.7**2, rel=0.01)
    assert ring.volume == pytest.approx(2 * math.pi**2 * 0.6 * 0.25**2, rel=0.02)
    assert ring.area == pytest.approx(4 * math.pi**2 * 0.6 * 0.25, rel=0.02)
    assert (ball.euler_characteristic, ring.euler_characteristic) == (2, 0)
    assert ball.is_closed
    assert ring.is_closed


def test_a_plane_cuts_a_box_exactly_and_is_closed_at_the_border() -> None:
    x, y, z = grid(9)
    half = level_surface(0.3 * x + 0.2 * y + z - 0.1)
    assert half.is_closed
    assert half.euler_characteristic == 2
    # The padding closes the box a fraction of a step outside; where the plane is, linear values are met exactly.
    inside = (half.vertices.abs() < 1).all(1)
    level = (half.vertices[inside] * torch.tensor([0.3, 0.2, 1.0])).sum(1)
    torch.testing.assert_close(level, torch.full_like(level, 0.1), atol=1e-5, rtol=0)


def test_a_comment_says_who_made_a_file(tmp_path: Path) -> None:
    mesh = TriangleMesh(torch.eye(3), torch.tensor([[0, 1, 2]]))
    assert mesh.write(tmp_path / "a.obj", "by me").read_text().startswith("# by me\nv 1 0 0\n")
    head = mesh.write(tmp_path / "a.ply", "by me").read_bytes().splitlines()[:4]
    assert head == [b"ply", b"format binary_little_endian 1.0", b"comment by me", b"element vertex 3"]
    with pytest.raises(UsageError, match="one line of ASCII"):
        mesh.write(tmp_path / "a.ply", "a\nb")


def test_it_is_close_to_the_surface_of_scikit_image() -> None:
    measure = pytest.importorskip("skimage.measure")
    values = 0.2 * torch.sin(8 * grid(40)).sum(0) + 2 * grid(40).square().sum(0) - 1
    vertices, faces, _, _ = measure.marching_cubes(values.numpy(), 0.0)
    theirs = TriangleMesh(torch.from_numpy(vertices.copy() * 2 / 39 - 1), torch.from_numpy(faces.copy()).long())
    ours = level_surface(values)
    assert ours.volume == pytest.approx(abs(theirs.volume), rel=0.005)
    assert ours.area == pytest.approx(theirs.area, rel=0.02)
    assert ours.euler_characteristic == theirs.euler_characteristic


def test_random_values_give_a_closed_surface_that_looks_outwards() -> None:
    values = torch.randn(9, 8, 7, generator=torch.Generator().manual_seed(0))
    surface = level_surface(values)
    assert surface.is_closed
    assert surface.volume > 0
    smaller = level_surface(values, -0.5)
    assert 0 < smaller.volume < surface.volume


def test_values_at_the_level_keep_the_surface_closed() -> None:
    assert level_surface(grid(5)[0].round()).is_closed
    cube = level_surface(grid(9).abs().amax(0) - 0.5)  # whose faces lie on places of the grid
    assert cube.is_closed
    assert cube.euler_characteristic == 2


def test_ply_and_obj_hold_the_mesh(tmp_path: Path) -> None:
    ball = level_surface(sphere(resolution=8))
    content = ball.write(tmp_path / "a.ply").read_bytes()
    head, body = content.split(b"end_header\n")
    assert head.startswith(b"ply\nformat binary_little_endian 1.0\n")
    assert f"element vertex {len(ball.vertices)}".encode() in head
    count = len(ball.vertices)
    first = struct.unpack("<3f", body[:12])
    assert first == pytest.approx(ball.vertices[0].tolist())
    assert len(body) == 12 * count + 13 * len(ball.faces)
    assert struct.unpack("<B3i", body[-13:]) == (3, *ball.faces[-1].tolist())
    lines = ball.write(tmp_path / "a.obj").read_text().splitlines()
    again = TriangleMesh(
        torch.tensor([[float(part) for part in line.split()[1:]] for line in lines if line.startswith("v ")]),
        torch.tensor([[int(part) - 1 for part in line.split()[1:]] for line in lines if line.startswith("f ")]),
    )
    assert torch.equal(again.faces, ball.faces)
    assert again.volume == pytest.approx(ball.volume)
    with pytest.raises(UsageError, match=r"\.ply or \.obj"):
        ball.write(tmp_path / "a.stl")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.ones(4, 4, 4), "do not cross 0"),
        (-torch.ones(4, 4, 4), "do not cross 0"),
        (torch.full((4, 4, 4), math.nan), "not finite"),
        (torch.zeros(1, 4, 4), "along each axis"),
    ],
)
def test_grids_without_a_surface_are_refused(values: Tensor, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        level_surface(values)
