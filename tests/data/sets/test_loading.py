from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import get_args

import pytest
from PIL import Image

from binderclip.data import ShardDataset, held_out_split, list_data, load_data
from binderclip.data.sets.loading import NamedSet
from binderclip.errors import UsageError


def test_packs_sets_and_folders_join_by_commas(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "cat/a.png")
    joined = load_data(f"noto-emoji, {tmp_path}", None)
    assert len(joined) == 1898 + 1
    assert joined.sources[-1] == tmp_path.name
    assert len(load_data("openclipart,noto-emoji", "val")) == 539 + 190
    assert len(load_data("packs", "test")) == 536 + 190 + 1064
    assert load_data("noto-emoji", "val", mode="RGBA")[0].image.mode == "RGBA"


def test_a_folder_with_a_comma_in_its_name(tmp_path: Path) -> None:
    (tmp_path / "a,b/cat").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "a,b/cat/a.png")
    assert load_data(str(tmp_path / "a,b")).keys == ["cat/a.png"]


def test_what_is_unknown_is_answered_with_what_there_is() -> None:
    with pytest.raises(UsageError, match=r"no data set 'openclip'.*did you mean openclipart.*fashion-mnist.*a folder"):
        load_data("openclip")
    with pytest.raises(UsageError, match="an empty data set name"):
        load_data(" , ")
    assert {"packs", "openclipart", "digits", "textile"} <= set(list_data())


def test_importing_the_room_imports_neither_torch_nor_pillow() -> None:
    code = "import sys, binderclip.data; print(sorted({'torch', 'PIL', 'numpy', 'pyarrow'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_every_name_of_the_room_is_there() -> None:
    import binderclip.data as room

    assert set(room.__all__) <= set(dir(room))
    assert all(getattr(room, name) is not None for name in room.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        room.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("spec", "split"),
    [
        ("noto-emoji", "test"),
        ("packs", "test"),
        ("openclipart, icons", "test"),
        ("openmoji", "shift"),
        ("digits", "test"),
        ("a-{00..01}.tar", None),
    ],
)
def test_the_held_out_split_of_a_named_set_is_known(spec: str, split: str | None) -> None:
    assert held_out_split(spec) == split


def test_a_folder_has_no_held_out_split_and_two_names_are_refused(tmp_path: Path) -> None:
    assert held_out_split(str(tmp_path)) is None
    with pytest.raises(UsageError, match="one by one"):
        held_out_split("openmoji,noto-emoji")


def shard(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = io.BytesIO()
    Image.new("RGB", (4, 4)).save(picture, "PNG")
    with tarfile.open(path, "w") as archive:
        for name, data in ((f"{number}.png", picture.getvalue()), (f"{number}.txt", b"x")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def test_a_folder_of_tars_is_a_set_of_shards(tmp_path: Path) -> None:
    for name, number in (("{b}/train-1.tar", 1), ("{b}/train-0.tar", 0), ("{b}/val/0.tar", 2)):
        shard(tmp_path / name, number)
    (tmp_path / "0_stats.json").write_text("{}")
    dataset = load_data(str(tmp_path))
    assert isinstance(dataset, ShardDataset)
    assert [sample.key for sample in dataset] == ["0", "1", "2"]
    assert [sample.key for sample in load_data(str(tmp_path), "train")] == ["0", "1"]
    assert [sample.key for sample in load_data(str(tmp_path), "val")] == ["2"]
    with pytest.raises(UsageError, match="no split 'test': its shards are named after train, val"):
        load_data(str(tmp_path), "test")
    # Where there are pictures they are the data set, as they were.
    (tmp_path / "cat").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "cat/a.png")
    assert load_data(str(tmp_path)).keys == ["cat/a.png"]


def test_type_checkers_know_the_sets_that_are_listed() -> None:
    assert list(get_args(NamedSet)) == list_data()
