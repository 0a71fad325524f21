from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from binderclip.data import collate, load_data, load_folder
from binderclip.errors import DataError, UsageError


def save(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (value, 0, 0)).save(path)
    return path


@pytest.fixture
def three(tmp_path: Path) -> Path:
    for number, name in enumerate(["a.png", "b.png", "sub/c.jpg"]):
        save(tmp_path / name, number * 100)
    return tmp_path


CAPTIONS = {"a.png": "a red cat", "b.png": "two dogs, one bone", "sub/c.jpg": "a “tree”"}


def table(kind: str) -> str:
    if kind == "csv":
        header = "file,caption,label,artist\n"
        return header + 'a.png,a red cat,cat,Ann\nb.png,"two dogs, one bone",dog,\nsub/c.jpg,a “tree”,,Bo\n'
    if kind == "semicolon":
        return "Caption;Image\na red cat;a.png\ntwo dogs, one bone;b.png\na “tree”;sub/c.jpg\n"
    if kind == "tsv":
        return "path\ttext\na.png\ta red cat\nb.png\ttwo dogs, one bone\nsub/c.jpg\ta “tree”\n"
    if kind == "headless":
        return 'a.png,a red cat\nb.png,"two dogs, one bone"\nsub/c.jpg,a “tree”\n'
    if kind == "bom":
        return (
            '\ufefffilename,caption\r\na.png,a red cat\r\n\r\nb.png,"two dogs, one bone"\r\nsub/c.jpg,  a   “tree”\r\n'
        )
    lines = [{"file_name": name, "text": caption} for name, caption in CAPTIONS.items()]
    return "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("captions.csv", "csv"),
        ("captions.csv", "semicolon"),
        ("captions.csv", "headless"),
        ("captions.csv", "bom"),
        ("captions.tsv", "tsv"),
        ("metadata.jsonl", "jsonl"),
        ("whatever.csv", "csv"),
    ],
)
def test_tables(three: Path, name: str, kind: str) -> None:
    (three / name).write_bytes(table(kind).encode())
    dataset = load_folder(three)
    assert dict(zip(dataset.keys, dataset.captions, strict=True)) == CAPTIONS
    assert dataset.skipped == []
    assert dataset[1].image.getpixel((0, 0))[0] == 100
    assert load_data(str(three / name)).captions == dataset.captions


def test_labels_and_further_columns_of_a_table(three: Path) -> None:
    (three / "captions.csv").write_text(table("csv"))
    dataset = load_folder(three)
    assert dataset.classes == ("cat", "dog")
    assert dataset.labels.tolist() == [0, 1, -1]
    assert dataset[0].attributes == {"artist": "Ann"}
    assert dataset[1].attributes == {}


def test_what_is_wrong_in_a_table_is_named_line_by_line(three: Path) -> None:
    rows = ["file,caption", "a.png,fine", "gone.png,no such", "b.png", "sub/c.jpg,", ",nothing"]
    (three / "captions.csv").write_text("\n".join(rows))
    dataset = load_folder(three)
    assert dataset.keys == ["a.png"]
    skipped = dict(dataset.skipped)
    assert skipped["captions.csv:3 gone.png"] == "no such file"
    assert "1 fields where the header has 2" in skipped["captions.csv:4"]
    assert skipped["captions.csv:5"] == "sub/c.jpg: no caption"
    assert skipped["captions.csv:6"] == "no file name"
    assert skipped["b.png"] == "no caption in captions.csv"
    assert len(dataset.skipped) == 6
    assert dataset.report().startswith("1 pictures, 6 skipped")


def test_what_is_wrong_in_a_jsonl_file_is_named(three: Path) -> None:
    lines = ['{"file": "a.png", "caption": ["one", "two"]}', "{oops", "[1]", '{"caption": "x"}', ""]
    (three / "captions.jsonl").write_text("\n".join(lines))
    dataset = load_folder(three)
    assert dataset.captions == ["one"]
    assert dataset[0].attributes == {"captions": ["one", "two"]}
    skipped = dict(dataset.skipped)
    assert skipped["captions.jsonl:2"].startswith("not JSON")
    assert "object" in skipped["captions.jsonl:3"]
    assert "needed is file_name" in skipped["captions.jsonl:4"]


def test_one_picture_with_several_captions(three: Path) -> None:
    (three / "captions.csv").write_text("file,caption\na.png,one\na.png,two\nb.png,three\n")
    dataset = load_folder(three)
    assert dataset.keys == ["a.png", "b.png"]
    assert dataset.captions == ["one", "three"]
    assert dataset.all_captions == [["one", "two"], ["three"]]
    assert dataset[0].captions == ["one", "two"]
    assert dataset[1].captions == ["three"]


