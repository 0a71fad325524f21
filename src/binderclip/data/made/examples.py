"""A folder of pictures to try everything on: photographs, drawings by class and with captions, walls with a defect."""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from PIL import Image

from binderclip.data.images import composite, to_tensor
from binderclip.data.made.planted_defects import plant_defects
from binderclip.data.sets.named import photographs
from binderclip.data.sets.packs import load_packs
from binderclip.data.synthetic_scenes.stream import scenes
from binderclip.data.synthetic_scenes.vocabulary import vocabulary
from binderclip.errors import DataError, UsageError

PHOTOS = {
    "chelsea": "cat", "coffee": "coffee", "rocket": "rocket", "motorcycle_left": "motorcycle", "flower": "flower",
    "china": "palace", "astronaut": "astronaut", "coins": "coins",
}  # fmt: skip
CLASSES = ("cat", "cloud", "dog", "flower", "house", "moon")
SCENE_CLASSES = ("cat", "dog", "house", "moon", "flower", "tree", "heart", "cloud")
PER_CLASS, CAPTIONED, WALL, DEFECTS = 10, 64, 128, 4


def write_examples(folder: str | Path) -> Path:
    """Write a few pictures of every kind that the commands read, about 2 MB; the same ones every time.

    - `photos/`: eight photographs of scikit-image and scikit-learn.
    - `drawings/CLASS/`: ten drawings of each of six classes, held out from the training of the bundled models.
    - `captioned/`: 64 drawings and `captions.csv`.
    - `wall/`: crops of a brick wall laid out as MVTec AD is (`train/good`, `test/good`, `test/defect`, `ground_truth`).
    - `scene.png`: a made scene with three objects.

    Args:
        folder: made where it is missing; files of these names are written over.

    Returns:
        The folder.

    Raises:
        UsageError: `folder` is a file.
        MissingDependency: scikit-image is missing.
        DataError: the installed scikit-image ships without one of the photographs.
    """
    folder = Path(folder)
    if folder.is_file():
        raise UsageError(f"{folder} is a file: name a folder for the example pictures")
    by_name = {sample.key.split(".")[0]: sample.image.convert("RGB") for sample in photographs()}
    if missing := [name for name in (*PHOTOS, "brick") if name not in by_name]:
        raise DataError(f"the installed scikit-image has no picture {missing[0]}: install scikit-image 0.22 or newer")
    for name, file in PHOTOS.items():
        _save(by_name[name], folder / "photos" / f"{file}.jpg")
    _drawings(folder / "drawings")
    _captioned(folder / "captioned")
    _wall(by_name["brick"], folder / "wall")
    words = vocabulary("scenes15", split="test").only(SCENE_CLASSES)
    batch = scenes(17, 1, 256, vocabulary=words, objects=(3, 3), area=(0.08, 0.2), background="gradient")
    _save(_image(batch.images[0]), folder / "scene.png")
    return folder


def _drawings(folder: Path) -> None:
    words = vocabulary("scenes15", split="val+test")
    for name in CLASSES:
        index = words.names.index(name)
        own = [sprite for sprite, owner in zip(words.sprites, words.owner, strict=True) if owner == index]
        for number, sprite in enumerate(own[:PER_CLASS]):
            _save(composite(Image.fromarray(sprite, "RGBA")), folder / name / f"{name}-{number:02}.png")


def _captioned(folder: Path) -> None:
    drawings = load_packs(("openclipart", "noto-emoji"), split="test")
    step = len(drawings) // CAPTIONED
    rows = []
    for number in range(CAPTIONED):
        sample = drawings[number * step]
        _save(sample.image.convert("RGB"), folder / f"{number:02}.png")
        rows.append((f"{number:02}.png", sample.caption))
    with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("file_name", "caption"), *rows])


def _wall(photograph: Image.Image, folder: Path) -> None:
    """Crops of a wall side by side; the first ones get a defect, the next are sound, the rest are to compare with."""
    pixels = to_tensor(photograph)
    corners = range(0, pixels.shape[-1] - WALL + 1, WALL)
    crops = torch.stack([pixels[:, y : y + WALL, x : x + WALL] for y in corners for x in corners])
    planted = plant_defects(crops[:DEFECTS], 4, strength=0.7)
    for number, (image, mask) in enumerate(zip(planted.images, planted.masks, strict=True)):
        _save(_image(image), folder / "test" / "defect" / f"{number:02}.png")
        truth = Image.fromarray(mask.numpy())
        _save(truth, folder / "ground_truth" / "defect" / f"{number:02}_mask.png")
    for number, image in enumerate(crops[DEFECTS:]):
        part = ("test", "good") if number < DEFECTS else ("train", "good")
        _save(_image(image), folder.joinpath(*part) / f"{number:02}.png")


def _image(pixels: torch.Tensor) -> Image.Image:
    return Image.fromarray((pixels * 255).round().byte().permute(1, 2, 0).numpy())


def _save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, quality=92)
