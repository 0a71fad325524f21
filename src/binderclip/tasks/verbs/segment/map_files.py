"""Files of label maps: where they go, how they are gone on with, and the tables beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from binderclip.display import number_of
from binderclip.documents import parse_json
from binderclip.errors import DataError, UsageError
from binderclip.tasks.events import Saved, emit
from binderclip.tasks.files.inputs import output_names
from binderclip.tasks.files.outputs import note_record, output_folder, output_path, writable_paths
from binderclip.tasks.files.writing import write_csv, write_json

if TYPE_CHECKING:
    import numpy as np

    from binderclip.segment import Segmentation

FOLDER = "segments"
"""Where the files of several pictures go."""
RECORD = "segment.json"
"""The labels and settings that a folder was begun with."""
AREAS = ("image", "class", "pixels", "share")


@runtime_checkable
class LabelMapRequest(Protocol):
    """The fields that all requests for label maps have (`segment.fields`)."""

    @property
    def images(self) -> list[str]: ...
    @property
    def out(self) -> str | None: ...
    @property
    def overlay(self) -> str | None: ...
    @property
    def legend(self) -> bool: ...
    @property
    def label_map(self) -> str | None: ...
    @property
    def coco(self) -> str | None: ...
    @property
    def csv(self) -> str | None: ...
    @property
    def redo(self) -> bool: ...
    def as_document(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class LabelMapSource:
    """What makes label maps.

    Attributes:
        name: of a preset, or what else tells it from others.
        labels: that pixels may have.
        background: whether there is a class for what is none of them, in front of the labels.
        title: what makes them, in words.
        model: by name.
        described: the same for JSON.
        record: all that the maps depend on; a folder is gone on with only by the same.
    """

    name: str
    labels: list[str]
    background: bool
    title: str
    model: str
    described: dict[str, Any]
    record: dict[str, Any]

    @property
    def classes(self) -> tuple[str, ...]:
        """Of the numbers in a map."""
        return (*(["background"] if self.background else []), *self.labels)


@dataclass(frozen=True)
class MappedPicture:
    """One picture by one source: its label map (H, W), -1 where there is no class, with its classes and files."""

    path: Path
    source: LabelMapSource
    labels: np.ndarray
    classes: tuple[str, ...]
    overlay: Path
    label_map: Path

    def shares(self) -> dict[str, float]:
        """Share of the picture of every class."""
        return {name: float((self.labels == index).mean()) for index, name in enumerate(self.classes)}


@dataclass(frozen=True)
class MapFiles:
    """Where the results of one picture by one source go.

    Attributes:
        in_folder: which can be gone on with.
        due: whether they are still to be made.
    """

    overlay: Path
    label_map: Path
    in_folder: bool
    due: bool


def save_map(
    result: Segmentation, path: Path, source: LabelMapSource, place: MapFiles, *, legend: bool
) -> MappedPicture:
    """Write the overlay and the label map of one picture."""
    from binderclip.tasks.report.sheet import save_picture

    save_picture(result.overlay(legend=legend), place.overlay)
    # The map last: where it is, the picture is done.
    save_picture(result.numbered(), place.label_map)
    for file in (place.overlay, place.label_map):
        emit(Saved(file))
    return MappedPicture(path, source, result.labels.cpu().numpy(), result.classes, place.overlay, place.label_map)


def read_map(path: Path, classes: int) -> np.ndarray:
    import numpy as np

    from binderclip.data.images import open_header

    try:
        with open_header(path) as opened:
            values = np.asarray(opened).astype(np.int64)
    except OSError as error:
        raise DataError(f"{path}: no readable label map ({error}); --redo makes it again") from error
    limit = 255 if classes <= 255 else 65535
    labels = np.where(values == limit, -1, values)
    if labels.ndim != 2 or labels.max(initial=-1) >= classes:
        raise DataError(f"{path} is no label map of {number_of(classes, 'class')}: --redo makes it again")
    return labels


def map_files(
    paths: Sequence[Path], request: LabelMapRequest, source: LabelMapSource, sources: Sequence[LabelMapSource],
    many: bool,
) -> list[MapFiles]:  # fmt: skip
    """Overlay and label map of every image by a source, checked before the model is loaded."""
    # A folder that is named is made for one image too, as for several.
    if not (many or len(sources) > 1 or request.out is not None):
        mapped = output_path(request.label_map, paths[0], "labels")
        if mapped.suffix.lower() != ".png":
            raise UsageError(f"--map {mapped}: label numbers are saved as PNG; another format would change them")
        return [MapFiles(output_path(request.overlay, paths[0], "overlay"), mapped, in_folder=False, due=True)]
    root = Path(request.out or FOLDER)
    folder = output_folder(root / source.name if len(sources) > 1 else root)
    places = [(folder / f"{name}-overlay.png", folder / f"{name}-labels.png") for name in output_names(paths)]
    writable_paths([folder / RECORD, *(place for pair in places for place in pair)], sources=paths)
    return [
        MapFiles(*pair, in_folder=True, due=request.redo or not all(place.is_file() for place in pair))
        for pair in places
    ]


def same_settings(folder: Path, record: dict[str, Any], redo: bool) -> None:
    """A folder is gone on with only by what began it: maps of other labels must not be mixed in.

    Raises:
        UsageError: it was made with other labels or settings.
    """
    path = folder / RECORD
    if path.is_file() and not redo:
        try:
            before = parse_json(path.read_text(encoding="utf-8"))
        except ValueError:
            before = {}
        known = before if isinstance(before, dict) else {}
        changed = [key for key, value in record.items() if known.get(key) != value]
        if changed:
            raise UsageError(
                f"{folder} was made with other {', '.join(changed)}: give another --out, or --redo to do all again"
            )
    write_json(record, path)
    note_record(path)


def write_tables(pictures: Sequence[MappedPicture], coco: str | Path | None, csv: str | Path | None) -> None:
    """Write all regions as COCO annotations, and the area of every class in every picture as CSV; None writes nothing.

    Raises:
        DataError: a file cannot be written.
    """
    if coco is not None:
        from binderclip.segment import coco_document

        regions = [(str(each.path), each.labels) for each in pictures]
        write_json(coco_document(regions, pictures[0].classes), Path(coco))
        emit(Saved(Path(coco)))
    if csv is None:
        return
    rows = []
    for each in pictures:
        for index, name in enumerate(each.classes):
            pixels = int((each.labels == index).sum())
            rows.append([each.path, name, pixels, f"{pixels / each.labels.size:.6f}"])
    write_csv(AREAS, rows, Path(csv))
    emit(Saved(Path(csv)))
