"""Label maps of pictures, whatever makes them: written, gone on with, and told as tables and documents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from binderclip.display import number_of
from binderclip.documents import parse_json
from binderclip.errors import DataError, UsageError
from binderclip.tasks.events import PartialResult, Saved, counted, emit, skip, start, warn
from binderclip.tasks.files.inputs import find_images, output_names
from binderclip.tasks.files.outputs import output_folder, output_path, writable_path, writable_paths
from binderclip.tasks.files.writing import short_path, write_csv, write_json
from binderclip.tasks.report.photographs import weak_on_photographs
from binderclip.tasks.request import VerbResult

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
        labels: that pixels may have.
        background: whether there is a class for what is none of them, in front of the labels.
        title: what makes them, in words.
        model: by name.
        described: the same for JSON.
        record: all that the maps depend on; a folder is gone on with only by the same.
        build: loads it; what it gives is called with a picture and the labels.
    """

    labels: list[str]
    background: bool
    title: str
    model: str
    described: dict[str, Any]
    record: dict[str, Any]
    build: Callable[[], Callable[[Path, list[str]], Segmentation]]

    @property
    def classes(self) -> tuple[str, ...]:
        """Of the numbers in a map."""
        return (*(["background"] if self.background else []), *self.labels)


@dataclass(frozen=True)
class MappedPicture:
    """One picture: its label map (H, W), -1 where there is no class, with its classes and files."""

    path: Path
    labels: np.ndarray
    classes: tuple[str, ...]
    overlay: Path
    label_map: Path

    def shares(self) -> dict[str, float]:
        """Share of the picture of every class."""
        return {name: float((self.labels == index).mean()) for index, name in enumerate(self.classes)}


@dataclass(frozen=True)
class LabelMapReport(VerbResult):
    """Label maps of pictures.

    Attributes:
        request: what was asked.
        source: what made them.
        pictures: those that could be read.
        skipped: (path, reason) of the others.
        many: whether they were asked for as several.
        complete: whether every picture that was named one by one could be read.
    """

    whole: ClassVar[bool] = True
    request: Any
    source: LabelMapSource
    pictures: list[MappedPicture]
    skipped: list[tuple[str, str]]
    many: bool
    complete: bool = True

    @property
    def title(self) -> str:
        """The picture, or how many, and what made the maps."""
        count = number_of(len(self.pictures), "image") if self.many else str(self.pictures[0].path)
        return f"{count}, {self.source.title}"

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Columns, and a row a picture; of one picture alone a row a class, the largest first."""
        if self.many:
            return ("image", "largest", "share"), [(str(each.path), *_largest(each)) for each in self.pictures]
        ordered = sorted(self.pictures[0].shares().items(), key=lambda item: -item[1])
        return ("class", "share of the image"), [(name, f"{share:.1%}") for name, share in ordered]

    def conclusion(self) -> list[str]:
        """What was not found, and where the files are."""
        first = self.pictures[0]
        if self.many:
            return [f"NAME-overlay.png and NAME-labels.png of each in {short_path(first.overlay.parent)}/"]
        absent = [name for name, share in first.shares().items() if not share and name != "background"]
        gated = self.source.described.get("preset") == "photograph"
        hint = "; --set fusion.gate=0 marks the likeliest places" if gated else ""
        missing = [f"not found in the picture: {', '.join(absent)}{hint}"] if absent else []
        return [*missing, f"overlay {first.overlay}", f"label map {first.label_map}"]

    def remarks(self) -> list[str]:
        """What to know of the result, a sentence each."""
        return weak_on_photographs(self.source.model, [each.path for each in self.pictures])

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON: of one picture its own, of several a list."""
        rows = [
            {
                "image": each.path,
                **self.source.described,
                "classes": list(each.classes),
                "share": each.shares(),
                "overlay": each.overlay,
                "label_map": each.label_map,
            }
            for each in self.pictures
        ]
        skipped = [{"image": key, "reason": reason} for key, reason in self.skipped]
        document = {"images": rows, "skipped": skipped} if self.many else rows[0]
        return {**document, "request": self.request.as_document()}


