"""Order, prefetching and vocabulary: known beforehand, the same everywhere, nothing lost."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from binderclip.data import ImageTextDataset, load_data, write_shards
from binderclip.errors import DataError, UsageError
from binderclip.models import TokenIds
from binderclip.train import Order, World
from binderclip.train.feed.batches import Batches, prefetch
from binderclip.train.feed.pictures import Pictures
from binderclip.train.feed.stream import ShardBatches
from binderclip.train.recipe.vocabulary import train_vocabulary


def test_each_row_as_often_as_its_weight() -> None:
    order = Order([10, 8, 6], [1.0, 2.0, 0.5], batch_size=29, seed=1)
    assert (order.epoch_size, order.batches_per_epoch) == (29, 1)
    epochs = [Counter(order[n][1].tolist()) for n in range(40)]
    for counts in epochs:
        assert all(counts[i] == 1 for i in range(10))
        assert all(counts[i] == 2 for i in range(10, 18))
        assert sum(counts[i] for i in range(18, 24)) == 3
    halves = sum(epochs, Counter())
    # Which half is drawn changes: 40 draws of probability 1/2 each, four standard deviations.
    assert all(abs(halves[i] - 20) < 4 * 10**0.5 for i in range(18, 24))


def test_batches_are_a_function_of_their_number() -> None:
    order, again = Order([50], [1.0], 8, seed=3), Order([50], [1.0], 8, seed=3)
    expected = [order[n] for n in range(20)]
    for n in (17, 2, 11, 5):
        assert again[n][0] == expected[n][0] == n // 6
        assert torch.equal(again[n][1], expected[n][1])
    assert not torch.equal(Order([50], [1.0], 8, seed=4)[0][1], expected[0][1])
    epoch = torch.cat([rows for _, rows in expected[:6]])
    assert len(epoch.unique()) == 48
    shares = torch.cat([expected[0][1][World(rank, 3).share(8)] for rank in range(3)])
    assert torch.equal(shares, expected[0][1])


def test_a_batch_larger_than_the_data() -> None:
    with pytest.raises(UsageError, match="batch_size 9 is more than the 8 pictures"):
        Order([8], [1.0], 9, seed=0)


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_prefetch_keeps_order_and_errors(ahead: int) -> None:
    assert list(prefetch(iter(range(20)), ahead)) == list(range(20))

    def broken() -> Iterator[int]:
        yield 1
        raise DataError("torn")

    items = prefetch(broken(), ahead)
    assert next(items) == 1
    with pytest.raises(DataError, match="torn"):
        next(items)


SEVERAL = [["one"], ["two", "three"], ["four", "five", "six", "seven"]]


def several() -> ImageTextDataset:
    images = np.random.default_rng(0).integers(0, 255, (3, 4, 4, 3), np.uint8)
    attributes = {"captions": [None, *SEVERAL[1:]]}
    return ImageTextDataset(images, [texts[0] for texts in SEVERAL], ["a", "b", "c"], attributes=attributes)


def test_a_pass_shows_each_picture_with_one_of_its_captions() -> None:
    pictures = Pictures([several()], [1.0], size=4)
    flat = [text for texts in SEVERAL for text in texts]
    assert pictures.texts == flat

    def shown(start: int = 0, batch_size: int = 3) -> list[list[str]]:
        order = Order(pictures.sizes, [1.0], batch_size, seed=5)
        # The token of a text is its place in the list.
        tokens = TokenIds(
            torch.arange(7)[:, None], torch.ones(7, 1, dtype=torch.bool), torch.zeros(7, dtype=torch.long)
        )
        batches = Batches(pictures, order, prepare=lambda p: p.images[:, :3].float(), tokens=tokens, ahead=0)
        batches.seek(start)
        passes = []
        while batches.position < 80 * (3 // batch_size):
            found = {}
            for batch in batches:
                texts = batch.tokens.ids[:, 0]
                found |= dict(zip(batch.rows.tolist(), [flat[i] for i in texts], strict=True))
                assert torch.equal(batch.caption_ids, pictures.caption_ids[texts])
            passes.append([found[row] for row in range(3)])
        return passes

    passes = shown()
    assert all(text in SEVERAL[row] for texts in passes for row, text in enumerate(texts))
    for row, texts in enumerate(SEVERAL):
        counts = Counter(found[row] for found in passes)
        expected, deviation = 80 / len(texts), (80 * (len(texts) - 1)) ** 0.5 / len(texts)
        assert all(abs(counts[text] - expected) <= 4 * deviation for text in texts)
    # Neither where a run starts nor how it is cut into batches changes what a pass shows.
    assert shown(start=30) == passes[30:]
    assert shown(batch_size=1) == passes
    pictures.draw = False
    assert shown(start=78) == [["one", "two", "four"]] * 2


def test_shards_show_one_of_several_captions_too(tmp_path: Path) -> None:
    write_shards(several(), tmp_path / "x-%d.tar")
    passes, seen = [], []

    def tokenize(captions: list[str]) -> TokenIds:
        seen.append(captions)
        zeros = torch.zeros(len(captions), dtype=torch.long)
        return TokenIds(zeros[:, None], zeros[:, None] == 0, zeros)

    batches = ShardBatches(
        load_data(str(tmp_path)),
        batch_size=3,
        prepare=lambda pixels: passes.append(list(pixels.keys)) or pixels.images[:, :3].float(),
        tokenize=tokenize,
        size=4,
        fit="crop",
        workers=0,
        world=World(),
    )
    for _ in range(30):
        list(batches)
    found = [dict(zip(keys, texts, strict=True)) for keys, texts in zip(passes, seen, strict=True)]
    for key, texts in zip("abc", SEVERAL, strict=True):
        assert {row[key] for row in found} == set(texts)


def test_prefetch_ends_with_its_reader() -> None:
    before, made = threading.active_count(), []

    def endless() -> Iterator[int]:
        while True:
            made.append(len(made))
            yield made[-1]

    items = prefetch(endless(), 2)
    assert [next(items), next(items)] == [0, 1]
    items.close()
    assert threading.active_count() == before
    assert len(made) <= 6


CAPTIONS = ["a red cat", "The Red Hat!", "cats in hats", "blue whale", "whale watching", "a red whale"] * 3


def test_a_vocabulary_is_a_function_of_the_captions(tmp_path: Path) -> None:
    size = train_vocabulary(CAPTIONS, tmp_path / "a", size=60)
    code = (
        "import sys; from binderclip.train.recipe.vocabulary import train_vocabulary as t; "
        f"t({CAPTIONS[::-1]!r}, sys.argv[1], size=60)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "b")], check=True, timeout=120)
    assert (tmp_path / "a/tokenizer.json").read_text() == (tmp_path / "b/tokenizer.json").read_text()
    from tokenizers import Tokenizer

    own = Tokenizer.from_file(str(tmp_path / "a" / "tokenizer.json"))
    assert own.get_vocab_size() == size <= 60
    assert own.encode("A RED whale").tokens == ["[CLS]", "a", "red", "whale", "[SEP]"]
    assert "[UNK]" not in own.encode("rat chat").tokens  # unseen words fall into seen pieces
    assert own.encode("ж").tokens == ["[CLS]", "[UNK]", "[SEP]"]
    with pytest.raises(DataError, match="captions"):
        train_vocabulary(["", " "], tmp_path / "c")
