"""What `trace` does: the line between points as JSON, as a picture, and the tube's pixels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from binderclip.data import open_image
from binderclip.errors import UsageError
from binderclip.segment import TracedLine, load_tracer, trace_picture
from binderclip.tasks.arguments.points import check_within
from binderclip.tasks.events import Saved, emit, start
from binderclip.tasks.files.inputs import one_image
from binderclip.tasks.files.outputs import new_paths
from binderclip.tasks.files.writing import write_json
from binderclip.tasks.report.sheet import save_picture
from binderclip.tasks.request import VerbResult
from binderclip.tasks.verbs.trace.request import Point, TraceRequest

BLUE, GREEN, RED = (20, 90, 220), (20, 160, 60), (210, 30, 30)


@dataclass(frozen=True)
class TraceReport(VerbResult):
    """A line through the points.

    Attributes:
        line: in pixels of the picture.
        most_cost: mean cost a pixel where nothing looks like a tube.
        files: kind (line, overlay, and mask where the tracer gives one) -> file.
    """

    request: TraceRequest
    line: TracedLine
    most_cost: float
    files: dict[str, Path]

    @property
    def title(self) -> str:
        """How long the line is, and how sure."""
        sure = f"cost {self.line.cost:.1f} a pixel (1 is a sure tube, {self.most_cost:g} none)"
        return f"{self.line.length:.0f} pixels long; {sure}"

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """No row: a sentence says it all."""
        return ("image", "length", "cost"), []

    def conclusion(self) -> list[str]:
        """The line, and where the files are."""
        return [self.title, *(f"{kind} {path}" for kind, path in self.files.items())]

    def figures(self) -> dict[str, Any]:
        """What the file of the line holds."""
        return {
            "image": Path(self.request.image),
            "tracer": self.request.tracer,
            "through": _points(self.request),
            "length": self.line.length,
            "cost": self.line.cost,
            "points": [[round(x, 2), round(y, 2)] for x, y in self.line.points.tolist()],
        }

    def as_dict(self) -> dict[str, Any]:
        return {**self.figures(), **self.files, "request": self.request.as_document()}


def run(request: TraceRequest) -> TraceReport:
    """Trace the line, and write it.

    Raises:
        UsageError: no such file or tracer, a point outside the picture, two that fall on one pixel, or a result that
            would replace what is none of ours.
        CheckpointError: the folder holds another kind of model, or damaged weights.
        DataError: a file that cannot be read or written.
    """
    path = one_image(request.image)
    line_path, overlay_path, mask_path = new_paths(
        path, (request.out, "trace.json"), (request.overlay, "traced.png"), (request.mask, "trace.png")
    )
    picture = open_image(path).convert("RGB")
    points = _points(request)
    check_within(points, picture)
    start("loading the tracer")
    tracer = load_tracer(request.tracer)
    if request.mask is not None and tracer.mask is None:
        raise UsageError(f"--mask: {request.tracer} finds lines alone, without their pixels: leave it out")
    start("tracing")
    line = trace_picture(tracer, picture, points, size=request.size)
    files = {"line": line_path, "overlay": overlay_path} | ({} if line.mask is None else {"mask": mask_path})
    report = TraceReport(request, line, 1 / tracer.eps, files)
    write_json(report.figures(), line_path)
    save_picture(_drawn(picture, line, points), overlay_path)
    if line.mask is not None:
        save_picture(Image.fromarray(line.mask.numpy().astype("uint8") * 255), mask_path)
    for saved in files.values():
        emit(Saved(saved))
    return report


def _points(request: TraceRequest) -> list[Point]:
    return [request.start, *request.to]


def _drawn(picture: Image.Image, line: TracedLine, points: list[Point]) -> Image.Image:
    """The picture with the tube's pixels tinted, the line, and the given points."""
    pixels = np.asarray(picture, dtype=np.float32)
    if line.mask is not None:
        tinted = 0.55 * pixels + 0.45 * np.array(GREEN, dtype=np.float32)
        pixels = np.where(line.mask.numpy()[..., None], tinted, pixels)
    shown = Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(shown)
    size = max(2, min(picture.size) // 80)
    draw.line([tuple(point) for point in line.points.tolist()], fill=RED, width=max(1, size // 2))
    for x, y in points:
        draw.ellipse((x - size, y - size, x + size, y + size), fill=BLUE, outline="white")
    return shown
