"""Methods side by side on the same images: one table of numbers and one contact sheet."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from binderclip.data.lettering import fitting, font_for
from binderclip.errors import BinderclipError, UsageError
from binderclip.explain.engine.attribute import attribute_all
from binderclip.explain.engine.attribution import Attribution, called_blank
from binderclip.explain.engine.observed import Observer
from binderclip.explain.faithfulness.localisation import energy_inside, pointing_game
from binderclip.explain.faithfulness.perturbation import deletion_auc, insertion_auc
from binderclip.files import make_folder, write_whole
from binderclip.settings import check_choice

if TYPE_CHECKING:
    from PIL import Image

TESTS = ("deletion", "insertion", "pointing", "inside")
"""Deletion (lower is better) and insertion (higher) need no truth; pointing and inside need exact masks."""

OPTIMISED = frozenset({"cartoonx", "pixelmask", "shearletx", "waveletx"})
"""Methods that optimise a mask: seconds an image, so they run only when they are named."""

RANDOM = "random map"


@dataclass(frozen=True)
class Comparison:
    """What `compare` returns.

    Attributes:
        attributions: method -> its result.
        scores: test -> method -> (B,) one number an image, NaN where the map is blank; `RANDOM` is a map of noise, the
            least one may expect.
        images: (B, 3, H, W) in [0, 1].
        targets: what was explained, in words, one an image.
        left_out: method -> why it could not be run on this model.
    """

    attributions: dict[str, Attribution]
    scores: dict[str, dict[str, Float[Tensor, "B"]]]
    images: Float[Tensor, "B 3 H W"]
    targets: tuple[str, ...]
    left_out: dict[str, str]

    def table(self) -> list[dict[str, Any]]:
        """One row a method: of each test the mean and its standard error (NaN for a single image), best deletion first.

        `blank` counts the images of which the method's map says nothing (`Attribution.blank`); they are in no mean. A
        method that has any is not ranked but comes after the others, since its means are over fewer images.
        `completeness` is the error of the sums relative to what they promise, both added up over the images (a single
        promise may be near zero); None for methods that promise none.
        """
        rows = []
        for method in [*self.attributions, *([RANDOM] if self.scores else [])]:
            row: dict[str, Any] = {"method": method}
            blank = self.attributions[method].blank.cpu() if method in self.attributions else torch.zeros(1).bool()
            row["blank"] = int(blank.sum())
            for test, scores_of_test in self.scores.items():
                values = scores_of_test[method].double()[~blank] if row["blank"] else scores_of_test[method].double()
                row[test] = float(values.mean())
                row[f"{test}_error"] = float(values.std() / len(values) ** 0.5) if len(values) > 1 else float("nan")
            row["completeness"] = _completeness(self.attributions.get(method))
            rows.append(row)
        return sorted(rows, key=lambda row: (row["blank"], row["deletion"])) if "deletion" in self.scores else rows

    def sheet(self, *, side: int = 150, columns: int | None = None) -> Image.Image:
        """Images as rows, methods as columns, each cell the map over its image, or the word `blank` on it.

        Args:
            side: of a cell, in pixels.
            columns: cells in a row, of a grid for each image with the methods in the order of the table and their
                scores below; None for one row an image.
        """
        if columns is not None:
            from binderclip.explain.faithfulness.grid import map_grid

            order = [row["method"] for row in self.table() if row["method"] in self.attributions]
            ranked = {name: self.attributions[name] for name in order}
            lines = {name: self._scored(name) for name in order} if self.scores else None
            return map_grid(self.images, ranked, self.targets, figures=lines, side=side, columns=columns)
        return contact_sheet(self.images, self.attributions, self.targets, side=side)

    def _repr_html_(self) -> str:
        """The sheet and the table of all tests, in a notebook."""
        from binderclip.display import picture_html, table_html

        rows = self.table()
        tests = [test for test in self.scores if any(test in row for row in rows)]
        cells = [[row["method"], *(row.get(test, "") for test in tests)] for row in rows]
        return picture_html(self.sheet(), "maps of every method", side=1200) + table_html(("method", *tests), cells)

    def plot(self, test: str | None = None) -> Any:
        """A matplotlib figure: the mean of one test for every method, with its standard error.

        Args:
            test: a key of `scores`; default the first.

        Raises:
            UsageError: no such test.
        """
        from binderclip.display import bars, new_figure

        test = next(iter(self.scores), "") if test is None else test
        if test not in self.scores:
            raise UsageError(f"{test!r} was not tested: {', '.join(self.scores) or 'nothing was'}")
        rows = self.table()
        figure = new_figure(7, 0.6 + 0.3 * len(rows))
        axes = figure.subplots()
        spread = [row[f"{test}_error"] for row in rows]
        errors = [(0.0, 0.0) if each != each else (each, each) for each in spread]
        bars(axes, [row["method"] for row in rows], [row[test] for row in rows], errors=errors)
        axes.set_xlabel(test)
        return figure

    def _scored(self, method: str) -> list[str]:
        """The scores of a method's maps in words, one line an image."""
        of = {test: values[method].tolist() for test, values in self.scores.items()}
        lines = [[f"{test} {of[test][row]:.2f}" for test in of] for row in range(len(self.images))]
        return [", ".join(line) if "nan" not in " ".join(line) else "no place stands out" for line in lines]

    def save_maps(self, folder: str | Path) -> list[Path]:
        """Write every method's maps (B, H, W) as float32 .npy files named after the method."""
        import numpy as np

        folder, paths = make_folder(folder), []
        for method, attribution in self.attributions.items():
            held = io.BytesIO()
            np.save(held, attribution.maps().cpu().numpy().astype(np.float32))
            paths.append(write_whole(folder / f"{method}.npy", held.getvalue()))
        return paths


