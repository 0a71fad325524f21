"""`ShardRunner`: the same work on every shard, wherever it runs; `LocalRunner` runs it here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

from binderclip.errors import UsageError

Item = TypeVar("Item")
Result = TypeVar("Result")


@runtime_checkable
class ShardRunner(Protocol):
    """Runs work on items, such as shards. What an item leaves behind (a file, say) is its checkpoint."""

    def over(
        self, items: Sequence[Item], start: Callable[[], Callable[..., Result]], shared: Any = None
    ) -> Iterator[tuple[Item, Result]]:
        """Work on every item.

        Args:
            items: small descriptions of what is to be done.
            start: called once a worker, before its first item; gives the work, with whatever it holds (a model).
            shared: what the work on each item is given beside it, sent to a machine once; None for nothing.

        Yields:
            (item, result) as they are done, in any order.
        """
        ...


@dataclass(frozen=True)
class LocalRunner:
    """Runs work in threads of this process; results come in the order of the items.

    Args:
        workers: items that are worked on at once; 1 works on each when its result is asked for.

    Raises:
        UsageError: fewer than one worker.

    Examples:
        >>> from binderclip.data import LocalRunner
        >>> dict(LocalRunner(workers=2).over([1, 2, 3], lambda: lambda number: number**2))
        {1: 1, 2: 4, 3: 9}
    """

    workers: int = 1

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise UsageError(f"workers is {self.workers}; at least one does the work")

    def over(
        self, items: Sequence[Item], start: Callable[[], Callable[..., Result]], shared: Any = None
    ) -> Iterator[tuple[Item, Result]]:
        """See `ShardRunner`; all threads share what `start` gives."""
        begun = start()
        work = begun if shared is None else lambda item: begun(item, shared)
        if self.workers == 1:
            yield from ((item, work(item)) for item in items)
            return
        pool = ThreadPoolExecutor(self.workers)
        try:
            yield from zip(items, pool.map(work, items), strict=True)
        finally:
            pool.shutdown(cancel_futures=True)
