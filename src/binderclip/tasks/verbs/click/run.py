"""What `click` does: the mask of what was pointed at, as a picture of its own and on the picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from binderclip.data import open_image
from binderclip.display import number_of
from binderclip.errors import UsageError
from binderclip.tasks.arguments.points import check_within
from binderclip.tasks.events import Saved, emit, start
from binderclip.tasks.files.inputs import one_image
from binderclip.tasks.files.outputs import new_paths, writable_path
from binderclip.tasks.pointing import opened_segmenter, pointed_mask
from binderclip.tasks.report.sheet import save_picture
from binderclip.tasks.request import VerbResult
from binderclip.tasks.verbs.click.objects import ObjectsReport, run_objects
from binderclip.tasks.verbs.click.request import Box, ClickRequest, Point
from binderclip.tasks.verbs.click.session import session_after

BLUE, GREEN, RED = (20, 90, 220), (20, 160, 60), (210, 30, 30)
COLUMNS = ("image", "share", "predicted IoU", "mask")


@dataclass(frozen=True)
class ClickReport(VerbResult):
    """A mask and what asked for it.

    Attributes:
        mask: (H, W) of bool.
        predicted_iou: what the model says of it.
        inside, outside, box: all prompts that count, those of a session too.
        steps: of the session.
        mask_path, overlay_path: the files.
    """

    request: ClickRequest
    mask: np.ndarray
    predicted_iou: float
    inside: list[Point]
    outside: list[Point]
    box: Box | None
    steps: int
    mask_path: Path
    overlay_path: Path
    complete: bool = True

    @property
    def title(self) -> str:
        """How large the mask is, and where."""
        bounds = self.bounds
        where = f"x {bounds[0]} to {bounds[2]}, y {bounds[1]} to {bounds[3]}" if bounds else "nothing was found there"
        return f"{self.mask.mean():.1%} of the picture, {where}; predicted IoU {self.predicted_iou:.2f}"

    @property
    def bounds(self) -> tuple[int, int, int, int] | None:
        """(x0, y0, x1, y1) of the mask, half-open; None for an empty one."""
        rows, columns = np.flatnonzero(self.mask.any(axis=1)), np.flatnonzero(self.mask.any(axis=0))
        if not len(rows):
            return None
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """No row: a sentence says it all."""
        return COLUMNS, []

    def conclusion(self) -> list[str]:
        """What was found, and where the files are."""
        session = self.request.session
        kept = [] if session is None else [f"session {session}, {number_of(self.steps, 'step')}"]
        return [self.title, f"mask {self.mask_path}", f"overlay {self.overlay_path}", *kept]

    def as_dict(self) -> dict[str, Any]:
        session = self.request.session
        return {
            "image": self.request.image,
            "model": self.request.model,
            "points": self.inside,
            "not": self.outside,
            "box": self.box,
            "pixels": int(self.mask.sum()),
            "share": float(self.mask.mean()),
            "predicted_iou": self.predicted_iou,
            "bounds": self.bounds,
            "mask": self.mask_path,
            "overlay": self.overlay_path,
            **({} if session is None else {"session": session, "steps": self.steps}),
            "request": self.request.as_document(),
        }


def run(request: ClickRequest) -> ClickReport | ObjectsReport:
    """Find the mask of the prompts, or of all objects of a session, and write it.

    Raises:
        UsageError: a prompt outside the picture, a session that cannot be gone on with, or a result that would
            replace what is none of ours.
        DataError: the picture or the session cannot be read, or a file cannot be written.
    """
    if request.objects is not None:
        return run_objects(request)
    path = one_image(request.image)
    mask_path, overlay_path = new_paths(path, (request.out, "mask.png"), (request.overlay, "clicked.png"))
    if request.session is not None:
        writable_path(request.session)
    picture = open_image(path).convert("RGB")
    check_prompts(request, picture)
    start("loading the model")
    segmenter = opened_segmenter(request.model, cut=request.cut, device=request.device)
    start("cutting out")
    if request.session is None:
        mask, certainty = pointed_mask(segmenter, picture, request.point, request.outside, request.box)
        inside, outside, box, steps = request.point, request.outside, request.box, 0
    else:
        after = session_after(request, picture, path, segmenter)
        mask, certainty, steps = after.mask.cpu().numpy(), after.predicted_iou or 0.0, len(after.actions)
        inside, outside = ([(c.x, c.y) for c in after.clicks if c.positive is kind] for kind in (True, False))
        box = next((action.box for action in reversed(after.actions) if action.box is not None), None)
        emit(Saved(Path(request.session)))
    save_picture(Image.fromarray(mask.astype("uint8") * 255), mask_path)
    save_picture(_drawn(picture, mask, inside, outside, box), overlay_path)
    for saved in (mask_path, overlay_path):
        emit(Saved(saved))
    return ClickReport(request, mask, certainty, inside, outside, box, steps, mask_path, overlay_path)


def check_prompts(request: ClickRequest, picture: Image.Image) -> None:
    """Refuse prompts outside the picture.

    Raises:
        UsageError: which one, and how large the picture is.
    """
    check_within([*request.point, *request.outside], picture)
    if request.box is not None:
        from binderclip.adapt import Region

        try:
            Region(request.box).bounds(picture.height, picture.width)
        except UsageError as error:
            raise UsageError(f"--box: {error}") from error


def _drawn(
    picture: Image.Image, mask: np.ndarray, inside: list[Point], outside: list[Point], box: Box | None
) -> Image.Image:
    """The picture, what is not the object faded, with the prompts."""
    pixels = np.asarray(picture, dtype=np.float32)
    faded = 0.25 * pixels.mean(axis=2, keepdims=True) + 165
    shown = Image.fromarray(np.where(mask[..., None], pixels, faded).round().clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(shown)
    size = max(4, min(picture.size) // 60)
    if box is not None:
        draw.rectangle(list(box), outline=BLUE, width=max(2, size // 3))
    for colour, points in ((GREEN, inside), (RED, outside)):
        for x, y in points:
            draw.ellipse(
                (x - size, y - size, x + size, y + size), fill=colour, outline="white", width=max(1, size // 4)
            )
    return shown
