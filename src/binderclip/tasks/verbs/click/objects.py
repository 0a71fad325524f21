"""What `click --objects` does: the masks of all objects of a session again, as COCO, labels and cut-outs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from binderclip.display import number_of
from binderclip.errors import DataError, UsageError
from binderclip.tasks.events import Saved, counted, emit, start, warn
from binderclip.tasks.files.inputs import find_images, output_names, skip_pictures
from binderclip.tasks.files.outputs import output_folder, writable_path, writable_paths
from binderclip.tasks.files.writing import write_json
from binderclip.tasks.pointing import opened_segmenter
from binderclip.tasks.request import VerbResult
from binderclip.tasks.verbs.click.request import ClickRequest

if TYPE_CHECKING:
    from PIL import Image

    from binderclip.segment.clicks import ObjectSession, PictureObjects, PointedObject

OUT = "objects"
COCO = "coco.json"
UNNAMED = "object"
"""What an object without a name is called in COCO."""
COLUMNS = ("image", "object", "name", "share", "predicted IoU", "cut-out")
_FILE_NAME = 40
"""Characters of an object's name in the name of its file."""


@dataclass(frozen=True)
class CutObject:
    """An object of a picture with its mask.

    Attributes:
        number: on its picture. name: as it was given; may be empty.
        mask: (H, W) of bool. predicted_iou: None for a mask that was made elsewhere.
        path: its cut-out.
    """

    number: int
    name: str
    mask: np.ndarray
    predicted_iou: float | None
    path: Path


@dataclass(frozen=True)
class CutPicture:
    """A picture with its objects.

    Attributes:
        image: its path. name: in the session.
        records: COCO's, one an object; without the masks.
        rows: (number, name, share, predicted IoU, cut-out) of each.
        labels, overlay: files of it; None where it has no object.
    """

    image: Path
    name: str
    size: tuple[int, int]
    records: list[dict[str, Any]]
    rows: list[tuple[int, str, float, float | None, Path]]
    labels: Path | None
    overlay: Path | None


@dataclass(frozen=True)
class ObjectsReport(VerbResult):
    """Everything that was cut out, written into the folder `request.out`.

    Attributes:
        pictures: those that could be read.
        skipped: (picture or object, reason) of what was left out.
        coco: the file of all.
    """

    whole: ClassVar[bool] = True
    request: ClickRequest
    pictures: list[CutPicture]
    skipped: list[tuple[str, str]]
    coco: Path
    complete: bool = True

    @property
    def title(self) -> str:
        """How many objects on how many pictures."""
        count = number_of(sum(len(each.rows) for each in self.pictures), "object")
        return f"{count} on {number_of(len(self.pictures), 'picture')}"

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        return COLUMNS, [
            (each.name, number, name, f"{share:.1%}", "" if iou is None else f"{iou:.2f}", str(path))
            for each in self.pictures
            for number, name, share, iou, path in each.rows
        ]

    def conclusion(self) -> list[str]:
        """The COCO file."""
        return [f"COCO {self.coco}"]

    @property
    def files(self) -> list[Path]:
        """All files that were written, the COCO file first."""
        made = [self.coco]
        for each in self.pictures:
            made += [path for path in (each.labels, each.overlay) if path is not None]
            made += [path for *_, path in each.rows]
        return made

    def as_dict(self) -> dict[str, Any]:
        return {
            "objects": self.request.objects,
            "model": self.request.model,
            "coco": self.coco,
            "images": [
                {
                    "image": each.image,
                    "labels": each.labels,
                    "overlay": each.overlay,
                    "objects": [
                        {"object": number, "name": name, "share": share, "predicted_iou": iou, "cut_out": path}
                        for number, name, share, iou, path in each.rows
                    ],
                }
                for each in self.pictures
            ],
            "skipped": [{"what": key, "reason": reason} for key, reason in self.skipped],
            "request": self.request.as_document(),
        }


def run_objects(request: ClickRequest) -> ObjectsReport:
    """Find the masks of all objects of a session, and write them.

    Raises:
        UsageError: no picture of the session is there, or a result would replace what is none of ours.
        DataError: the session or all pictures cannot be read, or a file cannot be written.
    """
    from binderclip.segment import coco_instances
    from binderclip.segment.clicks import read_object_session

    session = read_object_session(Path(request.objects or ""))
    folder = output_folder(request.out or OUT, make=False)
    chosen, skipped = _chosen(request, session, str(folder))
    stems = output_names([path for path, _ in chosen], root=_root(request.image))
    coco = Path(request.coco) if request.coco is not None else folder / COCO
    if request.coco is not None:
        writable_path(coco)
    planned = [
        path for (_, name), stem in zip(chosen, stems, strict=True)
        for path in _files(folder, stem, session.pictures[name])
    ]  # fmt: skip
    writable_paths([*([] if request.coco is not None else [coco]), *planned], sources=[path for path, _ in chosen])
    if session.model and session.model != request.model:
        warn(f"the objects were clicked with --model {session.model}: {request.model} may give other masks")
    start("loading the model")
    segmenter = opened_segmenter(request.model, cut=request.cut, device=request.device)
    output_folder(folder)
    pictures = list[CutPicture]()
    for (path, name), stem in counted(zip(chosen, stems, strict=True), "picture", len(chosen)):
        try:
            pictures.append(_cut_picture(segmenter, path, name, session.pictures[name], folder, stem, skipped))
        except DataError as error:
            skipped.append((name, str(error)))
    skip_pictures(skipped, left=pictures)
    write_json(coco_instances((each.name, each.size, each.records) for each in pictures), coco)
    emit(Saved(coco))
    return ObjectsReport(request, pictures, skipped, coco, complete=not skipped)


