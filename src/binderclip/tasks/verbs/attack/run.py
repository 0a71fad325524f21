"""What `attack` does with pictures."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from binderclip.data import open_image
from binderclip.data.images import to_tensor
from binderclip.display import number_of
from binderclip.errors import DataError
from binderclip.models.image_text.classification import probabilities
from binderclip.robust import METHODS
from binderclip.robust.attack_loop import LEVELS, whole_levels
from binderclip.tasks.events import Saved, counted, emit, start
from binderclip.tasks.files.inputs import find_images, output_names, skip_pictures
from binderclip.tasks.files.outputs import output_folder, writable_path, writable_paths
from binderclip.tasks.files.writing import short_path, write_csv
from binderclip.tasks.models import image_text_model
from binderclip.tasks.report.sheet import save_picture
from binderclip.tasks.request import VerbResult
from binderclip.tasks.verbs.attack.request import AttackRequest

STRONGER = 10
"""How many times as strong as it is a change is drawn."""
COLUMNS = ("image", "label", "probability", "attacked", "its probability", "success", "in 8 bits", "levels")
TABLE = "table.csv"
ENDINGS = ("", "-difference")
"""Of the attacked picture's file and of its change's."""


@dataclass(frozen=True)
class AttackedPicture:
    """One picture and what became of it.

    Attributes:
        image: its path.
        label, probability: what the model said before.
        attacked, attacked_probability: and says of the file that was written.
        success: whether the attack reached its aim before rounding; `success_8bit`: whether the file does.
        levels: the largest change of a pixel in the file, of 255.
        picture, difference: the files.
    """

    image: str
    label: str
    probability: float
    attacked: str
    attacked_probability: float
    success: bool
    success_8bit: bool
    levels: int
    picture: Path
    difference: Path


@dataclass(frozen=True)
class AttackReport(VerbResult):
    """All pictures, written into the folder `request.out`.

    Attributes:
        model: its name, as it calls itself.
        pictures: those that could be read.
        skipped: (path, reason) of the others.
        reduced: how many were larger than `request.max_side`.
    """

    request: AttackRequest
    model: str
    pictures: list[AttackedPicture]
    skipped: list[tuple[str, str]]
    reduced: int
    complete: bool = True

    @property
    def folder(self) -> Path:
        """Of the files."""
        return Path(self.request.out)

    def count(self, *, eight_bit: bool) -> int:
        """How many reached the aim, before rounding or in the file."""
        return sum(each.success_8bit if eight_bit else each.success for each in self.pictures)

    @property
    def title(self) -> str:
        """What was done to how many pictures."""
        asked, count = self.request, len(self.pictures)
        aim = "another label" if asked.target is None else repr(asked.target)
        return (
            f"{number_of(count, 'picture')}; {asked.method} within {asked.eps * LEVELS:.3g} levels of {LEVELS}, "
            f"towards {aim}; model {self.model}"
        )

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        return COLUMNS, [
            (
                short_path(each.image), each.label, each.probability, each.attacked, each.attacked_probability,
                _yes(each.success), _yes(each.success_8bit), each.levels,
            )
            for each in self.pictures
        ]  # fmt: skip

    def files(self) -> list[Path]:
        """Pictures and their changes."""
        return [path for each in self.pictures for path in (each.picture, each.difference)]

    def remarks(self) -> list[str]:
        count, asked = len(self.pictures), self.request
        lines = [
            f"the attack reached its aim on {self.count(eight_bit=False)} of {number_of(count, 'picture')}, and on "
            f"{self.count(eight_bit=True)} as they lie in 8-bit files"
        ]
        if self.reduced:
            lines.append(
                f"{number_of(self.reduced, 'picture')} reduced to {asked.max_side} px first: --max-side keeps larger "
                "ones"
            )
        return lines

    def places(self) -> list[str]:
        return [f"pictures and changes in {short_path(self.folder)}, table {short_path(self.folder / TABLE)}"]

    def as_dict(self) -> dict[str, Any]:
        asked = self.request
        return {
            "model": self.model,
            **{name: getattr(asked, name) for name in ("method", "eps", "target", "labels")},
            "reduced": self.reduced,
            "success": self.count(eight_bit=False),
            "success_8bit": self.count(eight_bit=True),
            "images": [asdict(each) for each in self.pictures],
            "skipped": [{"image": key, "reason": reason} for key, reason in self.skipped],
            "table": self.folder / TABLE,
            "out": self.folder,
            "request": asked.as_document(),
        }


def run(request: AttackRequest) -> AttackReport:
    """Attack every picture in its own size, write what was found, and judge the written file.

    Raises:
        UsageError: a result would replace one of the pictures, or what is none of ours.
        DataError: no picture can be read, or a file cannot be written.
    """
    folder = output_folder(request.out, make=False)
    if (folder / TABLE).exists():
        writable_path(folder / TABLE, columns=COLUMNS)
    inputs = find_images(request.images, without=str(folder))
    paths = inputs.paths
    names = output_names(paths, endings=ENDINGS)
    files = [[folder / f"{start}{ending}.png" for ending in ENDINGS] for start in names]
    writable_paths([file for pair in files for file in pair], sources=paths)
    start("loading the model")
    model = image_text_model(request.model, device=request.device, dtype=request.dtype)
    predictor = model.predictor(request.labels, templates=request.templates)
    options: dict[str, Any] = {"seed": request.seed, "targeted": request.target is not None}
    if request.steps is not None:
        options["steps"] = request.steps
    attack = METHODS[request.method](predictor, request.eps, **options)
    judge = _PictureJudge(predictor, request.labels, model)
    output_folder(folder)
    pictures, skipped, reduced = [], [], 0
    for path, (picture, difference) in counted(zip(paths, files, strict=True), "picture", len(paths)):
        try:
            clean, smaller = _opened(path, model.preprocess.background, request.max_side)
        except DataError as error:
            skipped.append((str(path), str(error)))
            continue
        reduced += smaller
        before = judge.of(clean)
        target = before.row if request.target is None else request.labels.index(request.target)
        adversarial = attack(clean.to(model.device), torch.tensor([target], device=model.device))
        rounded = clean + whole_levels(adversarial.images.cpu() - clean)  # (1, 3, H, W)
        for pixels, place in ((rounded, picture), (0.5 + STRONGER * (rounded - clean), difference)):
            save_picture(Image.fromarray(_bytes(pixels).numpy()), place)
        after = judge.of_file(picture)
        # Untargeted, the aim is any label but the picture's own.
        reached = (after.row == target) == (request.target is not None)
        pictures.append(
            AttackedPicture(
                str(path), before.label, before.probability, after.label, after.probability,
                bool(adversarial.success[0]), reached, round(float((rounded - clean).abs().max()) * LEVELS),
                picture, difference,
            )
        )  # fmt: skip
    skip_pictures(skipped, left=pictures)
    result = AttackReport(request, model.name, pictures, skipped, reduced, complete=not inputs.exit_code(skipped))
    write_csv(*result.table(), folder / TABLE)
    for path in (*result.files(), folder / TABLE):
        emit(Saved(path))
    return result


@dataclass(frozen=True)
class _PictureAnswer:
    row: int
    label: str
    probability: float


@dataclass(frozen=True)
class _PictureJudge:
    """What the model says of a picture."""

    predictor: Any
    labels: list[str]
    model: Any

    @torch.no_grad()
    def of(self, image: Float[Tensor, "1 3 H W"]) -> _PictureAnswer:
        return self._answer(self.predictor(image))

    @torch.no_grad()
    def of_file(self, path: Path) -> _PictureAnswer:
        """As every other verb opens it."""
        return self._answer(self.predictor.from_features(self.model.encode_image([path])))

    def _answer(self, logits: Float[Tensor, "1 K"]) -> _PictureAnswer:
        row = int(logits[0].argmax())
        return _PictureAnswer(row, self.labels[row], float(probabilities(logits, self.model.activation)[0, row]))


def _opened(path: Path, background: tuple[int, int, int], longest: int) -> tuple[Float[Tensor, "1 3 H W"], bool]:
    """Whole grey levels, and whether the picture was reduced."""
    picture = open_image(path, background=background)
    smaller = max(picture.size) > longest
    if smaller:
        ratio = longest / max(picture.size)
        size = (max(1, round(picture.width * ratio)), max(1, round(picture.height * ratio)))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    return to_tensor(picture)[None], smaller


def _bytes(image: Float[Tensor, "1 3 H W"]) -> UInt8[Tensor, "H W 3"]:
    return (image[0].detach().cpu() * LEVELS).round().clamp(0, LEVELS).to(torch.uint8).permute(1, 2, 0)


def _yes(value: bool) -> str:
    return "yes" if value else "no"
