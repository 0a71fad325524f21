"""An index out of parts of embeddings: the hits of one that encoded the pictures, and what is wrong with parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from binderclip import load
from binderclip.curate import embed_shards, open_table
from binderclip.data import load_data, write_shards
from binderclip.errors import DataError, NotSupported, UsageError
from binderclip.models import ImageTextModel
from binderclip.search import SearchIndex
from binderclip.search.index import read_note
from binderclip.similarity import EmbeddingSet, GapRemoval, Lorentz, MeanShift, Whitening

Command = Callable[..., Any]


@pytest.fixture
def model(tiny_clip: Callable[[int], Path]) -> ImageTextModel:
    return load(str(tiny_clip(1)))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of 18 pictures with captions."""
    data = load_data("noto-emoji", split="val")[:18]
    for number in range(len(data)):
        place = tmp_path / "photos" / f"{number % 2}" / f"{number:02d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        data[number].image.convert("RGB").save(place)
        place.with_suffix(".txt").write_text(f"emoji {number}")
    return tmp_path / "photos"


@pytest.fixture
def embedded(photos: Path, model: ImageTextModel, tmp_path: Path) -> Path:
    embed_shards(open_table(str(photos)), tmp_path / "embedded", model, dtype="float32")
    return tmp_path / "embedded"


@pytest.fixture
def parts(model: ImageTextModel, tmp_path: Path) -> Path:
    """Three parts of shards."""
    write_shards(load_data("noto-emoji", split="val")[:20], tmp_path / "pool" / "x-%02d.tar", per_shard=8)
    embed_shards(open_table(str(tmp_path / "pool")), tmp_path / "parts", model)
    return tmp_path / "parts"