def compare(
    model: Any,
    images: Any,
    target: Any = None,
    *,
    methods: Mapping[str, Any] | Sequence[str] | None = None,
    masks: Bool[Tensor, "B H W"] | None = None,
    tests: Sequence[str] | None = None,
    steps: int = 10,
    seed: int = 0,
    strict: bool | None = None,
) -> Comparison:
    """Run several methods and test their maps; passes that several methods need are run once.

    Args:
        model, images, target: as in `attribute`.
        methods: name -> method, or names out of `METHODS`; None for all gradient methods of `METHODS` that the model
            allows (optimised masks only when named: they take seconds an image).
        masks: (B, H, W), where the object is, for the tests that need the truth.
        tests: out of `TESTS`; None for all that can be done; empty for maps alone.
        steps: in which deletion and insertion take pixels away.
        seed: of the random map.
        strict: whether a method that cannot be run on this model is an error; None: if it was named. Otherwise it is
            left out, and the result says why.

    Raises:
        UsageError: an unknown method or test, or masks of another shape; see `attribute` for the rest.
    """
    observer = Observer(model)
    batch = observer.images(images)
    named, chosen = _named(methods), _tests(tests, masks)
    if masks is not None and tuple(masks.shape) != (len(batch), *batch.shape[-2:]):
        raise UsageError(f"masks {tuple(masks.shape)}: must be (B, H, W) = {(len(batch), *batch.shape[-2:])}")
    attributions, left_out = _run(model, batch, target, named, strict=methods is not None if strict is None else strict)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(len(batch), *batch.shape[-2:], generator=generator).to(batch.device)
    maps = {name: each.maps().to(batch.device) for name, each in attributions.items()} | {RANDOM: noise}
    scores: dict[str, dict[str, Tensor]] = {test: {} for test in chosen}
    for name, each in maps.items():
        blank = attributions[name].blank.cpu() if name in attributions else torch.zeros(len(batch), dtype=torch.bool)
        for test in chosen:
            values = _scored(test, model, batch, target, each, masks, steps)
            scores[test][name] = values.masked_fill(blank, torch.nan)
    return Comparison(attributions, scores, batch.cpu(), _words(target, model, attributions, len(batch)), left_out)


def _completeness(attribution: Attribution | None) -> float | None:
    if attribution is None or attribution.accounted is None or attribution.promised is None:
        return None
    promised = attribution.promised.double()
    return float((attribution.accounted.double() - promised).abs().sum() / promised.abs().sum().clamp(min=1e-12))


def _named(methods: Mapping[str, Any] | Sequence[str] | None) -> dict[str, Any]:
    from binderclip.explain.methods import METHODS

    if isinstance(methods, Mapping):
        return dict(methods)
    names = [name for name in METHODS if name not in OPTIMISED] if methods is None else list(methods)
    if isinstance(methods, str) or not names:
        raise UsageError(f"methods must be a list of at least one name, not {methods!r}")
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        raise UsageError(f"method {unknown[0]!r} is unknown; there are {', '.join(sorted(METHODS))}")
    return {name: METHODS[name]() for name in names}


