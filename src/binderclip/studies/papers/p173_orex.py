"""Do rounds of estimation make a field that is fitted to slices a better solid?"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from binderclip.studies.harness import Row, Table, declared_study, dot_panels, random_rows
from binderclip.vision import PlanarSlice, SliceField, TriangleMesh, level_surface

FULL, ONE_ROUND, BOX = "rounds of estimation", "one round", "box of the slices"
SIGNED = "signed distances of slices, interpolated"
IOU, WRONG, ERROR = "IoU with the solid", "relative error of the volume", "largest error of a measured solid"
SPHERE, RING = "sphere", "beaded torus"
SLICES, FINE, POINTS, GRID, EDGE = 8, 97, 20_000, 40, 0.88
RIM, TUBE, BEADS, DEPTH = 0.6, 0.24, 5, 0.35
ROUNDS, WIDTH, LAYERS, EPOCHS, BATCH, NOISE, HULL = 4, 32, 3, (14, 14, 14), 2048, 256, 1024
BEADED = 2 * math.pi**2 * RIM * TUBE**2 * (1 + DEPTH**2 / 2)
"""Volume of the beaded torus: pi RIM r(angle)^2 over all angles, by Pappus."""


def height(points: Tensor, phase: float) -> Tensor:
    """Below 0 inside a torus around z whose tube swells `BEADS` times on its way."""
    x, y, z = points.unbind(-1)
    tube = TUBE * (1 + DEPTH * (BEADS * torch.atan2(y, x) + phase).cos())
    return torch.hypot(torch.hypot(x, y) - RIM, z) - tube


def cross_sections(phase: float) -> list[PlanarSlice]:
    """Slices at equal steps of x, with contours from a fine grid of each plane."""
    from contourpy import contour_generator

    line = torch.linspace(-1, 1, FINE)
    y, z = torch.meshgrid(line, line, indexing="ij")
    axes, result = torch.eye(3)[1:], []
    for x in torch.linspace(-EDGE, EDGE, SLICES).tolist():
        values = height(torch.stack([torch.full_like(y, x), y, z], -1), phase)
        lines = contour_generator(line.numpy(), line.numpy(), values.T.numpy()).lines(0.0)
        contours = [torch.from_numpy(part[:-1:3]).float() for part in lines if len(part) > 12]
        result.append(PlanarSlice(tuple(contours), torch.tensor([x, 0.0, 0.0]), axes))
    return result


def signed_distance(part: PlanarSlice, points: Tensor) -> Tensor:
    """Distance in a slice's plane to its contours, below 0 inside; 1 where there is none."""
    nearest = torch.ones(len(points))
    for contour in part.contours:
        start, along = contour, contour.roll(-1, 0) - contour
        t = ((points[:, None] - start) * along).sum(-1) / along.square().sum(-1).clamp(min=1e-12)
        gap = (points[:, None] - start - t.clamp(0, 1)[..., None] * along).norm(dim=-1).amin(1)
        nearest = torch.minimum(nearest, gap)
    return torch.where(part.inside(points), -nearest, nearest)


def interpolated(slices: list[PlanarSlice], points: Tensor) -> Tensor:
    """Linear between the signed distances of the slices before and after; outside beyond the last."""
    planes = torch.stack([part.origin[0] for part in slices])
    values = torch.stack([signed_distance(part, points[:, 1:]) for part in slices])  # [S N]
    after = torch.searchsorted(planes, points[:, 0].contiguous()).clamp(1, len(planes) - 1)
    part = (points[:, 0] - planes[after - 1]) / (planes[after] - planes[after - 1])
    rows = torch.arange(len(points))
    value = (1 - part) * values[after - 1, rows] + part * values[after, rows]
    return torch.where(points[:, 0].abs() <= EDGE, value, torch.ones_like(value))


def measured(seed: int) -> list[Row]:
    """Errors of the mesh's volume where it is known, at a grid of 64: a sphere and the beaded torus itself."""
    line = torch.linspace(-1, 1, 64, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1)
    radius = 0.5 + 0.02 * (seed % 10)
    solids: dict[str, tuple[TriangleMesh, float]] = {
        SPHERE: (level_surface(grid.norm(dim=-1) - radius), 4 / 3 * math.pi * radius**3),
        RING: (level_surface(height(grid, 0.7 * seed)), BEADED),
    }
    closed = all(mesh.is_closed for mesh, _ in solids.values())
    errors = {name: abs(mesh.volume / volume - 1) if closed else 1.0 for name, (mesh, volume) in solids.items()}
    return [Row(ERROR, name, error) for name, error in errors.items()]


def fitted(slices: list[PlanarSlice], seed: int, rounds: int) -> SliceField:
    """A field of slices, as the method is set; without the hinge."""
    torch.manual_seed(seed)
    field = SliceField(iterations=rounds, width=WIDTH, depth=LAYERS)
    return field.fit(
        slices, epochs=EPOCHS, batch=BATCH, noise=NOISE, hull=HULL, hinge=0.0,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip


def measure(seed: int) -> list[Row]:
    """All rows of one seed: its beads are turned by the seed."""
    g, phase = torch.Generator().manual_seed(seed), 0.7 * seed
    slices = cross_sections(phase)
    points = 2 * torch.rand(POINTS, 3, generator=g) - 1
    solid, rows = height(points, phase) < 0, measured(seed)
    answers = {SIGNED: interpolated(slices, points) < 0, BOX: (points.abs() < torch.tensor([EDGE, EDGE, TUBE])).all(1)}
    for name, rounds in ((FULL, ROUNDS), (ONE_ROUND, 1)):
        field = fitted(slices, seed, rounds)
        answers[name] = field.logits(points) < 0
        rows.append(Row(WRONG, name, abs(field.mesh(GRID).volume / BEADED - 1)))
    return rows + [Row(IOU, name, float((a & solid).sum() / (a | solid).sum())) for name, a in answers.items()]


def exact(table: Table) -> tuple[bool, str]:
    """Whether volumes of meshes are the closed forms to 1 %."""
    worst = {name: float(table.values(ERROR, name).max()) for name in (SPHERE, RING)}
    return max(worst.values()) < 0.01, "; ".join(f"{name}: {value:.1e}" for name, value in worst.items())


def null(seed: int) -> list[Row]:
    """Random numbers, and volumes that miss."""
    return [Row(ERROR, name, 0.5) for name in (SPHERE, RING)] + random_rows(STUDY.criteria, seed)


METHODS = (FULL, ONE_ROUND, SIGNED, BOX)
PANELS = dot_panels((IOU, METHODS), (WRONG, METHODS[:2]), rotation=20)
STUDY = declared_study(__name__, measure, draw=PANELS, seeds=range(10, 18), null=null, registered="c721af016ba3")
