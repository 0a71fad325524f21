"""The workers that do a task's work shard by shard."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from binderclip.data import ShardRunner

__all__ = ["shard_runner"]


@contextmanager
def shard_runner(address: str | None, workers: int | None, device: str) -> Iterator[ShardRunner | None]:
    """The workers of a Ray cluster, as long as the block runs; None where no `--ray` was given.

    Args:
        address: of `--ray`.
        workers: of `--workers`.
        device: where models run: on `cuda` each worker has a GPU of its own.

    Raises:
        MissingDependency: Ray is not installed.
        DataError: there is no such cluster.
    """
    if address is None:
        yield None
        return
    from binderclip.data import RayRunner

    with RayRunner(address, workers=workers, gpus=float(device.startswith("cuda"))) as runner:
        yield runner
