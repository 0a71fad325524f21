"""What `reconstruct` does: slices to a mesh, its picture, and its cross-sections with the slices' planes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from binderclip.errors import UsageError
from binderclip.models.files.devices import resolve_device
from binderclip.tasks.events import Counted, Saved, batches, counted, emit, start, warn
from binderclip.tasks.files.inputs import skip_pictures
from binderclip.tasks.files.maker import MESH_COMMENT
from binderclip.tasks.files.outputs import picture_path, writable_path
from binderclip.tasks.files.results import save_or_keep
from binderclip.tasks.files.writing import short_path
from binderclip.tasks.report.sheet import contact_sheet
from binderclip.tasks.verbs.reconstruct.request import ReconstructRequest
from binderclip.tasks.verbs.reconstruct.result import KeptSlice, Reconstruction
from binderclip.tasks.verbs.reconstruct.slices import SliceStack, picture_of, read_slices
from binderclip.vision import (
    PlanarSlice,
    SliceField,
    TriangleMesh,
    fill_segments,
    interpolated_surface,
    mesh_section,
    resample_contour,
    shaded_view,
)
from binderclip.vision.fields.interpolated import are_parallel
from binderclip.vision.fields.mesh import SUFFIXES
from binderclip.vision.fields.sections import contour_segments

DISTANCES, FIELD = "distances", "field"
STEPS_ACROSS, DEPTH, BATCH, NOISE, HULL = 64, 3, 4096, 512, 4096
"""Of a field: steps of a contour across the slices' extent, layers, points a step, and points on planes and hull."""
POINTS = 400
"""Places along each side of a slice's box at which areas are compared."""
INSIDE = 1e-3
"""The first and the last cross-section are taken so much of a gap inside: on the plane itself lies a face."""
VIEWS = ((35.0, "from the front"), (215.0, "from behind"))
SIDE = 448


def run(request: ReconstructRequest) -> Reconstruction:
    """Make the mesh, write it and its picture, and measure it.

    Raises:
        UsageError: fewer than two slices, none that shows anything, planes that the method cannot take, or a result
            that would replace what is none of ours.
        DataError: no slice can be read, or a file cannot be written.
    """
    out, picture = _places(request)
    device = resolve_device(request.device)
    stack = read_slices(request)
    skip_pictures(stack.skipped, left=stack.slices, unit="slice")
    _check(stack)
    parallel = are_parallel(stack.slices)
    method = request.method or (DISTANCES if parallel else FIELD)
    mesh = _interpolated(stack.slices, request) if method == DISTANCES else _fitted(stack.slices, request, device, out)
    save_or_keep(lambda place: mesh.write(place, MESH_COMMENT), out)
    try:
        emit(Saved(out))
        start("drawing")
        _draw(mesh, picture)
        emit(Saved(picture))
        rows = kept_slices(mesh, stack.slices, stack.names, capped=method == DISTANCES)
    except KeyboardInterrupt:
        warn(f"interrupted: the mesh {short_path(out)} is whole, and was not compared with the slices")
        raise
    return Reconstruction(
        request, method, rows, mesh.volume, mesh.area, mesh.is_closed, len(mesh.faces), out, picture, stack.skipped,
        complete=not stack.named,
    )  # fmt: skip


def _places(request: ReconstructRequest) -> tuple[Path, Path]:
    """Where mesh and picture go, checked before any work."""
    out = Path(request.out)
    if out.suffix.lower() not in SUFFIXES and not out.is_dir():
        raise UsageError(f"--out {out}: a mesh's name ends in {' or '.join(SUFFIXES)}")
    return writable_path(out), picture_path(picture_of(request))


def _check(stack: SliceStack) -> None:
    """Refuse what is no solid."""
    if len(stack.slices) < 2:
        raise UsageError(f"a solid needs at least two slices; there is one, {stack.names[0]}")
    if not any(part.contours for part in stack.slices):
        raise UsageError("every slice is empty: the solid must be white or opaque; --invert where it is black")


def _interpolated(slices: list[PlanarSlice], request: ReconstructRequest) -> TriangleMesh:
    """The surface between parallel slices, of which there is nothing before it is whole."""
    start("interpolating")
    try:
        return interpolated_surface(slices, request.resolution, progress=batches("slice"))
    except KeyboardInterrupt:
        warn("interrupted before the surface was whole: no mesh was written")
        raise


