"""What `explain` does with pictures by one method."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from binderclip.errors import DataError, UsageError
from binderclip.tasks.events import Saved, counted, emit, skip, start
from binderclip.tasks.files.inputs import find_images, output_names
from binderclip.tasks.files.outputs import output_folder, output_path, writable_path, writable_paths
from binderclip.tasks.files.writing import short_path, write_array
from binderclip.tasks.report.photographs import weak_on_photographs
from binderclip.tasks.report.sheet import save_picture, with_scale
from binderclip.tasks.request import VerbResult
from binderclip.tasks.verbs.explain.methods import Subject, build_methods, open_subject, shrunk
from binderclip.tasks.verbs.explain.request import ExplainRequest

if TYPE_CHECKING:
    from PIL import Image

    from binderclip.explain import Attribution

FOLDER = "explain"
"""Where the files of several pictures go."""
FRAME = "the model saw what is inside the frame; the dark margins were cropped off, which is no lack of evidence"
COLUMNS = ("image", "score", "strongest evidence", "overlay")


@dataclass(frozen=True)
class ExplainedPicture:
    """One picture and its map.

    Attributes:
        image: its path.
        value: cosine or logit, as `unit` says.
        peak: (x, y) of the strongest evidence in pixels; None where nothing speaks for the text.
        blank: whether the map says nothing.
        cropped: whether the model saw only what is inside the frame.
        overlay: the picture with its map.
        completeness_error: how far the map is from summing to the value; None where the method does not promise it.
        map: the numbers, where they were asked for.
    """

    image: Path
    unit: str
    value: float
    peak: tuple[int, int] | None
    blank: bool
    cropped: bool
    overlay: Path
    completeness_error: float | None = None
    map: Path | None = None


@dataclass(frozen=True)
class ExplainReport(VerbResult):
    """Pictures explained by one method.

    Attributes:
        request: what was asked.
        method: its name.
        target: the text or class; None for the class that is predicted.
        model: what was explained, as it was named.
        pictures: those that could be read.
        skipped: (path, reason) of the others.
        many: whether they were asked for as several.
        complete: whether every picture that was named one by one could be read.
    """

    request: ExplainRequest
    method: str
    target: str | None
    model: str
    pictures: list[ExplainedPicture]
    skipped: list[tuple[str, str]]
    many: bool
    complete: bool = True

    @property
    def text(self) -> str:
        """What was explained, in words."""
        return "the predicted class" if self.target is None else self.target

    @property
    def title(self) -> str:
        """What was explained, and how."""
        return f"{self.text}: {self.method}, model {self.model}"

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Columns, and a row a picture."""
        return COLUMNS, [
            (short_path(each.image), each.value, _place(each), short_path(each.overlay)) for each in self.pictures
        ]

    def lines(self) -> list[str]:
        """What was found in each picture, and its file."""
        lines = []
        for each in self.pictures:
            where = f"strongest evidence at {_place(each)}" if each.peak else (
                f"{self.method} finds no place that speaks for it"
            )  # fmt: skip
            name = f"{each.image}: " if self.many else ""
            lines.append(f"{name}{each.unit} with {self.text!r}: {each.value:.3f}; {where}")
            if each.completeness_error is not None:
                lines.append(f"the map sums to the {each.unit} up to {each.completeness_error:.2g} of it")
            lines.append(f"overlay {each.overlay}")
        return lines

    def remarks(self) -> list[str]:
        """What to know of the result, a sentence each."""
        frame = [FRAME] if any(each.cropped for each in self.pictures) else []
        weak = [] if self.request.head else weak_on_photographs(self.model, [each.image for each in self.pictures])
        return [*frame, *weak]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON: of one picture its own, of several a list."""
        rows = [self._row(each) for each in self.pictures]
        document = rows[0] if rows and not self.many else {"images": rows}
        return {**document, "request": self.request.as_document()}

    def _row(self, each: ExplainedPicture) -> dict[str, Any]:
        row: dict[str, Any] = {
            "image": each.image,
            "label": self.target,
            "method": self.method,
            "model": self.model,
            each.unit: each.value,
            "peak_xy": each.peak,
            "blank": each.blank,
            "cropped": each.cropped,
            "overlay": each.overlay,
        }
        further = {"completeness_error": each.completeness_error, "map": each.map}
        return row | {name: value for name, value in further.items() if value is not None}


def _place(each: ExplainedPicture) -> str:
    return "" if each.peak is None else f"x {each.peak[0]}, y {each.peak[1]}"


def explain_pictures(request: ExplainRequest) -> ExplainReport:
    """One method on every picture; each gets its overlay, and what else was asked for.

    Raises:
        UsageError: an unknown method or setting, or a result that would replace what is none of ours.
        DataError: the one picture cannot be read, or a file cannot be written.
    """
    inputs = find_images(request.images, without=request.out or FOLDER)
    many = len(inputs.paths) > 1 or Path(request.images[0]).is_dir()
    (name,) = request.methods
    method = build_methods([name], request.layer, request.set)[name]
    places = _places(request, inputs.paths, many)
    maps: list[Path | None] = [None] * len(places)
    if request.npy:
        maps = [_map_place(path, place, name, many) for path, place in zip(inputs.paths, places, strict=True)]
        for saved, place in zip(maps, places, strict=True):
            writable_paths([saved] if saved else [], beside=place)
    from binderclip.data import open_image

    pictures, drawn, skipped = list[ExplainedPicture](), list[tuple[Any, str]](), list[tuple[str, str]]()
    start("loading the model")
    subject = open_subject(request)
    rows = list(zip(inputs.paths, places, maps, strict=True))
    for path, place, saved in counted(rows, f"{name}: picture", len(rows)):
        try:
            picture = open_image(path)
        except DataError as error:
            if not many:
                raise
            skipped.append((str(path), str(error)))
            continue
        attribution = method(subject.model, [shrunk(picture)], subject.target)
        save_picture(_drawn(attribution, picture, subject, name, request.legend), place)
        if saved is not None:
            _save_map(saved, attribution, (picture.height, picture.width))
        pictures.append(_explained(attribution, picture, path, place, subject.unit, saved))
        for file in filter(None, (place, saved)):
            emit(Saved(file))
        if request.report:
            blank = ", blank map" if pictures[-1].blank else ""
            overlay = attribution.overlay(picture.convert("RGB"))
            drawn.append((overlay, f"{path.name}: {pictures[-1].value:.2f}{blank}"))
    if request.report and pictures:
        _save_page(Path(request.report), subject, name, drawn)
    skip(skipped)
    complete = bool(pictures) and not inputs.exit_code(skipped)
    return ExplainReport(request, name, subject.target, subject.name, pictures, skipped, many, complete)


def _places(request: ExplainRequest, paths: list[Path], many: bool) -> list[Path]:
    """Where each overlay goes, checked before the model is loaded."""
    if request.report is not None:
        writable_path(request.report)
    if not many:
        return [output_path(request.out, paths[0], "explain")]
    folder = Path(request.out or FOLDER)
    if folder.suffix and not folder.is_dir():
        raise UsageError(f"--out {folder}: for several images give a folder")
    output_folder(folder)
    return writable_paths([folder / f"{name}-explain.png" for name in output_names(paths)], sources=paths)


def _map_place(path: Path, place: Path, method: str, many: bool) -> Path:
    """Where the numbers of a map go: beside its overlay."""
    name = place.stem.removesuffix("-explain") if many else path.stem
    return place.with_name(f"{name}-{method}.npy")


def _explained(
    attribution: Attribution, picture: Image.Image, path: Path, place: Path, unit: str, saved: Path | None
) -> ExplainedPicture:
    across, down = picture.width / attribution.size[1], picture.height / attribution.size[0]
    # ReLU may leave nothing; the first pixel of a blank map is no place.
    blank = bool(attribution.blank[0])
    peak = None if blank else attribution.peak()
    error = attribution.completeness_error()
    return ExplainedPicture(
        path, unit, float(attribution.value[0]),
        None if peak is None else (int((peak[0] + 0.5) * across), int((peak[1] + 0.5) * down)),
        blank, attribution.cropped, place, None if error is None else float(error[0]), saved,
    )  # fmt: skip


def _drawn(attribution: Attribution, picture: Image.Image, subject: Subject, method: str, legend: bool) -> Image.Image:
    """The picture with its map, and a strip below that says what the colours mean."""
    overlay: Image.Image = attribution.overlay(picture)
    if not legend:
        return overlay
    blank = ", blank" if bool(attribution.blank[0]) else ""
    text = f"{subject.text}: {subject.unit} {float(attribution.value[0]):.2f}, {method}{blank}"
    ends = ("against", "for") if attribution.finish == "signed" else ("no", "strong evidence")
    return with_scale(overlay, text, attribution.ramp(), ends)


def _save_map(path: Path, attribution: Attribution, size: tuple[int, int]) -> None:
    import numpy as np

    write_array(attribution.maps(size)[0].cpu().numpy().astype(np.float32), path)


def _save_page(path: Path, subject: Subject, method: str, drawn: list[tuple[Any, str]]) -> None:
    from binderclip.tasks.report.page import Page

    lead = f"Model <code>{escape(subject.name)}</code>. Made by <code>binderclip explain</code>."
    page = Page(f"{subject.text}: {method}", lead)
    page.section("Maps", f"The {subject.unit} stands below each picture; colour is evidence.")
    page.strip(drawn, width=300)
    page.save(path)
    emit(Saved(path))