def test_tables_that_cannot_be_used(three: Path) -> None:
    (three / "captions.csv").write_text("picture,words\nx,y\n")
    with pytest.raises(DataError, match=r"captions\.csv: no column of file names.*picture, words.*file_name"):
        load_folder(three)
    (three / "captions.csv").write_bytes("file,caption\na.png,caf\xe9\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"not UTF-8"):
        load_folder(three)
    (three / "captions.csv").write_text("")
    with pytest.raises(DataError, match="is empty"):
        load_folder(three)
    (three / "captions.csv").unlink()
    (three / "x.csv").write_text("")
    (three / "y.csv").write_text("")
    with pytest.raises(DataError, match=r"several tables \(x\.csv, y\.csv\)"):
        load_folder(three)
    with pytest.raises(DataError, match=r"z\.csv: no such file"):
        load_folder(three, captions="z.csv")


def test_text_files_beside_the_pictures(three: Path) -> None:
    (three / "a.txt").write_text("a red  cat\n")
    (three / "sub/c.txt").write_text("\ufeffthe tree\na plant\n", encoding="utf-8")
    dataset = load_folder(three)
    assert dict(zip(dataset.keys, dataset.captions, strict=True)) == {"a.png": "a red cat", "sub/c.jpg": "the tree"}
    assert dataset.skipped == [("b.png", "no b.txt beside it")]
    assert dataset.classes == ("sub",)
    assert dataset.labels.tolist() == [-1, 0]
    assert dataset[1].attributes == {"captions": ["the tree", "a plant"]}


def test_class_folders(tmp_path: Path) -> None:
    for name in ["hot-dog/1.png", "hot-dog/deep/2.png", "ice_cream/3.png", "stray.png"]:
        save(tmp_path / name)
    dataset = load_folder(tmp_path, template="a photo of a {}")
    assert dataset.classes == ("hot dog", "ice cream")
    assert dataset.labels.tolist() == [0, 0, 1]
    assert dataset.captions[2] == "a photo of a ice cream"
    assert dataset.skipped == [("stray.png", "lies in no class folder")]
    assert load_folder(tmp_path).captions[0] == "hot dog"


def test_splits_by_subfolder(tmp_path: Path) -> None:
    for name in ["train/cat/1.png", "train/dog/2.png", "valid/cat/1.png"]:
        save(tmp_path / name)
    assert load_folder(tmp_path, "train").keys == ["train/cat/1.png", "train/dog/2.png"]
    assert load_folder(tmp_path, "val").keys == ["valid/cat/1.png"]
    whole = load_folder(tmp_path)
    assert whole.classes == ("cat", "dog")
    assert whole.labels.tolist() == [0, 1, 0]
    assert whole.attributes["split"] == ["train", "train", "val"]
    with pytest.raises(UsageError, match="train, val"):
        load_folder(tmp_path, "test")


def test_splits_by_column(three: Path) -> None:
    (three / "captions.csv").write_text("file,caption,split\na.png,x,train\nb.png,y,val\nsub/c.jpg,z,train\n")
    assert load_folder(three, "train").captions == ["x", "z"]
    with pytest.raises(UsageError, match="only train, val"):
        load_folder(three, "test")
    (three / "captions.csv").write_text("file,caption\na.png,x\n")
    with pytest.raises(UsageError, match="nor a column split"):
        load_folder(three, "train")


def test_folders_without_anything_usable(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no folder"):
        load_folder(tmp_path / "gone")
    with pytest.raises(DataError, match="it is empty"):
        load_folder(tmp_path)
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(DataError, match=r"no images in this folder \(1 \.md\)"):
        load_folder(tmp_path)
    save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"1 images, but nothing says what they show.*captions\.csv"):
        load_folder(tmp_path)
    assert load_folder(tmp_path, captions=None).captions == [""]
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"none of 1 pictures can be used; a\.png: empty file"):
        load_folder(tmp_path, captions=None)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_picture_found_while_loading_is_skipped_like_one_found_before(three: Path, workers: int) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    Image.fromarray(noise).save(three / "b.png")
    data = (three / "b.png").read_bytes()
    (three / "b.png").write_bytes(data[: len(data) // 2])
    save(three / "d.png").write_bytes(b"")
    (three / "captions.csv").write_text("file,caption\na.png,x\nb.png,y\nsub/c.jpg,z\nd.png,w\n")
    dataset = load_folder(three)
    assert [key for key, _ in dataset.skipped] == ["captions.csv:5 d.png"]
    for batch in DataLoader(dataset, batch_size=3, collate_fn=collate, num_workers=workers):
        assert batch.keys == ["a.png", "sub/c.jpg"]
        assert batch.skipped[0][0] == "b.png"
        assert "truncated" in batch.skipped[0][1]
        for key, reason in batch.skipped:
            dataset.skip(key, reason)
    assert "b.png: damaged image (image file is truncated" in dataset.report()
    with pytest.raises(DataError, match=r"b\.png: damaged image"):
        dataset[1]


def test_a_column_of_several_labels_becomes_lists(tmp_path: Path) -> None:
    for name in "abc":
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    (tmp_path / "metadata.csv").write_text("file,labels\na.png,cat; big  dog;cat\nb.png,moon|cat\nc.png,\n")
    data = load_folder(tmp_path)
    assert data.attributes["labels"] == [["cat", "big dog"], ["moon", "cat"], []]
    assert data.captions == ["cat, big dog", "moon, cat", "none of the labels"]


# --- Hugging Face's imagefolder --------------------------------------------------------------------------------------


@pytest.fixture
def imagefolder(tmp_path: Path) -> Path:
    for name in ("train/1.png", "train/2.png", "test/1.png"):
        save(tmp_path / name)
    return tmp_path


def test_one_metadata_file_beside_train_and_test(imagefolder: Path) -> None:
    rows = [("train/1.png", "one"), ("train/2.png", "two"), ("test/1.png", "three")]
    lines = [json.dumps({"file_name": name, "text": text}) for name, text in rows]
    (imagefolder / "metadata.jsonl").write_text("\n".join(lines))
    assert load_folder(imagefolder, "train").captions == ["one", "two"]
    assert load_folder(imagefolder, "test").captions == ["three"]
    assert load_folder(imagefolder).attributes["split"] == ["train", "train", "test"]
    with pytest.raises(UsageError, match="only test, train"):
        load_folder(imagefolder, "val")


def test_a_metadata_file_in_each_folder_below_data(imagefolder: Path) -> None:
    root = imagefolder / "repository"
    root.mkdir()
    (root / "README.md").write_text("# a data set")
    (root / "data").mkdir()
    for part in ("train", "test"):
        (imagefolder / part).rename(root / "data" / part)
    (root / "data/train/metadata.csv").write_text("file_name,text\n1.png,one\n2.png,two\n")
    (root / "data/test/metadata.csv").write_text("file_name,text\n1.png,three\n")
    assert load_folder(root, "train").captions == ["one", "two"]
    assert load_folder(root, "test").captions == ["three"]


def test_test_pictures_without_captions_do_not_refuse_those_for_training(imagefolder: Path) -> None:
    (imagefolder / "train/metadata.csv").write_text("file_name,text\n1.png,one\n2.png,two\n")
    dataset = load_folder(imagefolder)
    assert dataset.captions == ["one", "two"]
    assert "nothing says what they show" in dict(dataset.skipped)["test/"]
    with pytest.raises(DataError, match="nothing says what they show"):
        load_folder(imagefolder, "test")


# --- several captions ------------------------------------------------------------------------------------------------


def test_rows_of_one_picture_are_put_together_and_keep_their_own_attributes(three: Path) -> None:
    rows = ["a.png,one,0,cc0,x", "b.png,two,0,cc0,x", "a.png,three,1,cc0,x", "a.png,four,2,cc0,y", "gone.png,five,0,,x"]
    (three / "captions.csv").write_text("\n".join(["file,caption,number,licence,split", *rows]))
    dataset = load_folder(three)
    assert dataset.keys == ["a.png", "b.png", "a.png#2"]  # a picture in two splits is two
    assert dataset.all_captions == [["one", "three"], ["two"], ["four"]]
    assert dataset[0].attributes == {
        "number": ["0", "1"], "licence": "cc0", "split": "x", "captions": ["one", "three"],
    }  # fmt: skip
    assert dataset[1].attributes == {"number": "0", "licence": "cc0", "split": "x"}


def test_the_hash_of_a_set_is_that_of_all_its_captions(three: Path) -> None:
    hashes = []
    for text in ("one\ntwo", "one\nthree", "one"):
        for name in CAPTIONS:
            (three / name).with_suffix(".txt").write_text(text)
        hashes.append(load_folder(three).data_hash)
    assert len(set(hashes)) == 3
