"""What `segment` does with pictures, and with folders that can be gone on with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from binderclip.display import number_of
from binderclip.documents import parse_json
from binderclip.errors import DataError, UsageError
from binderclip.tasks.events import counted, start, warn
from binderclip.tasks.files.inputs import ImageArguments, output_names
from binderclip.tasks.files.outputs import output_folder, output_path, writable_path, writable_paths
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
    """What makes label maps: a preset and labels, or examples with their masks."""

    @property
    def background(self) -> Sequence[str]: ...

    @property
    def model(self) -> str: ...

    @property
    def json(self) -> bool: ...

    @property
    def title(self) -> str: ...

    @property
    def described(self) -> dict[str, Any]: ...

    def record(self, names: Sequence[str]) -> dict[str, Any]: ...

    def build(self, names: Sequence[str]) -> Callable[[Path, list[str]], Segmentation]: ...


@dataclass(frozen=True)
class Done:
    """One picture: its label map, classes and files."""

    path: Path
    labels: np.ndarray
    classes: tuple[str, ...]
    overlay: Path
    label_map: Path

    def shares(self) -> dict[str, float]:
        """Share of the picture of every class."""
        return {name: float((self.labels == index).mean()) for index, name in enumerate(self.classes)}


@dataclass(frozen=True)
class Segmented:
    """All pictures of a call.

    Attributes:
        done: pictures with their label maps.
        skipped: (path, reason) of what could not be read.
        many: whether they were asked for as several.
    """

    done: list[Done]
    skipped: list[tuple[str, str]]
    many: bool


def segment_images(
    request: LabelMapRequest, found: ImageArguments, names: Sequence[str], *, overlay: str | None,
    label_map: str | None, out: str | None, legend: bool, coco: str | None, csv: str | None, redo: bool,
) -> Segmented:  # fmt: skip
    """Segment and save; of a folder that is gone on with only what is not done yet.

    Raises:
        UsageError: options that do not go together, or a folder that was begun with other settings.
        DataError: no picture can be read, or a file cannot be written.
    """
    many = len(found.paths) > 1 or not found.named
    if many and (overlay or label_map):
        raise UsageError("--overlay and --map are for one image; for several give --out FOLDER")
    if out is not None and (overlay or label_map):
        raise UsageError("--out is the folder of all results: leave out --overlay and --map, which name each")
    # A folder that is named is made for one image too, as for several.
    in_folder = many or out is not None
    places = _places(found.paths, out, overlay, label_map, in_folder)
    if coco is not None:
        writable_path(coco)
    if csv is not None:
        writable_path(csv, columns=AREAS)
    classes = tuple((["background"] if request.background else []) + list(names))
    if in_folder:
        _same_settings(places[0][0].parent, request, names, redo)
    waiting = [not (in_folder and not redo and all(p.is_file() for p in pair)) for pair in places]
    done, skipped = list[Done](), list[tuple[str, str]]()
    start("loading the model")
    segmenter = request.build(names) if any(waiting) else None
    pictures = list(zip(found.paths, places, waiting, strict=True))
    for path, (shown, mapped), due in counted(pictures, "picture", len(pictures)):
        try:
            if due:
                assert segmenter is not None
                done.append(save_segmentation(segmenter(path, list(names)), path, shown, mapped, legend=legend))
            else:
                done.append(Done(path, _read(mapped, len(classes)), classes, shown, mapped))
        except DataError as error:
            if not many:
                raise
            skipped.append((str(path), str(error)))
    if not done:
        raise DataError(
            f"of {number_of(len(places), 'picture')} none could be segmented: {skipped[0][0]}: {skipped[0][1]}"
        )
    if len(waiting) > sum(waiting):
        warn(f"{number_of(len(waiting) - sum(waiting), 'image')} done before (--redo does them again)")
    if coco is not None:
        from binderclip.segment import coco_document

        write_json(coco_document([(str(d.path), d.labels) for d in done], classes), Path(coco))
    if csv is not None:
        write_areas(done, Path(csv))
    return Segmented(done, skipped, many)


def save_segmentation(result: Segmentation, path: Path, shown: Path, mapped: Path, *, legend: bool = True) -> Done:
    """Write the overlay and the label map of one picture.

    Args:
        result: of the picture at `path`.
        shown, mapped: where the overlay and the label map go.
        legend: whether the overlay has one.

    Raises:
        DataError: one cannot be written.
    """
    from binderclip.tasks.report.sheet import save_picture

    save_picture(result.overlay(legend=legend), shown)
    # The map last: where it is, the picture is done.
    save_picture(result.numbered(), mapped)
    return Done(path, result.labels.cpu().numpy(), result.classes, shown, mapped)


def _read(path: Path, classes: int) -> np.ndarray:
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


def _places(
    paths: Sequence[Path], out: str | None, overlay: str | None, label_map: str | None, many: bool
) -> list[tuple[Path, Path]]:
    """Overlay and label map of every image, checked before the model is loaded."""
    if not many:
        mapped = output_path(label_map, paths[0], "labels")
        if mapped.suffix.lower() != ".png":
            raise UsageError(f"--map {mapped}: label numbers are saved as PNG; another format would change them")
        return [(output_path(overlay, paths[0], "overlay"), mapped)]
    folder = output_folder(out or FOLDER)
    places = [(folder / f"{name}-overlay.png", folder / f"{name}-labels.png") for name in output_names(paths)]
    writable_paths([folder / RECORD, *(place for pair in places for place in pair)], sources=paths)
    return places


def _same_settings(folder: Path, request: LabelMapRequest, names: Sequence[str], redo: bool) -> None:
    """A folder is gone on with only by what began it: maps of other labels must not be mixed in.

    Raises:
        UsageError: it was made with other labels or settings.
    """
    path = folder / RECORD
    now = request.record(names)
    if path.is_file() and not redo:
        try:
            before = parse_json(path.read_text(encoding="utf-8"))
        except ValueError:
            before = {}
        known = before if isinstance(before, dict) else {}
        changed = [key for key, value in now.items() if known.get(key) != value]
        if changed:
            raise UsageError(
                f"{folder} was made with other {', '.join(changed)}: give another --out, or --redo to do all again"
            )
    write_json(now, path)


def write_areas(done: Sequence[Done], path: Path) -> None:
    """Write the area of every class in every picture as CSV.

    Raises:
        DataError: it cannot be written.
    """
    rows = []
    for one in done:
        for index, name in enumerate(one.classes):
            pixels = int((one.labels == index).sum())
            rows.append([one.path, name, pixels, f"{pixels / one.labels.size:.6f}"])
    write_csv(AREAS, rows, path)
