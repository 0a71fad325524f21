"""Work on a real Ray cluster of two workers, one of which is killed in the middle: the result is the local run's.

All tests that need Ray are here, and share one cluster; workers are killed by what they run, so nothing is timed.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from binderclip import load
from binderclip.curate import (
    KeySelection,
    LateModel,
    embed_shards,
    open_table,
)
from binderclip.data import LocalRunner, RayRunner, load_data, write_shards
from binderclip.data.parallel import ray_runner
from binderclip.errors import DataError, MissingDependency, UsageError
from binderclip.search import SearchIndex
from binderclip.tasks.cluster import shard_runner

pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayRunner]:
    with RayRunner("local", workers=2) as runner:
        yield runner


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pool")
    write_shards(load_data("noto-emoji", split="val")[:40], folder / "x-%02d.tar", per_shard=8)
    whole = (folder / "x-04.tar").read_bytes()
    (folder / "y.tar").write_bytes(whole[: len(whole) // 3])  # broken, and its samples named as others are
    return folder


def _killed_once(mark: Path, call: int) -> Callable[[], Callable[[int], Any]]:
    """Start of a work that squares; the first worker that comes to `call` is killed there as by `kill -9`."""

    def start() -> Callable[[int], Any]:
        def work(item: int) -> tuple[int, int]:
            if item == call and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return item**2, os.getpid()

        return work

    return start


def test_a_killed_worker_costs_its_item_alone(cluster: RayRunner, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="a worker was lost; item 4 of 12 is done again"):
        found = list(cluster.over(range(12), _killed_once(tmp_path / "mark", 3)))
    assert {item: square for item, (square, _) in found} == {item: item**2 for item in range(12)}
    assert len(found) == 12
    assert os.getpid() not in {pid for _, (_, pid) in found}


def test_an_item_that_kills_every_worker_ends_the_run(cluster: RayRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_runner, "RETRIES", 1)

    def start() -> Callable[[int], None]:
        return lambda item: os.kill(os.getpid(), signal.SIGKILL)

    with pytest.warns(UserWarning, match="a worker was lost"), pytest.raises(DataError, match="lost 2 times at 7"):
        list(cluster.over([7], start))


def test_what_work_raises_is_raised_here(cluster: RayRunner) -> None:
    def start() -> Callable[[int], float]:
        def work(item: int) -> float:
            if item == 2:
                raise DataError(f"item {item} is damaged")
            return 1 / item

        return work

    with pytest.raises(DataError, match=r"^item 2 is damaged$"):
        list(cluster.over([1, 2], start))
    with pytest.raises(ZeroDivisionError):
        list(cluster.over([0], start))


def _loader(folder: Path, mark: Path) -> Callable[[], Any]:
    """Loads a model that kills its process at its second shard, the first that comes there."""

    def loaded() -> Any:
        model, encode, calls = load(str(folder)), None, [0]
        encode = model.encode_files

        def encode_files(*args: Any, **options: Any) -> Any:
            calls[0] += 1
            if calls[0] == 2 and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return encode(*args, **options)

        model.encode_files = encode_files
        return model

    return loaded


def _parts(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["uid"]: row for file in sorted(folder.glob("*.parquet")) for row in pq.read_table(file).to_pylist()}


def test_embeddings_are_those_of_a_local_run_key_by_key(
    cluster: RayRunner, shards: Path, tiny_clip: Callable[[int], Path], tmp_path: Path
) -> None:
    pool = open_table(str(shards))
    here = embed_shards(pool, tmp_path / "here", load(str(tiny_clip(1))))
    late = LateModel(_loader(tiny_clip(1), tmp_path / "mark"))
    with pytest.warns(UserWarning, match="a worker was lost"):
        there = embed_shards(pool, tmp_path / "there", late, runner=cluster)
    assert (tmp_path / "mark").exists()
    assert (there.samples, there.skipped) == (here.samples, here.skipped)
    assert here.skipped[0][0].endswith("y.tar")
    # Parts that were finished before the kill are found by nobody again: the lost shard alone was repeated.
    assert (there.computed, there.found) == (6, 0)
    expected, found = _parts(tmp_path / "here"), _parts(tmp_path / "there")
    assert list(found) == list(expected)
    for uid, row in expected.items():
        assert (found[uid]["name"], found[uid]["text"]) == (row["name"], row["text"])
        for column in ("image_embedding", "caption_embedding"):
            assert np.allclose(found[uid][column], row[column], atol=1e-3, equal_nan=True)


def test_a_selection_is_that_of_a_local_run_key_by_key(
    cluster: RayRunner, shards: Path, tiny_clip: Callable[[int], Path], command: Callable[..., Any], tmp_path: Path
) -> None:
    cluster.release()  # the command's own workers need the room
    (tmp_path / "mine.toml").write_text(
        """
        [[stage]]
        name = "threshold"
        column = "words"
        minimum = 2
        [[stage]]
        name = "top-fraction"
        column = "clip_score"
        fraction = 0.6
        [[stage]]
        name = "top-fraction"
        column = "masked_clip_score"
        fraction = 0.5
        """
    )
    work = ("curate", str(shards / "x-{00..04}.tar"), "--recipe", "mine.toml", "--model", tiny_clip(1))
    here = command(*work, "--out", "here", "--json").json()
    there = command(*work, "--out", "there", "--json", "--ray", "local", "--workers", 2).json()
    assert 0 < here["kept"] < here["stages"][1]["kept"] < here["entered"]
    assert [stage["kept"] for stage in there["stages"]] == [stage["kept"] for stage in here["stages"]]
    rows = [pq.read_table(tmp_path / name / "samples.parquet").to_pydict() for name in ("here", "there")]
    assert rows[0]["uid"] == rows[1]["uid"]
    for column in ("clip_score", "masked_clip_score"):
        one, other = (np.array(each[column], float) for each in rows)
        assert np.isfinite(one).any()
        assert np.allclose(one, other, atol=1e-5, equal_nan=True)
    assert KeySelection.load(tmp_path / "here/selection.npy") == KeySelection.load(tmp_path / "there/selection.npy")
    # Pictures were encoded once, for the stage that first asked, and by no process that also asked for the result.
    assert len(list((tmp_path / "there" / "columns").glob("image_embedding-*.arrow"))) == 5
    assert not list((tmp_path / "here" / "columns").glob("image_embedding-*.arrow"))


def _never_here(driver: int, name: str) -> Any:
    assert os.getpid() != driver, "the model was loaded by the process that asked"
    return load(name)


def test_an_index_is_that_of_a_local_run(cluster: RayRunner, tiny_clip: Callable[[int], Path], tmp_path: Path) -> None:
    pytest.importorskip("lancedb")
    (tmp_path / "photos").mkdir()
    for number, sample in enumerate(load_data("noto-emoji", split="val")[:12]):
        sample.image.save(tmp_path / "photos" / f"{number:02d}.png")
    (tmp_path / "photos" / "broken.png").write_bytes(b"none")
    model = load(str(tiny_clip(1)))
    here, there = (SearchIndex(tmp_path / name, model) for name in ("here", "there"))
    one = here.update(tmp_path / "photos", batch_size=16)
    loaded = partial(_never_here, os.getpid(), str(tiny_clip(1)))
    other = there.update(tmp_path / "photos", batch_size=16, runner=cluster, worker_model=loaded)
    assert vars(other) == vars(one)
    assert (one.added, len(one.skipped)) == (12, 1)
    for query in ("a face", tmp_path / "photos" / "03.png"):
        found, wanted = there.query(query, top=12), here.query(query, top=12)
        assert {hit.path: pytest.approx(hit.score, abs=1e-5) for hit in wanted} == {
            hit.path: hit.score for hit in found
        }
    again = there.update(tmp_path / "photos", runner=cluster, worker_model=loaded)
    assert (again.encoded, again.unchanged) == (0, 12)


class _NoRoom:
    """Stands for Ray where the machine of the first worker is gone for good: no third one ever answers."""

    class exceptions:
        class RayError(Exception): ...

        class RayTaskError(Exception): ...

    def __init__(self) -> None:
        self.actors = 0

    def put(self, value: Any) -> Any:
        return value

    def kill(self, actor: Any) -> None:
        """Nothing is left of it."""

    def remote(self, **_: Any) -> Any:
        def made(start: Any, folder: str) -> Any:
            self.actors += 1
            name, work = self.actors, start()
            ready = SimpleNamespace(remote=lambda: (name, "ready", None))
            return SimpleNamespace(ready=ready, work=SimpleNamespace(remote=lambda item: (name, item, work(item))))

        return lambda _: SimpleNamespace(remote=made)

    def wait(self, calls: list[Any], num_returns: int) -> tuple[list[Any], None]:
        able = [call for call in calls if call[0] < 3]
        assert able, "everything waits for a worker that never comes"
        # What the first worker has to do is lost only when the second has nothing left to do.
        return [max(able, key=lambda call: (call[1] == "ready", call[0]))], None

    def get(self, call: Any) -> Any:
        if call[0] == 1 and call[1] != "ready":
            raise self.exceptions.RayError("its machine is gone")
        return call[2]


def test_what_a_lost_worker_left_goes_to_one_that_is_idle() -> None:
    runner = RayRunner.__new__(RayRunner)
    vars(runner).update(_ray=_NoRoom(), _own=False, gpus=0.0, workers=2, _start=None, _sent=None, _actors=[])
    with pytest.warns(UserWarning, match="a worker was lost"):
        found = dict(runner.over([5, 6], lambda: lambda item: item + 1))
    assert found == {5: 6, 6: 7}


def test_addresses_and_a_missing_package_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with shard_runner(None, None, "cpu") as runner:
        assert runner is None
    with pytest.raises(UsageError, match="at least one"):
        RayRunner("local", workers=0)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(UsageError, match="is no Ray cluster: write local, auto"):
        RayRunner("somewhere")
    with pytest.raises(DataError, match=r"no Ray cluster at 127\.0\.0\.1:9: "):
        RayRunner("127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependency, match=r"binderclip\[cluster\]"), shard_runner("local", 2, "cpu"):
        pass
    assert dict(LocalRunner().over([2], lambda: lambda item: item + 1)) == {2: 3}


@pytest.mark.parametrize(
    ("address", "said"),
    [("local", "Ray did not start on this machine"), ("auto", "no Ray cluster at auto")],
)
def test_a_start_that_takes_too_long_is_one_line(monkeypatch: pytest.MonkeyPatch, address: str, said: str) -> None:
    """Ray raises `Exception` itself then, with several lines."""

    def slow(**options: Any) -> None:
        raise Exception("The current node timed out during startup.\nThis could happen because ...")

    ended: list[int] = []
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", slow)
    monkeypatch.setattr("ray.shutdown", lambda: ended.append(1))
    with pytest.raises(DataError, match=rf"^{said}: The current node timed out during startup\.$"):
        RayRunner(address)
    assert ended == [1]
