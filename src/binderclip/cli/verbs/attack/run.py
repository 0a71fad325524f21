"""What `binderclip attack` does with pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from binderclip.cli.shared.inputs import output_names
from binderclip.cli.shared.outputs import writable_paths
from binderclip.cli.shared.sheet import save_picture
from binderclip.data import open_image
from binderclip.data.images import to_tensor
from binderclip.errors import DataError, UsageError
from binderclip.models import load
from binderclip.models.image_text.classification import probabilities
from binderclip.robust import METHODS
from binderclip.robust.attack_loop import LEVELS, whole_levels

STRONGER = 10
"""How many times as strong as it is a change is drawn."""
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
class Attacked:
    """All pictures.

    Attributes:
        model, method, eps, target, labels: as they were asked for.
        pictures: those that could be read.
        skipped: (path, reason) of the others.
        longest: side that larger pictures were reduced to. reduced: how many were.
    """

    model: str
    method: str
    eps: float
    target: str | None
    labels: list[str]
    pictures: list[AttackedPicture]
    skipped: list[tuple[str, str]]
    longest: int
    reduced: int

    def count(self, *, eight_bit: bool) -> int:
        """How many reached the aim, before rounding or in the file."""
        return sum(each.success_8bit if eight_bit else each.success for each in self.pictures)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            **{name: getattr(self, name) for name in ("model", "method", "eps", "target", "labels", "reduced")},
            "success": self.count(eight_bit=False),
            "success_8bit": self.count(eight_bit=True),
            "images": [asdict(each) for each in self.pictures],
            "skipped": [{"image": key, "reason": reason} for key, reason in self.skipped],
        }


def check_method(method: str, steps: int | None) -> None:
    """Refuse a method that there is not, and steps of one that has a single one.

    Raises:
        UsageError: either.
    """
    if method not in METHODS:
        raise UsageError(f"--method {method!r} is unknown: one of {', '.join(METHODS)}")
    if method == "fgsm" and steps is not None:
        raise UsageError("--steps does not go with --method fgsm, which has one step")


def attacked(
    name: str, paths: Sequence[Path], labels: Sequence[str], folder: Path, *, method: str, eps: float,
    steps: int | None, target: str | None, templates: str, longest: int, seed: int, device: str, dtype: str,
    progress: Callable[[int], object],
) -> Attacked:  # fmt: skip
    """Attack every picture in its own size, write what was found, and judge the written file.

    Raises:
        UsageError: a result would replace one of the pictures.
        DataError: a file that cannot be written.
    """
    names = output_names(paths, endings=ENDINGS)
    files = [[folder / f"{start}{ending}.png" for ending in ENDINGS] for start in names]
    writable_paths([file for pair in files for file in pair], sources=paths)
    model = load(name, device=device, dtype=dtype)
    predictor = model.predictor(list(labels), templates=templates)
    options: dict[str, Any] = {"seed": seed, "targeted": target is not None}
    if steps is not None:
        options["steps"] = steps
    run = METHODS[method](predictor, eps, **options)
    say = _PictureJudge(predictor, list(labels), model)
    pictures, skipped, reduced = [], [], 0
    for number, (path, (picture, difference)) in enumerate(zip(paths, files, strict=True), 1):
        try:
            clean, smaller = _opened(path, model.preprocess.background, longest)
        except DataError as error:
            skipped.append((str(path), str(error)))
            progress(number)
            continue
        reduced += smaller
        before = say.of(clean)
        wanted = before.row if target is None else list(labels).index(target)
        found = run(clean.to(model.device), torch.tensor([wanted], device=model.device))
        rounded = clean + whole_levels(found.images.cpu() - clean)
        for pixels, place in ((rounded, picture), (0.5 + STRONGER * (rounded - clean), difference)):
            save_picture(Image.fromarray(_bytes(pixels).numpy()), place)
        after = say.of_file(picture)
        pictures.append(
            AttackedPicture(
                str(path), before.label, before.probability, after.label, after.probability, bool(found.success[0]),
                (after.row == wanted) == (target is not None), round(float((rounded - clean).abs().max()) * LEVELS),
                picture, difference,
            )
        )  # fmt: skip
        progress(number)
    return Attacked(model.name, method, eps, target, list(labels), pictures, skipped, longest, reduced)


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
        share = longest / max(picture.size)
        size = (max(1, round(picture.width * share)), max(1, round(picture.height * share)))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    return to_tensor(picture)[None], smaller


def _bytes(image: Float[Tensor, "1 3 H W"]) -> UInt8[Tensor, "H W 3"]:
    return (image[0].detach().cpu() * LEVELS).round().clamp(0, LEVELS).to(torch.uint8).permute(1, 2, 0)
