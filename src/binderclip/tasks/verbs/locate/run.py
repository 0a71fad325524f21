"""What `locate` does: which of the given regions each text means, and the picture with their boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from binderclip.display import number_of
from binderclip.errors import UsageError
from binderclip.tasks.events import Saved, emit, start, warn
from binderclip.tasks.files.inputs import one_image
from binderclip.tasks.files.outputs import output_path
from binderclip.tasks.models import image_text_model, promptable_model
from binderclip.tasks.request import VerbResult
from binderclip.tasks.verbs.locate.request import LocateRequest

if TYPE_CHECKING:
    from PIL import Image

    from binderclip.adapt import Region

COLUMNS = ("text", "region", "prob", "box", "next best")


@dataclass(frozen=True)
class LocatedText:
    """What a text means.

    Attributes:
        region: its index; None where other texts have taken all.
        name, prob, box: of the region; box is xyxy in pixels.
        next: the region after it, with its probability.
        probs, scores: of all regions.
    """

    text: str
    region: int | None
    name: str
    prob: float
    box: tuple[int, int, int, int] | None
    next: str
    probs: list[float]
    scores: list[float]


@dataclass(frozen=True)
class LocateReport(VerbResult):
    """What every text means.

    Attributes:
        regions: (name, box) of each.
        texts: in the order of the request.
        picture: the file.
    """

    whole: ClassVar[bool] = True
    request: LocateRequest
    regions: list[tuple[str, tuple[int, int, int, int]]]
    texts: list[LocatedText]
    picture: Path
    complete: bool = True

    @property
    def title(self) -> str:
        """Among how many regions, and by which model."""
        asked = self.request
        return f"{asked.image}, {number_of(len(self.regions), 'region')}, {asked.preset}, model {asked.model}"

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Columns, and a row a text."""
        return COLUMNS, [
            (row.text, row.name, row.prob, "" if row.box is None else ", ".join(map(str, row.box)), row.next)
            for row in self.texts
        ]

    def conclusion(self) -> list[str]:
        """The picture."""
        return [f"picture {self.picture}"]

    def as_dict(self) -> dict[str, Any]:
        asked = self.request
        return {
            "image": asked.image,
            "model": asked.model,
            "preset": asked.preset,
            "proposals": asked.proposals if asked.proposed else None,
            "regions": [{"name": name, "box": box} for name, box in self.regions],
            "texts": [asdict(row) for row in self.texts],
            "picture": self.picture,
            "request": asked.as_document(),
        }


def run(request: LocateRequest) -> LocateReport:
    """Find the region of every text, and draw them.

    Raises:
        UsageError: no such file, regions that do not fit the picture, none that is proposed, or a result that would
            replace what is none of ours.
        DataError: a file that cannot be read or written.
    """
    path = one_image(request.image)
    place = output_path(request.picture, path, "located")

    import numpy as np

    from binderclip.adapt import RegionReferrer
    from binderclip.data import open_image
    from binderclip.tasks.arguments.boxes import read_regions
    from binderclip.tasks.report.sheet import save_picture

    opened = open_image(path)
    size = (opened.height, opened.width)
    regions = _proposed(opened, request) if request.proposed else read_regions(request.boxes, request.masks, size)
    start("loading the model")
    clip = image_text_model(request.model, device=request.device, dtype=request.dtype)
    how: Any = request.assign
    refer = RegionReferrer(
        clip, request.preset, negatives=request.negatives, how=how, templates=request.templates
    )  # fmt: skip
    start("looking at the regions")
    located = refer(np.asarray(opened), regions, request.texts)
    texts = [_located(text, column, located, regions, size) for column, text in enumerate(request.texts)]
    save_picture(_drawn(opened, regions, texts), place)
    emit(Saved(place))
    return LocateReport(request, [(region.name, region.bounds(*size)) for region in regions], texts, place)


def _proposed(picture: Image.Image, request: LocateRequest) -> list[Region]:
    """Everything that a promptable segmenter finds, the largest first.

    Raises:
        UsageError: it finds nothing.
    """
    from binderclip.adapt import Region
    from binderclip.segment import AutomaticMasks

    name = request.proposals
    start("proposing regions")
    segmenter = promptable_model(name, device=request.device)
    masks = AutomaticMasks(segmenter, points_per_side=request.points_per_side)(picture)
    if not len(masks):
        raise UsageError(f"{name} proposes no region here: give --boxes or --masks, or a larger --points-per-side")
    warn(f"{number_of(len(masks), 'region')} proposed by {name}")
    return [Region(mask=mask.numpy()) for mask in masks.masks]


def _located(text: str, column: int, result: Any, regions: list[Region], size: tuple[int, int]) -> LocatedText:
    best, probs = int(result.best[column]), result.probs[:, column].tolist()
    order = [i for i in sorted(range(len(regions)), key=lambda i: -probs[i]) if i != best]
    after = f"{_name(regions, order[0])} {probs[order[0]]:.3f}" if order else ""
    scores = result.scores[:, column].tolist()
    if best < 0:
        return LocatedText(text, None, "none is left", 0.0, None, after, probs, scores)
    box = regions[best].bounds(*size)
    return LocatedText(text, best, _name(regions, best), probs[best], box, after, probs, scores)


def _name(regions: list[Region], index: int) -> str:
    return regions[index].name or f"#{index + 1}"


def _drawn(image: Image.Image, regions: Sequence[Region], located: Sequence[LocatedText]) -> Image.Image:
    """The image with every region thin and grey, the chosen ones in colour, and the texts below."""
    from PIL import ImageDraw

    from binderclip.segment.output.palette import colours, with_legend

    canvas = image.convert("RGB")
    pen = ImageDraw.Draw(canvas)
    line = max(2, round(min(canvas.size) / 90))
    for region in regions:
        x0, y0, x1, y1 = region.bounds(canvas.height, canvas.width)
        pen.rectangle((x0, y0, x1 - 1, y1 - 1), outline=(150, 150, 150), width=max(1, line // 3))
    palette = colours(len(located))
    shared: dict[int, int] = {}
    for row, colour in zip(located, palette, strict=True):
        if row.region is None or row.box is None:
            continue
        x0, y0, x1, y1 = row.box
        # Texts that share a region draw their frames inside one another.
        inset = shared.get(row.region, 0) * (line + 1)
        shared[row.region] = shared.get(row.region, 0) + 1
        if x1 - x0 > 2 * inset and y1 - y0 > 2 * inset:
            pen.rectangle((x0 + inset, y0 + inset, x1 - 1 - inset, y1 - 1 - inset), outline=colour, width=line)
    entries = [(f"{row.text}: {row.name} {row.prob:.2f}", c) for row, c in zip(located, palette, strict=True)]
    return with_legend(canvas, entries)
