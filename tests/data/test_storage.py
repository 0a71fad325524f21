"""Objects on a real S3 server of this machine: shards, columns, embeddings; and what is said where it refuses.

One server for all tests of the file. Keys are checked only where a test asks for it.
"""

from __future__ import annotations

import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from binderclip import load
from binderclip.curate import ColumnStore, KeySelection, embed_shards, open_table
from binderclip.data import ShardDataset, load_data, write_shards
from binderclip.data import storage as s3
from binderclip.data.sets.shards import read_shard
from binderclip.errors import DataError

pytest.importorskip("moto.server")
Command = Callable[..., Any]


@pytest.fixture
def shards(bucket: str, tmp_path: Path) -> str:
    paths = write_shards(load_data("noto-emoji", split="val")[:18], tmp_path / "local" / "x-%02d.tar", per_shard=6)
    for path in paths:
        s3.upload(path, f"{bucket}/pool/{path.name}")
    return f"{bucket}/pool"


def test_bytes_come_back_and_states_tell_versions_apart(bucket: str, tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(9 << 20)  # more than one request
    s3.write_object(f"{bucket}/a/b.bin", content)
    assert s3.read_object(f"{bucket}/a/b.bin") == content
    with s3.open_object(f"{bucket}/a/b.bin") as stream:
        assert stream.read(5) + stream.read() == content
    before = s3.object_state(f"{bucket}/a/b.bin")
    s3.write_object(f"{bucket}/a/b.bin", content[:-1])
    assert s3.object_state(f"{bucket}/a/b.bin") != before != ""
    s3.write_object(f"{bucket}/a/c/d.tar", b"1")
    assert s3.list_objects(f"{bucket}/a/", (".bin", ".tar")) == [f"{bucket}/a/b.bin", f"{bucket}/a/c/d.tar"]
    assert s3.list_objects(f"{bucket}/nothing", (".tar",)) == []
    assert (s3.read_object(f"{bucket}/none"), s3.object_state(f"{bucket}/none")) == (None, "")
    assert s3.join_place(f"{bucket}/", "x") == f"{bucket}/x"
    assert s3.join_place(tmp_path, "x") == tmp_path / "x"


def test_shards_hold_the_samples_of_the_files_they_are_copies_of(shards: str, tmp_path: Path) -> None:
    here = list(ShardDataset(str(tmp_path / "local" / "x-{00..02}.tar")))
    for spec in (f"{shards}/x-{{00..02}}.tar", f"{shards}/"):
        there = list(load_data(spec))
        assert [sample.key for sample in there] == [sample.key for sample in here]
        assert all(np.array_equal(a.image, b.image) for a, b in zip(here, there, strict=True))
    # A missing shard costs itself, as a missing file does.
    streamed = load_data(f"{shards}/x-{{01..03}}.tar")
    assert len(list(streamed)) == 12
    assert streamed.skipped == [(f"{shards}/x-03.tar", "no such file")]


def test_embeddings_and_columns_live_there_too(
    shards: str, bucket: str, tiny_clip: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(str(tiny_clip(1)))
    embed_shards(open_table(str(tmp_path / "local")), tmp_path / "out", model)
    first = embed_shards(open_table(shards), f"{bucket}/out", model)
    assert (first.samples, first.computed, first.found) == (18, 3, 0)
    for path in (tmp_path / "out").glob("*.parquet"):
        with s3.open_place(f"{bucket}/out/{path.name}") as file:
            assert pq.read_table(file).equals(pq.read_table(path))
    s3.upload(tmp_path / "local" / "x-00.tar", f"{shards}/x-01.tar")  # another content
    # Of a part that is there its footer is read, not its embeddings.
    whole = s3.read_object

    def counted(url: str) -> bytes | None:
        assert not url.endswith(".parquet")
        return whole(url)

    monkeypatch.setattr(s3, "read_object", counted)
    again = embed_shards(open_table(shards), f"{bucket}/out", model)
    assert (again.computed, again.found) == (1, 2)
    store, calls = ColumnStore(f"{bucket}/columns"), []
    for _ in range(2):
        found = store.fetch("n", "stamp", lambda: calls.append(1) or {"n": np.arange(3), "t": ["a", "b", None]})
    assert (found["n"].tolist(), found["t"], calls) == ([0, 1, 2], ["a", "b", None], [1])


def test_curate_reads_there_and_writes_there(shards: str, bucket: str, command: Command, tmp_path: Path) -> None:
    recipe = ("--recipe", "exact-duplicates", "--shards")
    here = command("curate", "local", *recipe, "--out", "out", "--json").json()
    there = command("curate", shards, *recipe, "--out", f"{bucket}/out", "--json").json()
    assert there["files"] == [f"{bucket}/{file}" for file in here["files"]]
    for file in ("selection.npy", "shards/x-02.tar"):
        content = s3.read_object(f"{bucket}/out/{file}")
        assert content == (tmp_path / "out" / file).read_bytes()
    assert len(KeySelection.load(tmp_path / "out" / "selection.npy")) == here["kept"] == there["kept"] > 0
    assert any("columns/" in url for url in s3.list_objects(f"{bucket}/out", (".arrow",)))
    inside = command("curate", shards, *recipe, "--out", f"{shards}/out")
    assert (inside.code, "lies inside the pool" in inside.err) == (2, True)


def _check_keys_after(server: str, requests: bytes) -> None:
    plain = {"Content-Type": "text/plain"}
    ask = urllib.request.Request(f"{server}/moto-api/reset-auth", requests, plain, method="POST")
    urllib.request.urlopen(ask).read()


def test_a_server_that_refuses_says_so_in_a_line_and_costs_nothing_that_was_done(
    shards: str, bucket: str, server: str, command: Command, tiny_clip: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = ("embed", f"{shards}/x-{{00..02}}.tar", "--model", tiny_clip(1), "--out")
    missing = command(*work, "s3://no-such/out")
    assert (missing.code, missing.err.splitlines()[-1]) == (
        1, f"error: s3://no-such/out/embeddings.json: there is no such bucket (server {server})",
    )  # fmt: skip
    nothing = command("embed", "s3://no-such/pool/", "--out", "out")
    assert (nothing.code, "there is no such bucket" in nothing.err) == (1, True)
    empty = command("embed", f"{bucket}/nothing/", "--out", "out")
    assert (empty.code, "no shards (.tar) below" in empty.err) == (1, True)
    assert command(*work, f"{bucket}/out").code == 0
    kept = s3.list_objects(f"{bucket}/out", (".parquet",))
    # Without one that may read them, with IAM as it is on the real thing.
    _check_keys_after(server, b"0")
    try:
        denied = command("embed", f"{shards}/", "--out", "out", "--model", tiny_clip(1))
        assert (denied.code, "AWS_ACCESS_KEY_ID" in denied.err) == (1, True), denied.err
    finally:
        _check_keys_after(server, b"inf")
    assert s3.list_objects(f"{bucket}/out", (".parquet",)) == kept
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    away = command(*work, "out")
    assert (away.code, "x-00.tar: the server cannot be reached (server http://127.0.0.1:9)" in away.err) == (1, True)
    # A shard that cannot be reached is not one that was damaged: it must not be left out.
    with pytest.raises(DataError, match="cannot be reached"):
        list(read_shard(f"{shards}/x-00.tar"))


def test_an_address_without_a_bucket_is_refused(bucket: str) -> None:
    with pytest.raises(DataError, match="names no bucket"):
        s3.read_object("s3:///key")
