"""Pictures inside Parquet and Arrow files, written here with pyarrow alone as the tools that people use write them."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from binderclip.data import collate, load_data, load_tables
from binderclip.errors import DataError, UsageError


def png(value: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4, 4), (value, 0, 0)).save(out, "PNG")
    return out.getvalue()


def hugging_face(features: dict[str, Any], columns: dict[str, list[Any]]) -> pa.Table:
    """A table as `datasets` writes one: pictures as structs, the features as JSON in the schema."""
    table = pa.table(columns)
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


FEATURES = {"image": {"_type": "Image"}, "label": {"names": ["cat", "hot_dog"], "_type": "ClassLabel"}}


def pictures(*values: int) -> list[dict[str, Any]]:
    return [{"bytes": png(value), "path": f"{value}.png"} for value in values]


def colours(dataset: Any) -> list[int]:
    return [sample.image.getpixel((0, 0))[0] for sample in dataset]


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    """Two files of a training split and one for validation, as on the Hub."""
    (tmp_path / "data").mkdir()
    (tmp_path / "README.md").write_text("# a data set")
    parts = {"train-00000-of-00002": (1, 2, 3), "train-00001-of-00002": (4, 5), "validation-00000-of-00001": (6,)}
    for name, values in parts.items():
        table = hugging_face(FEATURES, {"image": pictures(*values), "label": [v % 2 for v in values]})
        pq.write_table(table, tmp_path / f"data/{name}.parquet", row_group_size=2)
    return tmp_path


def test_parquet_of_hugging_face(parquet: Path) -> None:
    dataset = load_data(str(parquet))
    assert colours(dataset) == [1, 2, 3, 4, 5, 6]
    assert dataset.classes == ("cat", "hot_dog")
    assert dataset.labels.tolist() == [1, 0, 1, 0, 1, 0]
    assert dataset.captions[:2] == ["hot dog", "cat"]
    assert dataset.keys[0] == "data/train-00000-of-00002.parquet:0"
    assert colours(load_data(str(parquet), "val")) == [6]
    assert colours(load_data(str(parquet), "train")) == [1, 2, 3, 4, 5]
    assert colours(load_data(str(parquet / "data/train-00001-of-00002.parquet"))) == [4, 5]
    assert [dataset[i].image.getpixel((0, 0))[0] for i in (5, 0, 4, 2, 1, 3)] == [6, 1, 5, 3, 2, 4]
    assert dataset.data_hash == load_data(str(parquet)).data_hash
    with pytest.raises(UsageError, match="no split 'test', only train, val"):
        load_data(str(parquet), "test")


@pytest.mark.parametrize("workers", [0, 2])
def test_rows_are_read_in_workers_and_bad_ones_cost_themselves(tmp_path: Path, workers: int) -> None:
    rows = [*pictures(1, 2), {"bytes": b"no picture", "path": "3.png"}, {"bytes": None, "path": None}, *pictures(5)]
    captions = [["one", "two"], ["three"], ["x"], ["y"], []]
    pq.write_table(pa.table({"image": rows, "caption": captions}), tmp_path / "x.parquet", row_group_size=2)
    dataset = load_data(str(tmp_path / "x.parquet"))
    assert dataset.all_captions == [["one", "two"], ["three"], ["x"], ["y"]]
    assert dataset.skipped == [("x.parquet:4", "no caption")]
    dataset = pickle.loads(pickle.dumps(dataset))
    read, skipped = [], []
    for batch in DataLoader(dataset, batch_size=2, collate_fn=collate, num_workers=workers):
        read += [image.getpixel((0, 0))[0] for image in batch.images]
        skipped += batch.skipped
    assert read == [1, 2]
    assert [key for key, _ in skipped] == ["x.parquet:2", "x.parquet:3"]


def test_parquet_of_img2dataset(tmp_path: Path) -> None:
    """Bytes in a column named after the format; failed downloads are rows without a picture."""
    table = pa.table(
        {
            "url": ["http://a", "http://b", "http://c"],
            "caption": ["one", "two", "three"],
            "key": ["000000000", "000000001", "000000002"],
            "status": ["success", "failed_to_download", "success"],
            "error_message": [None, "HTTP Error 404", None],
            "jpg": pa.array([png(1), None, png(3)], pa.binary()),
        }
    )
    pq.write_table(table, tmp_path / "00000.parquet")
    (tmp_path / "00000_stats.json").write_text("{}")
    dataset = load_data(str(tmp_path))
    assert (dataset.keys, dataset.captions, colours(dataset)) == (["000000000", "000000002"], ["one", "three"], [1, 3])
    assert dataset.skipped == [("00000.parquet:1", "HTTP Error 404")]
    assert dataset[0].attributes == {"url": "http://a", "status": "success"}


def save_to_disk(folder: Path, table: pa.Table, info: dict[str, Any] | None = None, parts: int = 2) -> None:
    folder.mkdir(parents=True)
    names = [f"data-{number:05d}-of-{parts:05d}.arrow" for number in range(parts)]
    size = -(-table.num_rows // parts)
    for number, name in enumerate(names):
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table.slice(number * size, size))
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text(json.dumps(info or {}))


@pytest.mark.parametrize("workers", [0, 2])
def test_what_save_to_disk_wrote(tmp_path: Path, workers: int) -> None:
    (tmp_path / "far.png").write_bytes(png(9))
    rows = [*pictures(1, 2, 3), {"bytes": None, "path": str(tmp_path / "far.png")}]
    table = pa.table({"image": rows, "text": ["a", "b", "c", "d"], "label": [0, 1, 1, 0]})
    save_to_disk(tmp_path / "saved", table, {"features": FEATURES})
    dataset = pickle.loads(pickle.dumps(load_data(str(tmp_path / "saved"))))
    assert (dataset.captions, dataset.classes) == (["a", "b", "c", "d"], ("cat", "hot_dog"))
    loader = DataLoader(dataset, batch_size=3, collate_fn=collate, num_workers=workers)
    assert [image.getpixel((0, 0))[0] for batch in loader for image in batch.images] == [1, 2, 3, 9]


def test_splits_that_save_to_disk_wrote(tmp_path: Path) -> None:
    for name, value in (("train", 1), ("validation", 2), ("extra", 3)):
        table = hugging_face({}, {"image": pictures(value), "text": [name]})
        save_to_disk(tmp_path / "saved" / name, table, parts=1)
    (tmp_path / "saved/dataset_dict.json").write_text('{"splits": ["train", "validation", "extra"]}')
    dataset = load_data(str(tmp_path / "saved"))
    assert (dataset.captions, colours(dataset)) == (["train", "validation", "extra"], [1, 2, 3])
    assert load_data(str(tmp_path / "saved"), "val").captions == ["validation"]
    assert load_data(str(tmp_path / "saved"), "extra").captions == ["extra"]


def test_files_that_cannot_be_used_are_named(tmp_path: Path, parquet: Path) -> None:
    part = parquet / "data/train-00001-of-00002.parquet"
    part.write_bytes(part.read_bytes()[:-20])
    dataset = load_data(str(parquet))
    assert colours(dataset) == [1, 2, 3, 6]
    assert [key for key, _ in dataset.skipped] == ["data/train-00001-of-00002.parquet"]
    with pytest.raises(DataError, match="not a readable Parquet file"):
        load_tables(part)
    pq.write_table(pa.table({"url": ["x"]}), tmp_path / "y.parquet")
    with pytest.raises(DataError, match="no column of pictures"):
        load_tables(tmp_path / "y.parquet")
    save_to_disk(tmp_path / "saved", pa.table({"image": pictures(1, 2), "text": ["a", "b"]}))
    (tmp_path / "saved/data-00001-of-00002.arrow").write_bytes(b"rubbish")
    dataset = load_data(str(tmp_path / "saved"))
    assert dataset.captions == ["a"]
    assert "not a readable Arrow file" in dict(dataset.skipped)["data-00001-of-00002.arrow"]
    for text in ("{}", "[" * 100_000, '{"_data_files": [{"filename": "../../x.arrow"}, 3]}'):
        (tmp_path / "saved/state.json").write_text(text)
        with pytest.raises(DataError):
            load_data(str(tmp_path / "saved"))
