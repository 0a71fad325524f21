"""Label maps of pictures, whatever makes them: made, gone on with, and told as tables and documents."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from binderclip.display import number_of
from binderclip.errors import BinderclipError, DataError, UsageError
from binderclip.tasks.events import PartialResult, counted, emit, start, warn
from binderclip.tasks.files.inputs import find_images, skip_pictures
from binderclip.tasks.files.outputs import writable_path
from binderclip.tasks.files.writing import short_path
from binderclip.tasks.report.photographs import weak_on_photographs
from binderclip.tasks.request import VerbResult
from binderclip.tasks.verbs.segment.map_files import (
    AREAS,
    FOLDER,
    LabelMapRequest,
    LabelMapSource,
    MapFiles,
    MappedPicture,
    map_files,
    read_map,
    same_settings,
    save_map,
    write_tables,
)

if TYPE_CHECKING:
    from binderclip.segment import Segmentation

MapMaker: TypeAlias = "Callable[[Path, Sequence[str]], Iterator[tuple[str, Segmentation | BinderclipError]]]"
"""Called with a picture and names of sources: name -> its map, or why it makes none, as each of them is there."""


@dataclass(frozen=True)
class LabelMapReport(VerbResult):
    """Label maps of pictures, by one source or by several side by side.

    Attributes:
        request: what was asked.
        sources: what made them.
        pictures: those that could be read, each by every source in turn.
        skipped: (path, reason) of the others.
        many: whether they were asked for as several.
        left_out: why a source among several made no map.
        complete: whether every picture that was named one by one could be read, and every source made maps.
    """

    whole: ClassVar[bool] = True
    request: Any
    sources: list[LabelMapSource]
    pictures: list[MappedPicture]
    skipped: list[tuple[str, str]]
    many: bool
    left_out: dict[str, str] = field(default_factory=dict)
    complete: bool = True

    @property
    def several(self) -> bool:
        """Whether there are several sources."""
        return len(self.sources) > 1

    @property
    def title(self) -> str:
        """The picture, or how many, and what made the maps."""
        paths = dict.fromkeys(each.path for each in self.pictures)
        count = number_of(len(paths), "image") if self.many else str(self.pictures[0].path)
        names = ", ".join(source.name for source in self.sources)
        return f"{count}, {f'{names}, model {self.sources[0].model}' if self.several else self.sources[0].title}"

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Columns, and a row a picture and source; of one picture by one source a row a class, the largest first."""
        if self.several:
            return ("image", "preset", "largest", "share"), [
                (str(each.path), each.source.name, *_largest(each)) for each in self.pictures
            ]
        if self.many:
            return ("image", "largest", "share"), [(str(each.path), *_largest(each)) for each in self.pictures]
        ordered = sorted(self.pictures[0].shares().items(), key=lambda item: -item[1])
        return ("class", "share of the image"), [(name, f"{share:.1%}") for name, share in ordered]

    def conclusion(self) -> list[str]:
        """What was not found, and where the files are."""
        folders = dict.fromkeys(f"{short_path(each.overlay.parent)}/" for each in self.pictures)
        files = [f"NAME-overlay.png and NAME-labels.png of each in {', '.join(folders)}"]
        if self.many:
            return files
        first = self.pictures[0]
        not_found = [line for each in self.pictures for line in self._not_found(each)]
        return [*not_found, *(files if self.several else [f"overlay {first.overlay}", f"label map {first.label_map}"])]

    def _not_found(self, each: MappedPicture) -> list[str]:
        absent = [name for name, share in each.shares().items() if not share and name != "background"]
        gated = each.source.name == "photograph"
        hint = "; --set fusion.gate=0 marks the likeliest places" if gated else ""
        by = f"{each.source.name}: " if self.several else ""
        return [f"{by}not found in the picture: {', '.join(absent)}{hint}"] if absent else []

    def remarks(self) -> list[str]:
        """What to know of the result, a sentence each."""
        lines = [f"left out {name}: {reason}" for name, reason in self.left_out.items()]
        paths = list(dict.fromkeys(each.path for each in self.pictures))
        return [*lines, *weak_on_photographs(self.sources[0].model, paths)]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON: of one picture by one source its own, of several a list."""
        rows = [
            {
                "image": each.path,
                **each.source.described,
                "classes": list(each.classes),
                "share": each.shares(),
                "overlay": each.overlay,
                "label_map": each.label_map,
            }
            for each in self.pictures
        ]
        skipped = [{"image": key, "reason": reason} for key, reason in self.skipped]
        document = {"images": rows, "skipped": skipped} if self.many or self.several else rows[0]
        left_out = {"left_out": self.left_out} if self.several else {}
        return {**document, **left_out, "request": self.request.as_document()}


def _largest(one: MappedPicture) -> tuple[str, str]:
    """The label of the largest area, `background` only where there is nothing else."""
    shares = one.shares()
    ground = shares.pop("background", 0.0) if len(shares) > 1 else 0.0
    name, share = max(shares.items(), key=lambda item: item[1])
    return (name, f"{share:.1%}") if share else ("background", f"{ground:.1%}")


def by_one(build: Callable[[], Callable[[Path], Segmentation]]) -> Callable[[Sequence[str]], MapMaker]:
    """What `segment_pictures` takes, of a single source.

    Args:
        build: loads it; what it gives is called with a picture.
    """

    def maker(_: Sequence[str]) -> MapMaker:
        segmented = build()
        return lambda path, names: iter([(names[0], segmented(path))])

    return maker


def segment_pictures(
    request: LabelMapRequest,
    sources: Sequence[LabelMapSource],
    build: Callable[[Sequence[str]], MapMaker],
    *,
    strict: bool = True,
) -> LabelMapReport:
    """Make and save label maps; of a folder that is gone on with only what is not done yet.

    Args:
        request: what is asked.
        sources: what makes the maps, each in a folder of its own where they are several.
        build: loads those of these names.
        strict: whether a source that is left out leaves the result incomplete.

    Raises:
        UsageError: options that do not go together, or a folder that was begun with other settings.
        DataError: no picture can be read, or a file cannot be written.
        Others: as the one source, or the first of several of which none makes a map.
    """
    inputs = find_images(request.images, without=request.out or FOLDER)
    many = len(inputs.paths) > 1 or not inputs.named
    if many and (request.overlay or request.label_map):
        raise UsageError("--overlay and --map are for one image; for several give --out FOLDER")
    if request.out is not None and (request.overlay or request.label_map):
        raise UsageError("--out is the folder of all results: leave out --overlay and --map, which name each")
    files = {source.name: map_files(inputs.paths, request, source, sources, many) for source in sources}
    if request.coco is not None:
        writable_path(request.coco)
    if request.csv is not None:
        writable_path(request.csv, columns=AREAS)
    for source in sources:
        if (place := files[source.name][0]).in_folder:
            same_settings(place.overlay.parent, source.record, request.redo)
    pictures, missing = list[MappedPicture](), _Missing()
    left_out, skipped = missing.left_out, missing.skipped
    start("loading the model")
    due = [name for name, places in files.items() if any(place.due for place in places)]
    maker = build(due) if due else None
    for row, path in enumerate(counted(inputs.paths, "picture", len(inputs.paths))):
        own = [(source, files[source.name][row]) for source in sources if source.name not in left_out]
        try:
            pictures += _maps(path, own, maker, missing, legend=request.legend)
        except DataError as error:
            if not many:
                raise
            skipped.append((str(path), str(error)))
    if left_out and not pictures:
        raise next(iter(left_out.values()))
    skip_pictures(skipped, left=pictures)
    if before := sum(not place.due for places in files.values() for place in places):
        thing = "image" if len(sources) == 1 else "label map"
        warn(f"{number_of(before, thing)} done before (--redo does them again)")
    write_tables(pictures, request.coco, request.csv)
    complete = not inputs.exit_code(skipped) and not (strict and left_out)
    reasons = {name: str(error) for name, error in left_out.items()}
    return LabelMapReport(request, list(sources), pictures, skipped, many, reasons, complete)


@dataclass
class _Missing:
    """What there is no map of: sources that are left out, by name, and (path, reason) of pictures."""

    left_out: dict[str, BinderclipError] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)


def _maps(
    path: Path,
    files: Sequence[tuple[LabelMapSource, MapFiles]],
    maker: MapMaker | None,
    missing: _Missing,
    *,
    legend: bool,
) -> list[MappedPicture]:
    """One picture by every source, made where it is due and read where it is there; adds to what is missing."""
    made: dict[str, MappedPicture] = {}
    for source, place in files:
        if not place.due:
            labels = read_map(place.label_map, len(source.classes))
            made[source.name] = MappedPicture(path, source, labels, source.classes, place.overlay, place.label_map)
            emit(PartialResult(source.name, made[source.name]))
    due = {source.name: (source, place) for source, place in files if place.due}
    if due:
        assert maker is not None
        for name, result in maker(path, list(due)):
            if isinstance(result, DataError):  # of this picture; the next one may be none
                missing.skipped.append((str(path), f"{name}: {result}"))
            elif isinstance(result, BinderclipError):
                missing.left_out[name] = result
                emit(PartialResult(name, str(result)))
            else:
                made[name] = save_map(result, path, *due[name], legend=legend)
                emit(PartialResult(name, made[name]))
    return [made[source.name] for source, _ in files if source.name in made]
