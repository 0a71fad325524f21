from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from binderclip.data import Collate, ImageTextDataset, collate, join
from binderclip.errors import DataError, UsageError


def png(value: int, size: int = 4) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (size, size), (value, 0, 0)).save(out, "PNG")
    return out.getvalue()


def numbered(n: int, *, bad: tuple[int, ...] = (), source: str = "s") -> ImageTextDataset:
    images = [b"rubbish" if i in bad else png(i) for i in range(n)]
    return ImageTextDataset(
        images,
        [f"number {i}" for i in range(n)],
        [f"k{i}" for i in range(n)],
        labels=[i % 2 for i in range(n)],
        classes=("even", "odd"),
        attributes={"third": ["yes" if i % 3 == 0 else None for i in range(n)]},
        source=source,
    )


def test_a_sample_has_everything_the_columns_say() -> None:
    sample = numbered(5)[3]
    assert sample.image.getpixel((0, 0)) == (3, 0, 0)
    assert (sample.caption, sample.key, sample.label, sample.source) == ("number 3", "k3", 1, "s")
    assert sample.attributes == {"third": "yes"}
    assert numbered(5)[1].attributes == {}
    assert numbered(5)[-1].key == "k4"
    assert [s.key for s in numbered(5)[1:4]] == ["k1", "k2", "k3"]
    with pytest.raises(IndexError):
        numbered(5)[5]


def test_one_unreadable_picture_is_an_error_many_are_skipped() -> None:
    dataset = numbered(6, bad=(1, 4))
    with pytest.raises(DataError, match=r"k1: .*not an image"):
        dataset[1]
    assert dataset.skipped == []
    assert [sample.key for sample in dataset] == ["k0", "k2", "k3", "k5"]
    assert [key for key, _ in dataset.skipped] == ["k1", "k4"]
    list(dataset)  # a second pass counts nobody twice
    assert len(dataset.skipped) == 2
    report = dataset.report(limit=1)
    assert report.splitlines()[0] == "4 pictures, 2 skipped"
    assert "k1: not an image" in report
    assert report.endswith("and 1 more")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_loader_skips_the_same_pictures_with_and_without_workers(workers: int) -> None:
    dataset = numbered(9, bad=(0, 5))
    batches = list(DataLoader(dataset, batch_size=4, num_workers=workers, collate_fn=Collate(4)))
    assert [key for batch in batches for key in batch.keys] == ["k1", "k2", "k3", "k4", "k6", "k7", "k8"]
    assert [key for batch in batches for key, _ in batch.skipped] == ["k0", "k5"]
    assert torch.cat([batch.images[:, 0, 0, 0] for batch in batches]).tolist() == [1, 2, 3, 4, 6, 7, 8]


def test_subsets_share_pictures_and_report_to_their_parent() -> None:
    dataset = numbered(10, bad=(7,))
    view = dataset.subset([7, 2])
    assert [sample.key for sample in view.subset([-1, 0])] == ["k2"]
    assert [key for key, _ in dataset.skipped] == ["k7"]
    assert view.classes == dataset.classes
    assert view.labels.tolist() == [1, 0]
    mask = np.arange(10) % 2 == 1
    assert dataset.subset(mask).keys == ["k1", "k3", "k5", "k7", "k9"]
    assert dataset.subset(torch.tensor([3])).keys == ["k3"]
    with pytest.raises(UsageError, match="mask of shape"):
        dataset.subset(mask[:4])
    with pytest.raises(UsageError, match="3 to 10"):
        dataset.subset([3, 10])


def test_where() -> None:
    dataset = numbered(12)
    assert dataset.where(third="yes", label="odd").keys == ["k3", "k9"]
    assert dataset.where(third=None).keys == [f"k{i}" for i in range(12) if i % 3]
    assert dataset.where(key={"k1", "k2"}).keys == ["k1", "k2"]
    assert dataset.where(caption=lambda text: text.endswith("1")).keys == ["k1", "k11"]
    with pytest.raises(UsageError, match="third"):
        dataset.where(fourth=1)


@settings(max_examples=50)
@given(st.lists(st.integers(0, 19), unique=True), st.data())
def test_a_subset_of_a_subset_is_indexing_twice(first: list[int], data: st.DataObject) -> None:
    second = data.draw(st.lists(st.integers(0, max(len(first) - 1, 0)), unique=True) if first else st.just([]))
    view = numbered(20).subset(first).subset(second)
    assert view.keys == [f"k{first[i]}" for i in second]
    assert [sample.image.getpixel((0, 0))[0] for sample in view] == [first[i] for i in second]


