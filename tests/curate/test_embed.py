"""Embeddings as Parquet: what the model itself says of each sample, once a shard, whatever comes in between."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from binderclip import load
from binderclip.curate import (
    CurationPipeline,
    LateModel,
    ScoreTopFraction,
    embed_shards,
    model_signals,
    open_table,
    uids_of,
)
from binderclip.curate.embed import part_names
from binderclip.data import load_data, open_image, write_shards
from binderclip.errors import DataError, UsageError
from binderclip.models import ImageTextModel

from .pools import ListTable, made_pool


@pytest.fixture
def model(tiny_clip: Callable[[int], Path]) -> ImageTextModel:
    return load(str(tiny_clip(1)))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    write_shards(load_data("noto-emoji", split="val")[:20], tmp_path / "pool" / "x-%02d.tar", per_shard=8)
    return tmp_path / "pool"


def _rows(folder: Path) -> dict[str, dict]:
    return {row["uid"]: row for file in sorted(folder.glob("*.parquet")) for row in pq.read_table(file).to_pylist()}


def _spoil(shard: Path, name: str, content: bytes) -> None:
    """Add a sample whose picture is not one."""
    with tarfile.open(shard, "a") as tar:
        for suffix, data in (("png", content), ("txt", b"a caption")):
            member = tarfile.TarInfo(f"{name}.{suffix}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize(("dtype", "near"), [("float32", 1e-5), ("float16", 1e-3)])
def test_a_row_is_what_the_model_says_of_picture_and_caption(model, shards, tmp_path, dtype, near) -> None:
    report = embed_shards(open_table(str(shards)), tmp_path / "out", model, dtype=dtype)
    assert (report.samples, report.computed, report.found, report.skipped) == (20, 3, 0, [])
    rows = _rows(tmp_path / "out")
    whole = open_table(str(shards))
    for id in whole.ids:
        shard = whole.load(id)
        for uid, name, text, data in zip(
            uids_of(shard.keys), shard.columns["name"], shard.columns["text"], shard.open_pictures(), strict=True
        ):
            row = rows.pop(uid)
            with torch.no_grad():  # one at a time, without the code of signals
                image = model.encode_image([open_image(data).convert("RGB")])[0]
                words = model.encode_text([text])[0]
            assert (row["name"], row["text"]) == (name, text)
            for found, raw in (("image_embedding", image), ("caption_embedding", words)):
                assert np.abs(np.array(row[found]) - (raw / raw.norm()).numpy()).max() < near
    assert not rows
    assert pq.read_schema(next((tmp_path / "out").glob("*.parquet"))).field("image_embedding").type.list_size == 16


def test_what_cannot_be_used_costs_itself_and_is_told(model, shards, tmp_path) -> None:
    _spoil(shards / "x-00.tar", "no-picture", b"these bytes are none")
    whole = (shards / "x-01.tar").read_bytes()
    (shards / "x-01.tar").write_bytes(whole[: len(whole) // 2])
    urls = str(shards / "x-{00..03}.tar")  # the last was never there
    for again in (False, True):
        report = embed_shards(open_table(urls), tmp_path / "out", model)
        told = {key.rpartition("/")[2]: reason for key, reason in report.skipped}
        assert set(told) == {"x-00.tar:no-picture", "x-01.tar", "x-03.tar"}
        assert "image" in told["x-00.tar:no-picture"]
        assert "truncated" in told["x-01.tar"]
        assert "no such file" in told["x-03.tar"]
        assert 8 + 4 < report.samples < 20
        assert (report.found == 3) == again
    assert len(_rows(tmp_path / "out")) == report.samples


def _stopping(model: ImageTextModel, stop: int) -> list[int]:
    """Interrupt a model at its `stop`-th call from now on; counts the calls."""
    encode, calls = type(model).encode_files, []

    def encode_files(*args, **options):
        calls.append(len(calls))
        if len(calls) == stop:
            raise KeyboardInterrupt
        return encode(model, *args, **options)

    model.encode_files = encode_files
    return calls


def test_an_interrupted_run_goes_on_with_the_next_shard(model, shards, tmp_path) -> None:
    pool, out = open_table(str(shards)), tmp_path / "out"
    embed_shards(pool, tmp_path / "whole", model)
    _stopping(model, 3)
    with pytest.raises(KeyboardInterrupt):
        embed_shards(pool, out, LateModel(lambda: model))
    assert sorted(path.name for path in out.iterdir()) == ["embeddings.json", "x-00.parquet", "x-01.parquet"]
    calls = _stopping(model, -1)
    report = embed_shards(pool, out, LateModel(lambda: model))
    assert (report.computed, report.found, len(calls)) == (1, 2, 1)
    assert _rows(out) == _rows(tmp_path / "whole")


def test_a_shard_that_changed_is_encoded_again_and_one_that_left_is_told(model, shards, tmp_path) -> None:
    embed_shards(open_table(str(shards)), tmp_path / "out", model)
    write_shards(load_data("noto-emoji", split="val")[30:35], shards / "x-%02d.tar", per_shard=8)
    (shards / "x-02.tar").unlink()
    (tmp_path / "out" / "x-01.parquet").write_bytes(b"damaged")
    report = embed_shards(open_table(str(shards)), tmp_path / "out", model)
    assert (report.samples, report.computed, report.strangers) == (5 + 8, 2, ["x-02.parquet"])


def test_parts_are_a_pool_of_the_same_selection(model, shards, tmp_path) -> None:
    embed_shards(open_table(str(shards)), tmp_path / "out", model, dtype="float32")
    rule = ScoreTopFraction(column="clip_score", fraction=0.4)
    by_shards = CurationPipeline([rule], model_signals(model, root=tmp_path)).run(open_table(str(shards)))
    parts = open_table(str(tmp_path / "out"))

    def never() -> ImageTextModel:
        raise AssertionError("the model was asked")

    assert CurationPipeline([rule], model_signals(LateModel(never))).run(parts).selection == by_shards.selection
    assert len(by_shards.selection) == 8


def test_a_folder_of_pictures_is_a_pool_too(model, tmp_path) -> None:
    data = load_data("noto-emoji", split="val")[:5]
    for sample in data:
        (tmp_path / "photos").mkdir(exist_ok=True)
        sample.image.save(tmp_path / "photos" / f"{len(list((tmp_path / 'photos').glob('*.png')))}.png")
    (tmp_path / "photos" / "0.txt").write_text("")
    for number in range(1, 5):
        (tmp_path / "photos" / f"{number}.txt").write_text("a drawing")
    report = embed_shards(open_table(str(tmp_path / "photos")), tmp_path / "out", model)
    assert report.samples + len(report.skipped) == 5
    rows = list(_rows(tmp_path / "out").values())
    assert [np.isnan(row["caption_embedding"]).any() for row in rows] == [not row["text"] for row in rows]


def test_what_is_refused(model, shards, tmp_path, tiny_clip) -> None:
    pool, out = open_table(str(shards)), tmp_path / "out"
    embed_shards(pool, out, model)
    with pytest.raises(UsageError, match="another --out"):
        embed_shards(pool, out, load(str(tiny_clip(2))))
    with pytest.raises(UsageError, match="another --out"):
        embed_shards(pool, out, model, dtype="float32")
    with pytest.raises(UsageError, match="no pictures"):
        embed_shards(open_table(str(out)), tmp_path / "b", model)
    with pytest.raises(UsageError, match="pictures"):
        embed_shards(ListTable(*made_pool(3)), tmp_path / "c", model)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file"):
        embed_shards(pool, tmp_path / "file", model)
    for shard in shards.glob("*.tar"):
        shard.write_bytes(b"")
    with pytest.raises(DataError, match=r"no sample could be encoded: .*truncated"):
        embed_shards(open_table(str(shards)), tmp_path / "d", model)


def test_parts_are_called_like_their_shards_as_far_as_these_differ() -> None:
    assert part_names(["s/x-00.tar", "s/x-01.tar.gz", "samples from 0"]) == [
        "x-00.parquet",
        "x-01.parquet",
        "samples-from-0.parquet",
    ]
    assert part_names(["a/b/x.tar", "c/b/x.tar", "b/y.tar"]) == ["a-b-x.parquet", "c-b-x.parquet", "y.parquet"]
    assert len(set(part_names(["a/x.tar", "a/x.tar", "https://h/x.tar?k=1"]))) == 3