def _fitted(slices: list[PlanarSlice], request: ReconstructRequest, device: Any, out: Path) -> TriangleMesh:
    """The surface of a field fitted to slices; what is done of it is written where the fit is interrupted."""
    vertices = torch.cat([part.vertices() for part in slices])
    step = float((vertices.amax(0) - vertices.amin(0)).max()) / STEPS_ACROSS
    evenly = [
        PlanarSlice(tuple(resample_contour(each, step) for each in part.contours), part.origin, part.axes)
        for part in slices
    ]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(request.seed)
        field = SliceField(iterations=request.rounds, width=request.width, depth=DEPTH).to(device)
    done, state, total = 0, field.state_dict(), request.epochs * request.levels

    def after_epoch(number: int, whole: int) -> None:
        nonlocal done, state
        done, state = number, copy.deepcopy(field.state_dict())  # the step that is interrupted may be half done
        emit(Counted(number, whole, "epoch"))

    start("fitting a field to the slices")
    try:
        field.fit(
            evenly, epochs=[request.epochs] * request.levels, batch=BATCH, hinge=0.0, noise=NOISE, hull=HULL,
            generator=torch.Generator().manual_seed(request.seed), progress=after_epoch,
        )  # fmt: skip
        start("reading the surface out of the field")
        return field.mesh(request.resolution)
    except KeyboardInterrupt:
        field.load_state_dict(state)
        warn(f"interrupted after {done} of {total:,} epochs: {_left_of(field, done, request, out)}")
        raise


def _left_of(field: SliceField, done: int, request: ReconstructRequest, out: Path) -> str:
    """Write the surface of a field that is not fitted to the end, where it has one, and say so."""
    if not done:
        return "no mesh was written"
    try:
        mesh = field.mesh(request.resolution)
    except UsageError:  # nowhere inside
        return "it has no surface yet, and no mesh was written"
    mesh.write(out, MESH_COMMENT)
    return f"{short_path(out)} is the mesh so far"


def kept_slices(mesh: TriangleMesh, slices: list[PlanarSlice], names: list[str], *, capped: bool) -> list[KeptSlice]:
    """Each slice beside the mesh's cross-section with its plane.

    Args:
        mesh: of the slices.
        slices, names: as they were given.
        capped: whether the mesh has faces on the first and the last plane.
    """
    heights = _heights(slices)
    order = np.argsort(heights) if heights is not None else np.arange(0)
    rows, pairs = [], zip(slices, names, strict=True)
    for number, (part, name) in enumerate(counted(pairs, "cross-section", len(slices))):
        offset = 0.0
        if capped and heights is not None and number in (order[0], order[-1]):
            neighbour = order[1] if number == order[0] else order[-2]
            # In the slice's own normal, which may point down.
            normal = torch.linalg.cross(*part.axes.double())
            offset = INSIDE * float((slices[neighbour].origin.double() - part.origin.double()) @ normal)
        given, section = contour_segments(part.contours), mesh_section(mesh, part, offset)
        area, mesh_area, kept = _compared(given, section)
        rows.append(KeptSlice(name, None if heights is None else float(heights[number]), area, mesh_area, kept))
    return rows


def _heights(slices: list[PlanarSlice]) -> np.ndarray | None:
    """Heights of parallel planes along the first one's normal; None for others."""
    if not are_parallel(slices):
        return None
    normal = torch.linalg.cross(*slices[0].axes.double())
    # Above the origin of space for the usual slices, so that heights are those that were given.
    return np.array([float(part.origin.double() @ normal) for part in slices])


def _compared(given: np.ndarray, section: np.ndarray) -> tuple[float, float, float]:
    """Areas inside two sets of closed lines, and the intersection over the union."""
    ends = np.concatenate([given, section]).reshape(-1, 2)
    if not len(ends):
        return 0.0, 0.0, 1.0
    low, extent = ends.min(0), np.maximum(np.ptp(ends, axis=0), 1e-9)
    step = extent / POINTS
    grid = ((low[0] + step[0] / 2, low[1] + step[1] / 2), (step[0], step[1]), (POINTS, POINTS))
    first, second = fill_segments(given, *grid), fill_segments(section, *grid)
    union = int((first | second).sum())
    cell = float(step.prod())
    return first.sum() * cell, second.sum() * cell, float((first & second).sum() / union) if union else 1.0


def _draw(mesh: TriangleMesh, place: Path) -> None:
    """The mesh from two sides."""
    views = [(Image.fromarray(shaded_view(mesh, azimuth=angle, side=SIDE)), words, "") for angle, words in VIEWS]
    contact_sheet(views, place, columns=2, side=SIDE)
