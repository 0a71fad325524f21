"""What `binderclip explain` does: one method on images, or all methods side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from binderclip.cli.shared.options import DEFAULT_MODEL
from binderclip.cli.shared.output import note, print_json, print_table, warn_skipped
from binderclip.cli.shared.progress import stages
from binderclip.display import number_of
from binderclip.errors import DataError, UsageError
from binderclip.tasks.events import counted
from binderclip.tasks.files.inputs import ImageArguments, output_names
from binderclip.tasks.files.outputs import output_folder, output_path, writable_path, writable_paths
from binderclip.tasks.files.writing import without_empty_columns, write_array
from binderclip.tasks.report.photographs import note_weak_on_photographs
from binderclip.tasks.verbs.explain import build_methods, shrunk

if TYPE_CHECKING:
    from PIL import Image

    from binderclip.explain import Attribution, Comparison

FOLDER = "explain"
"""Where the files of several pictures go."""
SQUARE = 256
"""Side of the squares that several pictures are cut to for one comparison."""
CELL, COLUMNS = 280, 4
"""Side of a picture on the sheet of a comparison, and how many stand in a row."""
FRAME = "the model saw what is inside the frame; the dark margins were cropped off, which is no lack of evidence"
COSTLY = "masks that are optimised take many seconds a picture; --method all runs them too"


@dataclass(frozen=True)
class ExplainRequest:
    """The options of the verb, in its order."""

    found: ImageArguments
    label: str | None
    method: str | None
    layer: str | None
    settings: tuple[str, ...]
    head: Path | None
    model: str | None
    device: str
    dtype: str
    out: str | None
    npy: bool
    report: str | None
    legend: bool
    json: bool
    many: bool


@dataclass(frozen=True)
class Subject:
    """What is explained: an image-text model and a text, or a head's classifier and one of its classes (or None)."""

    model: Any
    target: Any
    name: str
    unit: str

    @property
    def said(self) -> str:
        """What is explained, in words."""
        return self.target if self.target is not None else "the predicted class"


def explain_images(request: ExplainRequest) -> int:
    """One method on every image; the exit code."""
    names = _names(request.method)
    if len(names) > 1:
        raise UsageError(f"--method {request.method}: several methods go with --compare")
    method = build_methods(names, request.layer, request.settings)[names[0]]
    places = _places(request)
    if request.npy:
        for path, place in zip(request.found.paths, places, strict=True):
            writable_paths([_map_place(request, path, place, names[0])], beside=place)
    from binderclip.data import open_image

    rows: list[dict[str, Any]] = []
    drawn: list[tuple[Image.Image, str]] = []
    skipped: list[tuple[str, str]] = []
    with stages("loading the model"):
        subject = _subject(request)
        pairs = list(zip(request.found.paths, places, strict=True))
        for path, place in counted(pairs, f"{names[0]}: picture", len(pairs)):
            try:
                picture = open_image(path)
            except DataError as error:
                if not request.many:
                    raise
                skipped.append((str(path), str(error)))
                continue
            found = method(subject.model, [shrunk(picture)], subject.target)
            rows.append(_draw(request, subject, names[0], found, picture, path, place))
            if request.report:
                said = ", blank map" if rows[-1]["blank"] else ""
                drawn.append(
                    (found.overlay(picture.convert("RGB")), f"{path.name}: {rows[-1][subject.unit]:.2f}{said}")
                )
    if request.report and rows:
        _report(request, subject, f"{subject.said}: {names[0]}", drawn)
    _say(request, subject, rows)
    if rows and not request.json and any(row["cropped"] for row in rows):
        note(FRAME)
    if not request.json and request.head is None:
        note_weak_on_photographs(subject.name, [row["image"] for row in rows])
    warn_skipped(skipped)
    return 1 if not rows else request.found.exit_code(skipped)


def _draw(
    request: ExplainRequest, subject: Subject, method: str, found: Attribution, picture: Any, path: Path, place: Path
) -> dict[str, Any]:
    from binderclip.tasks.report.sheet import save_picture, with_scale

    across, down = picture.width / found.size[1], picture.height / found.size[0]
    # ReLU may leave nothing; the first pixel of a blank map is no place.
    blank = bool(found.blank[0])
    peak = None if blank else found.peak()
    peak = None if peak is None else (int((peak[0] + 0.5) * across), int((peak[1] + 0.5) * down))
    value = float(found.value[0])
    drawn = found.overlay(picture)
    if request.legend:
        signed = found.finish == "signed"
        text = f"{subject.said}: {subject.unit} {value:.2f}, {method}" + (", blank" if blank else "")
        drawn = with_scale(drawn, text, found.ramp(), ("against", "for") if signed else ("no", "strong evidence"))
    save_picture(drawn, place)
    row: dict[str, Any] = {
        "image": path,
        "label": subject.target,
        "method": method,
        "model": subject.name,
        subject.unit: value,
        "peak_xy": peak,
        "blank": blank,
        "cropped": found.cropped,
        "overlay": place,
    }
    error = found.completeness_error()
    if error is not None:
        row["completeness_error"] = float(error[0])
    if request.npy:
        row["map"] = _map_place(request, path, place, method)
        _save_map(row["map"], found, (picture.height, picture.width))
    return row