def _largest(one: MappedPicture) -> tuple[str, str]:
    """The label of the largest area, `background` only where there is nothing else."""
    shares = one.shares()
    ground = shares.pop("background", 0.0) if len(shares) > 1 else 0.0
    name, share = max(shares.items(), key=lambda item: item[1])
    return (name, f"{share:.1%}") if share else ("background", f"{ground:.1%}")


def segment_pictures(request: LabelMapRequest, source: LabelMapSource) -> LabelMapReport:
    """Make and save label maps; of a folder that is gone on with only what is not done yet.

    Raises:
        UsageError: options that do not go together, or a folder that was begun with other settings.
        DataError: no picture can be read, or a file cannot be written.
    """
    inputs = find_images(request.images, without=request.out or FOLDER)
    many = len(inputs.paths) > 1 or not inputs.named
    if many and (request.overlay or request.label_map):
        raise UsageError("--overlay and --map are for one image; for several give --out FOLDER")
    if request.out is not None and (request.overlay or request.label_map):
        raise UsageError("--out is the folder of all results: leave out --overlay and --map, which name each")
    # A folder that is named is made for one image too, as for several.
    in_folder = many or request.out is not None
    places = _places(inputs.paths, request, in_folder)
    if request.coco is not None:
        writable_path(request.coco)
    if request.csv is not None:
        writable_path(request.csv, columns=AREAS)
    if in_folder:
        _same_settings(places[0][0].parent, source.record, request.redo)
    waiting = [not (in_folder and not request.redo and all(p.is_file() for p in pair)) for pair in places]
    pictures, skipped = list[MappedPicture](), list[tuple[str, str]]()
    start("loading the model")
    segmenter = source.build() if any(waiting) else None
    rows = list(zip(inputs.paths, places, waiting, strict=True))
    for path, (shown, mapped), due in counted(rows, "picture", len(rows)):
        try:
            if due:
                assert segmenter is not None
                result = segmenter(path, list(source.labels))
                pictures.append(_save(result, path, shown, mapped, legend=request.legend))
            else:
                labels = _read(mapped, len(source.classes))
                pictures.append(MappedPicture(path, labels, source.classes, shown, mapped))
            emit(PartialResult(str(path), pictures[-1]))
        except DataError as error:
            if not many:
                raise
            skipped.append((str(path), str(error)))
    if not pictures:
        raise DataError(
            f"of {number_of(len(places), 'picture')} none could be segmented: {skipped[0][0]}: {skipped[0][1]}"
        )
    skip(skipped)
    if len(waiting) > sum(waiting):
        warn(f"{number_of(len(waiting) - sum(waiting), 'image')} done before (--redo does them again)")
    write_tables(pictures, request.coco, request.csv)
    return LabelMapReport(request, source, pictures, skipped, many, complete=not inputs.exit_code(skipped))


def _save(result: Segmentation, path: Path, shown: Path, mapped: Path, *, legend: bool) -> MappedPicture:
    """Write the overlay and the label map of one picture."""
    from binderclip.tasks.report.sheet import save_picture

    save_picture(result.overlay(legend=legend), shown)
    # The map last: where it is, the picture is done.
    save_picture(result.numbered(), mapped)
    for file in (shown, mapped):
        emit(Saved(file))
    return MappedPicture(path, result.labels.cpu().numpy(), result.classes, shown, mapped)


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


def _places(paths: Sequence[Path], request: LabelMapRequest, in_folder: bool) -> list[tuple[Path, Path]]:
    """Overlay and label map of every image, checked before the model is loaded."""
    if not in_folder:
        mapped = output_path(request.label_map, paths[0], "labels")
        if mapped.suffix.lower() != ".png":
            raise UsageError(f"--map {mapped}: label numbers are saved as PNG; another format would change them")
        return [(output_path(request.overlay, paths[0], "overlay"), mapped)]
    folder = output_folder(request.out or FOLDER)
    places = [(folder / f"{name}-overlay.png", folder / f"{name}-labels.png") for name in output_names(paths)]
    writable_paths([folder / RECORD, *(place for pair in places for place in pair)], sources=paths)
    return places


def _same_settings(folder: Path, record: dict[str, Any], redo: bool) -> None:
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
