"""An empty caption is no caption, whatever a data set is kept in: the picture is left out and named."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from binderclip.data import ImageTextDataset, ShardDataset, load_data, write_shards

CAPTIONS = {"no": "", "blank": " \t ", "line": "\n\n", "mark": "\ufeff", "dog": "a dog"}
"""Four pictures nobody said anything about, and one somebody did; U+FEFF is what editors put before a text."""


def png(value: int = 0) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4, 4), (value, 0, 0)).save(out, "PNG")
    return out.getvalue()


def pictures(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(CAPTIONS):
        (folder / f"{name}.png").write_bytes(png(number))


def tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def as_table(folder: Path) -> Path:
    pictures(folder)
    with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file", "caption"), *((f"{n}.png", t) for n, t in CAPTIONS.items())])
    return folder


def as_lines(folder: Path) -> Path:
    pictures(folder)
    rows = [json.dumps({"file_name": f"{n}.png", "text": t}) for n, t in CAPTIONS.items()]
    (folder / "metadata.jsonl").write_text("\n".join(rows))
    return folder


def as_lists(folder: Path) -> Path:
    pictures(folder)
    rows = [json.dumps({"file_name": f"{n}.png", "captions": [t, ""]}) for n, t in CAPTIONS.items()]
    (folder / "metadata.jsonl").write_text("\n".join(rows))
    return folder


def as_metadata(folder: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pictures(folder)
    columns = {"file_name": [f"{n}.png" for n in CAPTIONS], "caption": [t or None for t in CAPTIONS.values()]}
    pq.write_table(pa.table(columns), folder / "metadata.parquet")
    return folder


def as_coco(folder: Path) -> Path:
    pictures(folder / "val2017")
    (folder / "annotations").mkdir()
    images = [{"id": i, "file_name": f"{n}.png"} for i, n in enumerate(CAPTIONS)]
    notes = [{"image_id": i, "caption": t} for i, t in enumerate(CAPTIONS.values())]
    (folder / "annotations" / "captions_val2017.json").write_text(json.dumps({"images": images, "annotations": notes}))
    return folder


def as_text_files(folder: Path) -> Path:
    pictures(folder)
    for name, text in CAPTIONS.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return folder


def as_parquet(folder: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    columns = {"image": [png()] * len(CAPTIONS), "text": list(CAPTIONS.values()), "key": list(CAPTIONS)}
    pq.write_table(pa.table(columns), folder / "a.parquet")
    return folder / "a.parquet"


def as_shard(folder: Path) -> Path:
    folder.mkdir()
    files = {f"{n}.{s}": d for n, t in CAPTIONS.items() for s, d in (("png", png()), ("txt", t.encode()))}
    tar(folder / "a.tar", files)
    return folder / "a.tar"


def as_described_shard(folder: Path) -> Path:
    """As img2dataset writes them: the text in both places."""
    folder.mkdir()
    files: dict[str, bytes] = {}
    for name, text in CAPTIONS.items():
        record = json.dumps({"caption": text, "key": name, "status": "success"}).encode()
        files |= {f"{name}.png": png(), f"{name}.txt": text.encode(), f"{name}.json": record}
    tar(folder / "a.tar", files)
    return folder / "a.tar"


def as_json_shard(folder: Path) -> Path:
    folder.mkdir()
    files: dict[str, bytes] = {}
    for name, text in CAPTIONS.items():
        files |= {f"{name}.png": png(), f"{name}.json": json.dumps({"captions": [text, " "], "label": 1}).encode()}
    tar(folder / "a.tar", files)
    return folder / "a.tar"


READERS = [
    as_table, as_lines, as_lists, as_metadata, as_coco, as_text_files, as_parquet,
    as_shard, as_described_shard, as_json_shard,
]  # fmt: skip


@pytest.mark.parametrize("write", READERS, ids=lambda write: write.__name__)
def test_every_reader_leaves_out_what_has_no_caption_and_names_it(
    tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    dataset = load_data(str(write(tmp_path / "data")))
    samples = list(dataset)
    assert [(Path(sample.key).stem, sample.captions) for sample in samples] == [("dog", ["a dog"])]
    for row, name in enumerate(CAPTIONS):
        own = (f"{name}.png", f"a.tar:{name}", f"a.parquet:{row}", f"val2017/{name}.png")
        told = [reason for key, reason in dataset.skipped if f"{name}." in reason or key in own]
        assert bool(told) == (name != "dog"), dataset.skipped
        assert all("caption" in reason or "is empty" in reason for reason in told)


def test_empty_ones_among_several_captions_are_not_drawn() -> None:
    several = [["a cat", " ", ""], ["", "a dog"], ["", " "], "no list"]
    dataset = ImageTextDataset([png()] * 4, list("abcd"), list("0123"), attributes={"captions": several})
    assert dataset.all_captions == [["a cat"], ["a dog"], ["c"], ["d"]]


def test_shards_keep_pictures_with_a_label_and_nothing_said(tmp_path: Path) -> None:
    dataset = ImageTextDataset([png()] * 3, ["", "two", ""], list("123"), labels=[0, -1, -1], classes=["one"])
    [path] = write_shards(dataset, tmp_path / "a-%d.tar")
    found = ShardDataset(path)
    assert [(sample.key, sample.caption, sample.label) for sample in found] == [("1", "", 0), ("2", "two", None)]
    assert found.skipped == [("a-0.tar:3", "neither caption nor label among its parts (json, png)")]
    needed = ShardDataset(path, captions="needed")
    assert [sample.key for sample in needed] == ["2"]
    assert ("a-0.tar:1", "no caption") in needed.skipped
    assert [(sample.key, sample.caption) for sample in ShardDataset(path, captions=None)] == [
        ("1", ""),
        ("2", ""),
        ("3", ""),
    ]