def test_pixels_decodes_all_and_leaves_out_the_unreadable() -> None:
    dataset = numbered(7, bad=(2,))
    pixels, kept = dataset.pixels(4)
    assert pixels.shape == (6, 4, 4, 4)
    assert pixels[:, 0, 0, 0].tolist() == [0, 1, 3, 4, 5, 6]
    assert pixels[:, 3].min() == 255
    assert kept.keys == ["k0", "k1", "k3", "k4", "k5", "k6"]
    assert [key for key, _ in dataset.skipped] == ["k2"]
    assert torch.equal(numbered(7).pixels(8, mode="RGB", threads=1)[0], numbered(7).pixels(8, mode="RGB", threads=4)[0])


def test_modes_and_backgrounds() -> None:
    half = np.zeros((2, 2, 4), np.uint8)
    half[0] = (10, 20, 30, 255)
    dataset = ImageTextDataset([half], ["x"], ["k"])
    assert np.asarray(dataset[0].image)[1, 0].tolist() == [255, 255, 255]
    assert np.asarray(dataset[0].alpha).tolist() == [[255, 255], [0, 0]]
    assert np.asarray(dataset.with_mode("RGB", (1, 2, 3))[0].image)[1, 0].tolist() == [1, 2, 3]
    assert np.array_equal(np.asarray(dataset.with_mode("RGBA")[0].image), half)
    opaque = ImageTextDataset([np.full((2, 2, 4), 255, np.uint8)], ["x"], ["k"])
    assert opaque[0].alpha is None


def test_join_unites_classes_by_name_and_keeps_the_source() -> None:
    one = numbered(3, source="one")
    two = ImageTextDataset(
        [png(9), b"rubbish"], ["nine", "bad"], ["k1", "z"], labels=[1, -1], classes=("prime", "odd"), source="two",
        attributes={"colour": ["red", "red"]}, skipped=[("gone", "no such file")],
    )  # fmt: skip
    both = join([one, two])
    assert both.classes == ("even", "odd", "prime")
    assert both.labels.tolist() == [0, 1, 0, 1, -1]
    assert both.keys == ["k0", "one/k1", "k2", "two/k1", "z"]
    assert both.sources == ["one"] * 3 + ["two"] * 2
    assert both.attributes["colour"] == [None, None, None, "red", "red"]
    assert [s.image.getpixel((0, 0))[0] for s in both] == [0, 1, 2, 9]
    assert [key for key, _ in both.skipped] == ["gone", "z"]
    assert join([one]) is one


@settings(max_examples=30)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=5))
def test_a_joined_set_is_its_parts_one_after_the_other(sizes: list[int]) -> None:
    parts = [numbered(size, source=f"p{number}") for number, size in enumerate(sizes)]
    joined = join(parts)
    assert [sample.image.getpixel((0, 0))[0] for sample in joined] == [i for size in sizes for i in range(size)]
    assert joined.captions == [caption for part in parts for caption in part.captions]
    assert len(set(joined.keys)) == len(joined)


def test_hashes_follow_the_content(tmp_path: Path) -> None:
    assert numbered(4).data_hash == numbered(4).data_hash
    assert numbered(4).data_hash != numbered(5).data_hash
    assert numbered(4).data_hash != numbered(4, bad=(1,)).data_hash
    (tmp_path / "a.png").write_bytes(png(3))
    from_file = ImageTextDataset([tmp_path / "a.png"], ["x"], ["k"])
    assert from_file.content_hash(0) == ImageTextDataset([png(3)], ["y"], ["j"]).content_hash(0)
    grey = np.zeros((2, 8), np.uint8)
    arrays = ImageTextDataset([grey, grey.reshape(4, 4)], ["a", "b"], ["a", "b"])
    assert arrays.content_hash(0) != arrays.content_hash(1)


def test_a_set_survives_pickling() -> None:
    again = pickle.loads(pickle.dumps(numbered(4).subset([2, 1])))
    assert [sample.key for sample in again] == ["k2", "k1"]


def test_columns_are_checked() -> None:
    with pytest.raises(UsageError, match="captions"):
        ImageTextDataset([b""], ["a", "b"], ["k"])
    with pytest.raises(UsageError, match="'k'"):
        ImageTextDataset([b"", b""], ["a", "b"], ["k", "k"])
    with pytest.raises(UsageError, match="2 classes"):
        ImageTextDataset([b""], ["a"], ["k"], labels=[2], classes=("x", "y"))
    with pytest.raises(UsageError, match="at least one"):
        join([])
    assert len(collate(ImageTextDataset([], [], []))) == 0
