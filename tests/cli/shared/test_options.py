"""Label lists and image arguments are checked before anything heavy starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from binderclip.errors import DataError, UsageError
from binderclip.tasks.arguments.labels import parse_labels
from binderclip.tasks.files.inputs import find_images, one_image
from binderclip.tasks.files.outputs import output_path


def test_labels_keep_their_order_and_lose_outer_blanks() -> None:
    assert parse_labels(" cat, a red car ,dog") == ["cat", "a red car", "dog"]


def test_a_label_in_quotes_may_have_a_comma() -> None:
    assert parse_labels('cat,"red, round" , "a ""b""", a "c" d') == ["cat", "red, round", 'a "b"', 'a "c" d']
    assert parse_labels('"@home",x') == ["@home", "x"]


def test_labels_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("cat\n\n a red car \n", encoding="utf-8")
    assert parse_labels(f"@{tmp_path / 'labels.txt'}") == ["cat", "a red car"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        (" , ", "empty"),
        ("cat,,dog", "empty label"),
        ("cat,dog,", "empty label"),
        ("cat,dog,cat", "'cat' more than once"),
        ("@absent.txt", "there is no file absent.txt"),
    ],
)
def test_bad_labels_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_labels(text)


def test_files_and_folders_are_found_once_each(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "deep").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "deep" / "b.jpg")
    (tmp_path / "notes.txt").write_text("no picture")
    found = find_images([str(tmp_path / "deep" / "b.jpg"), str(tmp_path)])
    assert found.paths == [tmp_path / "deep" / "b.jpg", tmp_path / "a.png"]
    assert found.exit_code([(str(tmp_path / "deep" / "b.jpg"), "broken")]) == 1
    assert found.exit_code([(str(tmp_path / "a.png"), "broken")]) == 0


def test_missing_files_and_empty_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no file or folder"):
        find_images([str(tmp_path / "absent.png")])
    with pytest.raises(DataError, match="no images in"):
        find_images([str(tmp_path)])
    with pytest.raises(UsageError, match="is a folder"):
        one_image(str(tmp_path))
    with pytest.raises(UsageError, match="there is no folder"):
        output_path(str(tmp_path / "absent" / "x.png"), tmp_path, "overlay")


def test_a_file_is_read_only_where_that_is_meant(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("cat\n")
    with pytest.raises(UsageError, match="no file is read here"):
        parse_labels(f"@{tmp_path / 'labels.txt'}", "Labels", files=False)
    assert parse_labels("cat,@home", files=False) == ["cat", "@home"]
