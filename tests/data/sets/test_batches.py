from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from binderclip.data import ImageTextDataset, batches, epoch_order
from binderclip.errors import UsageError


def numbered(n: int, bad: tuple[int, ...] = ()) -> ImageTextDataset:
    images = [b"rubbish" if i in bad else np.full((4, 4), i, np.uint8) for i in range(n)]
    return ImageTextDataset(images, [""] * n, [str(i) for i in range(n)])


@given(st.integers(0, 60), st.integers(0, 5), st.integers(0, 5), st.integers(1, 7))
def test_processes_together_see_everything_once(n: int, seed: int, epoch: int, world: int) -> None:
    shares = [epoch_order(n, seed=seed, epoch=epoch, rank=rank, world=world) for rank in range(world)]
    assert sorted(np.concatenate(shares).tolist()) == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert np.array_equal(shares[0], epoch_order(n, seed=seed, epoch=epoch, world=world))


def test_orders_differ_by_seed_and_epoch() -> None:
    assert len({tuple(epoch_order(20, seed=s, epoch=e)) for s in range(3) for e in range(3)}) == 9
    with pytest.raises(UsageError, match="rank 2 of 2"):
        epoch_order(4, rank=2, world=2)


@settings(max_examples=30)
@given(st.integers(1, 25), st.integers(1, 8), st.booleans(), st.booleans(), st.integers(0, 3), st.integers(1, 3))
def test_batches_cover_the_set_and_resume_in_the_middle(
    n: int, size: int, shuffle: bool, drop_last: bool, start: int, world: int
) -> None:
    dataset = numbered(n)
    options = {"shuffle": shuffle, "drop_last": drop_last, "world": world, "size": 4, "epoch": 2}
    whole = list(batches(dataset, size, **options))
    found = [int(key) for batch in whole for key in batch.keys]
    expected = (epoch_order(n, epoch=2, world=world) if shuffle else np.arange(n)[::world]).tolist()
    assert found == expected[: len(expected) - len(expected) % size if drop_last else None]
    assert all(batch.images[:, 0, 0, 0].tolist() == [int(key) for key in batch.keys] for batch in whole)
    rest = list(batches(dataset, size, start=start, **options))
    assert [batch.keys for batch in rest] == [batch.keys for batch in whole[start:]]


@pytest.mark.parametrize("workers", [0, 2])
def test_skipped_pictures_are_entered_in_the_main_process(workers: int) -> None:
    dataset = numbered(8, bad=(2, 3, 7))
    found = list(batches(dataset, 2, workers=workers))
    assert [batch.keys for batch in found] == [["0", "1"], ["4", "5"], ["6"]]
    assert [key for key, _ in dataset.skipped] == ["2", "3", "7"]
    with pytest.raises(UsageError, match="batch_size must be at least 1, got 0"):
        next(batches(dataset, 0))
