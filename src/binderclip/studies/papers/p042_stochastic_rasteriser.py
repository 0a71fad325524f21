"""Does crediting each pixel to what it shows let random perturbations optimise large scenes through a rasteriser?"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from binderclip.data import load_data
from binderclip.generate import MeshTexture, Rendering, estimate_gradient
from binderclip.studies.harness import Figure, Row, Table, declared_study
from binderclip.vision import rasterize

PIXEL, GLOBAL, MEANS = "per pixel", "one loss for all", "mean colours, fixed mesh"
ERROR, COSINE = "squared error over that of grey", "cosine with the analytic gradient"
SIDE, CELLS, STEPS, TILE, ESTIMATES = 32, (2, 6, 12), 150, 16, 40
MESHES = {f"{2 * cells**2} triangles": cells for cells in CELLS}
AREAS = {"one triangle": 1, "16 triangles": 4}


@lru_cache(maxsize=1)
def photographs() -> list[Tensor]:
    """Squares from the middle of photographs, [3, SIDE, SIDE] in [0, 1]."""
    pictures = []
    for sample in load_data("photographs"):
        image, side = sample.image.convert("RGB"), min(sample.image.size)
        left, top = ((length - side) // 2 for length in image.size)
        image = image.resize((SIDE, SIDE), box=(left, top, left + side, top + side))
        pictures.append(torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).permute(2, 0, 1))
    return pictures


def optimise(target: Tensor, cells: int, method: str, seed: int) -> float:
    """Squared error after `STEPS` of Adam, relative to the first, grey picture's."""
    mesh = MeshTexture.grid((SIDE, SIDE), rows=cells, columns=cells)
    parameters, g = list(mesh.parameters()), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(mesh.groups())

    def render(*values: Tensor) -> Rendering:
        drawn = mesh.render(*values)
        return drawn if method == PIXEL else Rendering(drawn.image, (None, None))

    def loss(image: Tensor) -> Tensor:
        return (image - target).square().sum(0)

    for _ in range(STEPS):
        gradients = estimate_gradient(render, parameters, loss, mesh.eps, generator=g)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        mesh.project_()
    return float(loss(mesh.render(*parameters).image).sum() / (0.5 - target).square().sum())


def mean_colours(target: Tensor, cells: int) -> float:
    """The least relative error of a regular mesh, whose triangles have the mean colour of their pixels."""
    mesh = MeshTexture.grid((SIDE, SIDE), rows=cells, columns=cells)
    face = rasterize(mesh.vertices.detach(), mesh.faces, mesh.size).pix_to_face.flatten()
    one_hot = torch.nn.functional.one_hot(face, len(mesh.faces)).to(target.dtype)
    means = target.flatten(1) @ one_hot / one_hot.sum(0).clamp(min=1)
    return float((means[:, face] - target.flatten(1)).square().sum() / (0.5 - target).square().sum())


def cosine(tiles: int, method: str, seed: int) -> float:
    """White triangles on black, one a tile, are to vanish: the loss is their area, whose gradient has a closed form."""
    g = torch.Generator().manual_seed(seed)
    angles = 2 * torch.pi * (torch.rand(tiles**2, 1, generator=g) + torch.tensor([0.0, 1 / 3, 2 / 3]))
    radius = 4 + 3 * torch.rand(tiles**2, 3, generator=g)
    tile = TILE * (torch.cartesian_prod(torch.arange(tiles), torch.arange(tiles)) + 0.5)
    corners = tile[:, None] + radius[..., None] * torch.stack((angles.cos(), angles.sin()), -1)  # [F, 3, 2]
    opposite = corners[:, [2, 0, 1]] - corners[:, [1, 2, 0]]
    exact = torch.stack((-opposite[..., 1], opposite[..., 0]), -1).flatten() / 2  # d area / d corner
    faces, size = torch.arange(3 * tiles**2).reshape(-1, 3), (TILE * tiles, TILE * tiles)

    def render(vertices: Tensor) -> Rendering:
        face = rasterize(vertices, faces, size).pix_to_face
        rows = faces[face.clamp(min=0)].masked_fill((face < 0)[..., None], -1).reshape(-1, 3)
        return Rendering((face >= 0).float(), (rows if method == PIXEL else None,))

    values = []
    for _ in range(ESTIMATES):
        (gradient,) = estimate_gradient(render, [corners.reshape(-1, 2)], lambda image: image, 1.0, generator=g)
        values.append(torch.cosine_similarity(gradient.flatten(), exact, dim=0))
    return float(torch.stack(values).mean())


def measure(seed: int) -> list[Row]:
    """All rows of one seed, of a photograph of its own."""
    pictures = photographs()
    target, rows = pictures[seed % len(pictures)], []
    for method in (PIXEL, GLOBAL):
        rows += [Row(COSINE, method, cosine(tiles, method, seed), name) for name, tiles in AREAS.items()]
        rows += [Row(ERROR, method, optimise(target, cells, method, seed), name) for name, cells in MESHES.items()]
    return rows + [Row(ERROR, MEANS, mean_colours(target, cells), name) for name, cells in MESHES.items()]


def draw(table: Table, figure: Figure) -> None:
    """Both measures over the size of the scene: all seeds as dots, their means as lines."""
    axes = figure.subplots(1, 2)
    panels = ((COSINE, AREAS, (PIXEL, GLOBAL)), (ERROR, MESHES, (PIXEL, GLOBAL, MEANS)))
    for ax, (metric, settings, methods) in zip(axes, panels, strict=True):
        for number, method in enumerate(methods):
            values = np.array([table.values(metric, method, setting) for setting in settings])  # [S, seeds]
            ax.plot(range(len(settings)), values, "o", color=f"C{number}", alpha=0.3, markersize=3)
            ax.plot(range(len(settings)), values.mean(1), color=f"C{number}", label=method)
        ax.set_xticks(range(len(settings)), list(settings))
        ax.set_title(metric, fontsize=9)
        ax.set_ylim(0, None)
        ax.legend(fontsize=8)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 20), registered="55bef3f21a82")
