"""What `binderclip translate` does: a network of two folders, or pictures through one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from binderclip.data import open_image, to_tensor
from binderclip.display import number_of
from binderclip.errors import DataError
from binderclip.generate import load_translator, translate_picture
from binderclip.tasks.events import Saved, counted, emit, skip, start
from binderclip.tasks.files.inputs import find_images, output_names, skip_pictures
from binderclip.tasks.files.outputs import output_folder, writable_paths
from binderclip.tasks.files.results import saying_what_is_kept
from binderclip.tasks.files.writing import short_path
from binderclip.tasks.report.sheet import contact_sheet, save_picture
from binderclip.tasks.request import VerbResult
from binderclip.tasks.verbs.translate.request import TranslateRequest
from binderclip.tasks.verbs.translate.train import SAMPLES, TranslatorTraining

SHEET, SHOWN = "before-after.png", 15
LIMIT = "Trained for {steps} steps at {side} pixels: after few steps results are blurred, and shapes hardly change."


@dataclass(frozen=True)
class TrainedTranslator(VerbResult):
    """A network that was trained, in the folder `request.out`.

    Attributes:
        card: what it was trained on, and how.
        skipped: (path, reason) of what could not be read.
    """

    request: TranslateRequest
    card: dict[str, Any]
    skipped: list[tuple[str, str]]

    @property
    def title(self) -> str:
        return f"{self.card['method']}: {self.card['a']} pictures of A and {self.card['b']} of B"

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        names = ("steps", "side", "width", "blocks", "batch_size", "lr")
        return names, [tuple(self.card[name] for name in names)]

    def remarks(self) -> list[str]:
        """What is next, and the limit."""
        out = self.request.out
        return [
            LIMIT.format(**self.card),
            f"binderclip translate PICTURES --model {out} --out FOLDER translates others",
        ]

    def places(self) -> list[str]:
        """Where network and sheet are."""
        return [f"network {self.request.out}   samples {Path(self.request.out) / SAMPLES}"]

    def as_dict(self) -> dict[str, Any]:
        return {
            "out": self.request.out, "training": self.card, "samples": str(Path(self.request.out) / SAMPLES),
            "skipped": [{"image": key, "reason": reason} for key, reason in self.skipped],
            "request": self.request.as_document(),
        }  # fmt: skip


@dataclass(frozen=True)
class TranslatedPicture:
    """A result.

    Attributes:
        image: path of the picture. result: of its translation.
        width, height: of the result.
    """

    image: str
    result: str
    width: int
    height: int


@dataclass(frozen=True)
class TranslatedPictures(VerbResult):
    """Translations, in the folder `request.out`.

    Attributes:
        card: of the network.
        rows: in the order of the pictures.
        skipped: (path, reason) of what could not be used.
        sheet: of pairs.
        complete: whether there is a result of every picture that was named one by one.
    """

    request: TranslateRequest
    card: dict[str, Any]
    rows: list[TranslatedPicture]
    skipped: list[tuple[str, str]]
    sheet: Path
    complete: bool = True

    @property
    def title(self) -> str:
        return f"{number_of(len(self.rows), 'picture')} translated"

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        return ("image", "width", "height"), [(short_path(row.image), row.width, row.height) for row in self.rows]

    def remarks(self) -> list[str]:
        """The limit."""
        known = self.rows and {"steps", "side"} <= self.card.keys()
        return [LIMIT.format(**self.card)] if known else []

    def places(self) -> list[str]:
        """Where the sheet is."""
        return [f"sheet {self.sheet}"]

    def as_dict(self) -> dict[str, Any]:
        return {
            "out": self.request.out, "training": self.card, "images": [asdict(row) for row in self.rows],
            "skipped": [{"image": key, "reason": reason} for key, reason in self.skipped],
            "sheet": str(self.sheet), "request": self.request.as_document(),
        }  # fmt: skip


def run(request: TranslateRequest) -> TrainedTranslator | TranslatedPictures:
    """Train a network on two folders, or translate pictures with one.

    Raises:
        UsageError: A or B is no folder, a result would replace a picture or what is none of ours, or no such device.
        DataError: a folder without a picture that can be read.
        CheckpointError: a folder that is none of a network, or of another training.
        Diverged: a loss became NaN; what was kept before stays.
    """
    if request.model is None:
        training = TranslatorTraining(request)
        skip(training.skipped)
        return TrainedTranslator(request, training.run(), training.skipped)
    return _translated(request, request.model)


def _translated(request: TranslateRequest, model: str) -> TranslatedPictures:
    inputs = find_images(request.images, without=request.out)
    output_folder(request.out, make=False)
    places = _places(inputs.paths, request)
    start("opening the network")
    translator, card = load_translator(model, device=request.device)
    device = next(translator.parameters()).device
    longest = request.max_side or 2 * int(card.get("side", 128))
    output_folder(request.out)
    rows: list[TranslatedPicture] = []
    skipped: list[tuple[str, str]] = []
    with saying_what_is_kept(rows, "picture", request.out):
        for path, place in counted(zip(inputs.paths, places, strict=True), "picture", len(inputs.paths)):
            try:
                picture = to_tensor(open_image(path, mode="RGB", size_hint=longest))
            except DataError as error:
                skipped.append((str(path), str(error)))
                continue
            made = translate_picture(translator, picture.to(device), longest=longest).cpu()
            image = Image.fromarray((255 * made).round().byte().permute(1, 2, 0).contiguous().numpy())
            save_picture(image, place)
            rows.append(TranslatedPicture(str(path), str(place), *image.size))
            emit(Saved(place))
    skip_pictures(skipped, left=rows)
    sheet = _sheet(rows, Path(request.out) / SHEET)
    return TranslatedPictures(request, card, rows, skipped, sheet, not inputs.exit_code(skipped))


def _places(paths: Sequence[Path], request: TranslateRequest) -> list[Path]:
    """Where the result of each picture goes."""
    folder, first = Path(request.out), Path(request.images[0])
    root = first if len(request.images) == 1 and first.is_dir() else None
    writable_paths([folder / SHEET])
    names = output_names(paths, root, taken=[Path(SHEET).stem])
    return writable_paths([folder / f"{name}.png" for name in names], sources=paths)


def _sheet(rows: Sequence[TranslatedPicture], path: Path) -> Path:
    """Write the sheet of pairs."""
    cards = []
    for row in rows[:SHOWN]:
        cards += [(row.image, Path(row.image).name, "before"), (row.result, "", "after")]
    more = f" (the first {SHOWN} of {len(rows)})" if len(rows) > SHOWN else ""
    sheet = contact_sheet(cards, path, title=f"before and after{more}")
    emit(Saved(sheet))
    return sheet
