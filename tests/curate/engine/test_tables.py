"""Pools over data sets, tar shards and DataComp's metadata: one selection whichever of them holds the samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from binderclip.curate import (
    ColumnStore,
    CurationPipeline,
    DatasetTable,
    KeySelection,
    MetadataTable,
    SampleTable,
    ScoreThreshold,
    ScoreTopFraction,
    TarTable,
    filtered,
    open_table,
)
from binderclip.curate.engine import tables
from binderclip.data import ImageTextDataset, load_data, write_shards
from binderclip.errors import DataError, UsageError

SMALL = [ScoreThreshold(column="words", minimum=2), ScoreTopFraction(column="characters", fraction=0.4)]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write_shards(load_data("noto-emoji", split="val")[:60], folder / "x-%02d.tar", per_shard=13)
    return folder


def test_a_data_set_and_its_shards_give_one_selection(shards: Path) -> None:
    data = load_data("noto-emoji", split="val")[:60]
    want = CurationPipeline(SMALL).run(DatasetTable(data)).selection
    assert 0 < len(want) < 60
    assert CurationPipeline(SMALL).run(DatasetTable(data, rows=7)).selection == want
    tar = open_table(str(shards))
    assert isinstance(tar, TarTable)
    assert isinstance(tar, SampleTable)
    assert len(tar.ids) == 5
    assert CurationPipeline(SMALL).run(tar, workers=2).selection == want
    captions = {sample.key: sample.caption for sample in data}
    two = KeySelection([key for key, caption in captions.items() if len(caption.split()) >= 2])
    assert CurationPipeline(SMALL[:1]).run(tar).selection == two


def test_a_data_set_is_filtered_by_names_and_by_uids() -> None:
    data = load_data("noto-emoji", split="val")[:9]
    some = KeySelection([data.keys[5], data.keys[2], "no such"])
    assert filtered(data, some).keys == [data.keys[2], data.keys[5]]
    uids = [f"{i:032x}" if i % 2 else None for i in range(9)]
    own = ImageTextDataset([b""] * 9, [""] * 9, data.keys, attributes={"uid": uids})
    kept = filtered(own, KeySelection([uids[3], data.keys[3], data.keys[4]]))  # type: ignore[list-item]  # a uid
    assert kept.keys == [data.keys[3], data.keys[4]]


def test_pictures_of_shards_are_read_where_they_are_left(shards: Path) -> None:
    data = load_data("noto-emoji", split="val")[:60]
    rule = [ScoreThreshold(column="words", minimum=2), ScoreThreshold(column="aspect", maximum=1.0)]
    want = [s.key for s in data if len(s.caption.split()) >= 2 and s.image.width == s.image.height]
    assert want
    for table in (open_table(str(shards)), DatasetTable(data, 9)):
        assert CurationPipeline(rule).run(table).selection == KeySelection(want)


def test_texts_of_shards_are_read_once(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    real = tables.read_encoded
    monkeypatch.setattr(tables, "read_encoded", lambda url: read.append(url) or real(url))
    store = ColumnStore(tmp_path)
    want = CurationPipeline(SMALL).run(open_table(str(shards), store=store)).selection
    assert len(read) == 5
    assert CurationPipeline(SMALL).run(open_table(str(shards), store=ColumnStore(tmp_path))).selection == want
    assert len(read) == 5


def test_a_damaged_shard_is_named_each_time(shards: Path, tmp_path: Path) -> None:
    bad = tmp_path / "x.tar"
    bad.write_bytes((shards / "x-00.tar").read_bytes()[:4000])
    for _ in range(2):
        done = CurationPipeline(SMALL).run(open_table(str(bad), store=ColumnStore(tmp_path / "store")))
        assert [key for key, _ in done.report.skipped] == [str(bad)]


def test_what_is_read_from_elsewhere_is_read_again(shards: Path, tmp_path: Path) -> None:
    """Of a remote shard nothing is known that would tell whether it is still the one that columns were computed of."""
    here, columns = tmp_path / "a.tar", tmp_path / "columns"
    rule = [ScoreThreshold(column="aspect", maximum=99)]  # needs sizes, which are kept, of the pictures
    for name in ("x-00.tar", "x-04.tar"):
        here.write_bytes((shards / name).read_bytes())
        want = CurationPipeline(rule).run(open_table(str(here))).selection
        store = ColumnStore(columns)
        table = open_table(f"pipe:cat {here}", store=store, allow_pipe=True)
        assert CurationPipeline(rule).run(table, store=store).selection == want
        assert len(want) > 0
    assert not columns.exists()


def datacomp(folder: Path, n: int = 40) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Two shards of metadata as DataComp has them; uids, scores and image features of all samples."""
    rng = np.random.default_rng(0)
    uids = [rng.bytes(16).hex() for _ in range(n)]
    scores, features = rng.normal(size=n), rng.normal(size=(n, 6)).astype(np.float16)
    for number, rows in enumerate(np.array_split(np.arange(n), 2)):
        table = {
            "uid": [uids[i] for i in rows], "url": ["http://x"] * len(rows),
            "text": [f"a caption of {i} words" for i in rows],
            "original_width": pa.array(rng.integers(100, 400, len(rows)), pa.int64()),
            "original_height": pa.array(rng.integers(100, 400, len(rows)), pa.int64()),
            "clip_l14_similarity_score": scores[rows],
        }  # fmt: skip
        pq.write_table(pa.table(table), folder / f"{number:04d}.parquet")
        np.savez(folder / f"{number:04d}.npz", l14_img=features[rows])
    return uids, scores, features


