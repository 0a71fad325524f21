"""Folders of label maps in three layouts, and made scenes."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from binderclip.data import LabelFolder, LabelledScenes, label_maps
from binderclip.errors import DataError, UsageError


def fill(root: Path, images: str, maps: str, values: dict[str, np.ndarray]) -> Path:
    (root / images).mkdir(parents=True)
    (root / maps).mkdir(parents=True)
    for name, labels in values.items():
        height, width = labels.shape
        Image.new("RGB", (width, height), "red").save(root / images / f"{name}.jpg")
        Image.fromarray(labels).save(root / maps / f"{name}.png")
    (root / "classes.txt").write_text("wall\ncat\ndog\n")
    return root


def test_a_voc_folder_is_read_by_its_split(tmp_path: Path) -> None:
    labels = np.array([[0, 1, 255], [2, 1, 0]], dtype=np.uint8)
    root = fill(tmp_path, "JPEGImages", "SegmentationClass", {"a": labels, "b": labels})
    assert [found.key for found in LabelFolder(root)] == ["a", "b"]
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("b\n")
    folder = label_maps(root)
    found = list(folder)
    assert [one.key for one in found] == ["b"]
    assert found[0].labels.tolist() == [[0, 1, -1], [2, 1, 0]]
    assert found[0].image.size == (3, 2)
    assert folder.classes == ["wall", "cat", "dog"]
    # Indexed PNG as VOC ships them: the index counts, not the colour.
    picture = Image.fromarray(labels).convert("P")
    picture.putpalette([7, 7, 7] * 256)
    picture.save(root / "SegmentationClass" / "b.png")
    indices = np.asarray(Image.open(root / "SegmentationClass" / "b.png"))
    assert next(iter(folder)).labels.tolist() == np.where(indices == 255, -1, indices.astype(int)).tolist()


def test_an_ade_folder_may_count_from_one(tmp_path: Path) -> None:
    labels = np.array([[0, 1], [3, 2]], dtype=np.uint16)
    root = fill(tmp_path, "images/validation", "annotations/validation", {"a": labels})
    assert next(iter(LabelFolder(root, zero_ignored=True))).labels.tolist() == [[-1, 0], [2, 1]]


def test_what_cannot_be_read_is_skipped_and_named(tmp_path: Path) -> None:
    good = np.zeros((2, 3), dtype=np.uint8)
    root = fill(tmp_path, "images", "labels", {"a": good, "b": good + 7, "c": good, "d": good})
    (root / "images" / "c.jpg").write_bytes(b"no picture")
    Image.new("RGB", (9, 9)).save(root / "images" / "d.jpg")
    folder = LabelFolder(root)
    assert [one.key for one in folder] == ["a"]
    reasons = dict(folder.skipped)
    assert "value 7 is no class; there are 3 classes" in reasons["b.jpg"]
    assert "c.jpg" in reasons
    assert "its picture has (9, 9)" in reasons["d.jpg"]


def test_bad_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no folder"):
        LabelFolder(tmp_path / "none")
    with pytest.raises(UsageError, match="JPEGImages/ with SegmentationClass/"):
        LabelFolder(tmp_path)
    root = fill(tmp_path / "x", "images", "masks", {})
    with pytest.raises(DataError, match="no picture"):
        LabelFolder(root)
    (root / "classes.txt").unlink()
    with pytest.raises(UsageError, match=r"classes\.txt"):
        LabelFolder(root)
    (root / "classes.txt").write_text(" \n\n")
    with pytest.raises(UsageError, match=r"classes\.txt is empty: write the class names to it"):
        LabelFolder(root)
    (root / "classes.txt").write_text("cat\ndog\ncat\n")
    with pytest.raises(UsageError, match=r"names 'cat' more than once"):
        LabelFolder(root)
    (root / "classes.txt").write_bytes("caf\xe9".encode("latin-1"))
    with pytest.raises(DataError, match=r"classes\.txt is not a text file in UTF-8"):
        LabelFolder(root)
    with pytest.raises(UsageError, match=r"classes\.txt is a file: give the folder"):
        label_maps(root / "classes.txt")
    with pytest.raises(UsageError, match="there is no folder sceens, nor a made set of this name: those are scenes,"):
        label_maps("sceens")
    with pytest.raises(UsageError, match="no made set 'scene'"):
        LabelledScenes("scene")


def test_unknown_values_say_what_the_classes_are(tmp_path: Path) -> None:
    labels = np.array([[0, 4]], dtype=np.uint16)
    root = fill(tmp_path / "x", "images", "labels", {"a": labels})
    for zero_ignored, said in ((False, r"value 4 is no class; there are 3 classes \(0 to 2\) and 65535"),
                               (True, r"value 4 is no class; there are 3 classes \(1 to 3\) and 65535")):  # fmt: skip
        folder = LabelFolder(root, zero_ignored=zero_ignored)
        assert list(folder) == []
        assert re.search(said, folder.skipped[0][1])
        assert "a.png" in folder.skipped[0][1]


def test_one_pixel_is_a_picture(tmp_path: Path) -> None:
    root = fill(tmp_path, "images", "labels", {"a": np.ones((1, 1), dtype=np.uint8)})
    assert [one.labels.tolist() for one in LabelFolder(root)] == [[[1]]]


def test_scenes_have_exact_labels_with_or_without_their_ground() -> None:
    bare, whole = LabelledScenes("scenes", 2, size=64), label_maps("scenes", n=2, size=64, background=True)
    for one, other in zip(bare, whole, strict=True):
        assert np.array_equal(np.asarray(one.image), np.asarray(other.image))
        assert (one.labels + 1).tolist() == other.labels.tolist()
        assert one.labels.min() == -1
    assert whole.classes == ["background", *bare.classes]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_named_pipe_is_no_label_map(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for name in "ab":
        Image.new("RGB", (4, 4)).save(tmp_path / f"images/{name}.png")
    Image.new("L", (4, 4)).save(tmp_path / "labels/a.png")
    os.mkfifo(tmp_path / "labels/b.png")
    found = LabelFolder(tmp_path, ["thing"])
    assert [item.key for item in found] == ["a"]
    assert "is a named pipe" in dict(found.skipped)["b.png"]
