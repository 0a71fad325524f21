"""Labels of pictures as a table, folders and COCO, read again by the readers of data and by torchvision."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from binderclip.data import load_folder
from binderclip.errors import DataError, UsageError
from binderclip.tasks.files.picture_labels import (
    PictureLabel,
    coco_labels,
    folder_names,
    match_labels,
    read_labels,
    with_unique_names,
    write_label_folders,
    write_label_table,
)
from binderclip.workbench.look import packed

ODD = ["a cat", "test", "AC/DC", "..", "Vögel, klein", "ac_dc", '"x"', "=1+1"]


@pytest.fixture
def labels(tmp_path: Path) -> list[PictureLabel]:
    """A picture for each odd label, all called 1.png, in folders of their own."""
    made = []
    for number, label in enumerate(ODD):
        path = tmp_path / "pictures" / str(number) / "1.png"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (20 + number, 10), (20 * number, 90, 50)).save(path)
        made.append(PictureLabel(path, "1.png", label, by_person=number % 2 == 0))
    return made


def test_folders_and_the_zip_of_them_are_read_with_every_label_as_it_is(
    labels: list[PictureLabel], tmp_path: Path
) -> None:
    before = [each.path.read_bytes() for each in labels]
    files = write_label_folders(labels, tmp_path / "out")
    archive = packed(tmp_path / "out", files, "labels.zip", into=tmp_path)
    for source in (tmp_path / "out", tmp_path / "out" / "labels.csv", archive):
        data = load_folder(source)
        assert sorted(data.classes) == sorted(ODD)
        widths = {data.classes[data.labels[row]]: data[row].image.width for row in range(len(data))}
        assert widths == {label: 20 + number for number, label in enumerate(ODD)}
        # No label's folder is taken for a split of the data.
        assert "split" not in data.attributes
        assert data.skipped == []
    assert [each.path.read_bytes() for each in labels] == before
    with pytest.raises(UsageError, match="is there already"):
        write_label_folders(labels, tmp_path / "out")


def test_torchvision_reads_the_folders(labels: list[PictureLabel], tmp_path: Path) -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    write_label_folders([each._replace(label=f"label {n % 3}") for n, each in enumerate(labels)], tmp_path / "out")
    read = datasets.ImageFolder(tmp_path / "out")
    assert read.classes == ["label 0", "label 1", "label 2"]
    assert [target for _, target in read.samples].count(0) == 3


def test_the_names_of_folders_differ_and_lead_nowhere() -> None:
    names = folder_names([*ODD, "x" * 400, "Ä" * 300, "CAT", "cat", "\0", "train"])
    assert len({name.casefold() for name in names.values()}) == len(names)
    for name in names.values():
        assert name
        assert not set("/\\\0") & set(name)
        assert not name.startswith(".")
        assert len(name.encode()) < 200
    assert names["a cat"] == "a cat"
    assert names["train"] != "train"


def test_the_table_comes_back_and_matches_the_pictures(labels: list[PictureLabel], tmp_path: Path) -> None:
    named = [each._replace(name=f"{number}/1.png") for number, each in enumerate(labels)]
    write_label_table(named, tmp_path / "labels.csv")
    read = read_labels(tmp_path / "labels.csv")
    assert read == {each.name: each.label for each in named}
    paths = [each.path for each in reversed(named)]
    assert match_labels(paths, read) == {row: each.label for row, each in enumerate(reversed(named))}
    with pytest.raises(DataError, match="write its folder with it"):
        match_labels(paths, {"1.png": "a cat"})
    # The longest end counts, and a name that is another's end does not.
    assert match_labels([Path("a/b/1.png"), Path("b/1.png")], {"a/b/1.png": "x", "b/1.png": "y"}) == {0: "x", 1: "y"}
    assert match_labels([Path("a/11.png")], {"1.png": "x"}) == {}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "empty"),
        ("file,label\n", "no label"),
        ("file,label\na.png,\n", "needs a file and a label"),
        ("file,label\na.png,x\na.png,y\n", "labelled x and y"),
        ("one,two\n1,2\n", "t.csv"),
    ],
)
def test_other_tables_are_refused(text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=problem):
        read_labels(tmp_path / "t.csv")
    with pytest.raises(UsageError, match="no file"):
        read_labels(tmp_path / "none.csv")


def test_coco_has_an_image_and_a_category_for_each_annotation(labels: list[PictureLabel]) -> None:
    unique = with_unique_names(labels)
    document = json.loads(json.dumps(coco_labels(unique, ODD)))
    images = {each["id"]: each for each in document["images"]}
    names = {each["id"]: each["name"] for each in document["categories"]}
    read = {images[each["image_id"]]["file_name"]: names[each["category_id"]] for each in document["annotations"]}
    assert read == {("1.png" if n == 0 else f"1-{n + 1}.png"): label for n, label in enumerate(ODD)}
    assert [(each["width"], each["height"]) for each in document["images"]] == [(20 + n, 10) for n in range(len(ODD))]
    with pytest.raises(UsageError, match="none of dog"):
        coco_labels(unique, ["dog"])
