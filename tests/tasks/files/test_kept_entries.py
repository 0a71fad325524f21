"""What a person said of pictures is read from a file of ours, and any other is named and stays as it is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from binderclip.errors import UsageError
from binderclip.tasks.files.kept_entries import kept_entries
from binderclip.tasks.files.writing import write_json
from binderclip.workbench.labels.store import LabelStore
from binderclip.workbench.tags.store import TagStore

KEY = "a" * 32


def entries(path: Path) -> dict[str, dict[str, Any]]:
    return kept_entries(path, "notes", "notes", lambda key, entry: key.isalpha() and isinstance(entry, dict))


def test_entries_are_read_and_where_there_is_no_file_there_are_none(tmp_path: Path) -> None:
    assert entries(tmp_path / "kept.json") == {}
    write_json({"notes": {"cat": {"text": "asleep"}}}, tmp_path / "kept.json")
    assert entries(tmp_path / "kept.json") == {"cat": {"text": "asleep"}}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be read"),
        ("\xff", "cannot be read"),
        ("[]", "holds no notes"),
        ('{"notes": {}}', "holds no notes"),
        ('{"made_by": "binderclip"}', "holds no notes"),
        ('{"made_by": "binderclip", "notes": {"cat": 1}}', "holds no notes"),
        ('{"made_by": "binderclip", "notes": {"1": {}}}', "holds no notes"),
    ],
)
def test_any_other_file_is_named_and_stays_as_it_is(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "kept.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UsageError, match=f"kept.json {said}"):
        entries(path)
    assert path.read_bytes() == content.encode("latin-1")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_tags_and_labels_wait_for_no_pipe(tmp_path: Path) -> None:
    labels, tags = LabelStore(tmp_path), TagStore(tmp_path / "tags.json")
    for store in (labels, tags):
        os.mkfifo(store.path)
    with pytest.raises(UsageError, match="no regular file"):
        labels.change({KEY: ("cat.jpg", "cat")}, ())
    with pytest.raises(UsageError, match="no regular file"):
        tags.change({KEY: "cat.jpg"}, add="cat")