def _root(image: str) -> Path | None:
    return Path(image) if Path(image).is_dir() else None


def _chosen(
    request: ClickRequest, session: ObjectSession, out: str
) -> tuple[list[tuple[Path, str]], list[tuple[str, str]]]:
    """(path, name in the session) of its pictures that are there, and (name, reason) of the others.

    Raises:
        UsageError: none is there.
    """
    root = _root(request.image)
    present = {
        path.name if root is None else path.relative_to(root).as_posix(): path
        for path in find_images([request.image], without=out if root is not None else None).paths
    }
    chosen = [(present[name], name) for name in session.pictures if name in present]
    if not chosen:
        names = ", ".join(list(session.pictures)[:3]) or "no picture"
        raise UsageError(f"{request.objects} is of {names}: none of them is in {request.image}")
    missing = [name for name in session.pictures if name not in present] if root is not None else []
    return chosen, [(name, f"it is not in {request.image}") for name in missing]


def _files(folder: Path, stem: str, picture: PictureObjects) -> Iterator[Path]:
    """What may be written of a picture."""
    yield folder / f"{stem}-labels.png"
    yield folder / f"{stem}-overlay.png"
    for one in picture.objects:
        yield _cut_out_path(folder, stem, one)


def _cut_out_path(folder: Path, stem: str, one: PointedObject) -> Path:
    plain = re.sub(r"[^\w-]+", "-", one.name)[:_FILE_NAME].strip("-")
    return folder / f"{stem}-{one.number}{f'-{plain}' if plain else ''}.png"


def _cut_picture(
    segmenter: Any, path: Path, name: str, picture: PictureObjects, folder: Path, stem: str,
    skipped: list[tuple[str, str]],
) -> CutPicture:  # fmt: skip
    """The objects of one picture, and their files.

    Raises:
        DataError: it cannot be read, or is of another size than the one that was clicked.
    """
    import torch

    from binderclip.data import open_image
    from binderclip.segment import instance_records
    from binderclip.segment.clicks import object_mask

    image = open_image(path).convert("RGB")
    if (image.height, image.width) != picture.size:
        height, width = picture.size
        raise DataError(f"clicked on {width} x {height} pixels, the picture has {image.width} x {image.height}")
    placed = [one for one in picture.objects if one.is_placed]
    needs_model = any(one.inside or one.box for one in placed)
    state = segmenter.encode(image) if needs_model else _bare_state(picture.size)
    cut = list[CutObject]()
    for one in placed:
        mask, certainty = object_mask(segmenter, state, one)
        if mask.any():
            cut.append(CutObject(one.number, one.name, mask, certainty, _cut_out_path(folder, stem, one)))
        else:
            skipped.append((f"{name}, object {one.number}", "nothing was found there"))
    if not cut:
        return CutPicture(path, name, picture.size, [], [], None, None)
    stack = torch.from_numpy(np.stack([one.mask for one in cut]))  # (N, H, W)
    records = instance_records(stack, [one.name or UNNAMED for one in cut])
    labels, overlay = folder / f"{stem}-labels.png", folder / f"{stem}-overlay.png"
    write_pictures(image, cut, labels, overlay)
    rows = [(one.number, one.name, float(one.mask.mean()), one.predicted_iou, one.path) for one in cut]
    return CutPicture(path, name, picture.size, records, rows, labels, overlay)


def _bare_state(size: tuple[int, int]) -> Any:
    """What is known of a picture whose masks are all there already: nothing of it is encoded."""
    from binderclip.segment.promptable import ImageState

    return ImageState(None, size, (1.0, 1.0))


def write_pictures(image: Image.Image, cut: list[CutObject], labels: Path, overlay: Path) -> None:
    """Write the label PNG, the overlay, and each object on transparent ground.

    A pixel of the label PNG is the number of its object's place in the list, from 1, and 0 where there is none; later
    objects lie over earlier ones.

    Args:
        image: RGB. cut: its objects; masks of its size, each with a pixel.
    """
    from PIL import Image

    from binderclip.segment.output.palette import colours, paint, with_legend
    from binderclip.tasks.report.sheet import save_picture

    ids = np.zeros(cut[0].mask.shape, dtype=np.uint8)
    for place, one in enumerate(cut, start=1):
        ids[one.mask] = place
    palette = colours(max(one.number for one in cut))
    own = [palette[one.number - 1] for one in cut]
    drawn = Image.fromarray(ids, mode="P")
    drawn.putpalette([0, 0, 0, *(value for colour in own for value in colour)])
    save_picture(drawn, labels)
    shown = paint(image, ids.astype(np.int64) - 1, own, opacity=0.55, quiet=set())
    legend = [(one.name or f"{UNNAMED} {one.number}", colour) for one, colour in zip(cut, own, strict=True)]
    save_picture(with_legend(shown, legend), overlay)
    pixels = np.asarray(image)
    for one in cut:
        rows, columns = np.flatnonzero(one.mask.any(axis=1)), np.flatnonzero(one.mask.any(axis=0))
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        alpha = one.mask[box].astype(np.uint8)[..., None] * 255  # (h, w, 1)
        save_picture(Image.fromarray(np.concatenate([pixels[box], alpha], axis=-1)), one.path)
