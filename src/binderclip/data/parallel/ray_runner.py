"""`RayRunner`: the work of a `ShardRunner` by actors of a Ray cluster, which hold the model.

Plain actors and `ray.wait`, not Ray Data or an actor pool: both bind an item to an actor, which waits for ever where
its machine is gone and no other has room; here a lost actor's item goes to whichever is idle. No data goes through Ray.
"""

from __future__ import annotations

import os
import socket
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from binderclip.errors import DataError, UsageError, require

Item = TypeVar("Item")
Result = TypeVar("Result")
LOCAL = "local"
RETRIES = 3
"""Times that an item is tried again whose worker was lost."""
_OBJECT_STORE = 100 * 2**20
_REACH = 5.0
_SHOWN = 100
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to anybody
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # what Ray tells of lost workers would go to stdout; it is a warning here
}
"""Read by Ray when it is imported."""
_ONLY_HERE = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # as there, a local cluster listens on 127.0.0.1 alone
    "RAY_worker_niceness": "0",  # or its workers would wait for every other process of this machine
}


class RayRunner:
    """Runs work on Ray: `workers` actors, each in a process of its own, started once for the same `start`.

    A worker that is lost (killed, out of memory, its machine gone) costs what it did of its item, which another worker
    does again; a new one is started where there is room. What an error of ours says in a worker is raised here. Files
    are read and written by the workers: they have to see the same paths, or object storage. Machines need the same
    Python, Ray and binderclip.

    Args:
        address: "local" for a cluster of this machine alone, for as long as this object is open; else a head's
            HOST:PORT, `ray://HOST:PORT`, or "auto" for the cluster that this machine is part of.
        workers: actors; default as many as the cluster has processors, or with `gpus` as its GPUs allow.
        gpus: GPUs of each worker, may be a fraction.

    Raises:
        UsageError: fewer than one worker.
        MissingDependency: Ray is not installed.
        DataError: there is no cluster at the address.

    Examples:
        >>> with RayRunner("local", workers=2) as runner:                            # doctest: +SKIP
        ...     dict(runner.over([1, 2, 3], lambda: lambda number: number**2))
        {1: 1, 2: 4, 3: 9}
    """

    def __init__(self, address: str = LOCAL, *, workers: int | None = None, gpus: float = 0.0) -> None:
        if workers is not None and workers < 1:
            raise UsageError(f"workers is {workers}; at least one does the work")
        os.environ.update(_SETTINGS | (_ONLY_HERE if address == LOCAL else {}))
        ray: Any = require("ray", "cluster")
        self._ray, self._own = ray, not ray.is_initialized()
        if self._own:
            self._connect(address, workers)
        self.gpus = gpus
        self.workers = workers or self._room()
        self._start: Callable[[], Any] | None = None
        self._sent: Any = None
        self._actors: list[Any] = []

    def __enter__(self) -> RayRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers, and the cluster where it was started here."""
        self.release()
        if self._own:
            self._ray.shutdown()

    def release(self) -> None:
        """End the workers, so that others have their room; the next call of `over` starts new ones."""
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors.clear()

    def over(
        self, items: Sequence[Item], start: Callable[[], Callable[..., Result]], shared: Any = None
    ) -> Iterator[tuple[Item, Result]]:
        """See `ShardRunner`; `start` and the items are pickled. Workers stay for the next call with the same `start`.

        Arrays of what is shared are in the memory of each machine once, for all its workers, and cannot be written to.

        Raises:
            DataError: an item lost its worker `RETRIES` + 1 times.
            BinderclipError: whatever the work raised.
        """
        ray, errors = self._ray, self._ray.exceptions
        beside = () if shared is None else (ray.put(shared),)
        waiting, lost, idle = deque(range(len(items))), Counter[int](), list[Any]()
        # An actor is given an item when it has answered, not before: it may wait for room for ever.
        running = {actor.ready.remote(): (actor, -1) for actor in self._workers(start, len(items))}
        while waiting or any(number >= 0 for _, number in running.values()):
            (done, *_), _ = ray.wait(list(running), num_returns=1)
            actor, number = running.pop(done)
            try:
                result = ray.get(done)
            except errors.RayTaskError as error:
                raise error.cause from None
            except errors.RayError as error:
                self._actors.remove(actor)
                ray.kill(actor)
                lost[number] += 1
                if lost[number] > RETRIES:
                    what = f"at {str(items[number])[:_SHOWN]}" if number >= 0 else "before they did anything"
                    raise DataError(f"workers were lost {lost[number]} times {what}: {_first_line(error)}") from error
                if number >= 0:
                    warnings.warn(f"a worker was lost; item {number + 1} of {len(items)} is done again", stacklevel=2)
                    waiting.appendleft(number)
                # Whoever is idle may be all that is left: for a new worker there may be no room any more.
                for actor in [*idle, self._new_actor()]:
                    running[actor.ready.remote()] = (actor, -1)
                idle.clear()
                continue
            lost[-1] = 0
            if waiting:
                following = waiting.popleft()
                running[actor.work.remote(items[following], *beside)] = (actor, following)
            else:
                idle.append(actor)
            if number >= 0:
                yield items[number], result

    def _workers(self, start: Callable[[], Any], items: int) -> list[Any]:
        if start is not self._start:
            self.release()
            self._start, self._sent = start, self._ray.put(start)
        while len(self._actors) < min(self.workers, items):
            self._new_actor()
        return list(self._actors)

    def _new_actor(self) -> Any:
        kind = self._ray.remote(num_cpus=1, num_gpus=self.gpus)(_Worker)
        actor = kind.remote(self._sent, os.getcwd())
        self._actors.append(actor)
        return actor

    def _room(self) -> int:
        there = self._ray.cluster_resources()
        count = there.get("GPU", 0) / self.gpus if self.gpus else there.get("CPU", 1)
        if count < 1:
            raise UsageError(f"no machine of the cluster has {self.gpus:g} GPU for a worker: --device cpu runs on any")
        return int(count)

    def _connect(self, address: str, workers: int | None) -> None:
        options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
        if address == LOCAL:
            options |= {"num_cpus": workers or os.cpu_count(), "object_store_memory": _OBJECT_STORE}
            options |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        else:
            _refuse_unreachable(address)
        try:
            self._ray.init(address=address, **options)
        # Ray has no class for this: a start that takes too long is a bare `Exception`, others are its own or gRPC's.
        except Exception as error:
            self._ray.shutdown()  # what of it did start
            where = "Ray did not start on this machine" if address == LOCAL else f"no Ray cluster at {address}"
            raise DataError(f"{where}: {_first_line(error)}") from error


class _Worker:
    """What runs in an actor's process."""

    def __init__(self, start: Callable[[], Callable[..., Any]], folder: str) -> None:
        self._start, self._work = start, None
        if os.path.isdir(folder):
            os.chdir(folder)  # paths mean what they mean to whoever asked

    def ready(self) -> None:
        """Answer."""

    def work(self, item: Any, *beside: Any) -> Any:
        """The result of one item; what it needs is made before the first."""
        if self._work is None:
            self._work = self._start()  # type: ignore[assignment]  # here, so that its errors are those of the work
        return self._work(item, *beside)  # type: ignore[misc]


def _refuse_unreachable(address: str) -> None:
    """Ray itself would try for a minute, and then end the process.

    Raises:
        DataError: nobody listens there.
        UsageError: it is no address.
    """
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f"{address!r} is no Ray cluster: write local, auto, HOST:PORT or ray://HOST:PORT")
    try:
        socket.create_connection((host, int(port)), timeout=_REACH).close()
    except (OSError, OverflowError) as error:
        raise DataError(f"no Ray cluster at {address}: {error}") from error


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
