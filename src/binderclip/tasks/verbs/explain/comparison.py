"""`explain --compare`: all methods side by side, tested by what deleting and inserting their pixels does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from binderclip.display import number_of
from binderclip.errors import DataError
from binderclip.tasks.events import Saved, emit, start
from binderclip.tasks.files.inputs import find_images, skip_pictures
from binderclip.tasks.files.outputs import output_path, writable_path, writable_paths
from binderclip.tasks.files.writing import without_empty_columns
from binderclip.tasks.report.photographs import weak_on_photographs
from binderclip.tasks.report.sheet import save_picture
from binderclip.tasks.request import VerbResult
from binderclip.tasks.verbs.explain.methods import Subject, build_methods, open_subject, shrunk
from binderclip.tasks.verbs.explain.request import ExplainRequest
from binderclip.tasks.verbs.explain.run import FOLDER, FRAME, left_out_lines

if TYPE_CHECKING:
    from binderclip.explain import Comparison

SQUARE = 256
"""Side of the squares that several pictures are cut to for one comparison."""
CELL, ACROSS = 280, 4
"""Side of a picture on the sheet of a comparison, and how many stand in a row."""
COSTLY = "masks that are optimised take many seconds a picture; --method all runs them too"
COLUMNS = ("method", "deletion", "insertion", "completeness error")
MEASURES = "deletion: lower is better; insertion: higher is better; a random map is what chance gives"


@dataclass(frozen=True)
class ComparisonReport(VerbResult):
    """Methods on the same pictures.

    Attributes:
        request: what was asked.
        subject: what was explained.
        comparison: the maps and their numbers.
        images: the pictures that could be read.
        skipped: (path, reason) of the others.
        costly: methods that were left out since they take long.
        sheet: the picture of all maps.
        complete: whether every picture that was named one by one could be read.
    """

    request: ExplainRequest
    subject: Subject
    comparison: Comparison
    images: list[Path]
    skipped: list[tuple[str, str]]
    costly: list[str]
    sheet: Path
    complete: bool = True

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """What was measured of each method."""
        return self.comparison.table()

    @property
    def title(self) -> str:
        """What was explained, and of how many pictures."""
        count = self.images[0].name if len(self.images) == 1 else number_of(len(self.images), "image")
        return f"{count}, {self.subject.text}, model {self.subject.name}"

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Columns, and a row a method, without what was measured for none."""
        names = ("deletion", "insertion", "completeness")
        columns, rows = without_empty_columns(COLUMNS, [[r["method"], *_numbers(r, names)] for r in self.rows])
        return tuple(columns), [tuple(row) for row in rows]

    def lines(self) -> list[str]:
        """What the numbers mean, and the files."""
        page = self.request.report
        return [MEASURES, f"sheet {self.sheet}", *([f"page {page}"] if page else [])]

    def blanks(self) -> list[str]:
        """A line for every method that says nothing about some pictures."""
        count = number_of(len(self.images), "image")
        return [
            f"{row['method']}: blank on {row['blank']} of {count}, left out of its numbers; it is not ranked"
            for row in self.rows
            if row["blank"]
        ]

    def remarks(self) -> list[str]:
        """What to know of the result, a sentence each."""
        comparison = self.comparison
        lines = [*self.blanks(), *left_out_lines(comparison.left_out | dict.fromkeys(self.costly, COSTLY))]
        if any(each.cropped for each in comparison.attributions.values()):
            lines.append(FRAME)
        return [*lines, *([] if self.request.head else weak_on_photographs(self.subject.name, self.images))]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        values = next(iter(self.comparison.attributions.values())).value
        return {
            "images": self.images,
            "label": self.subject.target,
            "model": self.subject.name,
            self.subject.unit: [float(value) for value in values],
            "methods": self.rows,
            "left_out": self.comparison.left_out | dict.fromkeys(self.costly, COSTLY),
            "sheet": self.sheet,
            "skipped": [{"image": key, "reason": reason} for key, reason in self.skipped],
            "request": self.request.as_document(),
        }


def compare_methods(request: ExplainRequest) -> ComparisonReport:
    """All methods on the pictures, a sheet, and what else was asked for.

    Raises:
        UsageError: an unknown method or setting, or a result that would replace what is none of ours.
        DataError: no picture can be read, or a file cannot be written.
    """
    from binderclip.explain import METHODS, OPTIMISED, compare

    inputs = find_images(request.images, without=FOLDER)
    paths, many = inputs.paths, len(inputs.paths) > 1 or Path(request.images[0]).is_dir()
    methods = build_methods(request.methods or sorted(METHODS), request.layer, request.set)
    sheet = output_path(request.out, Path(FOLDER if many else paths[0].stem), "compare")
    page = None if request.report is None else writable_path(request.report)
    if request.npy:
        writable_paths([sheet.with_suffix("") / f"{name}.npy" for name in methods], beside=sheet)
    pictures, kept, skipped = _opened(paths, squares=many)
    skip_pictures(skipped, left=kept)
    costly = sorted(OPTIMISED) if request.method is None and len(kept) > 1 else []
    methods = {name: method for name, method in methods.items() if name not in costly}
    start("loading the model")
    subject = open_subject(request)
    count = "the picture" if len(kept) == 1 else number_of(len(kept), "picture")
    start(f"{number_of(len(methods), 'method')} on {count}")
    target = None if subject.target is None else [subject.target] * len(kept)
    comparison = compare(subject.model, pictures, target, methods=methods, strict=bool(request.methods))
    names = (f"{path.name}: {text}" for path, text in zip(kept, comparison.targets, strict=True))
    comparison = replace(comparison, targets=tuple(names))
    save_picture(comparison.sheet(side=CELL, columns=ACROSS), sheet)
    emit(Saved(sheet))
    if request.npy:
        comparison.save_maps(sheet.with_suffix(""))
        emit(Saved(sheet.with_suffix("")))
    complete = not inputs.exit_code(skipped)
    result = ComparisonReport(request, subject, comparison, kept, skipped, costly, sheet, complete)
    if page is not None:
        _save_page(page, result)
    return result


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


def _numbers(row: dict[str, Any], names: Sequence[str]) -> list[Any]:
    """Numbers of a method; empty where there is none."""
    return ["" if row[name] is None or row[name] != row[name] else row[name] for name in names]


def _save_page(path: Path, result: ComparisonReport) -> None:
    from binderclip.tasks.report.page import Page

    lead = f"Model <code>{escape(result.subject.name)}</code>, {number_of(len(result.images), 'image')}."
    page = Page(f"Why: {result.subject.text}", lead)
    page.section(
        "Numbers",
        "Deletion takes the pixels away in the order of the map: the lower the mean score on the way, the better the "
        "map knows what matters. Insertion puts them back: the higher, the better. A random map shows what chance "
        "gives. The completeness error says how far a map that promises to sum to the score is from doing so.",
    )
    columns = ["method", "deletion", "+/-", "insertion", "+/-", "completeness error"]
    names = ("deletion", "deletion_error", "insertion", "insertion_error", "completeness")
    page.table(*without_empty_columns(columns, [[row["method"], *_numbers(row, names)] for row in result.rows]))
    if blanks := result.blanks():
        page.text(" ".join(f"{escape(line)}." for line in blanks))
    if left_out := result.comparison.left_out:
        page.text("Left out: " + "; ".join(f"{escape(n)} ({escape(why)})" for n, why in left_out.items()) + ".")
    page.section("Maps", "Colour is evidence for the text; where a map is signed, red speaks for and blue against it.")
    page.picture(result.comparison.sheet(side=CELL, columns=ACROSS))
    page.save(path)
    emit(Saved(path))
