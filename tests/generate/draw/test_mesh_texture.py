"""A mesh without a gradient that is optimised all the same (p042, arXiv 2404.09758)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.generate import ImageOptimisation, MeshTexture, estimate_gradient


def picture(seed: int = 0, side: int = 24) -> Tensor:
    """A smooth picture [3, side, side]."""
    coarse = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, size=side, mode="bicubic").clamp(0, 1)[0]


def textured(side: int = 12, **settings: Any) -> MeshTexture:
    """A rectangle of two triangles from (2, 1) to (10, 9), with a texture of 4 x 8."""
    vertices = torch.tensor([[2.0, 1], [10, 1], [10, 9], [2, 9]])
    texture = torch.rand(4, 8, 3, generator=torch.Generator().manual_seed(1))
    uv = torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    return MeshTexture(vertices, torch.tensor([[0, 1, 2], [0, 2, 3]]), (side, side), texture, uv=uv, **settings)


def test_a_regular_mesh_is_as_many_triangles_of_one_grey_without_cracks() -> None:
    mesh = MeshTexture.grid((20, 30), rows=3, columns=4, grey=0.25)
    assert len(mesh.faces) == 24
    assert torch.equal(mesh(), torch.full((1, 3, 20, 30), 0.25))
    with torch.no_grad():
        mesh.colours.copy_(torch.rand(24, 3, generator=torch.Generator().manual_seed(0)))
    corners = mesh.vertices[mesh.faces]
    # The centre of each triangle shows its colour.
    x, y = corners.mean(1).floor().long().unbind(1)
    torch.testing.assert_close(mesh()[0, :, y, x].T, mesh.colours)


def test_a_texture_is_seen_as_pillow_would_resize_it_without_smoothing() -> None:
    mesh = textured(background=0.75)
    image = mesh()[0]
    texture = mesh.colours.reshape(4, 8, 3).permute(2, 0, 1)
    expected = torch.full((3, 12, 12), 0.75)
    expected[:, 1:9, 2:10] = texture.repeat_interleave(2, 1)
    assert torch.equal(image, expected)
    shown = mesh.render(mesh.vertices, mesh.colours).contributors
    assert shown[1] is not None
    assert torch.equal((shown[1].reshape(12, 12) >= 0), (image != 0.75).any(0))


def test_colours_have_autograds_gradient_where_a_pixel_shows_one() -> None:
    """The picture is linear in colours, and of three channels the loss sees one: no noise is left."""
    mesh, target = textured(eps=(1e-4, 0.3)), picture(2, 12)[0]
    _, estimate = estimate_gradient(
        mesh.render, list(mesh.parameters()), lambda image: (image[0] - target).square(), mesh.eps
    )
    colours = mesh.colours.detach().clone().requires_grad_()
    red = colours.reshape(4, 8, 3)[..., 0].repeat_interleave(2, 0)
    # Each texel covers one column and two rows of the rectangle.
    loss = (red - target[1:9, 2:10]).square().sum()
    (reference,) = torch.autograd.grad(loss, [colours])
    torch.testing.assert_close(estimate[:, 0], reference[:, 0], rtol=1e-3, atol=1e-4)


def test_backward_is_the_estimate_of_the_slope_of_the_objective() -> None:
    mesh, slope = MeshTexture.grid((16, 16), rows=2, columns=2, grey=0.4, seed=5), picture(3, 16)
    with torch.no_grad():
        mesh.colours.copy_(torch.rand(8, 3, generator=torch.Generator().manual_seed(0)))
    (mesh()[0] * slope).sum().backward()
    expected = estimate_gradient(
        mesh.render, list(mesh.parameters()), lambda image: (image * slope).sum(0), mesh.eps,
        generator=torch.Generator().manual_seed(5),
    )  # fmt: skip
    for parameter, gradient in zip(mesh.parameters(), expected, strict=True):
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, gradient)


def test_it_is_optimised_like_any_other_parametrisation() -> None:
    target = picture()
    mesh = MeshTexture.grid((24, 24), rows=6, columns=6)
    first, start = float((0.5 - target).square().mean()), mesh.vertices.detach().clone()
    run = ImageOptimisation(mesh, {"error": lambda image: (image - target).square().sum()}).run(100)
    assert float((run.image[0] - target).square().mean()) < 0.3 * first
    assert bool((mesh.vertices != start).any())
    assert 0 <= float(mesh.colours.detach().min()) <= float(mesh.colours.detach().max()) <= 1


def test_its_colours_stay_colours() -> None:
    mesh = MeshTexture.grid((8, 8), rows=1, columns=1)
    with torch.no_grad():
        mesh.colours.copy_(torch.tensor([[-1.0, 0.5, 2.0], [0.0, 1.0, 0.2]]))
    mesh.project_()
    assert mesh.colours.tolist() == [[0.0, 0.5, 1.0], [0.0, 1.0, pytest.approx(0.2)]]
    assert [group["lr"] for group in mesh.groups()] == [0.25, 0.01]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"colours": torch.zeros(1, 3)}, r"\(2, 3\)"),
        ({"colours": torch.full((2, 3), 1.5)}, "in \\[0, 1\\]"),
        ({"colours": torch.full((2, 3), float("nan"))}, "in \\[0, 1\\]"),
        ({"uv": torch.zeros(4, 2)}, "texture"),
        ({"uv": torch.zeros(3, 2), "colours": torch.zeros(2, 2, 3)}, r"\(4, 2\)"),
        ({"uv": torch.full((4, 2), 2.0), "colours": torch.zeros(2, 2, 3)}, r"\(4, 2\)"),
        ({"background": 2.0}, "background"),
        ({"eps": (0.0, 0.1)}, "eps"),
        ({"lr": (0.1, float("nan"))}, "lr"),
        ({"samples": 0}, "samples"),
        ({"vertices": torch.full((4, 2), float("nan"))}, "finite"),
    ],
)
def test_refusals(settings: dict[str, Any], message: str) -> None:
    parts = {
        "vertices": torch.tensor([[0.0, 0], [4, 0], [4, 4], [0, 4]]), "faces": torch.tensor([[0, 1, 2], [0, 2, 3]]),
        "size": (4, 4), "colours": torch.zeros(2, 3),
    }  # fmt: skip
    with pytest.raises(UsageError, match=message):
        MeshTexture(**{**parts, **settings})
    with pytest.raises(UsageError, match="rows"):
        MeshTexture.grid((4, 4), rows=0, columns=1)
