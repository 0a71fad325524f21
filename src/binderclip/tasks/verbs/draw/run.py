"""What `draw` does with a text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from binderclip.generate import Parametrisation
from binderclip.tasks.events import Saved, emit, start, warn
from binderclip.tasks.files.outputs import picture_path, writable_path
from binderclip.tasks.files.writing import short_path, write_svg
from binderclip.tasks.models import image_text_model
from binderclip.tasks.verbs.draw.growing import Looks, emit_look, picture_of, save_preview
from binderclip.tasks.verbs.draw.judge import other_texts, scored
from binderclip.tasks.verbs.draw.methods import METHODS
from binderclip.tasks.verbs.draw.request import DrawRequest
from binderclip.tasks.verbs.draw.result import DrawnText

SHOWN = 512
"""Side in pixels that drawings of curves are rendered at, where their canvas is smaller."""


@dataclass(frozen=True)
class _DrawingFiles:
    """The files of a drawing, and how it is written into them."""

    param: Parametrisation
    picture: Path
    svg: Path | None

    @torch.no_grad()
    def write(self) -> tuple[Image.Image, Path]:
        param: Any = self.param
        side = max(SHOWN, getattr(param, "size", (0,))[0])
        pixels = param.render((side, side)) if self.svg is not None else param()
        if self.svg is not None:
            write_svg(param.to_svg((side, side)), self.svg, sync=False)
        return save_preview(picture_of(pixels), self.picture)


def run(request: DrawRequest) -> DrawnText:
    """Draw a text, and let a model judge the picture that did not guide it.

    Raises:
        UsageError: a result that would replace what is none of ours, or a model that guides and judges.
        OutputError: a file that cannot be written; the last one that could be is whole.
        Diverged: the picture's cosine is no number any more; the picture of before stays.
    """
    picture = picture_path(request.out)
    method = METHODS[request.method]
    svg = writable_path(picture.with_suffix(".svg")) if method.vector else None
    start("loading the models")
    model = image_text_model(request.model, device=request.device)
    judge = image_text_model(request.judged_by, device=request.device)
    others = other_texts(request.text, seed=request.seed)
    param = method.first(model, request)
    files = _DrawingFiles(param, picture, svg)
    with torch.no_grad():
        first = param().detach().clone()
    looks = Looks(files.write, request.steps)
    try:
        emit_look(*files.write())
        start("drawing")
        result = method.optimise(model, request, param, [looks])
        start("judging the picture")
        pictures = (first, result.image)
        scores = [scored(one, pictures, request.text, others, guides=one is model) for one in (judge, model)]
    except KeyboardInterrupt:
        param.project_()  # the step that was interrupted may have left the range
        files.write()
        warn(f"interrupted after {looks.done} of {request.steps} steps: {short_path(picture)} is the picture so far")
        raise
    for path in filter(None, (picture, svg)):
        emit(Saved(path))
    return DrawnText(request, result.steps, scores[0], scores[1], svg)
