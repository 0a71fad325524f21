"""A mesh of coloured or textured triangles, drawn by a rasteriser without a gradient."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.generate.draw.parametrisation import Parametrisation
from binderclip.generate.draw.stochastic import Rendering, estimate_gradient
from binderclip.numeric import check_number, check_whole
from binderclip.vision.triangles import Fragments, rasterize

__all__ = ["MeshTexture"]

VERTEX_EPS, COLOUR_EPS = 1.0, 0.05
VERTEX_RATE, COLOUR_RATE = 0.25, 0.01


class MeshTexture(Parametrisation):
    """Triangles with one colour each, or with a texture, whose corners and colours are both optimised.

    `estimate_gradient(mesh.render, list(mesh.parameters()), loss, mesh.eps)` is the paper's, for a loss of pixels. In
    `ImageOptimisation` any objective of the picture can move it: `backward` then takes the objective's gradient dL/dI
    for the slope of a loss of pixels, and estimates from `dL/dI (I+ - I-)`, two pictures more.

    Args:
        vertices: x and y in pixels, from the upper left corner; a third column is the depth, which is optimised too.
        faces: numbers of each triangle's vertices.
        size: (H, W) of the picture.
        colours: RGB in [0, 1] of each triangle, or with `uv` the texture's texels.
        uv: places of the vertices in the texture, in [0, 1]: (0, 0) is its upper left corner. A pixel has the colour
            of the nearest texel. Default none: a colour for each triangle.
        background: grey value of pixels without a triangle.
        eps: perturbation of vertices in pixels, and of colours.
        lr: learning rates of vertices and of colours.
        samples: pairs of pictures for each gradient.
        seed: of the perturbations.

    Attributes:
        vertices: the parameter of corners.
        colours: the parameter of colours, a row for each triangle or texel.

    Raises:
        UsageError: shapes that do not fit together, or values that are not finite or out of range.

    Paper: Transforming a Non-Differentiable Rasterizer into a Differentiable One with Stochastic Gradient Estimation
    (arXiv 2404.09758); the step sizes are ours.

    Examples:
        >>> mesh = MeshTexture.grid((32, 32), rows=4, columns=4)
        >>> target = torch.rand(3, 32, 32)
        >>> def loss(image):
        ...     return (image - target).square().sum(0)
        >>> gradients = estimate_gradient(mesh.render, list(mesh.parameters()), loss, mesh.eps)
        >>> [tuple(gradient.shape) for gradient in gradients]
        [(25, 2), (32, 3)]
    """

    faces: Int[Tensor, "F 3"]
    uv: Float[Tensor, "V 2"] | None

    def __init__(
        self,
        vertices: Float[Tensor, "V D"],
        faces: Int[Tensor, "F 3"],
        size: tuple[int, int],
        colours: Float[Tensor, "F 3"] | Float[Tensor, "h w 3"],
        *,
        uv: Float[Tensor, "V 2"] | None = None,
        background: float = 1.0,
        eps: tuple[float, float] = (VERTEX_EPS, COLOUR_EPS),
        lr: tuple[float, float] = (VERTEX_RATE, COLOUR_RATE),
        samples: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_number("background", background, least=0, most=1)
        for name, pair in (("eps", eps), ("lr", lr)):
            for value in pair:
                check_number(name, value, above=0)
        check_whole("samples", samples, least=1)
        check_whole("seed", seed)
        rasterize(vertices.detach(), faces, size)  # refuses vertices, faces and sizes that it cannot draw
        _check_colours(colours, uv, len(vertices), len(faces))
        self.size, self.background, self.eps, self.lr, self.samples = size, background, eps, lr, samples
        self.texture = None if uv is None else (colours.shape[0], colours.shape[1])
        self.vertices = nn.Parameter(vertices.detach().clone())
        self.colours = nn.Parameter(colours.detach().reshape(-1, 3).clone())
        self.register_buffer("faces", faces.clone())
        self.register_buffer("uv", None if uv is None else uv.detach().clone())
        self.generator = torch.Generator().manual_seed(seed)

    @classmethod
    def grid(cls, size: tuple[int, int], *, rows: int, columns: int, grey: float = 0.5, **settings: Any) -> MeshTexture:
        """A regular mesh over the whole picture: 2 * rows * columns triangles of one grey.

        Args:
            size, settings: as of the class.
            rows, columns: cells, each of two triangles.
            grey: their first colour.

        Raises:
            UsageError: no row or column, or a setting out of range.
        """
        check_whole("rows", rows, least=1)
        check_whole("columns", columns, least=1)
        y, x = torch.meshgrid(
            torch.linspace(0, size[0], rows + 1), torch.linspace(0, size[1], columns + 1), indexing="ij"
        )
        across = columns + 1
        corner = (torch.arange(rows)[:, None] * across + torch.arange(columns)).flatten()
        upper = torch.stack((corner, corner + 1, corner + across), 1)
        lower = torch.stack((corner + 1, corner + across + 1, corner + across), 1)
        faces = torch.stack((upper, lower), 1).reshape(-1, 3)
        vertices = torch.stack((x.flatten(), y.flatten()), 1)
        return cls(vertices, faces, size, torch.full((len(faces), 3), float(grey)), **settings)

    def forward(self) -> Float[Tensor, "1 3 H W"]:
        """The picture; its gradient is an estimate."""
        return _Estimated.apply(self, self.vertices, self.colours)[None]

    def groups(self) -> list[dict[str, Any]]:
        """Vertices and colours, each with its rate."""
        return [
            {"params": [parameter], "lr": rate}
            for parameter, rate in zip((self.vertices, self.colours), self.lr, strict=True)
        ]

    @torch.no_grad()
    def project_(self) -> None:
        """Colours back into [0, 1]."""
        self.colours.clamp_(0, 1)

    def render(self, vertices: Float[Tensor, "V D"], colours: Float[Tensor, "N 3"]) -> Rendering:
        """The picture [3, H, W] of any vertices and colours of this mesh, without a graph; colours are not clamped.

        A pixel shows the three corners of its triangle and one colour.
        """
        drawn = rasterize(vertices, self.faces, self.size)
        empty = (drawn.pix_to_face < 0)[..., None]
        corners = self.faces[drawn.pix_to_face.clamp(min=0)]  # [H, W, 3]
        colour = self._colour_numbers(drawn, corners)
        image = colours.detach()[colour].masked_fill(empty, self.background).permute(2, 0, 1)
        shown = corners.masked_fill(empty, -1), colour[..., None].masked_fill(empty, -1)
        return Rendering(image, (shown[0].reshape(-1, 3), shown[1].reshape(-1, 1)))

    def _colour_numbers(self, drawn: Fragments, corners: Int[Tensor, "H W 3"]) -> Int[Tensor, "H W"]:
        """For each pixel the number of its triangle, or of its nearest texel."""
        if self.texture is None or self.uv is None:
            return drawn.pix_to_face.clamp(min=0)
        height, width = self.texture
        u, v = (drawn.bary_coords[..., None] * self.uv[corners]).sum(-2).unbind(-1)
        column = (u * width).long().clamp(0, width - 1)
        row = (v * height).long().clamp(0, height - 1)
        return row * width + column

    def estimate(self, slope: Float[Tensor, "3 H W"]) -> tuple[Tensor, ...]:
        """The gradient of vertices and colours where that of the picture is `slope`."""
        return estimate_gradient(
            self.render, [self.vertices, self.colours], lambda image: (slope * image).sum(0), self.eps,
            samples=self.samples, generator=self.generator,
        )  # fmt: skip


class _Estimated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mesh: MeshTexture, vertices: Tensor, colours: Tensor) -> Tensor:
        ctx.mesh = mesh
        return mesh.render(vertices, colours).image

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return None, *ctx.mesh.estimate(gradients[0])


def _check_colours(colours: Tensor, uv: Tensor | None, vertices: int, faces: int) -> None:
    if uv is None and colours.shape != (faces, 3):
        raise UsageError(f"colours must be ({faces}, 3), one for each triangle, not {tuple(colours.shape)}")
    if uv is not None:
        if colours.ndim != 3 or colours.shape[2] != 3 or not math.prod(colours.shape):
            raise UsageError(f"with uv colours must be a texture (h, w, 3), not {tuple(colours.shape)}")
        if uv.shape != (vertices, 2) or not bool(((uv >= 0) & (uv <= 1)).all()):
            raise UsageError(f"uv must be ({vertices}, 2), in [0, 1]")
    if not bool(((colours >= 0) & (colours <= 1)).all()):
        raise UsageError("colours must lie in [0, 1]")
