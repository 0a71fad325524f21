"""Work on shards in this process: order, what is shared, and what an error leaves undone."""

from __future__ import annotations

import threading

import pytest

from binderclip.data import LocalRunner, ShardRunner
from binderclip.errors import DataError, UsageError


@pytest.mark.parametrize("workers", [1, 3])
def test_every_item_once_in_order_after_one_start(workers: int) -> None:
    runner, starts = LocalRunner(workers), []

    def start():
        starts.append(threading.get_ident())
        return lambda item: item * 10

    assert list(runner.over([3, 1, 2], start)) == [(3, 30), (1, 10), (2, 20)]
    assert len(starts) == 1
    assert list(runner.over([], start)) == []
    assert isinstance(runner, ShardRunner)


def test_one_worker_goes_no_further_than_its_results_are_taken() -> None:
    done: list[int] = []
    results = LocalRunner().over(range(5), lambda: done.append)
    next(results)
    assert done == [0]


def test_an_error_is_raised_and_what_waits_is_not_begun() -> None:
    begun: list[int] = []
    held = threading.Event()

    def work(item: int) -> int:
        begun.append(item)
        if item == 0:
            raise DataError("broken")
        held.wait(10)
        return item

    def taken() -> None:
        try:
            list(LocalRunner(2).over(range(50), lambda: work))
        finally:
            held.set()

    threading.Timer(0.2, held.set).start()
    with pytest.raises(DataError, match="broken"):
        taken()
    assert len(begun) < 50


def test_no_worker_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one"):
        LocalRunner(0)
