"""BlockDataset (p083, arXiv 2102.12781): what lies where, and that the null block says nothing about the class."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from binderclip.data import BlockDataset, ImageTextDataset, load_data
from binderclip.errors import UsageError


def signals(n: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    images = 0.1 + 0.8 * torch.rand(n, 2, 12, 10, generator=torch.Generator().manual_seed(0))
    return images, torch.arange(n) % 2


@pytest.mark.parametrize("null", ["cross", "texture"])
def test_the_mask_covers_the_signal_and_nothing_else(null: str) -> None:
    images, labels = signals(40)
    blocks = BlockDataset(images, labels, null=null, seed=3)
    assert blocks.images.shape == (40, 2, 24, 10)
    assert len(blocks) == 40
    for image, mask, on_top, wanted in zip(blocks.images, blocks.signal, blocks.signal_on_top, images, strict=True):
        assert torch.equal(image[:, mask].reshape(2, 12, 10), wanted)
        assert bool(mask[0, 0]) == bool(on_top)
    signal, null_block = blocks.blocks()
    assert torch.equal(signal, images)
    assert (null_block == null_block[:1]).all() == (null == "cross")


def test_the_cross_is_one_picture_for_all_and_the_place_does_not_depend_on_the_class() -> None:
    images, labels = signals(4000)
    blocks = BlockDataset(images, labels, seed=0)
    null = blocks.blocks()[1]
    assert (null == null[:1]).all()  # one value: no information, exactly
    table = np.array([[int((blocks.signal_on_top[labels == c] == top).sum()) for top in (0, 1)] for c in (0, 1)])
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / 4000
    assert ((table - expected) ** 2 / expected).sum() < 10.8  # chi-square, one degree of freedom, p = 0.001
    assert abs(blocks.signal_on_top.float().mean() - 0.5) < 4 * 0.5 / 4000**0.5


def test_a_classifier_of_textures_alone_stays_at_chance_where_one_of_signals_does_not() -> None:
    labels = torch.arange(3000) % 2
    images = 0.3 * torch.rand(3000, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    images[labels == 1, :, 4:8] += 0.1
    blocks = BlockDataset(images, labels, null="texture", seed=5)
    found = []
    for part in blocks.blocks():
        x = torch.cat([part.flatten(1), torch.ones(3000, 1)], 1).double()
        y = 2.0 * labels.double() - 1
        weights = torch.linalg.solve(x[:2000].T @ x[:2000] + 0.1 * torch.eye(x.shape[1]), x[:2000].T @ y[:2000])
        found.append(float(((x[2000:] @ weights > 0) == (y[2000:] > 0)).double().mean()))
    assert found[0] > 0.95
    assert abs(found[1] - 0.5) < 3.5 * 0.5 / 1000**0.5


def test_a_picture_depends_on_its_key_and_the_seed_only() -> None:
    images, labels = signals(60)
    keys = [f"k{i}" for i in range(60)]
    whole = BlockDataset(images, labels, keys, null="texture", seed=2)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(9))[:20]
    part = BlockDataset(images[order], labels[order], [keys[i] for i in order.tolist()], null="texture", seed=2)
    assert torch.equal(part.images, whole.images[order])
    other = BlockDataset(images, labels, keys, null="texture", seed=3)
    assert not torch.equal(other.signal_on_top, whole.signal_on_top)


def test_the_variants() -> None:
    images, labels = signals(30)
    assert BlockDataset(images, labels, signal_at="top").signal_on_top.all()
    assert not BlockDataset(images, labels, signal_at="bottom").signal_on_top.any()
    own = torch.rand(2, 12, 10)
    assert torch.equal(BlockDataset(images, labels, null=own).blocks()[1][7], own)
    cross = BlockDataset(images, labels, colours=(0.25, 0.75)).blocks()[1][0]
    assert set(cross.flatten().tolist()) == {0.25, 0.75}
    square = BlockDataset(torch.zeros(1, 1, 28, 28), torch.zeros(1).long()).blocks()[1][0, 0]
    assert torch.equal(square, square.T)
    assert torch.equal(square, square.flip(0))
    assert square[14, 14] == 1
    assert square[0].sum() == square[:, 0].sum() == 0


@pytest.mark.parametrize(("name", "classes", "ground"), [("digits", ("zero", "one"), 0.0), ("openclipart", None, 1.0)])
def test_sets_that_are_bundled_become_blocks_on_their_own_ground(name: str, classes, ground: float) -> None:
    data = load_data(name)
    if isinstance(data, ImageTextDataset) and name == "openclipart":
        data = data.subset([i for i, label in enumerate(data.labels.tolist()) if label >= 0][:12])
    blocks = BlockDataset.from_dataset(data, 16, classes=classes, grey=name == "digits")
    assert blocks.images.shape[1:] == ((1 if name == "digits" else 3), 32, 16)
    assert set(blocks.blocks()[1].flatten().tolist()) == {0.0, 1.0}
    assert blocks.blocks()[1][0, 0, 0, 0] == ground
    if classes:
        assert set(blocks.labels.tolist()) == {0, 1}
        assert set(blocks.keys) == {k for k, label in zip(data.keys, data.labels, strict=True) if label < 2}


def test_mistakes_are_refused() -> None:
    images, labels = signals(6)
    cases = [
        ((images * 2, labels), {}, r"pixels are in \[0, 1\]"),
        ((images, labels[:3]), {}, "6 images"),
        ((images, labels), {"keys": ["a"]}, "1 keys"),
        ((images, labels), {"null": "square"}, "null must be"),
        ((images, labels), {"null": torch.rand(2, 5, 5)}, "the null block is"),
        ((images, labels), {"signal_at": "left"}, "signal_at must be"),
        ((images.long(), labels), {}, "float images"),
    ]
    for arguments, options, message in cases:
        with pytest.raises(UsageError, match=message):
            BlockDataset(*arguments, **options)
    with pytest.raises(UsageError, match="'ten' is not in this set"):
        BlockDataset.from_dataset(load_data("digits"), 8, classes=["ten"])