def _map_place(request: ExplainRequest, path: Path, place: Path, method: str) -> Path:
    """Where the numbers of a map go: beside its overlay."""
    name = place.stem.removesuffix("-explain") if request.many else path.stem
    return place.with_name(f"{name}-{method}.npy")


def compare_methods(request: ExplainRequest) -> int:
    """All methods on the images; the exit code."""
    from binderclip.explain import OPTIMISED, compare

    names = None if request.method in (None, "all") else _names(request.method)
    methods = build_methods(names or _all_methods(), request.layer, request.settings)
    paths = request.found.paths
    target = Path(paths[0].stem) if not request.many else Path("explain")
    sheet = output_path(request.out, target, "compare")
    page = None if request.report is None else writable_path(request.report)
    if request.npy:
        writable_paths([sheet.with_suffix("") / f"{name}.npy" for name in methods], beside=sheet)
    pictures, kept, skipped = _opened(paths, squares=request.many)
    if not kept:
        raise DataError(f"of {number_of(len(paths), 'picture')} none can be read: {skipped[0][0]}: {skipped[0][1]}")
    costly = sorted(OPTIMISED) if names is None and len(kept) > 1 and request.method != "all" else []
    methods = {name: method for name, method in methods.items() if name not in costly}
    with stages("loading the model") as say:
        subject = _subject(request)
        say(
            f"{number_of(len(methods), 'method')} on "
            f"{'the picture' if len(kept) == 1 else number_of(len(kept), 'picture')}"
        )
        target_words = subject.target if subject.target is None else [subject.target] * len(kept)
        found = compare(subject.model, pictures, target_words, methods=methods, strict=names is not None)
    found = _captioned(found, kept)
    from binderclip.tasks.report.sheet import save_picture

    save_picture(found.sheet(side=CELL, columns=COLUMNS), sheet)
    if request.npy:
        found.save_maps(sheet.with_suffix(""))
    if page is not None:
        _comparison_page(request, subject, found, kept, page)
    rows = found.table()
    if request.json:
        print_json(
            {
                "images": kept,
                "label": subject.target,
                "model": subject.name,
                subject.unit: [float(v) for v in next(iter(found.attributions.values())).value],
                "methods": rows,
                "left_out": found.left_out | dict.fromkeys(costly, COSTLY),
                "sheet": sheet,
                "skipped": [{"image": key, "reason": reason} for key, reason in skipped],
            }
        )
    else:
        columns, shown = without_empty_columns(
            ("method", "deletion", "insertion", "completeness error"),
            [[r["method"], *(_blank(r[key]) for key in ("deletion", "insertion", "completeness"))] for r in rows],
        )
        count = kept[0].name if len(kept) == 1 else number_of(len(kept), "image")
        print_table(f"{count}, {subject.said}, model {subject.name}", columns, shown)
        typer.echo("deletion: lower is better; insertion: higher is better; a random map is what chance gives")
        for line in _blanks(rows, len(kept)):
            note(line)
        for name, why in found.left_out.items():
            note(f"left out {name}: {why}")
        if costly:
            note(f"left out {', '.join(costly)}: {COSTLY}")
        if any(each.cropped for each in found.attributions.values()):
            note(FRAME)
        if request.head is None:
            note_weak_on_photographs(subject.name, kept)
        typer.echo(f"sheet {sheet}" + (f"\npage {page}" if page else ""))
    warn_skipped(skipped)
    return request.found.exit_code(skipped)


def _names(text: str | None) -> list[str]:
    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    if not names:
        raise UsageError("--method is empty: name one, such as --method smoothgrad")
    return names


def _all_methods() -> list[str]:
    from binderclip.explain import METHODS

    return sorted(METHODS)


def _subject(request: ExplainRequest) -> Subject:
    from binderclip.models import load

    if request.head is None:
        name = request.model or DEFAULT_MODEL
        return Subject(load(name, device=request.device, dtype=request.dtype), request.label, name, "cosine")
    from binderclip.adapt import head_model, load_head

    name = request.model or head_model(request.head)
    if not name:
        raise UsageError(f"{request.head} does not say which model its head stands on: give --model")
    clip = load(name, device=request.device, dtype=request.dtype)
    head = load_head(request.head, model=clip)
    if not hasattr(head, "predictor"):
        raise UsageError(f"{request.head}: {type(head).__name__} is no head that can be explained through its model")
    predictor = head.predictor(clip)
    predictor.classes = [str(label) for label in predictor.classes]
    return Subject(predictor, request.label, str(request.head), "logit")


