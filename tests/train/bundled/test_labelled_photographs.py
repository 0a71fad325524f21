"""The list of labelled photographs: its rows, its splits, and how its files are found."""

from __future__ import annotations

import csv
import io
import re
import struct
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from binderclip.errors import DataError, UsageError
from binderclip.train import load_recipe
from binderclip.train.bundled.data import labelled_photographs as module
from binderclip.train.bundled.data.labelled_photographs import (
    DISTRACTORS,
    LabelledPhotograph,
    label_names,
    load_labelled_photographs,
    package_path,
    photograph_rows,
    region_photograph_rows,
    split_of,
)
from binderclip.train.bundled.data.photograph_masks import photograph_regions
from binderclip.train.bundled.data.photographs import GCOMPRIS

# the packages whose photographs may be used at all: every other one is kept for checks that nobody tunes on
ALLOWED = {
    "plasma-workspace-wallpapers", "gnome-backgrounds", "mate-backgrounds", "budgie-backgrounds", "ukui-wallpapers",
    "lomiri-wallpapers", "gcompris-qt-data", "tuxpaint-stamps-default", "tuxpaint-data", "kalzium-data",
    "stellarium-data", "palapeli-data", "libjxl-testdata", "opencv-doc",
}  # fmt: skip
COLUMNS = ["package", "file", "member", "label", "also", "shows", "kind", "scene", "split"]


def _container(row: LabelledPhotograph) -> str:
    return row.file if row.member else str(Path(row.file).parent)


def test_the_table_is_well_formed():
    path = Path(module.__file__).with_suffix(".csv")
    text = path.read_text(encoding="utf-8")
    assert text.isascii()
    table = list(csv.reader(io.StringIO(text)))
    assert table[0] == COLUMNS
    assert {len(line) for line in table} == {len(COLUMNS)}
    assert {line[COLUMNS.index("scene")] for line in table[1:]} == {"true", "false"}
    rows = photograph_rows()
    assert len(rows) == len(table) - 1 >= 380
    assert len({(row.package, row.file, row.member) for row in rows}) == len(rows)
    assert {row.kind for row in rows} == {"photograph", "cutout"}
    assert Counter(row.split for row in rows) == {"learn": 209, "choose": 96, "report": 77}
    for row in rows:
        assert row.package in ALLOWED
        assert row.file.startswith("/usr/share/")
        assert bool(row.member) == row.file.endswith(".rcc")


def test_labels_are_plain_words_and_none_is_right_and_disputed():
    for row in photograph_rows():
        words = [row.label, *row.also, *row.shows]
        assert len(set(words)) == len(words), row
        assert all(re.fullmatch(r"[a-z]+(?:[ -][a-z]+)*", word) for word in words), row
    assert len(DISTRACTORS) >= 40
    assert not set(DISTRACTORS) & set(label_names(distractors=False))
    names = set(label_names())
    # nothing is there in singular and plural: one of the two would be a wrong answer
    assert not {name for name in names if f"{name}s" in names}


def test_what_is_of_a_kind_says_so():
    kinds = {"robin": "bird", "dog": "animal", "orange": "fruit", "tulip": "flower", "bus": "vehicle", "man": "person",
             "castle": "building", "butterfly": "insect", "hammer": "tool", "guitar": "musical instrument"}  # fmt: skip
    for row in photograph_rows():
        if row.label in kinds:
            assert kinds[row.label] in row.also, row


def test_every_row_lies_in_the_split_of_its_package_and_no_folder_in_two():
    containers: dict[tuple[str, str], set[str]] = {}
    for row in photograph_rows():
        assert row.split == split_of(row.package, row.file)
        containers.setdefault((row.package, _container(row)), set()).add(row.split)
    assert all(len(splits) == 1 for splits in containers.values())
    with pytest.raises(UsageError, match="no rule for /usr/share/x of skimage"):
        split_of("skimage", "/usr/share/x")


def test_what_only_regions_are_learned_from_is_no_other_picture_and_not_of_the_report():
    rows = region_photograph_rows()
    assert [row.file for row in rows] == sorted({row.file for row in rows})
    assert {row.file for row in rows}.isdisjoint({row.file for row in photograph_rows()})
    outlined = {(outline.photograph, outline.word) for outline in photograph_regions()}
    for row in rows:
        assert row.split == split_of(row.package, row.file) == "choose"
        assert "person" in (row.label, *row.also, *row.shows)
        assert (row, "person") in outlined


def test_what_small_was_trained_on_counts_for_learning_only():
    stage = next(stage for stage in load_recipe("small").stage if "photographs" in stage.kind)
    folders = [*stage.kind["photographs"], stage.kind["stamps"]]
    parts = [f"{stage.kind['gcompris']}/{part}.rcc" for part in GCOMPRIS]
    seen = [row for row in photograph_rows() if row.file.startswith(tuple(f"{folder}/" for folder in folders))]
    seen += [row for row in photograph_rows() if row.file in parts]
    assert len(seen) > 150
    assert {row.split for row in seen} == {"learn"}
    assert {row.split for row in photograph_rows() if row not in seen} == {"choose", "report"}


