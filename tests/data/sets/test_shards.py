from __future__ import annotations

import functools
import http.server
import io
import json
import os
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from binderclip.data import ImageTextDataset, ShardDataset, batches, collate, load_data, load_packs, write_shards
from binderclip.errors import DataError, UsageError


def png(value: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4, 4), (value, 0, 0)).save(out, "PNG")
    return out.getvalue()


def tar_bytes(files: list[tuple[str, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def shard(path: Path, start: int, n: int) -> Path:
    files = [(f"{i:04d}.{s}", d) for i in range(start, start + n) for s, d in [("png", png(i)), ("txt", b"no %d" % i)]]
    path.write_bytes(tar_bytes(files))
    return path


@pytest.fixture
def four(tmp_path: Path) -> str:
    for number in range(4):
        shard(tmp_path / f"s-{number}.tar", 5 * number, 5)
    return str(tmp_path / "s-{0..3}.tar")


def keys(dataset: ShardDataset) -> list[str]:
    return [sample.key for sample in dataset]


def names(*numbers: int) -> list[str]:
    return [f"{i:04d}" for i in numbers]


# --- reading ---------------------------------------------------------------------------------------------------------


def test_samples_come_in_order_with_captions(four: str) -> None:
    dataset = load_data(four)
    assert isinstance(dataset, ShardDataset)
    samples = list(dataset)
    assert [sample.key for sample in samples] == names(*range(20))
    assert samples[7].caption == "no 7"
    assert samples[7].image.getpixel((0, 0)) == (7, 0, 0)
    assert samples[7].source == "s-1.tar"
    assert dataset.skipped == []
    with pytest.raises(UsageError, match="shards have no splits"):
        load_data(four, "train")


def test_shards_over_http(four: str, tmp_path: Path) -> None:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}/s-{{0..1}}.tar"
        assert keys(ShardDataset(address)) == names(*range(10))
        gone = ShardDataset([address.replace("{0..1}", "9"), address])
        assert keys(gone) == names(*range(10))
        assert [key.rsplit("/", 1)[1] for key, _ in gone.skipped] == ["s-9.tar"]
    finally:
        server.shutdown()
        server.server_close()


def test_every_part_of_a_sample(tmp_path: Path) -> None:
    record = json.dumps({"text": "a  cat", "label": 3, "style": "flat"}).encode()
    parts = [("a/1.webp", b""), ("a/1.json", record)]
    out = io.BytesIO()
    Image.new("RGBA", (3, 3), (0, 0, 0, 0)).save(out, "WEBP", lossless=True)
    parts[0] = ("a/1.webp", out.getvalue())
    files = [*parts, ("b.jpg.pyd", b"?"), ("c.png", png(1)), ("c.cls", b"7"), ("c.pyd", b"\x80"), ("._c.png", b"")]
    (tmp_path / "x.tar").write_bytes(tar_bytes(files))
    dataset = ShardDataset(str(tmp_path / "x.tar"))
    first, second = list(dataset)
    assert (first.key, first.caption, first.label, first.attributes) == ("a/1", "a cat", 3, {"style": "flat"})
    assert first.alpha is not None
    assert first.image.getpixel((0, 0)) == (255, 255, 255)
    assert (second.caption, second.label) == ("", 7)
    assert dataset.skipped == [("x.tar:b", "no image among its parts (jpg.pyd)")]


def test_damaged_samples_are_named_and_the_rest_is_read(tmp_path: Path) -> None:
    files = [
        ("ok.png", png(1)), ("ok.txt", b"fine"),
        ("bad.png", b"rubbish"), ("bad.txt", b"x"),
        ("latin.png", png(2)), ("latin.txt", b"caf\xe9"),
        ("json.png", png(2)), ("json.json", b"{oops"),
        ("list.png", png(2)), ("list.json", b"[1]"),
        ("alone.png", png(2)), ("cls.png", png(2)), ("cls.cls", b"x"),
        ("last.png", png(3)), ("last.txt", b"fine too"),
    ]  # fmt: skip
    (tmp_path / "x.tar").write_bytes(tar_bytes(files))
    dataset = ShardDataset(str(tmp_path / "x.tar"))
    assert keys(dataset) == ["ok", "last"]
    reasons = {key.removeprefix("x.tar:"): reason for key, reason in dataset.skipped}
    assert reasons["bad"] == "not an image, or of a format that is not opened"
    assert "UTF-8" in reasons["latin"]
    assert ".json cannot be read" in reasons["json"]
    assert "not an object" in reasons["list"]
    assert "neither caption nor label" in reasons["alone"]
    assert "not a number" in reasons["cls"]
    assert dataset.report(limit=1).splitlines()[0] == "1 shards, 6 entries skipped"


def test_parts_with_names_are_picture_and_caption(tmp_path: Path) -> None:
    files = [
        ("a.mask.png", png(9)), ("a.image.png", png(1)), ("a.caption.txt", b"a cat"), ("a.label.cls", b"4"),
        ("b.one.png", png(2)), ("b.text.txt", b"only one"),
        ("c.one.png", png(3)), ("c.two.png", png(3)), ("c.txt", b"which?"),
        ("d.png", png(4)), ("d.image.png", png(9)), ("d.caption.json", b'["one", "two"]'),
        ("e.jpg", png(5)), ("e.meta.json", b'{"captions": ["x", "y"], "artist": "Ann"}'),
    ]  # fmt: skip
    (tmp_path / "x.tar").write_bytes(tar_bytes(files))
    dataset = ShardDataset(str(tmp_path / "x.tar"))
    samples = {sample.key: sample for sample in dataset}
    assert {key: sample.image.getpixel((0, 0))[0] for key, sample in samples.items()} == {
        "a": 1,
        "b": 2,
        "d": 4,
        "e": 5,
    }
    assert (samples["a"].caption, samples["a"].label, samples["b"].caption) == ("a cat", 4, "only one")
    assert (samples["d"].captions, samples["e"].captions) == (["one", "two"], ["x", "y"])
    assert samples["e"].attributes == {"artist": "Ann", "captions": ["x", "y"]}
    assert dataset.skipped == [
        ("x.tar:c", "several images among its parts (one.png, two.png): call the right one image.png")
    ]


def test_several_captions_of_a_sample(tmp_path: Path) -> None:
    several = {"list": b'{"caption": ["a", " b  c"]}', "texts": b'{"captions": ["a", "b c"]}'}
    files = [(f"{name}.{s}", d) for name, data in several.items() for s, d in [("png", png(1)), ("json", data)]]
    files += [("lines.png", png(1)), ("lines.txt", b"a\nb c\n")]  # as clip_benchmark writes them
    (tmp_path / "x.tar").write_bytes(tar_bytes(files))
    samples = list(ShardDataset(str(tmp_path / "x.tar")))
    assert [sample.caption for sample in samples] == ["a", "a", "a"]
    assert [sample.captions for sample in samples] == [["a", "b c"]] * 3
    (path,) = write_shards(samples, tmp_path / "again-%d.tar")
    assert [(s.caption, s.captions) for s in ShardDataset(path)] == [("a", ["a", "b c"])] * 3


def test_what_is_hostile_in_a_sample_costs_the_sample(tmp_path: Path) -> None:
    texts = {
        "deep": b"[" * 100_000, "digits": b'{"caption": "x", "label": ' + b"1" * 5000 + b"}",
        "label": b'{"caption": "x", "label": ' + b"1" * 30 + b"}", "half": b'{"caption": "\\ud800"}',
        "good": b'{"caption": "x"}',
    }  # fmt: skip
    files = [(f"{name}.{s}", d) for name, data in texts.items() for s, d in [("png", png(1)), ("json", data)]]
    files = [("caf\udce9.png", png(1)), ("caf\udce9.txt", b"x"), *files]
    (tmp_path / "x.tar").write_bytes(tar_bytes(files))
    dataset = ShardDataset(str(tmp_path / "x.tar"))
    assert keys(dataset) == ["good"]
    assert [key for key, _ in dataset.skipped] == [
        f"x.tar:{n}" for n in ("caf\\xe9", "deep", "digits", "label", "half")
    ]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_named_pipe_among_shards_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tar")
    shard(tmp_path / "b.tar", 0, 1)
    dataset = ShardDataset([tmp_path / "a.tar", tmp_path / "b.tar"])
    assert keys(dataset) == ["0000"]
    assert "is a named pipe" in dataset.skipped[0][1]


# --- commands --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelt", ["pipe:{}", "PIPE:{}", " pipe:{}", "pi\tpe:{}", "\x01pipe:{}", "a.tar::pipe:{}"])
def test_no_command_runs_unless_it_is_allowed(four: str, tmp_path: Path, spelt: str) -> None:
    command = f"touch {tmp_path / 'ran'}; cat {tmp_path / 's-0.tar'}"
    for urls in (spelt.format(command), [four, spelt.format(command)]):
        with pytest.raises(UsageError, match=r"runs a shell command.*--allow-pipe.*nothing was run"):
            keys(ShardDataset(urls))
    with pytest.raises(UsageError, match="runs a shell command"):
        load_data(f"pipe:{command}")
    assert not (tmp_path / "ran").exists()


def test_a_command_runs_where_it_is_allowed(four: str, tmp_path: Path) -> None:
    dataset = load_data(f"pipe:touch {tmp_path / 'ran'}; cat {tmp_path / 's-0.tar'}", allow_pipe=True)
    assert isinstance(dataset, ShardDataset)
    assert not (tmp_path / "ran").exists()
    assert keys(dataset) == names(*range(5))
    assert (tmp_path / "ran").exists()


def test_an_address_cannot_leave_the_quotes_of_a_shell() -> None:
    with pytest.raises(UsageError, match="%27"):
        ShardDataset("https://example.org/x'; touch ran; '.tar")


# --- truncation ------------------------------------------------------------------------------------------------------


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 9), within=st.integers(0, 1023))
def test_wherever_a_shard_is_cut_it_is_reported(tmp_path: Path, cut: int, within: int) -> None:
    """A member takes 1,024 bytes here (header and one block), a sample two members; the end mark begins at 10,240."""
    whole = shard(tmp_path / "whole.tar", 0, 5).read_bytes()
    assert len(png(4)) <= 512
    length = cut * 1024 + within
    (tmp_path / "cut.tar").write_bytes(whole[:length])
    dataset = ShardDataset([str(tmp_path / "cut.tar"), str(tmp_path / "whole.tar")])
    found = keys(dataset)
    # A sample is known to be whole when the next one's first file has been read.
    certain = [i for i in range(4) if length >= 2048 * (i + 1) + 512 + len(png(i + 1))]
    assert found == names(*certain, *range(5))
    assert [Path(key).name for key, _ in dataset.skipped] == ["cut.tar"]
    assert "truncated" in dataset.skipped[0][1]
    assert f"the rest is skipped after {len(found) - 5} samples" in dataset.skipped[0][1]


