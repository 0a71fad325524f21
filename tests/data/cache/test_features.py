from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from binderclip.data.cache import shards as module
from binderclip.data.cache.features import FeatureCache, cache_info, cache_root, clear_cache, content_hash
from binderclip.errors import DataError, UsageError


@pytest.fixture(autouse=True)
def _no_warnings() -> None:
    warnings.simplefilter("error", RuntimeWarning)


def shards(cache: FeatureCache, column: str = "features") -> list[Path]:
    return sorted((cache.folder / column).glob("*.safetensors"))


def names(n: int, start: int = 0) -> list[str]:
    return [content_hash(str(i).encode()) for i in range(start, start + n)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool])
def test_what_was_put_comes_back_in_another_object(tmp_path: Path, dtype: torch.dtype) -> None:
    keys, values = names(50), (torch.randn(50, 3, 4) * 5).to(dtype)
    FeatureCache("model", "image", tmp_path).put(keys, values)
    got = FeatureCache("model", "image", tmp_path).get([*keys[::-1], "absent"])
    assert set(got) == set(keys)
    assert all(torch.equal(got[key], value) for key, value in zip(keys, values, strict=True))
    assert got[keys[0]].dtype == dtype


def test_models_views_and_columns_are_apart(tmp_path: Path) -> None:
    caches = [FeatureCache(f, v, tmp_path) for f in ("a/b", "a-b", "a:b") for v in ("image", "image@flip")]
    for number, cache in enumerate(caches):
        cache.put(["k"], np.array([number]))
        cache.put(["k"], np.array([[0.5, number]]), column="aesthetic")
    for number, cache in enumerate(caches):
        assert cache.get(["k"])["k"].item() == number
        assert cache.get(["k"], "aesthetic")["k"].tolist() == [0.5, number]
        assert cache.columns() == ["aesthetic", "features"]


def test_later_values_win_also_after_merging(tmp_path: Path) -> None:
    cache = FeatureCache("m", "v", tmp_path)
    for turn in range(120):
        cache.put([f"k{turn % 7}", "last"], torch.tensor([float(turn), float(turn)]))
    assert len(shards(cache)) < module._MANY
    fresh = FeatureCache("m", "v", tmp_path).get(["last", *(f"k{i}" for i in range(7))])
    assert fresh["last"].item() == 119
    assert [fresh[f"k{i}"].item() for i in range(7)] == [119 - (119 - i) % 7 for i in range(7)]


def test_rows_of_different_shapes_live_in_one_column_and_survive_merging(tmp_path: Path) -> None:
    cache = FeatureCache("m", "v", tmp_path)
    for i in range(100):
        cache.put([f"k{i}"], torch.full((1, 1 + i % 3), float(i)))
    got = cache.get([f"k{i}" for i in range(100)])
    assert all(got[f"k{i}"].tolist() == [float(i)] * (1 + i % 3) for i in range(100))
    assert len(shards(cache)) < module._MANY


def test_fetch_computes_each_missing_key_once(tmp_path: Path) -> None:
    cache, asked = FeatureCache("m", "v", tmp_path), []

    def compute(rows: list[int]) -> torch.Tensor:
        asked.append(rows)
        return torch.tensor([[float(len(keys[row]))] for row in rows])

    keys = ["a", "bb", "a", "ccc"]
    assert cache.fetch(keys, compute).tolist() == [[1], [2], [1], [3]]
    assert cache.fetch(keys[::-1], compute).tolist() == [[3], [1], [2], [1]]
    keys = ["a", "dddd"]
    assert cache.fetch(keys, compute).tolist() == [[1], [4]]
    assert asked == [[0, 1, 3], [1]]


def test_a_flipped_bit_is_noticed_and_computed_again(tmp_path: Path) -> None:
    keys, values = names(20), torch.randn(20, 16)
    FeatureCache("m", "v", tmp_path).put(keys, values)
    (shard,) = shards(FeatureCache("m", "v", tmp_path))
    content = bytearray(shard.read_bytes())
    place = bytes(content).find(values[7].numpy().tobytes())
    content[place + 5] ^= 4
    shard.write_bytes(bytes(content))
    cache = FeatureCache("m", "v", tmp_path)
    with pytest.warns(RuntimeWarning, match="1 entries of the cache are damaged"):
        got = cache.get(keys)
    assert set(got) == set(keys) - {keys[7]}
    again = cache.fetch(keys, lambda rows: values[rows])
    assert torch.equal(again, values)
    assert torch.equal(FeatureCache("m", "v", tmp_path).fetch(keys, lambda rows: values[rows] * 0), values)


