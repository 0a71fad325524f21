"""COCO as it is unpacked: `annotations/` beside folders of pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from binderclip.data import load_data, load_folder
from binderclip.errors import DataError, UsageError


def save(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)


def write(root: Path, name: str, images: list[Any], captions: list[tuple[Any, Any]]) -> Path:
    notes = [{"id": i, "image_id": image, "caption": text} for i, (image, text) in enumerate(captions)]
    path = root / "annotations" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"info": {}, "images": images, "annotations": notes}))
    return path


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    for name in ("val2017/000001.jpg", "val2017/000002.jpg", "val2017/000009.jpg", "train2017/000003.jpg"):
        save(tmp_path / name)
    write(
        tmp_path,
        "captions_val2017.json",
        [{"id": 1, "file_name": "000001.jpg"}, {"id": 2, "file_name": "000002.jpg"}, {"id": 4, "file_name": "4.jpg"}],
        [(2, "two dogs"), (1, "A cat.\n"), (1, "a  red cat"), (4, "gone"), (77, "nobody's")],
    )
    write(tmp_path, "captions_train2017.json", [{"id": 3, "file_name": "000003.jpg"}], [(3, "a tree")])
    (tmp_path / "annotations/instances_val2017.json").write_text("{}")
    return tmp_path


def test_a_coco_root_has_captions_and_no_classes(coco: Path) -> None:
    dataset = load_data(str(coco))
    found = dict(zip(dataset.keys, dataset.all_captions, strict=True))
    assert found == {
        "train2017/000003.jpg": ["a tree"],
        "val2017/000001.jpg": ["A cat.", "a red cat"],
        "val2017/000002.jpg": ["two dogs"],
    }
    assert dataset.classes == ()
    assert dict(dataset.skipped) == {
        "captions_val2017.json 4.jpg": "no such file",
        "val2017/000009.jpg": "no caption in captions_train2017.json or captions_val2017.json",
    }
    assert load_data(str(coco), "val").captions == ["A cat.", "two dogs"]
    assert load_data(str(coco), "train").captions == ["a tree"]
    assert load_data(str(coco), "train").skipped == dataset.skipped
    with pytest.raises(UsageError, match="only train, val"):
        load_data(str(coco), "test")


def test_one_caption_file_and_one_folder_by_themselves(coco: Path) -> None:
    for spec in (coco / "annotations/captions_val2017.json", coco / "val2017"):
        dataset = load_data(str(spec))
        assert [Path(key).name for key in dataset.keys] == ["000001.jpg", "000002.jpg"]
        assert dataset.all_captions == [["A cat.", "a red cat"], ["two dogs"]]
        assert len(list(dataset)) == 2


def test_pictures_in_a_folder_named_images(tmp_path: Path) -> None:
    save(tmp_path / "images/val2014/COCO_val2014_000000000042.jpg")
    write(tmp_path, "captions_val2014.json", [{"id": 42, "file_name": "COCO_val2014_000000000042.jpg"}], [(42, "x")])
    dataset = load_folder(tmp_path)
    assert (dataset.captions, dataset.attributes["split"]) == (["x"], ["val"])


def test_what_is_no_coco_says_so(tmp_path: Path) -> None:
    save(tmp_path / "val2017/1.jpg")
    with pytest.raises(DataError, match=r"val2017 are parts of COCO and no classes.*captions_val2017\.json"):
        load_folder(tmp_path)
    path = write(tmp_path, "instances_val2017.json", [], [])
    with pytest.raises(DataError, match=r"without captions \(annotations/instances_val2017\.json\)"):
        load_folder(tmp_path)
    path = write(
        tmp_path, "captions_val2017.json", [3, {"id": [1], "file_name": "1.jpg"}, {"id": 1}], [(1, "x"), (2, 3)]
    )
    with pytest.raises(DataError, match="none of"):
        load_folder(tmp_path)
    for text, words in [("[", "not JSON"), ("[]", "no COCO captions"), ("[" * 100_000, "nested too deeply")]:
        path.write_text(text)
        with pytest.raises(DataError, match=rf"captions_val2017\.json: .*{words}"):
            load_folder(tmp_path)
