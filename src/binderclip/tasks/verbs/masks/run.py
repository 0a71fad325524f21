"""What `masks` does with pictures, and with folders that can be gone on with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from binderclip.display import number_of
from binderclip.documents import parse_json
from binderclip.errors import DataError
from binderclip.tasks.events import Saved, counted, emit, start, warn
from binderclip.tasks.files.inputs import file_stamp, find_images, output_names, skip_pictures
from binderclip.tasks.files.outputs import output_folder, writable_paths
from binderclip.tasks.files.writing import write_json
from binderclip.tasks.models import promptable_model
from binderclip.tasks.request import VerbResult
from binderclip.tasks.verbs.masks.request import MasksRequest

if TYPE_CHECKING:
    from PIL import Image

    from binderclip.segment import AutomaticMasks
    from binderclip.segment.promptable import RegionMasks

TOGETHER = "masks.json"
"""The COCO file of all pictures."""
COLUMNS = ("image", "masks", "largest", "overlay")


@dataclass(frozen=True)
class MasksReport(VerbResult):
    """Everything that was cut out, written into the folder `request.out`.

    Attributes:
        pictures: those that could be read.
        skipped: (path, reason) of the others.
        coco: the file of all.
    """

    whole: ClassVar[bool] = True
    request: MasksRequest
    pictures: list[MaskedPicture]
    skipped: list[tuple[str, str]]
    coco: Path
    complete: bool = True

    @property
    def title(self) -> str:
        """How many pictures, and by which model."""
        return f"{number_of(len(self.pictures), 'picture')}, model {self.request.model}"

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        return COLUMNS, [(str(p.path), p.count, f"{p.largest:.1%}", str(p.overlay)) for p in self.pictures]

    def conclusion(self) -> list[str]:
        """The COCO file."""
        return [f"COCO {self.coco}"]

    def as_dict(self) -> dict[str, Any]:
        return {
            "model": self.request.model,
            "images": [{"image": p.path, "masks": p.count, "overlay": p.overlay} for p in self.pictures],
            "skipped": [{"image": key, "reason": reason} for key, reason in self.skipped],
            "coco": self.coco,
            "request": self.request.as_document(),
        }


def run(request: MasksRequest) -> MasksReport:
    """Cut out everything in pictures that are not done yet, and write it.

    Raises:
        UsageError: a result would replace one of the pictures, or what is none of ours.
        DataError: no picture can be read, or a file cannot be written.
    """
    inputs = find_images(request.images, without=request.out)
    folder = output_folder(request.out, make=False)
    names = output_names(inputs.paths)
    files = [folder / f"{name}{ending}" for name in names for ending in (".json", "-masks.png")]
    writable_paths([folder / TOGETHER, *files], sources=inputs.paths)

    from binderclip.segment import AutomaticMasks

    start("loading the model")
    segmenter = promptable_model(request.model, device=request.device)
    automatic = AutomaticMasks(segmenter, points_per_batch=request.points_per_batch, **request.settings)
    output_folder(folder)
    known = request.settings | {"model": request.model} | ({"cut": True} if request.cut else {})
    pictures, skipped = list[MaskedPicture](), list[tuple[str, str]]()
    for path, name in counted(zip(inputs.paths, names, strict=True), "picture", len(names)):
        kept = None if request.redo else _kept(folder / f"{name}.json", path, known)
        try:
            pictures.append(_found(automatic, path, folder, name, known) if kept is None else kept)
        except DataError as error:
            skipped.append((str(path), str(error)))
    skip_pictures(skipped, left=pictures)
    if before := sum(each.before for each in pictures):
        warn(f"{number_of(before, 'picture')} done before (--redo does them again)")
    write_json(_together(pictures), folder / TOGETHER)
    emit(Saved(folder / TOGETHER))
    return MasksReport(request, pictures, skipped, folder / TOGETHER, complete=not inputs.exit_code(skipped))


@dataclass(frozen=True)
class MaskedPicture:
    """One picture: its COCO document, and whether an earlier run had made it."""

    path: Path
    document: dict[str, Any]
    overlay: Path
    before: bool = False

    @property
    def count(self) -> int:
        return len(self.document["annotations"])

    @property
    def largest(self) -> float:
        image = self.document["images"][0]
        areas = [entry["area"] for entry in self.document["annotations"]]
        return max(areas, default=0) / (image["height"] * image["width"])


def _kept(place: Path, path: Path, known: dict[str, Any]) -> MaskedPicture | None:
    """What an earlier run found with the same settings in the same file."""
    overlay = place.with_name(f"{place.stem}-masks.png")
    try:
        document = parse_json(place.read_bytes())
        made = document["info"]
        same = made["settings"] == known and made["file"] == file_stamp(path)
        whole = _is_whole(document)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return MaskedPicture(path, document, overlay, before=True) if same and whole and overlay.is_file() else None


def _is_whole(document: dict[str, Any]) -> bool:
    """Whether a COCO document has all that `_found` wrote: one picture with its size, and annotations with theirs.

    Raises:
        KeyError, TypeError, ValueError: it has another form.
    """
    (image,) = document["images"]
    size = [image["height"], image["width"]]
    if not isinstance(image["file_name"], str) or not all(isinstance(side, int) and side > 0 for side in size):
        return False
    return isinstance(document["annotations"], list) and all(
        entry["segmentation"]["size"] == size
        and isinstance(entry["segmentation"]["counts"], list)
        and all(isinstance(value, (int, float)) and math.isfinite(value) for value in [entry["area"], *entry["bbox"]])
        for entry in document["annotations"]
    )


def _found(automatic: AutomaticMasks, path: Path, folder: Path, name: str, known: dict[str, Any]) -> MaskedPicture:
    from binderclip.data import open_image, to_tensor
    from binderclip.segment.promptable import cut_regions
    from binderclip.tasks.report.sheet import save_picture

    picture = open_image(path).convert("RGB")
    regions = automatic(picture)
    if known.get("cut"):
        regions = cut_regions(to_tensor(picture), regions)
    overlay = save_picture(_drawn(picture, regions), folder / f"{name}-masks.png")
    document = {
        "info": {"settings": known, "file": file_stamp(path)},
        "images": [{"id": 1, "file_name": str(path), "height": picture.height, "width": picture.width}],
        "annotations": regions.annotations(),
        "categories": [{"id": 1, "name": "object"}],
    }
    # Last: where it is, the picture is done.
    write_json(document, folder / f"{name}.json")
    return MaskedPicture(path, document, overlay)


def _drawn(picture: Image.Image, regions: RegionMasks) -> Image.Image:
    """The picture with each mask in its colour, small ones over large ones."""
    from binderclip.segment.output.palette import colours, paint

    palette = colours(max(1, len(regions)))
    return paint(picture, regions.id_map().numpy(), palette, opacity=0.6, quiet=set())


def _together(done: list[MaskedPicture]) -> dict[str, Any]:
    """One COCO document of all pictures."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, each in enumerate(done, start=1):
        images.append(each.document["images"][0] | {"id": number})
        for entry in each.document["annotations"]:
            annotations.append(entry | {"id": len(annotations) + 1, "image_id": number})
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "object"}]}