def test_hits_are_those_of_an_index_that_encoded(
    photos: Path, embedded: Path, model: ImageTextModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = SearchIndex(tmp_path / "a", model)
    wanted.update(photos)
    index = SearchIndex(tmp_path / "b", model)
    with monkeypatch.context() as patch:
        patch.setattr(type(model), "encode_files", lambda *_, **__: pytest.fail("the tower ran"))
        report = index.update_embeddings(embedded, pictures=photos)
    assert (report.added, report.changed, report.removed, report.skipped) == (18, 0, 0, [])
    for query in ("emoji 3", "a face", photos / "1" / "07.png"):
        one, two = wanted.query(query, top=18), index.query(query, top=18)
        assert [hit.path for hit in two] == [hit.path for hit in one]
        assert [hit.score for hit in two] == pytest.approx([hit.score for hit in one], abs=1e-5)
        assert all(hit.path.is_file() for hit in two)
    again = SearchIndex(tmp_path / "b", model).update_embeddings(embedded, pictures=photos)
    assert (again.added, again.unchanged, again.removed) == (0, 18, 0)


def test_parts_that_change_or_go(parts: Path, model: ImageTextModel, tmp_path: Path) -> None:
    index = SearchIndex(tmp_path / "index", model)
    assert index.update_embeddings(parts).added == 20
    assert index.query("a face", top=1)[0].path.parent == Path()  # names as in the pool
    (tmp_path / "pool" / "x-02.tar").unlink()
    write_shards(load_data("noto-emoji", split="val")[8:16], tmp_path / "new" / "x-%02d.tar", per_shard=8)
    (tmp_path / "new" / "x-00.tar").replace(tmp_path / "pool" / "x-01.tar")
    embed_shards(open_table(str(tmp_path / "pool")), parts, model)
    last = parts / "x-02.parquet"
    kept, content = index.update_embeddings(parts), last.read_bytes()
    assert (kept.removed, kept.added) == (0, 0)
    last.write_bytes(content[:-9])
    broken = index.update_embeddings(parts)
    assert (broken.removed, len(index)) == (0, 20)  # what a damaged part held may come back
    assert [(name, "damaged Parquet file" in why) for name, why in broken.skipped] == [("x-02.parquet", True)]
    last.unlink()
    assert index.update_embeddings(parts).removed == 4
    assert len(index) == 16


def test_a_wrong_part_costs_itself_and_is_named(parts: Path, model: ImageTextModel, tmp_path: Path) -> None:
    whole = pq.read_table(parts / "x-00.parquet")
    pq.write_table(whole.drop_columns(["image_embedding"]), parts / "x-00.parquet")
    other = pq.read_table(parts / "x-01.parquet")
    stamp = other.schema.metadata[b"binderclip"].replace(model.fingerprint.encode(), b"other")
    pq.write_table(other.replace_schema_metadata({b"binderclip": stamp}), parts / "x-01.parquet")
    pq.write_table(whole.replace_schema_metadata({}), parts / "y.parquet")
    (parts / "z.parquet").write_bytes(b"no table")
    report = SearchIndex(tmp_path / "index", model).update_embeddings(parts)
    assert report.added == 4
    said = dict(report.skipped)
    assert said["x-00.parquet"] == "has no column image_embedding"
    assert "by another model" in said["x-01.parquet"]
    assert "no part of `binderclip embed`" in said["y.parquet"]
    assert "damaged Parquet file" in said["z.parquet"]


def test_what_cannot_be_is_refused(
    parts: Path, model: ImageTextModel, tiny_clip: Callable[[int], Path], tmp_path: Path
) -> None:
    other = load(str(tiny_clip(2)))
    with pytest.raises(UsageError, match=r"are by .*give --model"):
        SearchIndex(tmp_path / "a", other).update_embeddings(parts)
    assert not (tmp_path / "a").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no folder of `embed`"):
        SearchIndex(tmp_path / "a", model).update_embeddings(tmp_path / "empty")
    (tmp_path / "empty" / "embeddings.json").write_text((parts / "embeddings.json").read_text())
    with pytest.raises(DataError, match="no parts"):
        SearchIndex(tmp_path / "a", model).update_embeddings(tmp_path / "empty")
    (tmp_path / "empty" / "x.parquet").write_bytes(b"")
    with pytest.raises(DataError, match="no part in"):
        SearchIndex(tmp_path / "b", model).update_embeddings(tmp_path / "empty")
    index = SearchIndex(tmp_path / "c", model)
    index.update_embeddings(parts)
    with pytest.raises(UsageError, match="is of names of embeddings, not of"):
        index.update_embeddings(parts, pictures=tmp_path)
    with pytest.raises(UsageError, match="leave mixed out"):
        SearchIndex(tmp_path / "d", model, mixed=True).update_embeddings(parts)


def test_lengths_that_mean_something_are_gone(parts: Path, model: ImageTextModel, tmp_path: Path) -> None:
    index = SearchIndex(tmp_path / "a", model)
    index._vectors = type(index._vectors)(Lorentz())
    with pytest.raises(NotSupported, match="unit vectors"):
        index.update_embeddings(parts)


@pytest.mark.parametrize("kind", [GapRemoval, MeanShift, Whitening])
def test_a_transform_of_raw_lengths_is_refused_and_one_of_directions_is_not(
    kind: Any, photos: Path, embedded: Path, model: ImageTextModel, tmp_path: Path
) -> None:
    """Whatever is taken gives the hits of an index that encoded, whose features have their own lengths."""
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(300, model.embed_dim, generator=generator) + shift for shift in (0.5, -0.5)]
    first = kind().fit(EmbeddingSet(drawn[0], "image"), EmbeddingSet(drawn[1], "text"))
    if not first.shared_axes:
        first = kind(mode="zca").fit(EmbeddingSet(drawn[0], "image"), EmbeddingSet(drawn[1], "text"))
    index = SearchIndex(tmp_path / "parts.index", model, transform=first)
    if first.reads_lengths:
        with pytest.raises(NotSupported, match=f"{kind.__name__} reads the lengths"):
            index.update_embeddings(embedded)
        return
    index.update_embeddings(embedded)
    wanted = SearchIndex(tmp_path / "photos.index", model, transform=first)
    wanted.update(photos)
    hits, expected = (found.query("a face", top=18) for found in (index, wanted))
    assert [Path(hit.path).name for hit in hits] == [Path(hit.path).name for hit in expected]
    assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in expected], abs=1e-5)