def _places(request: ExplainRequest) -> list[Path]:
    """Where each overlay goes, checked before the model is loaded."""
    paths = request.found.paths
    if request.report is not None:
        writable_path(request.report)
    if not request.many:
        return [output_path(request.out, paths[0], "explain")]
    folder = Path(request.out or FOLDER)
    if folder.suffix and not folder.is_dir():
        raise UsageError(f"--out {folder}: for several images give a folder")
    output_folder(folder)
    return writable_paths([folder / f"{name}-explain.png" for name in output_names(paths)], sources=paths)


def _opened(paths: Sequence[Path], *, squares: bool) -> tuple[list[Any], list[Path], list[tuple[str, str]]]:
    from PIL import ImageOps

    from binderclip.data import open_image

    pictures, kept, skipped = [], [], []
    for path in paths:
        try:
            picture = open_image(path)
        except DataError as error:
            if not squares:
                raise
            skipped.append((str(path), str(error)))
            continue
        small = ImageOps.fit(picture.convert("RGB"), (SQUARE, SQUARE)) if squares else shrunk(picture)
        pictures.append(small)
        kept.append(path)
    return pictures, kept, skipped


def _save_map(path: Path, found: Attribution, size: tuple[int, int]) -> None:
    import numpy as np

    write_array(found.maps(size)[0].cpu().numpy().astype(np.float32), path)


def _report(request: ExplainRequest, subject: Subject, title: str, drawn: Sequence[tuple[Any, str]]) -> None:
    from html import escape

    from binderclip.tasks.report.page import Page

    assert request.report is not None
    page = Page(title, f"Model <code>{escape(subject.name)}</code>. Made by <code>binderclip explain</code>.")
    page.section("Maps", f"The {subject.unit} stands below each picture; colour is evidence.")
    page.strip(drawn, width=300)
    page.save(request.report)


def _comparison_page(
    request: ExplainRequest, subject: Subject, found: Comparison, kept: Sequence[Path], path: Path
) -> None:
    from html import escape

    from binderclip.tasks.report.page import Page

    said = escape(subject.said)
    page = Page(f"Why: {said}", f"Model <code>{escape(subject.name)}</code>, {number_of(len(kept), 'image')}.")
    page.section(
        "Numbers",
        "Deletion takes the pixels away in the order of the map: the lower the mean score on the way, the better the "
        "map knows what matters. Insertion puts them back: the higher, the better. A random map shows what chance "
        "gives. The completeness error says how far a map that promises to sum to the score is from doing so.",
    )
    columns = ["method", "deletion", "+/-", "insertion", "+/-", "completeness error"]
    keys = ("deletion", "deletion_error", "insertion", "insertion_error", "completeness")
    table = found.table()
    page.table(*without_empty_columns(columns, [[row["method"], *(_blank(row[key]) for key in keys)] for row in table]))
    if blanks := _blanks(table, len(kept)):
        page.text(" ".join(f"{escape(line)}." for line in blanks))
    if found.left_out:
        page.text("Left out: " + "; ".join(f"{escape(n)} ({escape(why)})" for n, why in found.left_out.items()) + ".")
    page.section("Maps", "Colour is evidence for the text; where a map is signed, red speaks for and blue against it.")
    page.picture(found.sheet(side=CELL, columns=COLUMNS))
    page.save(path)


def _say(request: ExplainRequest, subject: Subject, rows: Sequence[dict[str, Any]]) -> None:
    if request.json:
        print_json(rows[0] if rows and not request.many else {"images": list(rows)})
        return
    for row in rows:
        peak, said = row["peak_xy"], subject.said
        where = (
            f"strongest evidence at x {peak[0]}, y {peak[1]}"
            if peak
            else f"{row['method']} finds no place that speaks for it"
        )
        name = f"{row['image']}: " if request.many else ""
        typer.echo(f"{name}{subject.unit} with {said!r}: {row[subject.unit]:.3f}; {where}")
        if "completeness_error" in row:
            typer.echo(f"the map sums to the {subject.unit} up to {row['completeness_error']:.2g} of it")
        typer.echo(f"overlay {row['overlay']}")


def _captioned(found: Comparison, kept: Sequence[Path]) -> Comparison:
    """With the file's name before what is said of each image."""
    from dataclasses import replace

    names = (f"{path.name}: {said}" for path, said in zip(kept, found.targets, strict=True))
    return replace(found, targets=tuple(names))


def _blanks(rows: Sequence[dict[str, Any]], count: int) -> list[str]:
    """A line for every method that says nothing about some images."""
    return [
        f"{row['method']}: blank on {row['blank']} of {number_of(count, 'image')}, left out of "
        f"its numbers; it is not ranked"
        for row in rows
        if row["blank"]
    ]


def _blank(value: float | None) -> Any:
    return "" if value is None or value != value else value