def test_every_single_damaged_byte_is_harmless(tmp_path: Path) -> None:
    """Whatever byte of a shard is changed, a wrong value is never returned."""
    keys, values = names(4), torch.arange(12.0).reshape(4, 3)
    FeatureCache("m", "v", tmp_path).put(keys, values)
    (shard,) = shards(FeatureCache("m", "v", tmp_path))
    whole = shard.read_bytes()
    warnings.simplefilter("ignore", RuntimeWarning)
    for place in range(0, len(whole), 3):
        content = bytearray(whole)
        content[place] ^= 0x11
        shard.write_bytes(bytes(content))
        got = FeatureCache("m", "v", tmp_path).get(keys)
        for key, value in got.items():
            assert torch.equal(value, values[keys.index(key)])
        shard.write_bytes(whole)


@pytest.mark.parametrize("content", [b"", b"\x00" * 40, b"not a shard at all, but long enough to be read"])
def test_an_unreadable_shard_is_removed_with_a_warning(tmp_path: Path, content: bytes) -> None:
    cache = FeatureCache("m", "v", tmp_path)
    cache.put(["a"], torch.ones(1, 2))
    cache.put(["b"], torch.ones(1, 2))
    damaged = shards(cache)[0]
    damaged.write_bytes(content)
    with pytest.warns(RuntimeWarning, match="is damaged and is removed"):
        got = FeatureCache("m", "v", tmp_path).get(["a", "b"])
    assert set(got) == {"b"}
    assert not damaged.exists()


def test_a_truncated_shard_is_removed_with_a_warning(tmp_path: Path) -> None:
    cache = FeatureCache("m", "v", tmp_path)
    cache.put(names(10), torch.ones(10, 8))
    (shard,) = shards(cache)
    shard.write_bytes(shard.read_bytes()[:-40])
    with pytest.warns(RuntimeWarning, match="damaged"):
        assert FeatureCache("m", "v", tmp_path).get(names(10)) == {}


def test_a_full_disk_is_a_short_error_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = FeatureCache("m", "v", tmp_path)
    cache.put(["a"], torch.ones(1, 2))
    real = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        real(self, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DataError, match="No space left on device; free some space") as caught:
        cache.put(["b"], torch.ones(1, 2))
    assert len(str(caught.value).splitlines()) == 1
    with pytest.warns(RuntimeWarning, match="computed but not cached"):
        assert cache.fetch(["a", "b"], lambda rows: torch.full((1, 2), 2.0)).tolist() == [[1, 1], [2, 2]]
    monkeypatch.undo()
    assert set(FeatureCache("m", "v", tmp_path).get(["a", "b"])) == {"a"}
    assert not [path for path in cache.folder.rglob("*") if path.suffix == ".tmp"]


def test_really_full_disk() -> None:
    """/dev/full stands for a disk without space where the system has it."""
    with pytest.raises(OSError, match="space"), open("/dev/full", "wb", buffering=0) as file:
        file.write(b"x")


WORKER = """
    import sys, torch
    from binderclip.data.cache.features import FeatureCache
    root, me, turns = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    cache = FeatureCache("m", "v", root)
    for turn in range(turns):
        keys = [f"{me}-{turn}-{row}" for row in range(3)] + [f"shared-{turn}"]
        cache.put(keys, torch.tensor([[float(me), turn, row] for row in range(3)] + [[-1.0, turn, -1.0]]))
        for other in range(3):
            for key, value in cache.get([f"{other}-{turn}-{row}" for row in range(3)] + [f"shared-{turn}"]).items():
                want = [-1, turn, -1] if key.startswith("shared") else [int(part) for part in key.split("-")]
                assert value.tolist() == want, (key, value)
    mine = cache.get([f"{me}-{turn}-{row}" for turn in range(turns) for row in range(3)])
    assert len(mine) == 3 * turns, len(mine)
"""


def spawn(root: Path, me: int, turns: int) -> subprocess.Popen:
    code = textwrap.dedent(WORKER)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error::RuntimeWarning"}
    return subprocess.Popen([sys.executable, "-c", code, str(root), str(me), str(turns)], env=environment)


def test_several_processes_write_read_and_merge_at_once(tmp_path: Path) -> None:
    running = [spawn(tmp_path, me, 20) for me in range(3)]
    assert [process.wait(timeout=120) for process in running] == [0] * 3
    cache = FeatureCache("m", "v", tmp_path)
    assert len(cache.keys()) == 3 * 20 * 3 + 20
    assert len(cache.get(cache.keys())) == 200