def test_a_shard_cut_between_two_samples_does_not_pass_for_a_whole_one(tmp_path: Path) -> None:
    whole = shard(tmp_path / "whole.tar", 0, 5).read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: 4 * 1024])
    with tarfile.open(tmp_path / "cut.tar") as archive:
        assert len(archive.getmembers()) == 4  # Python's reader takes it for complete
    dataset = ShardDataset(str(tmp_path / "cut.tar"))
    assert keys(dataset) == names(0)
    assert "truncated" in dataset.skipped[0][1]


def test_compressed_empty_missing_and_foreign_shards(tmp_path: Path) -> None:
    import gzip

    whole = shard(tmp_path / "a.tar", 0, 3).read_bytes()
    packed = gzip.compress(whole)
    (tmp_path / "b.tar.gz").write_bytes(packed)
    (tmp_path / "c.tar.gz").write_bytes(packed[: len(packed) // 2])
    (tmp_path / "d.tar").write_bytes(b"")
    (tmp_path / "e.tar").write_bytes(b"this is no archive at all" * 100)
    assert keys(ShardDataset(str(tmp_path / "b.tar.gz"))) == names(0, 1, 2)
    dataset = ShardDataset([str(tmp_path / name) for name in ("c.tar.gz", "d.tar", "e.tar", "gone.tar", "a.tar")])
    assert keys(dataset)[-3:] == names(0, 1, 2)
    assert [Path(key).name for key, _ in dataset.skipped] == ["c.tar.gz", "d.tar", "e.tar", "gone.tar"]
    assert dataset.skipped[3][1] == "no such file"
    with pytest.raises(DataError, match=r"gone-0\.tar: no such shard, nor any of 2 more"):
        ShardDataset(str(tmp_path / "gone-{0..2}.tar"))


def test_damage_in_the_middle_is_not_the_end(tmp_path: Path) -> None:
    data = bytearray(shard(tmp_path / "a.tar", 0, 5).read_bytes())
    data[4 * 1024 : 4 * 1024 + 512] = b"\xff" * 512  # the header of the third sample's picture
    (tmp_path / "a.tar").write_bytes(data)
    dataset = ShardDataset(str(tmp_path / "a.tar"))
    assert keys(dataset) == names(0)
    assert "damaged" in dataset.skipped[0][1]


# --- order and shares ------------------------------------------------------------------------------------------------


def test_order_is_a_function_of_seed_and_epoch(four: str) -> None:
    dataset = ShardDataset(four, shuffle=6, seed=3)
    first = keys(dataset)
    assert sorted(first) == names(*range(20))
    assert first != sorted(first)
    assert keys(dataset) == first
    assert keys(ShardDataset(four, shuffle=6, seed=3)) == first
    dataset.set_epoch(1)
    assert keys(dataset) != first
    assert keys(ShardDataset(four, shuffle=6, seed=4)) != first


@pytest.mark.parametrize("world", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("shuffle", [0, 4])
def test_processes_share_the_samples_without_overlap(four: str, world: int, shuffle: int) -> None:
    shares = [keys(ShardDataset(four, shuffle=shuffle, rank=rank, world=world)) for rank in range(world)]
    assert sorted(key for share in shares for key in share) == names(*range(20))
    assert all(shares)


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("world", [1, 3])
def test_workers_share_the_samples_without_overlap(four: str, workers: int, world: int) -> None:
    found = []
    for rank in range(world):
        loader = DataLoader(ShardDataset(four, rank=rank, world=world), 2, num_workers=workers, collate_fn=collate)
        found += [key for batch in loader for key in batch.keys]
    assert sorted(found) == names(*range(20))


@pytest.mark.parametrize("workers", [0, 2])
def test_what_workers_skip_comes_back(four: str, tmp_path: Path, workers: int) -> None:
    (tmp_path / "s-1.tar").write_bytes((tmp_path / "s-1.tar").read_bytes()[:3000])
    (tmp_path / "s-2.tar").write_bytes(tar_bytes([("0010.png", b"rubbish"), ("0010.txt", b"x")]))
    dataset = ShardDataset(four)
    found = [key for batch in batches(dataset, 3, workers=workers) for key in batch.keys]
    assert sorted(found) == names(*range(6), *range(15, 20))
    assert sorted(Path(key).name for key, _ in dataset.skipped) == ["s-1.tar", "s-2.tar:0010"]


def test_torchruns_environment_is_the_default(four: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert keys(ShardDataset(four)) == names(*range(5, 10), *range(15, 20))
    with pytest.raises(UsageError, match="rank 2 of 2"):
        ShardDataset(four, rank=2)


# --- writing ---------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    packs = load_packs("openmoji", mode="RGBA").subset(range(7))
    paths = write_shards(packs, tmp_path / "out/p-%03d.tar", per_shard=3)
    assert [path.name for path in paths] == ["p-000.tar", "p-001.tar", "p-002.tar"]
    assert json.loads((tmp_path / "out/sizes.json").read_text()) == {"p-000.tar": 3, "p-001.tar": 3, "p-002.tar": 1}
    again = ShardDataset(str(tmp_path / "out/p-{000..002}.tar"), mode="RGBA")
    assert again.count == 7
    for before, after in zip(packs, again, strict=True):
        assert (before.key, before.caption, before.label, before.source) == (
            after.key, after.caption, after.label, after.source,
        )  # fmt: skip
        assert np.array_equal(np.asarray(before.image), np.asarray(after.image))
        assert after.attributes["style"] == "openmoji"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [*(p.name for p in paths), "sizes.json"]


def test_the_webdataset_package_reads_what_is_written(tmp_path: Path) -> None:
    import webdataset as wds

    paths = write_shards(load_packs("openmoji").subset(range(4)), tmp_path / "p-%d.tar", encode="png")
    raw = list(wds.WebDataset(str(paths[0]), shardshuffle=False))
    assert [sample["txt"].decode() for sample in raw] == load_packs("openmoji").captions[:4]
    assert all(Image.open(io.BytesIO(sample["png"])).size == (64, 64) for sample in raw)


def test_writing_is_reproducible_and_leaves_out_what_cannot_be_read(tmp_path: Path) -> None:
    images = [png(1), b"rubbish", png(3), png(4)]
    made = ["dir.x/a.png", "b", "dir.x/a_png", "ö" * 120]
    written = []
    for folder in ("one", "two"):
        dataset = ImageTextDataset(images, ["a", "b", "c", "d"], made)
        written.append(write_shards(dataset, tmp_path / folder / "%d.tar")[0])
        assert [key for key, _ in dataset.skipped] == ["b"]
    assert written[0].read_bytes() == written[1].read_bytes()
    assert keys(ShardDataset(str(written[0]))) == [made[0], made[2], made[3]]
    jpg = write_shards(ImageTextDataset([png(9)], ["a"], ["k"]), tmp_path / "%d.tar", encode="jpg")
    assert abs(next(iter(ShardDataset(str(jpg[0])))).image.getpixel((0, 0))[0] - 9) < 4


def test_a_truncated_shard_says_of_how_many(tmp_path: Path) -> None:
    path = write_shards(load_packs("openmoji").subset(range(6)), tmp_path / "%d.tar")[0]
    path.write_bytes(path.read_bytes()[:9000])
    dataset = ShardDataset(str(path))
    found = len(keys(dataset))
    assert f"after {found} of 6 samples" in dataset.skipped[0][1]


def test_writing_that_cannot_be_done(tmp_path: Path) -> None:
    dataset = ImageTextDataset([png(1)], ["a"], ["k"])
    with pytest.raises(UsageError, match=r"name-%05d\.tar"):
        write_shards(dataset, tmp_path / "x.tar")
    with pytest.raises(UsageError, match="per_shard 0"):
        write_shards(dataset, tmp_path / "%d.tar", per_shard=0)
    with pytest.raises(DataError, match="no readable sample"):
        write_shards(ImageTextDataset([b"x"], ["a"], ["k"]), tmp_path / "%d.tar")

    def failing() -> Iterator:
        yield dataset[0]
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError):
        write_shards(failing(), tmp_path / "%d.tar")
    assert list(tmp_path.iterdir()) == []  # no half-written shard stays


def test_a_count_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", 0, 2)
    for text in ("[" * 100_000, "[]", '{"a.tar": 1e999}', '{"a.tar": "x"}'):
        (tmp_path / "sizes.json").write_text(text)
        dataset = ShardDataset(path)
        assert (dataset.count, len(keys(dataset))) == (None, 2)
