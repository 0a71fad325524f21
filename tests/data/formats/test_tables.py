"""Tables that somebody else wrote, by accident or on purpose: a bad record costs itself."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from binderclip.data import load_folder
from binderclip.data.formats.tables import read_captions, read_json, table_records
from binderclip.errors import DataError


def found(name: str, text: str | bytes) -> list[tuple[str, object]]:
    return list(table_records(name, text.encode() if isinstance(text, str) else text))


@pytest.fixture
def three(tmp_path: Path) -> Path:
    for name in "abc":
        Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.png")
    return tmp_path


def test_a_field_of_more_than_128_kb_costs_its_line(three: Path) -> None:
    long = "x" * (csv.field_size_limit() + 1)
    (three / "captions.csv").write_text(f'file,caption\na.png,one\nb.png,"{long}"\nc.png,three\n')
    dataset = load_folder(three)
    assert dataset.captions == ["one", "three"]
    assert dict(dataset.skipped)["captions.csv:3"].startswith("a field of more than 131,072 characters")


def test_a_quote_that_is_never_closed_is_no_caption(three: Path) -> None:
    (three / "captions.csv").write_text('file,caption\na.png,one\nb.png,"two\nc.png,three\n')
    dataset = load_folder(three)
    assert dataset.captions == ["one"]
    assert dict(dataset.skipped)["captions.csv:3"].startswith("a quote that opens here is never closed")
    (three / "captions.csv").write_text('file,caption\na.png,"one\nand a half"\nb.png,"two"\nc.png,"three\n"\n')
    assert load_folder(three).captions == ["one and a half", "two", "three"]


def test_nul_bytes_and_other_encodings_cost_their_line(three: Path) -> None:
    (three / "captions.csv").write_bytes(b"file,caption\na.png,o\0ne\nb.png,caf\xe9\nc.png,caf\xc3\xa9\nd\0.png,x\n")
    dataset = load_folder(three)
    assert dataset.captions == ["café"]
    skipped = dict(dataset.skipped)
    assert skipped["captions.csv:2"] == skipped["captions.csv:5"] == "holds a NUL byte"
    assert skipped["captions.csv:3"] == "not UTF-8 text"
    for text in ("file,caption\na.png,x\n".encode("utf-16"), b"\0\0\0\0"):
        (three / "captions.csv").write_bytes(text)
        with pytest.raises(DataError, match="UTF-8"):
            load_folder(three)


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    "line", [DEEP, '{"a": ' * 100_000, '{"file": "a.png", "n": ' + "1" * 5000 + "}", "{", "\udcff"]
)
def test_json_lines_that_cannot_be_read_cost_themselves(three: Path, line: str) -> None:
    good = json.dumps({"file": "b.png", "caption": "two \u2028 lines"}, ensure_ascii=False)
    (three / "captions.jsonl").write_text(f"{line}\n{good}\n", encoding="utf-8", errors="surrogateescape")
    dataset = load_folder(three)
    assert dataset.captions == ["two lines"]
    assert len(dict(dataset.skipped)["captions.jsonl:1"]) < 100


def test_names_and_captions_that_are_no_text(three: Path) -> None:
    lines = [
        {"file": "a.png", "caption": "half a pair \ud800"},
        {"file": "b\0.png", "caption": "x"},
        {"file": "c.png", "caption": {"raw": {"raw": "x"}}},
        {"file": "x" * 5000, "caption": "x"},
        {"file": "b.png", "caption": "fine", "extra": None},
    ]
    (three / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    dataset = load_folder(three)
    assert dataset.captions == ["fine"]
    assert dataset[0].attributes == {}
    skipped = dict(dataset.skipped)
    assert skipped["captions.jsonl:1"] == "a.png: not Unicode text"
    assert "NUL" in skipped["captions.jsonl:2"]
    assert skipped["captions.jsonl:3"] == "c.png: no caption"
    assert all(key.encode() and reason.encode() for key, reason in dataset.skipped)


def test_documents_that_cannot_be_read_say_why() -> None:
    for text, words in [(DEEP, "nested too deeply"), (b"\xff{}", "UTF-8"), ("{", "not JSON"), ("1" * 5000, "digits")]:
        with pytest.raises(DataError, match=words):
            read_json(text)


def test_captions_as_people_write_them() -> None:
    assert read_captions(" a  cat\n") == ["a cat"]
    assert read_captions(["a", " ", None, {"raw": "b"}, 3, ["c"]]) == ["a", "b", "3"]
    assert read_captions({"caption": ["a", "b"]}) == ["a", "b"]
    assert read_captions({"id": 3}) == read_captions(None) == read_captions("") == read_captions(True) == []
    deep: object = "x"
    for _ in range(10_000):
        deep = [deep]
    assert read_captions(deep) == []
    for _ in range(10_000):
        deep = {"caption": deep}
    assert read_captions(deep) == []


def test_a_list_in_a_cell_is_several_captions_and_other_brackets_are_text(three: Path) -> None:
    rows = [["file", "caption"], ["a.png", "['one', \"it's two\"]"], ["b.png", '["three", "four"]'], ["c.png", "[sic]"]]
    with (three / "captions.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    assert load_folder(three).all_captions == [["one", "it's two"], ["three", "four"], ["[sic]"]]


def test_flickr8k_and_flickr30k_as_they_are_handed_out(three: Path) -> None:
    (three / "Images").mkdir()
    for name in "abc":
        (three / f"{name}.png").rename(three / f"Images/{name}.png")
    wanted = {"Images/a.png": ["one", "two, or so"], "Images/b.png": ["three"]}
    tables = {
        "captions.txt": 'image,caption\na.png,one\na.png,"two, or so"\nb.png,three\n',
        "captions.tsv": "a.png#0\tone\na.png#1\ttwo, or so\nb.png#0\tthree\n",
        "results.csv": "image_name| comment_number| comment\na.png| 0| one\na.png| 1| two, or so\nb.png| 0| three\n",
    }
    for name, text in tables.items():
        (three / name).write_text(text)
        dataset = load_folder(three)
        assert dict(zip(dataset.keys, dataset.all_captions, strict=True)) == wanted
        assert dataset.skipped == [("Images/c.png", f"no caption in {name}")]
        (three / name).unlink()
    assert dataset[0].attributes["comment_number"] == ["0", "1"]


def test_metadata_parquet(three: Path) -> None:
    table = pa.table({"file_name": ["a.png", "b.png", "d.png"], "text": [["one", "two"], ["three"], ["four"]]})
    pq.write_table(table, three / "metadata.parquet")
    dataset = load_folder(three)
    assert dataset.all_captions == [["one", "two"], ["three"]]
    assert dict(dataset.skipped)["metadata.parquet:2 d.png"] == "no such file"
    (three / "metadata.parquet").write_bytes(b"PAR1rubbish")
    with pytest.raises(DataError, match=r"metadata\.parquet: not a readable Parquet file"):
        load_folder(three)


def test_a_list_of_objects_in_json(three: Path) -> None:
    path = three / "pairs.json"
    path.write_text(json.dumps([{"image": "a.png", "caption": ["one", "two"]}, {"caption": "x"}, 3]))
    dataset = load_folder(path)
    assert dataset.all_captions == [["one", "two"]]
    assert [key for key, _ in dataset.skipped] == ["pairs.json:[1]", "pairs.json:[2]", "b.png", "c.png"]
    path.write_text('{"a": 1}')
    with pytest.raises(DataError, match="list of objects"):
        load_folder(path)
