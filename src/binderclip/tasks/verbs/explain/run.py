"""What `explain` does with pictures, by one method or by several that share the passes of the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from binderclip.display import number_of
from binderclip.errors import BinderclipError, DataError, UsageError
from binderclip.tasks.events import PartialResult, Saved, counted, emit, start
from binderclip.tasks.files.inputs import find_images, output_names, skip_pictures
from binderclip.tasks.files.outputs import output_folder, output_path, writable_path, writable_paths
from binderclip.tasks.files.writing import short_path, write_array
from binderclip.tasks.report.photographs import weak_on_photographs
from binderclip.tasks.report.sheet import save_picture, with_scale
from binderclip.tasks.request import VerbResult
from binderclip.tasks.together import results_or_errors
from binderclip.tasks.verbs.explain.methods import Subject, build_methods, open_subject, shrunk
from binderclip.tasks.verbs.explain.request import ExplainRequest

if TYPE_CHECKING:
    from PIL import Image

    from binderclip.explain import Attribution

FOLDER = "explain"
"""Where the files of several pictures go."""
FRAME = "the model saw what is inside the frame; the dark margins were cropped off, which is no lack of evidence"
COLUMNS = ("image", "method", "score", "strongest evidence", "overlay")


@dataclass(frozen=True)
class ExplainedPicture:
    """One picture and its map by one method.

    Attributes:
        image: its path.
        method: by name.
        value: cosine or logit, as `unit` says.
        peak: (x, y) of the strongest evidence in pixels; None where nothing speaks for the text.
        blank: whether the map says nothing.
        cropped: whether the model saw only what is inside the frame.
        overlay: the picture with its map.
        completeness_error: how far the map is from summing to the value; None where the method does not promise it.
        map: the numbers, where they were asked for.
    """

    image: Path
    method: str
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
    """Pictures explained by one method, or by several.

    Attributes:
        request: what was asked.
        methods: their names.
        target: the text or class; None for the class that is predicted.
        model: what was explained, as it was named.
        pictures: those that could be read, each by every method in turn.
        skipped: (path, reason) of the others.
        many: whether they were asked for as several.
        left_out: why a method among several has no map.
        complete: whether every picture and method that was named one by one has its map.
    """

    request: ExplainRequest
    methods: list[str]
    target: str | None
    model: str
    pictures: list[ExplainedPicture]
    skipped: list[tuple[str, str]]
    many: bool
    left_out: dict[str, str] = field(default_factory=dict)
    complete: bool = True

    @property
    def several(self) -> bool:
        """Whether there are several methods."""
        return len(self.methods) > 1

    @property
    def text(self) -> str:
        """What was explained, in words."""
        return "the predicted class" if self.target is None else self.target

    @property
    def title(self) -> str:
        """What was explained, and how."""
        return f"{self.text}: {', '.join(self.methods)}, model {self.model}"

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Columns, and a row a picture and method."""
        rows = [
            (short_path(each.image), each.method, each.value, _place(each), short_path(each.overlay))
            for each in self.pictures
        ]
        return (COLUMNS, rows) if self.several else ((*COLUMNS[:1], *COLUMNS[2:]), [(*r[:1], *r[2:]) for r in rows])

    def lines(self) -> list[str]:
        """What was found in each picture, and its file."""
        lines = []
        for each in self.pictures:
            where = f"strongest evidence at {_place(each)}" if each.peak else (
                f"{each.method} finds no place that speaks for it"
            )  # fmt: skip
            name = f"{each.image}: " * self.many + f"{each.method}: " * self.several
            lines.append(f"{name}{each.unit} with {self.text!r}: {each.value:.3f}; {where}")
            if each.completeness_error is not None:
                lines.append(f"the map sums to the {each.unit} up to {each.completeness_error:.2g} of it")
            lines.append(f"overlay {each.overlay}")
        return lines

    def remarks(self) -> list[str]:
        """What to know of the result, a sentence each."""
        paths = dict.fromkeys(each.image for each in self.pictures)
        frame = [FRAME] if any(each.cropped for each in self.pictures) else []
        weak = [] if self.request.head else weak_on_photographs(self.model, list(paths))
        return [*left_out_lines(self.left_out), *frame, *weak]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON: of one picture by one method its own, of several a list."""
        rows = [self._row(each) for each in self.pictures]
        document = rows[0] if rows and not (self.many or self.several) else {"images": rows}
        left_out = {"left_out": self.left_out} if self.several else {}
        return {**document, **left_out, "request": self.request.as_document()}

    def _row(self, each: ExplainedPicture) -> dict[str, Any]:
        row: dict[str, Any] = {
            "image": each.image,
            "label": self.target,
            "method": each.method,
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


@dataclass(frozen=True)
class _Files:
    """Where the overlay of a picture by a method goes, and the numbers of its map where they were asked for."""

    overlay: Path
    map: Path | None


def explain_pictures(request: ExplainRequest) -> ExplainReport:
    """Every method on every picture; each gets its overlay, and what else was asked for.

    Raises:
        UsageError: an unknown method or setting, or a result that would replace what is none of ours.
        DataError: the one picture cannot be read, or a file cannot be written.
        Others: as the one method, or the first of several of which none gives a map.
    """
    from binderclip.data import open_image
    from binderclip.explain import METHODS

    inputs = find_images(request.images, without=request.out or FOLDER)
    many = len(inputs.paths) > 1 or Path(request.images[0]).is_dir()
    methods = build_methods(request.methods or sorted(METHODS), request.layer, request.set)
    files = _files(request, inputs.paths, list(methods), many)
    pictures, drawn, skipped = list[ExplainedPicture](), list[tuple[Any, str]](), list[tuple[str, str]]()
    left_out: dict[str, BinderclipError] = {}
    start("loading the model")
    subject = open_subject(request)
    names = next(iter(methods)) if len(methods) == 1 else number_of(len(methods), "method")
    for row, path in enumerate(counted(inputs.paths, f"{names}: picture", len(inputs.paths))):
        try:
            picture = open_image(path)
        except DataError as error:
            if not many:
                raise
            skipped.append((str(path), str(error)))
            continue
        explained = dict[str, ExplainedPicture]()
        waiting = {name: method for name, method in methods.items() if name not in left_out}
        for name, attribution in _attributions(subject, shrunk(picture), waiting, strict=len(methods) == 1):
            if isinstance(attribution, BinderclipError):
                left_out[name] = attribution
                emit(PartialResult(name, str(attribution)))
                continue
            explained[name] = _saved(attribution, picture, path, files[name][row], subject, name, request.legend)
            emit(PartialResult(name, explained[name]))
            if request.report:
                drawn.append(_shown(attribution, picture, explained[name], several=len(methods) > 1))
        pictures += [explained[name] for name in methods if name in explained]
    if left_out and not pictures:
        raise next(iter(left_out.values()))
    skip_pictures(skipped, left=pictures)
    if request.report:
        _save_page(Path(request.report), subject, ", ".join(methods), drawn)
    # Of `all` nobody named those that do not fit.
    complete = not inputs.exit_code(skipped) and not (left_out and request.methods)
    reasons = {name: str(error) for name, error in left_out.items()}
    return ExplainReport(
        request, list(methods), subject.target, subject.name, pictures, skipped, many, reasons, complete
    )


def _attributions(
    subject: Subject, picture: Image.Image, methods: dict[str, Any], *, strict: bool
) -> Iterator[tuple[str, Attribution | BinderclipError]]:
    """What each method gives, as it comes, or why it gives nothing; of a single one (`strict`) that is raised."""
    from binderclip.explain import iter_attributions

    if strict:
        ((name, method),) = methods.items()
        yield name, method(subject.model, [picture], subject.target)
    elif methods:
        together = iter_attributions(subject.model, [picture], subject.target, methods=methods)
        alone = {name: partial(method, subject.model, [picture], subject.target) for name, method in methods.items()}
        yield from results_or_errors(together, alone)


def _files(request: ExplainRequest, paths: list[Path], methods: Sequence[str], many: bool) -> dict[str, list[_Files]]:
    """Where everything goes, by method a row a picture, checked before the model is loaded."""
    if request.report is not None:
        writable_path(request.report)
    several = len(methods) > 1
    if not many and not several:
        overlays = {methods[0]: [output_path(request.out, paths[0], "explain")]}
        names = [paths[0].stem]
    else:
        folder = Path(request.out or FOLDER)
        if folder.suffix and not folder.is_dir():
            raise UsageError(f"--out {folder}: for several images or methods give a folder")
        output_folder(folder)
        endings = [f"-{method}.png" for method in methods] if several else ["-explain.png"]
        names = output_names(paths, endings=endings)
        overlays = {
            method: writable_paths([folder / f"{name}{ending}" for name in names], sources=paths)
            for method, ending in zip(methods, endings, strict=True)
        }
    return {
        method: [
            _Files(place, _map_place(place, f"{name}-{method}.npy") if request.npy else None)
            for name, place in zip(names, places, strict=True)
        ]
        for method, places in overlays.items()
    }


def _map_place(overlay: Path, name: str) -> Path:
    """Where the numbers of a map go: beside its overlay."""
    (place,) = writable_paths([overlay.with_name(name)], beside=overlay)
    return place


def _saved(
    attribution: Attribution, picture: Image.Image, path: Path, files: _Files, subject: Subject, name: str,
    legend: bool,
) -> ExplainedPicture:  # fmt: skip
    """Write the files of one picture by one method."""
    save_picture(_drawn(attribution, picture, subject, name, legend), files.overlay)
    if files.map is not None:
        _save_map(files.map, attribution, (picture.height, picture.width))
    for file in filter(None, (files.overlay, files.map)):
        emit(Saved(file))
    return _explained(attribution, picture, path, name, subject.unit, files)


def _shown(attribution: Attribution, picture: Image.Image, each: ExplainedPicture, *, several: bool) -> tuple[Any, str]:
    """A picture of the page, and what stands below it."""
    blank = ", blank map" if each.blank else ""
    name = f"{each.image.name}, {each.method}" if several else each.image.name
    return attribution.overlay(picture.convert("RGB")), f"{name}: {each.value:.2f}{blank}"


def _explained(
    attribution: Attribution, picture: Image.Image, path: Path, method: str, unit: str, files: _Files
) -> ExplainedPicture:
    across, down = picture.width / attribution.size[1], picture.height / attribution.size[0]
    # ReLU may leave nothing; the first pixel of a blank map is no place.
    blank = bool(attribution.blank[0])
    peak = None if blank else attribution.peak()
    error = attribution.completeness_error()
    return ExplainedPicture(
        path, method, unit, float(attribution.value[0]),
        None if peak is None else (int((peak[0] + 0.5) * across), int((peak[1] + 0.5) * down)),
        blank, attribution.cropped, files.overlay, None if error is None else float(error[0]), files.map,
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


def left_out_lines(left_out: Mapping[str, str]) -> list[str]:
    """A line for each reason, with the methods that it left out.

    Args:
        left_out: name of a method -> why it was.
    """
    methods: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        methods.setdefault(reason, []).append(name)
    return [f"left out {', '.join(names)}: {reason}" for reason, names in methods.items()]
