"""The example folders are read back by the readers they are made for, and their defects are where the masks say."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from binderclip.data import InspectionFolder, load_data, vocabulary, write_examples
from binderclip.data.made.examples import CLASSES
from binderclip.errors import UsageError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_examples(tmp_path_factory.mktemp("made") / "examples")


def test_every_part_is_read_by_its_reader(folder):
    assert sorted(path.stem for path in (folder / "photos").iterdir()) == [
        "astronaut", "cat", "coffee", "coins", "flower", "motorcycle", "palace", "rocket",
    ]  # fmt: skip
    drawings = load_data(str(folder / "drawings"))
    counts = np.bincount([sample.label for sample in drawings])
    assert len(counts) == len(CLASSES)
    assert set(counts) == {10}
    captioned = load_data(str(folder / "captioned"))
    assert [sample.caption for sample in captioned][:1] == [
        load_data("openclipart,noto-emoji", split="test")[0].caption
    ]
    assert len(captioned) == 64
    assert Image.open(folder / "scene.png").size == (256, 256)


def test_a_drawing_stands_in_the_folder_of_its_class(folder):
    words = vocabulary("scenes15", split="val+test")
    sprites = {owner: [] for owner in range(len(words.names))}
    for sprite, owner in zip(words.sprites, words.owner, strict=True):
        alpha = sprite[..., 3:] / 255
        sprites[owner].append(sprite[..., :3] * alpha + 255 * (1 - alpha))
    for name in CLASSES:
        with Image.open(folder / "drawings" / name / f"{name}-00.png") as picture:
            drawn = np.asarray(picture, dtype=float)
        distances = {o: min(np.abs(s - drawn).mean() for s in own) for o, own in sprites.items() if own}
        assert words.names[min(distances, key=distances.get)] == name


def test_the_wall_differs_from_the_photograph_only_inside_the_masks(folder):
    inspected = InspectionFolder(folder / "wall")
    assert len(inspected.normal) == 8
    assert sum(bool(entry.damaged) for entry in inspected.pictures) == 4
    assert all(entry.mask is not None for entry in inspected.pictures if entry.damaged)
    brick = next(sample.image for sample in load_data("photographs") if sample.key == "brick.png")
    whole = np.asarray(brick.convert("RGB"), dtype=int)
    for number in range(4):
        with Image.open(folder / f"wall/test/defect/{number:02}.png") as picture:
            shown = np.asarray(picture, dtype=int)
        with Image.open(folder / f"wall/ground_truth/defect/{number:02}_mask.png") as mask:
            covered = np.asarray(mask) > 0
        sound = whole[:128, 128 * number : 128 * number + 128]
        changed = np.abs(shown - sound).max(axis=2)
        assert changed[covered].mean() > 20
        # the rim of a defect covers less than half of its pixels
        assert np.median(changed[~covered]) <= 1
        assert covered.mean() < 0.2


def test_the_same_files_come_out_every_time(folder, tmp_path):
    again = write_examples(tmp_path)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*.*"))
    assert files == sorted(path.relative_to(again) for path in again.rglob("*.*"))
    assert all((folder / file).read_bytes() == (again / file).read_bytes() for file in files)


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "taken").write_text("x")
    with pytest.raises(UsageError, match="name a folder"):
        write_examples(tmp_path / "taken")