def _tests(tests: Sequence[str] | None, masks: Tensor | None) -> list[str]:
    possible = [test for test in TESTS if masks is not None or test not in ("pointing", "inside")]
    if tests is None:
        return possible
    for test in tests:
        check_choice("test", test, TESTS)
        if test not in possible:
            raise UsageError(f"test {test!r} needs masks=: where the object is")
    return list(tests)


def _run(
    model: Any, batch: Tensor, target: Any, named: dict[str, Any], *, strict: bool
) -> tuple[dict[str, Attribution], dict[str, str]]:
    """All methods together; where one cannot be run and was not asked for by name, it is left out and said so."""
    try:
        return attribute_all(model, batch, target, methods=named), {}
    except BinderclipError:
        if strict:
            raise
    attributions: dict[str, Attribution] = {}
    left_out: dict[str, str] = {}
    for name, method in named.items():
        try:
            attributions[name] = method(model, batch, target)
        except BinderclipError as error:
            left_out[name] = str(error)
    if not attributions:
        raise UsageError(f"no method could be run: {next(iter(left_out.values()))}")
    return attributions, left_out


def _scored(
    test: str, model: Any, batch: Tensor, target: Any, maps: Tensor, masks: Tensor | None, steps: int
) -> Tensor:
    if test == "deletion":
        return deletion_auc(model, batch, target, maps=maps, steps=steps, draws=0).values.cpu()
    if test == "insertion":
        return insertion_auc(model, batch, target, maps=maps, steps=steps, draws=0).values.cpu()
    assert masks is not None
    masks = masks.to(maps.device)
    return (pointing_game(maps, masks).float() if test == "pointing" else energy_inside(maps, masks)).cpu()


def _words(target: Any, model: Any, attributions: Mapping[str, Attribution], count: int) -> tuple[str, ...]:
    value = next(iter(attributions.values())).value.tolist()
    if isinstance(target, (list, tuple)) and len(target) == count:
        names = [str(t) for t in target]
    else:
        names = ["" if target is None else str(target)] * count
    return tuple(f"{name} {number:.2f}".strip() for name, number in zip(names, value, strict=True))


def contact_sheet(
    images: Float[Tensor, "B 3 H W"],
    attributions: Mapping[str, Attribution],
    captions: Sequence[str] = (),
    *,
    side: int = 150,
) -> Image.Image:
    """Images as rows and methods as columns, each cell the map over its image; the first column is the image.

    A map that says nothing (`Attribution.blank`) is called so.

    Args:
        images: in [0, 1].
        attributions: method -> result for these images.
        captions: one an image, below it.
        side: of a cell, in pixels.
    """
    from PIL import Image, ImageDraw

    from binderclip.data import open_image

    ink, soft, gap, head, foot = (29, 31, 35), (110, 117, 128), 8, 46, 22
    font, small = font_for(attributions, 14), font_for(captions, 12)
    names = list(attributions)
    blank = {name: attributions[name].blank.tolist() for name in names}
    scale = side / max(images.shape[-2:])
    width, height = (max(1, round(length * scale)) for length in (images.shape[-1], images.shape[-2]))
    row_height = height + foot + gap
    sheet = Image.new("RGB", ((len(names) + 1) * (side + gap) + gap, head + len(images) * row_height + gap), "white")
    draw = ImageDraw.Draw(sheet)
    for column, name in enumerate(names):
        left = gap + (column + 1) * (side + gap)
        for line, words in enumerate(_two_lines(name.replace("_", " "), lambda text: font.getlength(text) <= side)):
            draw.text((left, gap + 16 * line), words, fill=ink, font=font)
    for row, image in enumerate(images):
        picture = open_image(image.cpu())
        top = head + row * row_height
        cells = [picture, *(attributions[name].overlay(picture, row, note=False) for name in names)]
        for column, cell in enumerate(cells):
            fitted = cell.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
            if column and blank[names[column - 1]][row]:
                fitted = called_blank(fitted)
            sheet.paste(fitted, (gap + column * (side + gap), top))
        if row < len(captions):
            draw.text((gap, top + height + 3), captions[row], fill=soft, font=small)
    return sheet


def _two_lines(text: str, fits: Callable[[str], bool]) -> list[str]:
    """A name in at most two lines, broken at a space or where it has to be, the rest cut."""
    first = fitting(text, fits)
    if first == text:
        return [text]
    space = text.rfind(" ", 0, len(first) + 1)
    first = text[:space] if space > 0 else first
    return [first, fitting(text[len(first) :].strip(), fits)]
