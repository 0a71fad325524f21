"""A zip archive is read as the folder that was packed, without unpacking it."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import pytest
from PIL import Image
from torch.utils.data import DataLoader

from binderclip.data import collate, load_data, load_folder
from binderclip.data.formats import trees as module
from binderclip.errors import DataError


def png(value: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4, 4), (value, 0, 0)).save(out, "PNG")
    return out.getvalue()


def pack(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


CLASSES = {"cat/1.png": png(1), "cat/2.png": png(2), "hot_dog/3.png": png(3), "__MACOSX/cat/._1.png": b"x"}
TABLE = {"a.png": png(1), "sub/b.png": png(2), "captions.csv": b"file,caption\na.png,one\na.png,two\nsub/b.png,three\n"}
TEXTS = {"a.png": png(1), "a.txt": "one\nthé two\n".encode(), "b.png": png(2), "b.txt": b"caf\xe9"}
SPLITS = {"train/cat/1.png": png(1), "test/dog/2.png": png(2)}


@pytest.mark.parametrize("inside", ["", "photos/"])
@pytest.mark.parametrize("files", [CLASSES, TABLE, TEXTS, SPLITS])
def test_a_zip_is_the_folder_that_was_packed(tmp_path: Path, files: dict[str, bytes], inside: str) -> None:
    archive = pack(tmp_path / "packed.zip", {inside + name: data for name, data in files.items()})
    for name, data in files.items():
        (tmp_path / "plain" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "plain" / name).write_bytes(data)
    packed, plain = load_data(str(archive)), load_folder(tmp_path / "plain")
    for column in ("keys", "captions", "all_captions", "classes", "attributes", "skipped"):
        assert getattr(packed, column) == getattr(plain, column), column
    assert packed.labels.tolist() == plain.labels.tolist()
    assert packed.data_hash == plain.data_hash
    assert [s.image.getpixel((0, 0)) for s in packed] == [s.image.getpixel((0, 0)) for s in plain]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["packed.zip", "plain"]


@pytest.mark.parametrize("workers", [0, 2])
def test_pictures_are_read_in_workers_and_damage_costs_one(tmp_path: Path, workers: int) -> None:
    files = {**CLASSES, "cat/bad.png": b"no picture", "cat/empty.png": b""}
    dataset = load_data(str(pack(tmp_path / "x.zip", files)))
    assert dataset.skipped == [("cat/empty.png", "empty file")]
    dataset = pickle.loads(pickle.dumps(dataset))
    read, skipped = [], []
    for batch in DataLoader(dataset, batch_size=2, collate_fn=collate, num_workers=workers):
        read += [image.getpixel((0, 0))[0] for image in batch.images]
        skipped += batch.skipped
    assert read == [1, 2, 3]
    assert [key for key, _ in skipped] == ["cat/bad.png"]


def test_archives_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(DataError, match=r"x\.zip: not a readable zip archive"):
        load_data(str(path))
    pack(path, {"notes.md": b"x"})
    with pytest.raises(DataError, match=r"no images in this folder \(1 \.md\)"):
        load_data(str(path))
    pack(path, {"../out.png": png(1), "/etc/cat/a.png": png(1), "cat/in.png": png(1)})
    dataset = load_data(str(path))
    assert dataset.keys == ["cat/in.png"]
    assert dataset.skipped[0] == ("../out.png", "its name leads out of the archive")
    monkeypatch.setattr(module, "MAX_MEMBER", 10)
    with pytest.raises(DataError, match="pictures can be used"):
        load_data(str(path))


def test_a_member_that_is_damaged_is_named(tmp_path: Path) -> None:
    path = pack(tmp_path / "x.zip", CLASSES)
    data = bytearray(path.read_bytes())
    start = data.index(b"cat/2.png") + len(b"cat/2.png")
    data[start + 5 : start + 25] = b"\xff" * 20
    path.write_bytes(data)
    dataset = load_data(str(path))
    assert [sample.key for sample in dataset] == ["cat/1.png", "hot_dog/3.png"]
    assert "cannot be read from x.zip" in dict(dataset.skipped)["cat/2.png"]