def test_the_names_of_a_split():
    rows = [row for row in photograph_rows() if row.split == "report"]
    used = {row.label for row in rows} | {word for row in rows for word in row.also + row.shows}
    assert label_names("report") == tuple(sorted(used | set(DISTRACTORS)))
    assert len(label_names("report")) >= 150
    assert set(label_names("choose", "report", distractors=False)) == set(
        label_names("choose", distractors=False)
    ) | set(label_names("report", distractors=False))
    with pytest.raises(UsageError, match="split is 'test'"):
        label_names("test")  # type: ignore[arg-type]


def _qt_resource(name: str, content: bytes) -> bytes:
    """A resource file of one picture, by Qt's documented layout (version 2)."""
    *folders, last = name.strip("/").split("/")
    names, offsets = b"", []
    for part in (*folders, last):
        offsets.append(len(names))
        names += struct.pack(">HI", len(part), 0) + part.encode("utf-16-be")
    tree = struct.pack(">iHii", 0, 2, 1, 1).ljust(22, b"\0")
    for depth in range(len(folders)):
        tree += struct.pack(">iHii", offsets[depth], 2, 1, depth + 2).ljust(22, b"\0")
    tree += struct.pack(">iHHHi", offsets[-1], 0, 0, 0, 0).ljust(22, b"\0")
    data = struct.pack(">i", len(content)) + content
    header = struct.pack(">4i", 2, 24, 24 + len(tree), 24 + len(tree) + len(data)) + b"\0" * 4
    return b"qres" + header + tree + data + names


def test_files_are_found_below_one_root_or_one_folder_a_package(tmp_path, monkeypatch):
    picture = Image.new("RGBA", (20, 10), (255, 0, 0, 255))
    picture.putpixel((0, 0), (0, 0, 0, 0))
    encoded = io.BytesIO()
    picture.save(encoded, "PNG")
    rows = (
        LabelledPhotograph("mate-backgrounds", "/usr/share/a/leaf.png", "", "leaf", (), (), "cutout", False, "learn"),
        LabelledPhotograph(
            "gcompris-qt-data", "/usr/share/b.rcc", "/x/cow.png", "cow", (), (), "cutout", False, "report"
        ),
    )
    monkeypatch.setattr(module, "photograph_rows", lambda: rows)
    (tmp_path / "one/usr/share/a").mkdir(parents=True)
    (tmp_path / "one/usr/share/a/leaf.png").write_bytes(encoded.getvalue())
    with pytest.raises(DataError, match=r"1 labelled .*b\.rcc; apt-get install gcompris-qt-data \("):
        load_labelled_photographs(root=tmp_path / "one")
    (found,) = load_labelled_photographs("learn", root=tmp_path / "one")
    assert found.path == tmp_path / "one/usr/share/a/leaf.png"

    (tmp_path / "two/usr/share").mkdir(parents=True)
    (tmp_path / "two/usr/share/b.rcc").write_bytes(_qt_resource(rows[1].member, encoded.getvalue()))
    root = {"mate-backgrounds": tmp_path / "one", "gcompris-qt-data": str(tmp_path / "two")}
    for row in load_labelled_photographs(root=root):
        pixels = np.asarray(row.open())
        assert pixels.shape == (10, 20, 3)
        assert pixels[0, 0].tolist() == [255, 255, 255]
        assert pixels[5, 5].tolist() == [255, 0, 0]
    with pytest.raises(UsageError, match="no folder for gcompris-qt-data; it has mate-backgrounds"):
        load_labelled_photographs(root={"mate-backgrounds": tmp_path})
    (tmp_path / "two/usr/share/b.rcc").write_bytes(_qt_resource("/x/ox.png", encoded.getvalue()))
    module._members.cache_clear()
    with pytest.raises(DataError, match=r"has no /x/cow\.png: another version of gcompris-qt-data"):
        load_labelled_photographs("report", root=root)[0].open()


def test_what_cannot_be_found_or_opened_is_said(tmp_path):
    with pytest.raises(UsageError, match="split is 'train'; it is 'learn', 'choose', 'report'"):
        load_labelled_photographs("train")  # type: ignore[arg-type]
    with pytest.raises(DataError) as caught:
        load_labelled_photographs(root=tmp_path)
    assert set(re.search(r"install ([^(]*)\(", str(caught.value))[1].split()) == {
        row.package for row in photograph_rows()
    }
    with pytest.raises(UsageError, match="was not looked for"):
        photograph_rows()[0].open()


def test_no_picture_of_one_split_is_a_copy_of_another_splits():
    try:
        rows = load_labelled_photographs()
    except DataError:
        pytest.skip("the packages of the photographs are not installed")
    vectors = []
    for row in rows:
        grey = np.asarray(row.open().convert("L").resize((16, 16), Image.Resampling.BOX), float).ravel()
        vectors.append((grey - grey.mean()) / max(float(np.linalg.norm(grey - grey.mean())), 1e-9))
    correlation = np.stack(vectors) @ np.stack(vectors).T
    splits = np.array([row.split for row in rows])
    assert correlation[splits[:, None] != splits].max() < 0.9


def test_paths_of_packages():
    assert package_path("a", "/usr/share/x.png") == Path("/usr/share/x.png")
    assert package_path("a", "/usr/share/x.png", {"a": "/tmp/a"}) == Path("/tmp/a/usr/share/x.png")
