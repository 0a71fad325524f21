"""Fashion-MNIST and the textile pictures are stood in for by files of the same format where they are not installed."""

from __future__ import annotations

import gzip
import importlib.util
import struct
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from binderclip.data import load_data
from binderclip.data.sets.named import (
    FASHION_MNIST_VARIABLE,
    _package_folder,
    digits,
    fashion_mnist,
    photographs,
    read_idx,
)
from binderclip.errors import DataError, MissingDependency, UsageError


def idx(array: np.ndarray) -> bytes:
    return gzip.compress(
        struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    )


@pytest.fixture
def fashion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rng = np.random.default_rng(0)
    for prefix, n in [("train", 20), ("t10k", 10)]:
        images = rng.integers(0, 256, (n, 28, 28), np.uint8)
        images[:, 0, 0] = np.arange(n)
        (tmp_path / f"{prefix}-images-idx3-ubyte.gz").write_bytes(idx(images))
        (tmp_path / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(idx(np.arange(n, dtype=np.uint8) % 10))
    monkeypatch.setenv(FASHION_MNIST_VARIABLE, str(tmp_path))
    return tmp_path


def test_fashion_mnist(fashion: Path) -> None:
    dataset = fashion_mnist("test")
    assert len(dataset) == 10
    assert dataset.classes[9] == "ankle boot"
    assert dataset[9].caption == "an ankle boot"
    assert dataset[9].image.size == (28, 28)
    assert dataset[7].image.getpixel((0, 0)) == (7, 7, 7)
    both = load_data("fashion-mnist")
    assert len(both) == 30
    assert both.where(split="train").keys[3] == "train-00003"
    assert len(set(both.keys)) == 30


def test_fashion_mnist_says_how_to_get_it_and_what_is_damaged(fashion: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = fashion / "t10k-images-idx3-ubyte.gz"
    whole = images.read_bytes()
    images.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte\.gz: damaged gzip"):
        fashion_mnist("test")
    images.write_bytes(idx(np.zeros((9, 28, 28), np.uint8)))
    with pytest.raises(DataError, match="do not go with"):
        fashion_mnist("test")
    images.unlink()
    with pytest.raises(DataError, match="no such file"):
        fashion_mnist("test")
    monkeypatch.setenv(FASHION_MNIST_VARIABLE, str(fashion / "gone"))
    with pytest.raises(DataError, match="apt-get install dataset-fashion-mnist"):
        fashion_mnist()
    with pytest.raises(UsageError, match="only train, test"):
        fashion_mnist("val")


def test_idx_files(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "a.gz").write_bytes(idx(array))
    assert np.array_equal(read_idx(tmp_path / "a.gz"), array)
    (tmp_path / "b.gz").write_bytes(gzip.compress(b"\x00\x00\x08\x01\x00\x00\x00\x09abc"))
    with pytest.raises(DataError, match="truncated: 3 bytes"):
        read_idx(tmp_path / "b.gz")
    (tmp_path / "c.gz").write_bytes(gzip.compress(b"PK..."))
    with pytest.raises(DataError, match="not an IDX file"):
        read_idx(tmp_path / "c.gz")


def test_digits() -> None:
    dataset = digits()
    values, labels = load_digits(return_X_y=True)
    assert dataset.labels.tolist() == labels.tolist()
    shown = np.stack([np.asarray(sample.image)[..., 0] for sample in dataset]).reshape(len(labels), -1)
    assert np.abs(shown / 255 * 16 - values).max() < 0.04
    assert (len(digits("train")), len(digits("test"))) == (1437, 360)
    assert digits("test")[0].caption == f"the handwritten digit {dataset.classes[labels[1437]]}"


def test_photographs_are_read_from_the_wheels() -> None:
    dataset = photographs()
    assert len(dataset) + len(dataset.skipped) == 20
    names = dict(zip(dataset.keys, dataset.column("label"), strict=True))
    assert names["chelsea.png"] == "cat"
    assert names["china.jpg"] == "palace"
    assert names["cell.png"] is None
    assert all(len(caption.split()) >= 2 for caption in dataset.captions)
    assert {sample.image.mode for sample in dataset} == {"RGB"}
    assert dataset.skipped == []


def test_textile_is_labelled_by_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    package = tmp_path / "conformal_clip_data"
    for kind, n in [("nominal", 20), ("local", 10), ("global", 10)]:
        (package / "data/textile_images/simulated" / kind).mkdir(parents=True)
        for number in range(n):
            Image.new("L", (5, 5), number).save(package / f"data/textile_images/simulated/{kind}/t_{number:04d}.jpg")
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    _package_folder.cache_clear()
    try:
        whole = load_data("textile")
        assert [whole.classes[label] for label in whole.labels].count("good") == 20
        assert dict(zip(whole.attributes["kind"], whole.column("label"), strict=True)) == {
            "nominal": "good",
            "local": "defect",
            "global": "defect",
        }
        parts = [load_data("textile", split) for split in ("train", "val", "test")]
        assert [len(part) for part in parts] == [24, 8, 8]
        assert sorted(key for part in parts for key in part.keys) == sorted(whole.keys)
    finally:
        _package_folder.cache_clear()


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    _package_folder.cache_clear()
    try:
        with pytest.raises(MissingDependency, match=r'conformal-clip-data.*pip install "binderclip\[textile\]"'):
            load_data("textile")
        with pytest.raises(MissingDependency, match=r"binderclip\[photographs\]"):
            load_data("photographs")
    finally:
        _package_folder.cache_clear()
