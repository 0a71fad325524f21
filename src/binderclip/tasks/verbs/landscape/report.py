"""The page of `binderclip landscape`."""

from __future__ import annotations

from html import escape
from pathlib import Path

from binderclip.display import number_of
from binderclip.tasks.files.writing import write_json
from binderclip.tasks.report.page import Page
from binderclip.tasks.report.sheet import figure_picture
from binderclip.tasks.verbs.landscape.result import Landscape


def numbers_path(page: Path) -> Path:
    """Where the numbers of a page go."""
    return page.with_suffix(".json")


def write_report(result: Landscape, path: Path) -> Path:
    """Write the page, self-contained, and its numbers beside it."""
    page = Page(
        f"The loss around {result.model}",
        f"{number_of(result.count, 'picture')} of {escape(result.source)}, named by {result.texts} {result.named_by}. "
        f"Made by <code>binderclip landscape</code>.",
    )
    page.section(
        "Over a plane",
        "Every dot is a model whose weights were moved along two random directions, the cross the model itself. "
        "Between dots, colours are guessed. Directions have the length of the weights, filter by filter; biases and "
        "norms stay as they are. A step of 1 adds as much to each filter as it is long. So the plane of another model "
        f"with the same radius ({result.request.radius:g}) and seed ({result.request.seed}) can be laid beside this "
        "one.",
    )
    page.picture(figure_picture(result.surface.plot()), "loss over both directions; grey where it is not finite")
    remarks = " ".join(f"{escape(remark[:1].upper() + remark[1:])}." for remark in result.remarks())
    page.section(
        "Along a line",
        f"The first direction alone, left to right through the cross, in steps of half the size. {remarks}",
    )
    page.picture(figure_picture(result.curve.plot()), "loss and accuracy along the first direction")
    page.section("In numbers", f"All of them are in <code>{escape(numbers_path(path).name)}</code>.")
    page.table(*result.table())
    if result.skipped:
        page.section("Not read", f"{number_of(len(result.skipped), 'picture')} could not be read and count nowhere.")
        page.table(("picture", "why"), [list(entry) for entry in result.skipped[:50]])
    write_json(result.as_dict(), numbers_path(path))
    return page.save(path)