def test_a_killed_writer_leaves_nothing_half_written(tmp_path: Path) -> None:
    process = spawn(tmp_path, 0, 100_000)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(list(tmp_path.rglob("*.safetensors"))) < 5:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    cache = FeatureCache("m", "v", tmp_path)
    written = cache.keys()
    for key, value in cache.get([key for key in written if key.startswith("0-")]).items():
        assert value.tolist() == [int(part) for part in key.split("-")]
    cache.put(["after"], torch.ones(1, 3))
    assert FeatureCache("m", "v", tmp_path).get(["after"])


def test_info_and_clear_touch_only_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BINDERCLIP_CACHE", str(tmp_path))
    assert cache_root() == tmp_path
    assert cache_info().entries == ()
    (tmp_path / "thesis.txt").write_text("mine")
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "notes.txt").write_text("mine too")
    for model in ("open_clip:ViT-B-32/openai", "small"):
        FeatureCache(model, "image").put(names(10), torch.zeros(10, 100))
        FeatureCache(model, "image").put(names(4, start=8), torch.zeros(4), column="score")
    info = cache_info()
    assert [(entry.fingerprint, entry.view, entry.entries) for entry in info.entries] == [
        ("open_clip:ViT-B-32/openai", "image", 12),
        ("small", "image", 12),
    ]
    on_disk = sum(path.stat().st_size for path in (tmp_path / "features").glob("*/*/**/*") if path.is_file())
    assert info.megabytes == pytest.approx(on_disk / 1e6)
    assert json.loads(json.dumps(info.as_dict()))["views"][1]["columns"] == ["features", "score"]
    assert info.rows()[1][:2] == ("small image", "12")
    assert clear_cache(fingerprint="small") == info.entries[1].size
    assert FeatureCache("small", "image").get(names(10)) == {}
    assert clear_cache() == info.entries[0].size
    assert cache_info().entries == ()
    assert (tmp_path / "thesis.txt").read_text() == "mine"
    assert (tmp_path / "features" / "notes.txt").exists()


def test_a_cache_cleared_under_a_reader_and_writer_goes_on(tmp_path: Path) -> None:
    cache = FeatureCache("m", "v", tmp_path)
    cache.put(["a"], torch.ones(1))
    clear_cache(tmp_path)
    assert cache.get(["a"]) == {}
    cache.put(["b"], torch.ones(1))
    assert cache.keys() == ["b"]
    assert cache_info(tmp_path).entries[0].entries == 1


def test_content_hash_tells_contents_apart(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert content_hash(tmp_path / "x") == content_hash(str(tmp_path / "x")) == content_hash(b"abc")
    array = np.arange(6, dtype=np.float32)
    others = [array.reshape(2, 3), array.reshape(3, 2), array.astype(np.float64), array.view(np.int32), array + 1]
    assert len({content_hash(array), *(content_hash(other) for other in others)}) == 6
    assert content_hash(array) == content_hash(torch.from_numpy(array))
    with pytest.raises(DataError, match="No such file"):
        content_hash(tmp_path / "absent")


def test_mistakes_are_named(tmp_path: Path) -> None:
    cache = FeatureCache("m", "v", tmp_path)
    with pytest.raises(UsageError, match="2 keys"):
        cache.put(["a", "b"], torch.zeros(3, 2))
    with pytest.raises(UsageError, match="column"):
        cache.get(["a"], column="../elsewhere")
    with pytest.raises(UsageError, match="not empty"):
        cache.put([""], torch.zeros(1))
    with pytest.raises(UsageError, match="fingerprint"):
        FeatureCache("", "v")


def test_a_shard_that_goes_while_it_is_read_is_looked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process merges the shards between the listing and the reading, as torch reports it: a RuntimeError."""
    cache = FeatureCache("m", "v", tmp_path)
    cache.put(["a"], torch.ones(1, 2))
    cache.put(["b"], torch.ones(1, 2))
    real, gone = module.safe_open, []

    def vanishing(path: Path, **options: str) -> object:
        if not gone:
            gone.append(path)
            moved = path.with_name(module.shard_name(int(path.name.split("-")[0])))
            path.rename(moved)
            raise RuntimeError(f"unable to open file <{path}> in read-only mode: No such file or directory (2)")
        return real(path, **options)

    monkeypatch.setattr(module, "safe_open", vanishing)
    assert set(cache.get(["a", "b"])) == {"a", "b"}
    assert gone