def test_datacomps_metadata(tmp_path: Path) -> None:
    uids, scores, features = datacomp(tmp_path)
    table = open_table(str(tmp_path))
    assert isinstance(table, MetadataTable)
    rule = ScoreTopFraction(column="clip_l14_similarity_score", fraction=0.3)
    kept = CurationPipeline([rule]).run(table).selection
    assert kept.uids == sorted(uids[i] for i in np.argsort(-scores)[:12])
    shard = table.load(table.ids[1])
    assert np.array_equal(shard.take(np.array([1, 5])).column("l14_img"), features[20:][[1, 5]])
    width, height = (np.asarray(shard.column(f"original_{side}"), float) for side in ("width", "height"))
    found = CurationPipeline([ScoreThreshold(column="aspect", maximum=3), ScoreThreshold(column="side", minimum=200)])
    kept = found.run(MetadataTable([Path(table.ids[1])])).selection
    want = (np.minimum(width, height) >= 200) & (np.maximum(width, height) / np.minimum(width, height) <= 3)
    assert kept == KeySelection([uid for uid, ok in zip(uids[20:], want, strict=True) if ok])
    with pytest.raises(UsageError, match="computed from pictures"):
        CurationPipeline([ScoreThreshold(column="picture_group", minimum=0)]).run(table)
    whole = (tmp_path / "0000.npz").read_bytes()
    np.savez(tmp_path / "0000.npz", l14_img=features)
    with pytest.raises(DataError, match=r"l14_img has the shape \(40, 6\), the table beside it 20 rows"):
        table.load(table.ids[0]).column("l14_img")
    middle = len(whole) // 3
    for damaged in (whole[:-30], b"", b"no archive", whole[:middle] + bytes(8) + whole[middle + 8 :]):
        (tmp_path / "0000.npz").write_bytes(damaged)
        with pytest.raises(DataError, match=r"0000\.npz: not a readable NumPy file"):
            table.load(table.ids[0]).column("l14_img")
    np.save(tmp_path / "x.npy", features)
    (tmp_path / "x.npy").rename(tmp_path / "0000.npz")
    with pytest.raises(DataError, match=r"0000\.npz: not a readable NumPy file \(one array"):
        table.load(table.ids[0])
    (tmp_path / "0000.parquet").write_bytes(b"PAR1" + b"x" * 50)
    with pytest.raises(DataError, match="damaged Parquet"):
        table.load(table.ids[0])


def test_pictures_without_sizes_and_twins(tmp_path: Path) -> None:
    from PIL import Image

    for name, size in {"a": (30, 10), "b": (30, 10), "c": (20, 20)}.items():
        Image.new("RGB", size, "red").save(tmp_path / f"{name}.png")
    (tmp_path / "d.png").write_bytes(b"no picture")
    (tmp_path / "captions.csv").write_text("file,caption\na.png,one\nb.png,two\nc.png,three\nd.png,four\n")
    table = open_table(str(tmp_path))
    shard = table.load(table.ids[0])
    wide = CurationPipeline([ScoreThreshold(column="aspect", minimum=2)]).run(table).selection
    assert sorted(n for n in shard.columns["name"] if n in wide) == ["a.png", "b.png"]
    from binderclip.curate import OnePerGroup

    assert len(CurationPipeline([OnePerGroup(group="picture_group")]).run(table).selection) == 3


def test_a_pass_reads_the_columns_that_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Embeddings beside the scores stay on disk until a rule asks for them, in every pass of a run."""
    n, read = 30, []
    rows = np.random.default_rng(0).normal(size=(n, 4)).astype(np.float16)
    half = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), 4)
    columns = {"uid": [f"{i:032x}" for i in range(n)], "name": [f"{i}.jpg" for i in range(n)],
               "text": [f"text {i}" for i in range(n)], "score": np.arange(n) / n, "image_embedding": half}  # fmt: skip
    pq.write_table(pa.table(columns), tmp_path / "part.parquet")
    real = tables._parquet_column
    monkeypatch.setattr(tables, "_parquet_column", lambda file, name: read.append(name) or real(file, name))
    found = CurationPipeline([ScoreTopFraction(column="score", fraction=0.5)]).run(open_table(str(tmp_path)))
    assert found.selection == KeySelection(columns["uid"][15:])
    assert set(read) == {"uid", "score", "text"}
    assert read.count("text") == 1  # for the samples beside the cut
    shard = MetadataTable([tmp_path / "part.parquet"]).load(str(tmp_path / "part.parquet"))
    np.testing.assert_array_equal(shard.column("image_embedding"), rows)  # type: ignore[arg-type]
    assert shard.column("name") == columns["uid"]
    assert shard.column("texts") == [[text] for text in columns["text"]]