def test_the_verb(command: Command, photos: Path, tmp_path: Path) -> None:
    command("embed", "photos", "--out", "embedded")
    found = command("search", "index", "photos", "--embeddings", "embedded", "--json").json()
    assert (found["images"], found["added"]) == (18, 18)
    hits = command("search", "query", "a face", "-i", "photos", "--json").json()["hits"]
    assert Path(hits[0]["image"]).is_file()
    alone = command("search", "index", "--embeddings", "embedded")
    assert alone.code == 0, alone.err
    named = command("search", "query", "a face", "-i", "embedded", "--json").json()["hits"]
    assert [photos / hit["image"] for hit in named] == [Path(hit["image"]) for hit in hits]
    for words, said in (
        ((), "give a folder of images"),
        (("photos", "--embeddings", "none"), "there is no folder none"),
        (("photos", "--embeddings", "embedded", "--mixed"), "--mixed does not go with --embeddings"),
        (("photos", "--embeddings", "embedded", "--ray", "local"), "--ray does not go with --embeddings"),
        (("--embeddings", "s3://web/x"), "--index PLACE"),
    ):
        done = command("search", "index", *words)
        assert (done.code, said in done.err) == (2, True), done.err


def test_an_index_on_object_storage(
    bucket: str, photos: Path, embedded: Path, model: ImageTextModel, command: Command, tmp_path: Path
) -> None:
    """Made, brought up to date, asked and made anew on an S3 server, with the hits of one on disk."""
    from binderclip.data import storage as s3

    place = f"{bucket}/photos.index"
    here, there = SearchIndex(tmp_path / "index", model), SearchIndex(place, model)
    assert there.update(photos).added == here.update(photos).added == 18
    (photos / "0" / "00.png").unlink()
    assert there.update(photos).removed == here.update(photos).removed == 1
    opened = SearchIndex(place, model)
    assert len(opened) == 17
    assert opened.query("a face", top=17) == here.query("a face", top=17)
    assert read_note(place) == read_note(tmp_path / "index")
    assert opened.update(photos).unchanged == 17
    for file in embedded.iterdir():
        s3.upload(file, f"{bucket}/embedded/{file.name}")
    anew = SearchIndex(place, model, rebuild=True)
    assert anew.update_embeddings(f"{bucket}/embedded").added == 18
    assert len(SearchIndex(place, model)) == 18
    done = command("search", "index", photos, "--index", f"{bucket}/small")
    assert done.code == 0, done.err
    hits = command("search", "query", "a face", "--index", f"{bucket}/small", "--json").json()["hits"]
    assert Path(hits[0]["image"]).is_file()
    s3.write_object(f"{bucket}/other/x.txt", b"a")
    for words, code, said in (
        (("index", photos, "--index", f"{bucket}/other"), 1, "not a binderclip index"),
        (("index", photos, "--index", "s3://none/x"), 1, "there is no such bucket"),
        (("index", photos, "--index", "s3://"), 1, "names no bucket"),
        (("query", "a", "--index", f"{bucket}/nothing"), 2, "there is no index at s3://web/nothing"),
    ):
        done = command("search", *words)
        assert (done.code, said in done.err) == (code, True), done.err


def test_a_transform_lies_beside_an_index_on_object_storage(bucket: str, parts: Path, model: ImageTextModel) -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(40, model.embed_dim, generator=generator) + shift for shift in (0.5, -0.5)]
    first = GapRemoval().fit(EmbeddingSet(drawn[0], "image"), EmbeddingSet(drawn[1], "text"))
    made = SearchIndex(f"{bucket}/t", model, transform=first)
    assert made.update_embeddings(parts).added == 20
    again = SearchIndex(f"{bucket}/t", model)
    assert isinstance(again.transform, GapRemoval)
    assert again.query("a face", top=20) == made.query("a face", top=20)
