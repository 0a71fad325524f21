"""`binderclip embed` through its entry point: what it says and leaves, and what it refuses before any work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from binderclip.data import load_data, write_shards

Command = Callable[..., Any]


@pytest.fixture
def shards(tmp_path: Path) -> str:
    write_shards(load_data("noto-emoji", split="val")[:9], tmp_path / "pool" / "x-%02d.tar", per_shard=5)
    (tmp_path / "pool" / "y.tar").write_bytes((tmp_path / "pool" / "x-01.tar").read_bytes()[:300])
    return "pool"


def test_parts_a_count_and_what_was_skipped(command: Command, shards: str, tiny_clip: Any, tmp_path: Path) -> None:
    model = tiny_clip(1)
    first = command("embed", shards, "--out", "out", "--model", model, "--stored", "float32", "--json").json()
    assert (first["samples"], first["computed"], first["found"]) == (9, 2 + 1, 0)
    assert [key for key, _ in first["skipped"]] == ["pool/y.tar"]
    rows = pq.read_table(tmp_path / "out" / "x-00.parquet")
    assert rows.column_names == ["uid", "name", "text", "image_embedding", "caption_embedding"]
    again = command("embed", shards, "-o", "out", "-m", model, "--stored", "float32", "--workers", 2)
    assert again.code == 0
    assert "9 samples" in again.out
    assert "truncated" in again.err
    scored = command(
        "curate", "out", "--recipe", "datacomp-clip-score", "--set", "stage.0.fraction=0.5", "--json"
    ).json()
    assert (scored["entered"], scored["kept"]) == (9, 4)


def test_it_refuses_before_any_work(command: Command, shards: str, tiny_clip: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for words, said in (
        ((shards, "--out", "pool/inside"), "lies inside the pool"),
        ((shards, "--out", "file"), "is a file"),
        (("missing", "--out", "out"), "no data set"),
        ((shards, "--out", "out", "--model", "nothing-like-it"), "nothing-like-it"),
    ):
        done = command("embed", *words)
        assert done.code in (1, 2)
        assert said in done.err
        assert not (tmp_path / "out").exists()


def test_pictures_alone_are_taken_on_request(command: Command, tiny_clip: Any, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number, sample in enumerate(load_data("noto-emoji", split="val")[:3]):
        sample.image.save(tmp_path / "photos" / f"{number}.png")
    (tmp_path / "photos" / "broken.png").write_bytes(b"none")
    words = ("embed", "photos", "--out", "out", "--model", tiny_clip(1))
    refused = command(*words)
    assert refused.code == 1
    assert "embed --no-captions" in refused.err
    assert not (tmp_path / "out").exists()
    done = command(*words, "--no-captions", "--json").json()
    assert done["samples"] == 3
    assert [key for key, _ in done["skipped"]] == ["broken.png"]
    rows = pq.read_table(next((tmp_path / "out").glob("*.parquet"))).to_pydict()
    assert rows["text"] == [""] * 3
    assert np.isfinite(rows["image_embedding"]).all()
    assert np.isnan(rows["caption_embedding"]).all()
